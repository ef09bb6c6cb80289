/**
 * Asynchronous I/O on a file that is an array: an AsyncIo whose I/Os end when a test says so, in any
 * order. Data moves at that moment, so whoever touches a page too early is found out.
 */

import { type AsyncIo, IO_PAGES_MAX, type IoPages } from '../../src/native/async-io.ts';

const PAGE = 4096;
const TWO_32 = 2 ** 32;

export interface StartedIo {
  readonly io: number;
  readonly isWrite: boolean;
  readonly fileOffset: number;
  readonly pages: readonly number[];
}

export class MemoryIo implements AsyncIo {
  readonly name = 'memory';
  readonly wakeFd = -1;
  readonly depth: number;
  readonly disk: Uint8Array;
  result = 0;
  /** Started, and not submitted; submitted, and not ended. */
  readonly unsubmitted: StartedIo[] = [];
  readonly inFlight: StartedIo[] = [];
  /** All I/Os that were submitted. */
  readonly log: StartedIo[] = [];
  /** submit() has no room this many times. */
  refusals = 0;
  readonly #pages: IoPages;
  readonly #vectors: Int32Array;
  readonly #ended: { io: number; result: number }[] = [];

  constructor(pages: IoPages, diskBytes: number, depth = 8) {
    this.#pages = pages;
    this.disk = new Uint8Array(diskBytes);
    this.depth = depth;
    this.#vectors = new Int32Array(depth * IO_PAGES_MAX);
  }

  setPage(io: number, index: number, page: number): void {
    this.#vectors[io * IO_PAGES_MAX + index] = page;
  }

  start(io: number, isWrite: boolean, offsetLow: number, offsetHigh: number, count: number): void {
    if (this.inFlight.some((other) => other.io === io)) throw new Error(`I/O ${io} is in use`);
    const fileOffset = offsetHigh * TWO_32 + (offsetLow >>> 0);
    const first = io * IO_PAGES_MAX;
    const pages = [...this.#vectors.subarray(first, first + count)];
    this.unsubmitted.push({ io, isWrite, fileOffset, pages });
  }

  submit(): boolean {
    if (this.refusals > 0) {
      this.refusals--;
      return false;
    }
    this.log.push(...this.unsubmitted);
    this.inFlight.push(...this.unsubmitted.splice(0));
    return true;
  }

  /** Ends one I/O: as it should, or with `result` (bytes, or a negated errno). */
  end(which: StartedIo, result = which.pages.length * PAGE): void {
    this.inFlight.splice(this.inFlight.indexOf(which), 1);
    which.pages.forEach((page, i) => {
      const bytes = Math.max(0, Math.min(PAGE, result - i * PAGE));
      const at = this.#pages.offset + page * PAGE;
      const place = which.fileOffset + i * PAGE;
      const { view } = this.#pages;
      if (which.isWrite) this.disk.set(view.subarray(at, at + bytes), place);
      else view.set(this.disk.subarray(place, place + bytes), at);
    });
    this.#ended.push({ io: which.io, result });
  }

  hasEnded(): boolean {
    return this.#ended.length > 0;
  }

  next(): number {
    const ended = this.#ended.shift();
    if (ended === undefined) return -1;
    this.result = ended.result;
    return ended.io;
  }

  woken(): void {}

  waitMillis(): number {
    return -1;
  }

  close(): void {}
}
