/**
 * Pages between a backing swap and memory: queued one by one, merged into I/Os where they come as
 * neighbours on the swap, many in flight. Data lies in staging pages of one window, taken and
 * given back by the caller; guest memory is never part of an I/O, so it may go away at any time.
 *
 * Life of a page: take() a staging page → queue() → flush(), at the end of a turn, or as soon as a
 * page comes that does not go with it → reap() tells of its end → give() it back. A merged I/O that
 * fails is tried again page by page, so that only a page that is bad itself ends with an error.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { assert } from '../base/assert.ts';
import { countLatency } from '../base/latency.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { type AsyncIo, IO_PAGES_MAX } from '../native/async-io.ts';
import { monotonicMicros } from '../native/clock.ts';
import { waitReadable } from '../native/socket.ts';
import { type ExtentMap, PAGES_MAX } from './extent-map.ts';

const EINTR = 4;
const EIO = 5;
const EAGAIN = 11;
const ENOMEM = 12;
/** Errors that may pass are met with so many tries. */
const TRIES_MAX = 8;
/** Above all page numbers. */
const WRITE_KEY = 1 << 30;

assert(PAGES_MAX <= WRITE_KEY, 'page numbers are smaller than a key');

/**
 * I/Os told of in one reap(): whoever asked for the first can ask for more while the others wait,
 * and the disk has work meanwhile. All at once cost a fifth of the random reads.
 */
const REAPED_MAX = 4;

/** Told of each page that has ended: errno 0 for success. */
export interface PageIoOwner {
  pageEnded(staging: number, errno: number): void;
}

export interface PageIoOptions {
  readonly io: AsyncIo;
  readonly map: ExtentMap;
  /** The I/O's pages are the staging pages. */
  readonly stagingPages: number;
  /** LATENCY.DOUBLES each: of I/Os, not pages. */
  readonly readLatency: Float64Array;
  readonly writeLatency: Float64Array;
}

export class PageIo {
  readonly #io: AsyncIo;
  readonly #map: ExtentMap;
  readonly #readLatency: Float64Array;
  readonly #writeLatency: Float64Array;

  readonly #freeStaging: Int32Array;
  #freeStagingCount: number;
  /** By staging page: direction and page number as one key, and how often its I/O has failed. */
  readonly #key: Int32Array;
  readonly #failures: Uint8Array;

  /** Staging pages to be started, in the order in which they came. */
  readonly #queue: Int32Array;
  #queued = 0;

  readonly #freeIos: Int32Array;
  #freeIoCount: number;
  /** By I/O: its staging pages, how many, and when it was started. */
  readonly #parts: Int32Array;
  readonly #partCount: Int32Array;
  readonly #startedAt: Int32Array;
  #mustSubmit = false;

  constructor({ io, map, stagingPages, readLatency, writeLatency }: PageIoOptions) {
    this.#io = io;
    this.#map = map;
    this.#readLatency = readLatency;
    this.#writeLatency = writeLatency;
    this.#freeStaging = Int32Array.from({ length: stagingPages }, (_, i) => stagingPages - 1 - i);
    this.#freeStagingCount = stagingPages;
    this.#key = new Int32Array(stagingPages);
    this.#failures = new Uint8Array(stagingPages);
    this.#queue = new Int32Array(stagingPages);
    this.#freeIos = Int32Array.from({ length: io.depth }, (_, i) => io.depth - 1 - i);
    this.#freeIoCount = io.depth;
    this.#parts = new Int32Array(io.depth * IO_PAGES_MAX);
    this.#partCount = new Int32Array(io.depth);
    this.#startedAt = new Int32Array(io.depth);
  }

  /** For epoll: readable when reap() may have something to tell. */
  get wakeFd(): number {
    return this.#io.wakeFd;
  }

  /** wakeFd was readable. */
  woken(): void {
    this.#io.woken();
  }

