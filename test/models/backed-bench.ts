/**
 * A backed store with I/O that ends when the test says so, one client, and a model: what each slot
 * holds after the operations that have ended, in the order of the calls. A read that succeeds must
 * give that; what may fail is decided by the faults that the test makes.
 */

import { ExtentMap } from '../../src/backing/extent-map.ts';
import { PageIo } from '../../src/backing/page-io.ts';
import { LATENCY } from '../../src/base/latency.ts';
import { PAGE_DONE, PAGE_PENDING, type PageResult } from '../../src/base/page-operation.ts';
import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { BackedStore, STAGING_PAGES, STAGING_WINDOW_BYTES } from '../../src/store/backed-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { readStatistics, type Statistics } from '../../src/store/statistics.ts';
import type { PageStoreOptions } from '../../src/store/store-options.ts';
import { MemoryIo } from '../driver/memory-io.ts';

const PAGE = 4096;
const GUEST_PAGE = WINDOW_WORK_BYTES;
const ZEROS = new Uint8Array(PAGE);

export interface BackedBenchOptions extends Partial<PageStoreOptions> {
  readonly slots: number;
  readonly memlimitBytes: number;
  readonly headerSlots?: number;
  readonly depth?: number;
}

type Kind = 'write' | 'read' | 'free' | 'zero' | 'part';

interface Flight {
  readonly kind: Kind;
  readonly slot: number;
  readonly data: Uint8Array | undefined;
  readonly from: number;
}

export interface Outcome {
  readonly kind: Kind;
  readonly slot: number;
  readonly isDone: boolean;
}

export class BackedBench {
  readonly memory: PageStore;
  readonly store: BackedStore;
  readonly io: MemoryIo;
  readonly troubles: string[] = [];
  /** By slot: its bytes; no entry: nothing was written there. */
  readonly model = new Map<number, Uint8Array>();
  /** Operations that have ended, since the test looked last. */
  readonly outcomes: Outcome[] = [];
  /** takePage() finds nothing: guest memory is gone. */
  isMemoryGone = false;
  readonly #window = new PageWindow(2 * WINDOW_WORK_BYTES);
  readonly #flights = new Map<number, Flight>();
  #requests = 0;

  constructor(options: BackedBenchOptions) {
    const { slots, memlimitBytes, headerSlots = 1, depth = 8, ...rest } = options;
    this.memory = PageStore.make({ incompressibleBytes: 2048, ...rest, slots, hasBacking: true });
    this.memory.onTrouble = (what) => this.troubles.push(what);
    const window = new PageWindow(STAGING_WINDOW_BYTES);
    const place = { view: window.u8, offset: WINDOW_WORK_BYTES, count: STAGING_PAGES };
    this.io = new MemoryIo(place, slots * PAGE, depth);
    const map = new ExtentMap([{ page: 0, pages: slots, fileOffset: 0, physical: 0 }]);
    const { latencies } = this.memory.mapped;
    this.store = new BackedStore({
      memory: this.memory,
      window,
      headerSlots,
      memlimitBytes,
      pages: new PageIo({
        io: this.io,
        map,
        stagingPages: STAGING_PAGES,
        readLatency: latencies.subarray(0, LATENCY.DOUBLES),
        writeLatency: latencies.subarray(LATENCY.DOUBLES),
      }),
    });
  }

  /** Operations that have not ended. */
  get inFlight(): number {
    return this.#flights.size;
  }

  get statistics(): Statistics {
    const identity = '/swap';
    return readStatistics(identity, this.memory.mapped);
  }

  // ── PageClient ────────────────────────────────────────────────────────────────────────────────

  takePage(
    request: number,
    page: number,
    window: PageWindow,
    offset: number,
    bytes: number,
  ): boolean {
    if (page !== request % 7) throw new Error(`operation ${request}: asked for page ${page}`);
    if (this.isMemoryGone) return false;
    const { data } = this.#flights.get(request)!;
    if (bytes !== data!.length) throw new Error(`operation ${request}: asked for ${bytes} bytes`);
    window.u8.set(data!, offset);
    return true;
  }

  endPage(request: number, _page: number, isDone: boolean, window: PageWindow, at: number): void {
    const flight = this.#flights.get(request);
    if (flight === undefined)
      throw new Error(`operation ${request} has ended twice, or never began`);
    this.#flights.delete(request);
    this.#end(flight, isDone, window, at);
  }

  // ── Operations ────────────────────────────────────────────────────────────────────────────────

  write(slot: number, data: Uint8Array): PageResult {
    return this.#run({ kind: 'write', slot, data: data.slice(), from: 0 });
  }

