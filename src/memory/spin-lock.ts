/**
 * A lock for threads that share memory: one 32-bit word, 0 free, 1 held. What it guards mostly takes
 * well below a microsecond, so a thread that finds it held looks again for a while. When the holder was
 * preempted, or has memory reserved or given back under it (some 50 µs), it gives the core away.
 *
 * Several locks lie LOCK_WORDS apart, each in a cache line of its own.
 */

import { assert } from '../base/assert.ts';

/** Distance of two locks in words: a cache line of 64 bytes. */
export const LOCK_WORDS = 16;

/** About two microseconds: many times what a holder mostly needs. */
const LOOKS_BEFORE_SLEEP = 200;
/** The least that a timed wait takes, with the kernel's timer slack: some 60 µs. */
const SLEEP_MILLIS = 0.01;
const neverNotified = new Int32Array(new SharedArrayBuffer(4));

export class SpinLock {
  readonly #words: Int32Array;
  readonly #index: number;

  constructor(words: Int32Array, index: number) {
    assert(index >= 0 && index < words.length, 'a lock has its word');
    this.#words = words;
    this.#index = index;
  }

  // HOT PATH from here on: no allocation, no BigInt, no closures, no await.

  acquire(): void {
    for (let looks = 0; !this.tryAcquire(); looks++) {
      if (looks >= LOOKS_BEFORE_SLEEP) Atomics.wait(neverNotified, 0, 0, SLEEP_MILLIS);
    }
  }

  /** False: somebody else holds it. */
  tryAcquire(): boolean {
    // A look first: a compare-and-exchange takes the line from the holder.
    if (Atomics.load(this.#words, this.#index) !== 0) return false;
    return Atomics.compareExchange(this.#words, this.#index, 0, 1) === 0;
  }

  release(): void {
    Atomics.store(this.#words, this.#index, 0);
  }
}