  /** A staging page, or -1. */
  take(): number {
    if (this.#freeStagingCount === 0) return -1;
    this.#freeStagingCount--;
    return this.#freeStaging[this.#freeStagingCount]!;
  }

  give(staging: number): void {
    this.#freeStaging[this.#freeStagingCount] = staging;
    this.#freeStagingCount++;
  }

  /** Staging pages that nobody has. */
  get freeStaging(): number {
    return this.#freeStagingCount;
  }

  /**
   * Moves page `page` of the swap to or from a staging page. It waits for neighbours until flush();
   * one that is none starts those before it, so that a disk with random I/O to do begins at once.
   */
  queue(isWrite: boolean, page: number, staging: number): void {
    const key = isWrite ? page | WRITE_KEY : page;
    if (this.#queued > 0 && this.#key[this.#queue[this.#queued - 1]!]! + 1 !== key) this.flush();
    this.#key[staging] = key;
    this.#failures[staging] = 0;
    this.#append(staging);
  }

  /** Starts what is queued, as far as there is room. */
  flush(): void {
    if (this.#queued === 0 && !this.#mustSubmit) return;
    const now = monotonicMicros();
    let at = 0;
    while (at < this.#queued && this.#freeIoCount > 0) at += this.#startFrom(at, now);
    for (let i = at; i < this.#queued; i++) this.#queue[i - at] = this.#queue[i]!;
    this.#queued -= at;
    this.#mustSubmit = !this.#io.submit();
  }

  /** Whether reap() would tell of anything. */
  hasEnded(): boolean {
    return this.#io.hasEnded();
  }

  /** Blocks until reap() may have something to tell, at most `millis`. Cold path. */
  awaitEnded(millis: number): void {
    const soonest = this.waitMillis(monotonicMicros());
    waitReadable(this.wakeFd, soonest < 0 ? millis : Math.min(soonest, millis));
    this.woken();
  }

  /** Milliseconds until flush() or reap() is wanted though nothing wakes: -1 never. */
  waitMillis(now: number): number {
    return this.#mustSubmit ? 1 : this.#io.waitMillis(now);
  }

  /** Tells `owner` of pages that have ended, those of a few I/Os at a time. It may queue others. */
  reap(owner: PageIoOwner): void {
    if (!this.#io.hasEnded()) return;
    const now = monotonicMicros();
    for (let i = 0; i < REAPED_MAX; i++) {
      const io = this.#io.next();
      if (io < 0) return;
      this.#end(io, now, owner);
    }
  }

  #append(staging: number): void {
    this.#queue[this.#queued] = staging;
    this.#queued++;
  }

  /** Starts one I/O with the pages queued from `first` on that follow each other; how many. */
  #startFrom(first: number, now: number): number {
    const key = this.#key[this.#queue[first]!]!;
    this.#map.locate(key & ~WRITE_KEY);
    const { offsetLow, offsetHigh, run } = this.#map;
    this.#freeIoCount--;
    const io = this.#freeIos[this.#freeIoCount]!;
    const most = Math.min(run, IO_PAGES_MAX, this.#queued - first);
    let count = 0;
    do {
      const staging = this.#queue[first + count]!;
      this.#io.setPage(io, count, staging);
      this.#parts[io * IO_PAGES_MAX + count] = staging;
      count++;
    } while (count < most && this.#follows(first, count, key));
    this.#partCount[io] = count;
    this.#startedAt[io] = now;
    this.#io.start(io, (key & WRITE_KEY) !== 0, offsetLow, offsetHigh, count);
    return count;
  }

  /** Whether the page queued `count` places behind `first`, whose key is `key`, goes with it. */
  #follows(first: number, count: number, key: number): boolean {
    const staging = this.#queue[first + count]!;
    if (this.#key[staging] !== key + count) return false;
    // What has failed goes alone.
    return this.#failures[staging] === 0 && this.#failures[this.#queue[first]!] === 0;
  }

  #end(io: number, now: number, owner: PageIoOwner): void {
    const { result } = this.#io;
    const count = this.#partCount[io]!;
    const first = io * IO_PAGES_MAX;
    const isWrite = (this.#key[this.#parts[first]!]! & WRITE_KEY) !== 0;
    const latency = isWrite ? this.#writeLatency : this.#readLatency;
    countLatency(latency, 0, (now - this.#startedAt[io]!) | 0);
    const whole = result < 0 ? 0 : Math.floor(result / PAGE_BYTES);
    for (let i = 0; i < count; i++) {
      const staging = this.#parts[first + i]!;
      if (i < whole) owner.pageEnded(staging, 0);
      else if (count > 1 || this.#mayPass(staging, result)) this.#retryAlone(staging);
      else owner.pageEnded(staging, result < 0 ? -result : EIO);
    }
    // Not before: what was told may have started others.
    this.#freeIos[this.#freeIoCount] = io;
    this.#freeIoCount++;
  }

  /** Whether what a lone page has met may be over the next time. */
  #mayPass(staging: number, result: number): boolean {
    const isPassing = result === -EINTR || result === -EAGAIN || result === -ENOMEM;
    return isPassing && this.#failures[staging]! < TRIES_MAX;
  }

  #retryAlone(staging: number): void {
    this.#failures[staging]!++;
    this.#append(staging);
  }
}
