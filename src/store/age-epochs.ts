/**
 * The epochs by which ages of pages are told (page-ages.ts): when one begins, and how numbers of old
 * ones are had back. A step of upkeep at a time, by the store's thread 0.
 *
 *   waiting for a page → (one was written) begun → EPOCH_MICROS later: an unused number is next
 *                                                    │ there is none
 *                                                    ▼
 *                        neighbours are merged: once over the slots, the younger get the elder's number
 *
 * An epoch begins when the first of its pages is found, so one that waits costs nothing and wakes
 * nobody. Pages count as old as their epoch, so an age is too large by an epoch's length at most.
 *
 * Old epochs are merged so that this stays a share of the age: neighbours become one where it is not
 * longer than a quarter of the time since it ended. Of what is left two neighbours together always are
 * longer, so ages grow by a quarter or more every two epochs: 150 numbers reach back 68 years, and a
 * merger leaves some hundred unused, for two hours at least.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import type { SpinLock } from '../memory/spin-lock.ts';
import { EPOCHS, type PageAges } from './page-ages.ts';

/** How long an epoch lasts: a minute is soon enough to be told, and 255 of them four hours. */
export const EPOCH_SECONDS = 64;
const EPOCH_MICROS = EPOCH_SECONDS * 1_000_000;
/** What merged epochs may last, of the time since they ended: a part in so many. */
export const MERGED_SHARE = 4;

/** Of a step, some 10 to 20 µs: slots looked at, and given another number. */
const SLOTS_PER_STEP = 8192;
const RENUMBERED_PER_STEP = 512;

export class AgeEpochs {
  readonly #ages: PageAges;
  readonly #locks: readonly SpinLock[] | undefined;
  readonly #seconds: () => number;
  /** When the current epoch began, in wrapping microseconds; undefined: in another process. */
  #begunAt: number | undefined;

  /** While merging: the next slot to look at, and by number the one that it becomes. */
  #isMerging = false;
  #next = 0;
  readonly #becomes = new Uint8Array(EPOCHS);
  /** Numbers in use, from the oldest to the youngest, as beginning × EPOCHS + number. */
  readonly #order = new Float64Array(EPOCHS);

  /** `locks`: of the slots, by slot modulo their number; `seconds`: the clock, since boot. */
  constructor(ages: PageAges, locks: readonly SpinLock[] | undefined, seconds: () => number) {
    this.#ages = ages;
    this.#locks = locks;
    this.#seconds = seconds;
  }

  /**
   * A step. `now` is in wrapping microseconds. Milliseconds until there is more to do: 0 now, -1 when
   * a page has been written.
   */
  step(now: number): number {
    const ages = this.#ages;
    if (this.#isMerging) return this.#merge(now);
    const { current } = ages;
    if (ages.beginningOf(current) === 0) {
      if (ages.countOf(current) === 0) return -1;
      ages.setBeginning(current, this.#seconds());
      this.#begunAt = now;
    }
    if (this.#begunAt === undefined) return this.#endEpoch(now);
    const passed = (now - this.#begunAt) | 0;
    // Less than nothing: half of the clock's range, and more.
    if (passed < 0 || passed >= EPOCH_MICROS) return this.#endEpoch(now);
    // Milliseconds and some more, by whole numbers alone: this is asked for before each sleep.
    return ((((EPOCH_MICROS - passed) >> 10) * 1049) >> 10) + 2;
  }

  #endEpoch(now: number): number {
    const ages = this.#ages;
    // Where all that was in it is gone it can begin again.
    const number = ages.countOf(ages.current) === 0 ? ages.current : this.#unused();
    if (number !== 0) {
      ages.setBeginning(number, 0);
      ages.current = number;
      return -1;
    }
    if (this.#plan()) {
      this.#isMerging = true;
      this.#next = 0;
      return 0;
    }
    // Only where beginnings are damaged: the epoch goes on.
    this.#begunAt = now;
    return EPOCH_MICROS / 1000;
  }

  /** A number that no slot has, or 0. */
  #unused(): number {
    const { current } = this.#ages;
    for (let i = 1; i < EPOCHS; i++) {
      const number = 1 + ((current + i - 1) % (EPOCHS - 1));
      if (number !== current && this.#ages.countOf(number) === 0) return number;
    }
    return 0;
  }

  /** Decides which numbers become which. False: none becomes another. */
  #plan(): boolean {
    const count = this.#sort();
    const now = this.#seconds();
    const { current } = this.#ages;
    let isUseful = false;
    let target = 0;
    let beganAt = 0;
    for (let i = 0; i < count; i++) {
      const number = this.#numberAt(i);
      const endedAt = i + 1 < count ? this.#beginningAt(i + 1) : now;
      const longest = Math.max(EPOCH_SECONDS, (now - endedAt) / MERGED_SHARE);
      // Pages go on being written in the current one.
      if (target !== 0 && number !== current && endedAt - beganAt <= longest) {
        this.#becomes[number] = target;
        isUseful = true;
        continue;
      }
      target = number;
      beganAt = this.#beginningAt(i);
      this.#becomes[number] = number;
    }
    return isUseful;
  }

  /** Puts the numbers in use in order; how many. Others are above all of them. */
  #sort(): number {
    let count = 0;
    for (let number = 0; number < EPOCHS; number++) {
      const isUsed = number !== 0 && this.#ages.countOf(number) !== 0;
      this.#order[number] = isUsed
        ? this.#ages.beginningOf(number) * EPOCHS + number
        : Number.POSITIVE_INFINITY;
      if (isUsed) count++;
      else this.#becomes[number] = number;
    }
    this.#order.sort();
    return count;
  }

  #beginningAt(i: number): number {
    return Math.floor(this.#order[i]! / EPOCHS);
  }

  #numberAt(i: number): number {
    return this.#order[i]! - this.#beginningAt(i) * EPOCHS;
  }

  #merge(now: number): number {
    const ages = this.#ages;
    const end = Math.min(this.#next + SLOTS_PER_STEP, ages.slots);
    let renumbered = 0;
    for (; this.#next < end && renumbered < RENUMBERED_PER_STEP; this.#next++) {
      const number = ages.numberOf(this.#next);
      if (this.#becomes[number] === number) continue;
      this.#renumber(this.#next);
      renumbered++;
    }
    if (this.#next < ages.slots) return 0;
    this.#isMerging = false;
    return this.#endEpoch(now);
  }

  #renumber(slot: number): void {
    const lock = this.#locks?.[slot % this.#locks.length];
    lock?.acquire();
    // What it holds may have changed since it was looked at.
    this.#ages.renumber(slot, this.#becomes[this.#ages.numberOf(slot)]!);
    lock?.release();
  }
}
