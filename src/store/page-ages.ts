/**
 * Since when pages are held, by epochs: a byte a slot is the number of the epoch in which its page was
 * written, and how many slots have each number is counted, by thread. When an epoch begins, and what
 * becomes of old ones, is age-epochs.ts's.
 *
 *   number of a slot   0         holds no page that counts
 *                      1 … 255   the epoch
 *
 *   words   ┌─────────┬────────────────────┬──────────────────────┬──────────────────────┬─ ─ ─
 *           │ current │ when epochs 1 … 255│ slots by number 0 … 255, as thread 0 │ thread 1
 *           │ epoch   │ have begun         │ has counted them     │
 *           └─────────┴────────────────────┴──────────────────────┴──────────────────────┴─ ─ ─
 *
 * Beginnings are seconds since boot, so the next process can go on with them; 0: not begun, no page was
 * found in it. A thread counts what it adds and takes away in words of its own, which may be less than
 * nothing and wrap: only the sum means anything. The number and the count change under the slot's lock,
 * with its word.
 */

import { SHARDS_MAX } from '../xvmalloc/arena.ts';

/** Numbers that a byte has; 0 is no epoch's. */
export const EPOCHS = 256;
/** The word for number 0, which has no beginning, is the current epoch. */
const CURRENT = 0;
const COUNTS = EPOCHS;
export const AGE_WORDS = COUNTS + SHARDS_MAX * EPOCHS;

/** Slots with this number: the sum over the words of so many threads. */
function countOf(words: Int32Array, number: number, threads: number): number {
  let sum = 0;
  for (let thread = 0; thread < threads; thread++) sum += words[COUNTS + thread * EPOCHS + number]!;
  return sum | 0;
}

/** When the oldest epoch with pages began; undefined: there is none, or it has only just begun. */
export function oldestBeginning(words: Int32Array): number | undefined {
  let oldest: number | undefined;
  for (let number = 1; number < EPOCHS; number++) {
    const beganAt = words[number]!;
    if (beganAt === 0 || countOf(words, number, SHARDS_MAX) <= 0) continue;
    if (oldest === undefined || beganAt < oldest) oldest = beganAt;
  }
  return oldest;
}

export class PageAges {
  /** By slot. */
  readonly #numbers: Uint8Array;
  readonly #words: Int32Array;
  /** This thread's counts; and how many threads count. */
  readonly #counts: Int32Array;
  readonly #threads: number;
  /** Slots before this one hold the swap header, which nobody asks the age of. */
  readonly #firstSlot: number;

  constructor(
    numbers: Uint8Array,
    words: Int32Array,
    thread: number,
    threads: number,
    firstSlot: number,
  ) {
    this.#numbers = numbers;
    this.#words = words;
    this.#threads = threads;
    this.#counts = words.subarray(COUNTS + thread * EPOCHS, COUNTS + (thread + 1) * EPOCHS);
    this.#firstSlot = firstSlot;
  }

  // HOT PATH from here on: no allocation, no BigInt, no closures, no await.

  /** The slot has other content: a page written now, or none that counts. Under its lock. */
  note(slot: number, hasPage: boolean): void {
    const number = hasPage && slot >= this.#firstSlot ? this.#words[CURRENT]! : 0;
    this.renumber(slot, number);
  }

  /** Under the slot's lock. */
  renumber(slot: number, number: number): void {
    const old = this.#numbers[slot]!;
    if (old === number) return;
    this.#numbers[slot] = number;
    this.#counts[old]!--;
    this.#counts[number]!++;
  }

  get slots(): number {
    return this.#numbers.length;
  }

  numberOf(slot: number): number {
    return this.#numbers[slot]!;
  }

  /** Slots with this number. */
  countOf(number: number): number {
    return countOf(this.#words, number, this.#threads);
  }

  get current(): number {
    return this.#words[CURRENT]!;
  }

  /** Pages written from now on are of this epoch, whose beginning is known. */
  set current(number: number) {
    Atomics.store(this.#words, CURRENT, number);
  }

  /** In seconds since boot; 0: not begun. */
  beginningOf(number: number): number {
    return this.#words[number]!;
  }

  setBeginning(number: number, seconds: number): void {
    this.#words[number] = seconds;
  }

  // ── Cold path ─────────────────────────────────────────────────────────────────────────────────

  /**
   * Counts anew, in this thread's words: slots that hold a page have the number that they had, the
   * current one where they had none; no other slot has one. Nobody else uses the store meanwhile.
   */
  recount(holdsPage: (slot: number) => boolean): void {
    const current = this.#beginCounting();
    for (let slot = 0; slot < this.#numbers.length; slot++) {
      const isCounted = slot >= this.#firstSlot && holdsPage(slot);
      const number = isCounted ? this.#numbers[slot] || current : 0;
      if (number !== this.#numbers[slot]) this.#numbers[slot] = number;
      this.#counts[number]!++;
    }
  }

  /** The same where no slot holds a page. */
  clear(): void {
    this.#beginCounting();
    this.#numbers.fill(0);
    this.#counts[0] = this.#numbers.length;
  }

  /** The current number. */
  #beginCounting(): number {
    const found = this.#words[CURRENT]!;
    // Whatever is found there, a number it must be: any is as good as another.
    const current = found >= 1 && found < EPOCHS ? found : 1;
    this.#words[CURRENT] = current;
    this.#words.fill(0, COUNTS);
    return current;
  }
}
