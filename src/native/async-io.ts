/**
 * Asynchronous vectored I/O on one file, to and from pages of one area of memory: what io-uring.ts
 * and linux-aio.ts both are, and the memory of addresses that both need.
 *
 * An I/O is a small number below `depth`, its owner's to give out. Its life: setPage() for each of
 * its pages → start() → submit() (any number of I/Os at once) → next() names it again, with its
 * result → it may be used anew.
 *
 * SAFETY: pages and vectors are whole ArrayBuffers, or linear memories, which the collector never
 * moves; both live as long as the object. The kernel uses a page between submit() and next(): its
 * owner must leave it alone meanwhile.
 */

import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { addressOf } from './libc.ts';

/** Pages of one I/O: 256 KiB, where throughput of disks levels off. */
export const IO_PAGES_MAX = 64;

const TWO_32 = 2 ** 32;
/** struct iovec, LP64: u64 base, u64 length. */
const IOVEC_WORDS = 4;

/** Where the data lies: `count` pages from byte `offset` of `view` on, page aligned. */
export interface IoPages {
  readonly view: Uint8Array;
  readonly offset: number;
  readonly count: number;
}

export interface AsyncIo {
  /** For people: `io_uring`, `Linux AIO`. */
  readonly name: string;
  readonly depth: number;
  /** Readable when next() may have something; for epoll. */
  readonly wakeFd: number;
  /** The result of what next() named: bytes, or a negated errno. */
  readonly result: number;
  /** HOT PATH. Page `page` becomes part `index` of I/O `io`. */
  setPage(io: number, index: number, page: number): void;
  /**
   * HOT PATH. Prepares `io`: its first `count` parts, from or to the byte of the file that two halves
   * name.
   */
  start(io: number, isWrite: boolean, offsetLow: number, offsetHigh: number, count: number): void;
  /** HOT PATH. Hands what was started to the kernel. False: it has no room, try again later. */
  submit(): boolean;
  /** HOT PATH. Whether next() would name an I/O; costs no system call. */
  hasEnded(): boolean;
  /** HOT PATH. An I/O that has ended, or -1. */
  next(): number;
  /** wakeFd was readable. */
  woken(): void;
  /** Milliseconds until next() may name an I/O of which wakeFd says nothing; -1: none. */
  waitMillis(now: number): number;
  close(): void;
}

/** The vectors of `depth` I/Os over `pages`, and the addresses of both as halves. */
export class IoVectors {
  /** Kept, so that they live as long as I/O to them may be under way. */
  readonly pages: IoPages;
  readonly words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #pageLow: Int32Array;
  readonly #pageHigh: Int32Array;
  readonly #vectorLow: Int32Array;
  readonly #vectorHigh: Int32Array;

  constructor(pages: IoPages, depth: number) {
    const first = Number(addressOf(pages.view)) + pages.offset;
    const end = pages.offset + pages.count * PAGE_BYTES;
    assert(first % PAGE_BYTES === 0 && end <= pages.view.length, 'I/O pages are whole pages');
    this.pages = pages;
    this.#bytes = new Uint8Array(new ArrayBuffer(depth * IO_PAGES_MAX * IOVEC_WORDS * 4));
    this.words = new Int32Array(this.#bytes.buffer);
    [this.#pageLow, this.#pageHigh] = addressHalves(first, PAGE_BYTES, pages.count);
    const vectors = Number(addressOf(this.#bytes));
    const stride = IO_PAGES_MAX * IOVEC_WORDS * 4;
    [this.#vectorLow, this.#vectorHigh] = addressHalves(vectors, stride, depth);
  }

  /** HOT PATH: no allocation. */
  setPage(io: number, index: number, page: number): void {
    const at = (io * IO_PAGES_MAX + index) * IOVEC_WORDS;
    this.words[at] = this.#pageLow[page]!;
    this.words[at + 1] = this.#pageHigh[page]!;
    this.words[at + 2] = PAGE_BYTES;
  }

  /**
   * HOT PATH: no allocation. Writes the address of the vector of `io` (of its only page, when
   * `count` is 1) into two words of `words`.
   */
  putAddress(words: Int32Array, at: number, io: number, count: number): void {
    const vector = io * IO_PAGES_MAX * IOVEC_WORDS;
    words[at] = count === 1 ? this.words[vector]! : this.#vectorLow[io]!;
    words[at + 1] = count === 1 ? this.words[vector + 1]! : this.#vectorHigh[io]!;
  }
}

/** `count` addresses from `first` on, `stride` apart, as low and high words. */
export function addressHalves(
  first: number,
  stride: number,
  count: number,
): [Int32Array, Int32Array] {
  const addresses = Array.from({ length: count }, (_, i) => first + i * stride);
  return [
    Int32Array.from(addresses, (address) => address | 0),
    Int32Array.from(addresses, (address) => Math.floor(address / TWO_32)),
  ];
}
