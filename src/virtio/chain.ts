/**
 * A descriptor chain as one request sees it: the segments in order, device-readable ones first,
 * then device-writable ones. Filled by Virtqueue.pop, refilled for every request. And a cursor that
 * walks a range of it, resolving addresses piece by piece: whatever lies in how many segments, at
 * any byte address, comes out as contiguous pieces of windows.
 */

import type { GuestMemory } from '../memory/guest-memory.ts';
import { copyBetween, copyBytes, type Window } from '../memory/window.ts';

/** Bytes of one direction of a chain never exceed this; §2.7.5.2 allows 2^32 in total. */
export const CHAIN_BYTES_MAX = 0x7fffffff;

export class DescriptorChain {
  /** Index of the chain's first descriptor: what the used ring names it by. */
  head = 0;
  count = 0;
  /** Segments [0, readableCount) are device-readable, the rest device-writable. */
  readableCount = 0;
  readableBytes = 0;
  writableBytes = 0;
  readonly addressLo: Int32Array;
  readonly addressHi: Int32Array;
  readonly length: Int32Array;

  constructor(capacity: number) {
    this.addressLo = new Int32Array(capacity);
    this.addressHi = new Int32Array(capacity);
    this.length = new Int32Array(capacity);
  }

  get capacity(): number {
    return this.length.length;
  }

  clear(head: number): void {
    this.head = head;
    this.count = 0;
    this.readableCount = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
  }

  /** Becomes the same chain as `other`, which must not have more segments than this has room for. */
  copyFrom(other: DescriptorChain): void {
    this.head = other.head;
    this.count = other.count;
    this.readableCount = other.readableCount;
    this.readableBytes = other.readableBytes;
    this.writableBytes = other.writableBytes;
    for (let i = 0; i < other.count; i++) {
      this.addressLo[i] = other.addressLo[i]!;
      this.addressHi[i] = other.addressHi[i]!;
      this.length[i] = other.length[i]!;
    }
  }
}

/** HOT PATH: no allocation, no BigInt, no closures, no await. */
export class ChainCursor<W extends Window = Window> {
  /** The piece that next() found, and its guest address. */
  window: W | undefined;
  offset = 0;
  addressLo = 0;
  addressHi = 0;

  readonly #memory: GuestMemory<W>;
  #chain: DescriptorChain;
  #segment = 0;
  #inSegment = 0;

  constructor(memory: GuestMemory<W>, chain: DescriptorChain) {
    this.#memory = memory;
    this.#chain = chain;
  }

  /** Goes on with another chain, from its first device-readable byte. */
  follow(chain: DescriptorChain): void {
    this.#chain = chain;
    this.toReadable();
  }

  /** To the first device-readable byte. */
  toReadable(): void {
    this.#segment = 0;
    this.#inSegment = 0;
  }

  /** To the first device-writable byte. */
  toWritable(): void {
    this.#segment = this.#chain.readableCount;
    this.#inSegment = 0;
  }

  /** Passes over `bytes`, which must be there. */
  skip(bytes: number): void {
    let left = bytes;
    while (left > 0) {
      const rest = (this.#chain.length[this.#segment]! - this.#inSegment) | 0;
      if (left < rest) {
        this.#inSegment = (this.#inSegment + left) | 0;
        return;
      }
      left -= rest;
      this.#segment++;
      this.#inSegment = 0;
    }
  }

  /**
   * The next contiguous piece of at most `max` bytes: sets `window` and `offset`, returns its
   * length and passes over it. 0: the address is in no region, or the chain has ended.
   */
  next(max: number): number {
    const chain = this.#chain;
    while (this.#segment < chain.count && this.#inSegment === chain.length[this.#segment]!) {
      this.#segment++;
      this.#inSegment = 0;
    }
    if (this.#segment >= chain.count) return 0;
    const rest = chain.length[this.#segment]! - this.#inSegment;
    const lo = chain.addressLo[this.#segment]!;
    const sum = (lo + this.#inSegment) | 0;
    const carry = sum >>> 0 < lo >>> 0 ? 1 : 0;
    const hi = (chain.addressHi[this.#segment]! + carry) | 0;
    const found = this.#memory.resolve(sum, hi, Math.min(rest, max));
    if (found === 0) return 0;
    this.window = this.#memory.window;
    this.offset = this.#memory.offset;
    this.addressLo = sum;
    this.addressHi = hi;
    this.#inSegment = (this.#inSegment + found) | 0;
    return found;
  }

  /** The first `count` bytes of what next() has found have been written: for the dirty log. */
  wrote(count: number): void {
    this.#memory.log.mark(this.addressLo, this.addressHi, count);
  }

  /** Takes back `count` bytes of what next() has just found. */
  unread(count: number): void {
    this.#inSegment = (this.#inSegment - count) | 0;
  }

  /**
   * Copies the next `count` bytes, in however many pieces, to the beginning of `bytes`. False: not
   * all of them are there.
   */
  read(bytes: Uint8Array, count: number): boolean {
    for (let done = 0; done < count; ) {
      const found = this.next(count - done);
      if (found === 0) return false;
      copyBytes(this.window!.u8, this.offset, bytes, done, found);
      done += found;
    }
    return true;
  }

  /** The same to byte `at` of another window, or of the same. */
  gather(to: W, at: number, count: number): boolean {
    for (let done = 0; done < count; ) {
      const found = this.next(count - done);
      if (found === 0) return false;
      copyBetween(this.window!, this.offset, to, at + done, found);
      done += found;
    }
    return true;
  }

  /** In the other direction: `count` bytes at `at` of `from`. */
  scatter(from: W, at: number, count: number): boolean {
    for (let done = 0; done < count; ) {
      const found = this.next(count - done);
      if (found === 0) return false;
      copyBetween(from, at + done, this.window!, this.offset, found);
      this.wrote(found);
      done += found;
    }
    return true;
  }
}
