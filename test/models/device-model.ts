/**
 * What a block device is, told simply: requests in, expected completions out, every page and every
 * counter kept in the most obvious way. The order of a queue is the order of its requests; requests
 * of different queues in flight together must not touch the same pages. device-program.ts makes the
 * requests.
 */

import type { KnownStatistics } from './known-figures.ts';
import { PageStoreModel } from './page-store-model.ts';

const PAGE_BYTES = 4096;
const SECTORS_PER_PAGE = 8;
const SECTOR_BYTES = 512;

/** Numbers of its own, from VIRTIO 1.2 §5.2.6: what the source has is what is tested. */
export const TYPE = { in: 0, out: 1, flush: 4, getId: 8, discard: 11, writeZeroes: 13 } as const;
export const STATUS = { ok: 0, ioerr: 1, unsupp: 2 } as const;
const SEGMENTS_MAX = 16;
const SEGMENT_SECTORS_MAX = 8192;
const SERIAL_BYTES = 20;
const FLAG_UNMAP = 1;

/** A page with how it is kept, measured once. */
export interface KnownPage {
  readonly bytes: Uint8Array;
  readonly keeping: ReturnType<typeof import('./page-store-model.ts').keepingOf>;
}

export interface Segment {
  readonly sector: bigint;
  readonly sectors: number;
  readonly flags: number;
}

/** A request by meaning, and all that is needed to tell what must become of it. */
export type Operation =
  | { readonly kind: 'write'; readonly sector: bigint; readonly pages: readonly KnownPage[] }
  | { readonly kind: 'read'; readonly sector: bigint; readonly pages: number }
  | { readonly kind: 'clear'; readonly type: number; readonly segments: readonly Segment[] }
  | { readonly kind: 'flush' }
  | { readonly kind: 'getId'; readonly inBytes: number }
  /** Transfers whose length is no whole pages. */
  | { readonly kind: 'ragged'; readonly type: number; readonly sector: bigint; bytes: number }
  /** Discards whose data is no whole number of segments. */
  | { readonly kind: 'badSegments'; readonly type: number; readonly bytes: number }
  | { readonly kind: 'unknown'; readonly type: number; readonly inBytes: number }
  | { readonly kind: 'shortHeader'; readonly headerBytes: number };

/** What the driver must find when the request comes back. */
export interface Expected {
  readonly status: number;
  /** Of the used element. */
  readonly len: number;
  /** The data read, in pieces; undefined: what the device may write is left as it was. */
  readonly pieces: readonly Uint8Array[] | undefined;
}

export class DeviceModel {
  readonly store = new PageStoreModel();
  readonly slots: number;
  readonly #serial: Uint8Array;
  readonly requests = { read: 0, write: 0, discard: 0, other: 0, invalid: 0 };

  /** `header`: what page 0 of a new device holds. */
  constructor(slots: number, name: string, header: Uint8Array) {
    this.slots = slots;
    this.#serial = new Uint8Array(SERIAL_BYTES);
    this.#serial.set(Buffer.from(name));
    this.store.put(0, header, 'raw');
  }

  /** Carries the operation out and says how it must end. */
  apply(operation: Operation): Expected {
    switch (operation.kind) {
      case 'write':
        return this.#write(operation.sector, operation.pages);
      case 'read':
        return this.#read(operation.sector, operation.pages);
      case 'clear':
        return this.#clear(operation.type, operation.segments);
      case 'flush':
        this.requests.other++;
        return { status: STATUS.ok, len: 1, pieces: [] };
      case 'getId':
        return this.#getId(operation.inBytes);
      case 'ragged':
        if (operation.type === TYPE.in) this.requests.read++;
        else this.requests.write++;
        return this.#invalid(operation.type === TYPE.in ? operation.bytes : 0);
      case 'badSegments':
        this.requests.discard++;
        return this.#invalid(0);
      case 'unknown':
        this.requests.other++;
        return this.#failure(STATUS.unsupp, operation.inBytes);
      case 'shortHeader':
        return this.#invalid(0);
    }
  }