  read(slot: number): PageResult {
    return this.#run({ kind: 'read', slot, data: undefined, from: 0 });
  }

  free(slot: number): PageResult {
    return this.#run({ kind: 'free', slot, data: undefined, from: 0 });
  }

  zero(slot: number): PageResult {
    return this.#run({ kind: 'zero', slot, data: undefined, from: 0 });
  }

  /** Replaces [from, from + part.length). */
  writePart(slot: number, from: number, part: Uint8Array): PageResult {
    return this.#run({ kind: 'part', slot, data: part.slice(), from });
  }

  /** What is in flight was given up. */
  forget(): void {
    this.#flights.clear();
  }

  /** Starts what is queued, ends all I/O (`result`: how), until nothing is in flight. */
  settle(result?: number): void {
    for (let round = 0; ; round++) {
      if (round > 10_000) throw new Error('it never comes to an end');
      this.store.flush();
      if (this.io.inFlight.length === 0 && !this.store.hasEnded()) break;
      for (const io of [...this.io.inFlight]) this.io.end(io, result);
      this.store.reap(64);
    }
    if (this.inFlight > 0) throw new Error(`${this.inFlight} operations hang`);
  }

  /** Reads every slot and compares; all must be readable. */
  compareAll(): void {
    for (let slot = 0; slot < this.store.slots; slot++) {
      this.outcomes.length = 0;
      this.read(slot);
      this.settle();
      if (!this.outcomes[0]!.isDone) throw new Error(`slot ${slot} cannot be read`);
    }
  }

  /** Every slot is in memory, zero, of one byte or pattern, on the swap, lost, or never written. */
  compareCounts(): void {
    const { statistics, model } = this;
    const { pages_stored, pages_zero, pages_same, pages_on_backing, pages_lost } = statistics;
    const counted = pages_stored + pages_zero + pages_same + pages_on_backing + pages_lost;
    if (counted !== model.size) throw new Error(`${counted} pages counted, ${model.size} written`);
    const words = [...this.memory.mapped.table];
    const backed = words.filter((word) => word === 1).length;
    const lost = words.filter((word) => word === 2).length;
    if (backed !== pages_on_backing)
      throw new Error(`${backed} backed, ${pages_on_backing} counted`);
    if (lost !== pages_lost) throw new Error(`${lost} lost, ${pages_lost} counted`);
  }

  #run(flight: Flight): PageResult {
    const request = this.#requests++;
    const { slot } = flight;
    const { u8 } = this.#window;
    if (flight.data !== undefined) u8.set(flight.data, GUEST_PAGE);
    this.#flights.set(request, flight);
    const result = this.#call(flight, request);
    if (result === PAGE_PENDING) {
      // The guest may do with its page what it likes, or with another.
      u8.fill(0xdd, GUEST_PAGE, GUEST_PAGE + PAGE);
      return result;
    }
    if (!this.#flights.delete(request)) throw new Error(`slot ${slot}: ended within its own call`);
    this.#end(flight, result === PAGE_DONE, this.#window, GUEST_PAGE);
    return result;
  }

  #call({ kind, slot, data, from }: Flight, request: number): PageResult {
    const { store } = this;
    const window = this.#window;
    const to = from + (data?.length ?? 0);
    switch (kind) {
      case 'write':
        return store.writePage(slot, window, GUEST_PAGE, this, request, request % 7);
      case 'read':
        return store.readPage(slot, window, GUEST_PAGE, this, request, request % 7);
      case 'free':
        return store.freePage(slot, this, request);
      case 'zero':
        return store.zeroPage(slot, this, request);
      case 'part':
        return store.writePart(slot, from, to, window, GUEST_PAGE, this, request, request % 7);
    }
  }

  #end(flight: Flight, isDone: boolean, window: PageWindow, at: number): void {
    const { kind, slot, data, from } = flight;
    this.outcomes.push({ kind, slot, isDone });
    const before = this.model.get(slot) ?? ZEROS;
    if (!isDone) return;
    if (kind === 'write') this.model.set(slot, data!);
    if (kind === 'free') this.model.delete(slot);
    if (kind === 'zero') this.model.set(slot, ZEROS);
    if (kind === 'part') {
      const whole = before.slice();
      whole.set(data!, from);
      this.model.set(slot, whole);
    }
    if (kind === 'read' && Buffer.compare(window.u8.subarray(at, at + PAGE), before) !== 0) {
      throw new Error(`slot ${slot}: other bytes than were written`);
    }
  }
}
