/**
 * What a page store is, told simply: a map from slot to bytes. Its statistics are computed anew
 * from the pages whenever they are asked for; compressed lengths come from a codec of its own.
 */

import { Lzo1x, lzo1xWorstCase } from '../../src/lzo-wasm/lzo1x.ts';
import type { KnownStatistics } from './known-figures.ts';

const PAGE_BYTES = 4096;
const DICTIONARY = 0;
const SOURCE = 16384;
const RESULT = 32768;

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
const bytes = new Uint8Array(memory.buffer);
const codec = new Lzo1x(memory, DICTIONARY);
if (RESULT + lzo1xWorstCase(PAGE_BYTES) > bytes.length) throw new Error('no room for a result');

export function compressedBytes(page: Uint8Array): number {
  bytes.set(page, SOURCE);
  return codec.compress(SOURCE, PAGE_BYTES, RESULT);
}

function hasPeriod(page: Uint8Array, period: number): boolean {
  return page.every((byte, i) => byte === page[i % period]);
}

const NO_LATENCIES: readonly number[] = new Array(24).fill(0);

/** How a page is kept; the lengths are what SPEC counts as compressed data. */
export type Keeping = 'zero' | 'same' | 'raw' | number;

export function keepingOf(page: Uint8Array): Keeping {
  if (page.every((byte) => byte === 0)) return 'zero';
  if (hasPeriod(page, 8)) return 'same';
  const length = compressedBytes(page);
  return length > (PAGE_BYTES * 3) / 4 ? 'raw' : length;
}

interface Slot {
  readonly page: Uint8Array;
  readonly keeping: Keeping;
}

export class PageStoreModel {
  readonly slots = new Map<number, Slot>();
  reads = 0;
  writes = 0;
  failedReads = 0;
  failedWrites = 0;
  frees = 0;

  page(slot: number): Uint8Array {
    return this.slots.get(slot)?.page ?? new Uint8Array(PAGE_BYTES);
  }

  put(slot: number, page: Uint8Array, keeping = keepingOf(page)): void {
    this.slots.set(slot, { page: page.slice(), keeping });
  }

  free(slot: number): void {
    if (this.slots.delete(slot)) this.frees++;
  }

  /** Pages of memory that only raw pages take. */
  get rawPages(): number {
    return this.#keepings().filter((keeping) => keeping === 'raw').length;
  }

  /** Bytes of objects in the pool, without what the allocator adds. */
  get objectBytes(): number {
    return this.#lengths().reduce((sum, length) => sum + length, 0);
  }

  /** All that SPEC counts; what the pool adds by itself, `pagesUsed`, is not the model's to know. */
  statistics(disksize: number, pagesUsed: number): KnownStatistics {
    const raw = this.rawPages;
    const lengths = this.#lengths();
    const stored = raw + lengths.length;
    const good = lengths.filter((length) => length <= PAGE_BYTES / 2).length;
    const percent = (part: number) => (stored === 0 ? 0 : Math.floor((100 * part) / stored));
    return {
      backing_swap_name: null,
      memlimit: 0,
      disksize,
      num_reads: this.reads,
      num_writes: this.writes,
      failed_reads: this.failedReads,
      failed_writes: this.failedWrites,
      invalid_io: 0,
      notify_free: this.frees,
      pages_zero: this.#count('zero'),
      pages_same: this.#count('same'),
      good_compress_pct: percent(good),
      pages_expand_pct: percent(raw),
      pages_stored: stored,
      pages_used: pagesUsed,
      orig_data_size: stored * PAGE_BYTES,
      compr_data_size: raw * PAGE_BYTES + this.objectBytes,
      mem_used_total: pagesUsed * PAGE_BYTES,
      bdev_num_reads: 0,
      bdev_num_writes: 0,
      pages_on_backing: 0,
      pages_lost: 0,
      pages_moved_out: 0,
      bdev_read_latency: NO_LATENCIES,
      bdev_write_latency: NO_LATENCIES,
      requests_read: 0,
      requests_write: 0,
      requests_discard: 0,
      requests_other: 0,
    };
  }

  #keepings(): Keeping[] {
    return [...this.slots.values()].map((slot) => slot.keeping);
  }

  #lengths(): number[] {
    return this.#keepings().filter((keeping) => typeof keeping === 'number');
  }

  #count(keeping: Keeping): number {
    return this.#keepings().filter((one) => one === keeping).length;
  }
}