  /** All that the daemon counts, but for the memory that the pool takes on top of its objects. */
  statistics(pagesUsed: number): KnownStatistics {
    const { read, write, discard, other, invalid } = this.requests;
    return {
      ...this.store.statistics(this.slots * PAGE_BYTES, pagesUsed),
      invalid_io: invalid,
      requests_read: read,
      requests_write: write,
      requests_discard: discard,
      requests_other: other,
    };
  }

  #write(sector: bigint, pages: readonly KnownPage[]): Expected {
    this.requests.write++;
    const first = this.#firstPage(sector, pages.length);
    if (first === undefined) return this.#invalid(0);
    pages.forEach(({ bytes, keeping }, i) => {
      this.store.writes++;
      this.store.put(first + i, bytes, keeping);
    });
    return { status: STATUS.ok, len: 1, pieces: [] };
  }

  #read(sector: bigint, pages: number): Expected {
    this.requests.read++;
    const first = this.#firstPage(sector, pages);
    if (first === undefined) return this.#invalid(pages * PAGE_BYTES);
    this.store.reads += pages;
    const pieces = Array.from({ length: pages }, (_, i) => this.store.page(first + i));
    return { status: STATUS.ok, len: pages * PAGE_BYTES + 1, pieces };
  }

  #getId(inBytes: number): Expected {
    this.requests.other++;
    const bytes = Math.min(inBytes, SERIAL_BYTES);
    const pieces = [this.#serial.subarray(0, bytes)];
    return { status: STATUS.ok, len: bytes === inBytes ? bytes + 1 : bytes, pieces };
  }

  /** §5.2.6.2: refused whole, for the first segment that is wrong; else segment after segment. */
  #clear(type: number, segments: readonly Segment[]): Expected {
    this.requests.discard++;
    if (segments.length === 0 || segments.length > SEGMENTS_MAX) return this.#invalid(0);
    const known = type === TYPE.discard ? 0 : FLAG_UNMAP;
    for (const { sector, sectors, flags } of segments) {
      if ((flags & ~known) !== 0) return this.#failure(STATUS.unsupp, 0);
      const end = sector + BigInt(sectors);
      const isTooLong = sectors > SEGMENT_SECTORS_MAX;
      if (isTooLong || end > BigInt(this.slots * SECTORS_PER_PAGE)) return this.#invalid(0);
    }
    for (const segment of segments) this.#clearSegment(type, segment);
    return { status: STATUS.ok, len: 1, pieces: [] };
  }

  #clearSegment(type: number, { sector, sectors, flags }: Segment): void {
    const start = Number(sector) * SECTOR_BYTES;
    const end = start + sectors * SECTOR_BYTES;
    const isFree = type === TYPE.discard || flags === FLAG_UNMAP;
    for (let slot = Math.floor(start / PAGE_BYTES); slot * PAGE_BYTES < end; slot++) {
      const from = Math.max(0, start - slot * PAGE_BYTES);
      const to = Math.min(PAGE_BYTES, end - slot * PAGE_BYTES);
      if (from < to) this.#clearPage(slot, from, to, type, isFree);
    }
  }

  #clearPage(slot: number, from: number, to: number, type: number, isFree: boolean): void {
    const isWhole = to - from === PAGE_BYTES;
    if (isWhole && isFree) this.store.free(slot);
    else if (isWhole) this.store.put(slot, new Uint8Array(PAGE_BYTES), 'zero');
    else if (type === TYPE.writeZeroes) {
      this.store.writes++;
      this.store.put(slot, this.store.page(slot).slice().fill(0, from, to));
    }
  }

  /** The first page of a transfer; undefined: it is not aligned or ends behind the disk. */
  #firstPage(sector: bigint, pages: number): number | undefined {
    const isAligned = sector % BigInt(SECTORS_PER_PAGE) === 0n;
    const end = sector / BigInt(SECTORS_PER_PAGE) + BigInt(pages);
    if (!isAligned || end > BigInt(this.slots)) return undefined;
    return Number(sector) / SECTORS_PER_PAGE;
  }

  #invalid(inBytes: number): Expected {
    this.requests.invalid++;
    return this.#failure(STATUS.ioerr, inBytes);
  }

  /** Nothing is written but the status, which the used element counts if it is the first byte. */
  #failure(status: number, inBytes: number): Expected {
    return { status, len: inBytes === 0 ? 1 : 0, pieces: undefined };
  }
}
