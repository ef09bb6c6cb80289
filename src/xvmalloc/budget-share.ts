/**
 * One device's share of a budget: of the host memory for stored pages that all devices of a daemon
 * have together. Its arena asks here before pages come into use, and gives them back here; whoever
 * keeps the budget (store/budget.ts) sets its guarantee. All of it lies in words that the threads of
 * all devices share:
 *
 *   ┌───────────────────────┬───────────┬────────────────┬────────────────┬─ ─ ─
 *   │ budget, fair and open │ committed │ device 0: lock,│ device 1: …    │       a cache line each
 *   │ pages                 │ pages     │ used, guarantee│                │
 *   └───────────────────────┴───────────┴────────────────┴────────────────┴─ ─ ─
 *
 * `committed` is the sum over all devices of what they use or are guaranteed, whichever is more: so
 * what is guaranteed is always there to be taken. A share is the guarantee and an equal (fair) part of
 * what is guaranteed to nobody.
 *
 *   0                               open pages            budget pages
 *   ├────────────────────────────────────┼──────────────────────┤  committed
 *   │ for whoever comes                  │ reserve: for devices │
 *   │                                    │ under their share    │
 *
 * So those over their share are refused first, and the others still get something. While the reserve
 * is being used, memory is short, and those over their share are asked to give some back.
 *
 * A device that is under its guarantee, or its share, may end above it by less than a block. With the
 * guarantee that is all by which anybody can pass the budget; besides, what a device holds when it
 * comes counts whether or not there is room, and at the daemon's start what it is guaranteed, too.
 *
 * A device's words change under its lock, which its arena's lock mostly makes free; `committed`
 * changes by atomic operations.
 */

import { assert } from '../base/assert.ts';
import { SpinLock } from '../memory/spin-lock.ts';
import { ARENA_PAGES_MAX, PAGES_PER_BLOCK } from './arena.ts';

export const BUDGET_DEVICES_MAX = 256;
/** 4 TiB. */
export const BUDGET_PAGES_MAX = 2 ** 30;
assert(
  BUDGET_PAGES_MAX + BUDGET_DEVICES_MAX * (ARENA_PAGES_MAX - 1) < 2 ** 31,
  'all that is guaranteed and all that is used are counted by a word',
);

/** Words of the whole. */
export const BUDGET = {
  budgetPages: 0,
  /** Each device's part of what is guaranteed to nobody. */
  fairPages: 1,
  /** The budget less the reserve. */
  openPages: 2,
  /** In a cache line of its own: all threads write it. */
  committedPages: 16,
  COUNT: 32,
} as const;

/** Words of a device. */
const SHARE = {
  lock: 0,
  /** Changes when the device goes: what it was is not for the next one to touch. */
  generation: 1,
  usedPages: 2,
  guaranteePages: 3,
  /** How often it was refused: a double. */
  refusals: 4,
  WORDS: 16,
} as const;

export const BUDGET_BYTES = (BUDGET.COUNT + BUDGET_DEVICES_MAX * SHARE.WORDS) * 4;

/** What a thread needs to find a share: plain data. */
export interface BudgetTerms {
  readonly buffer: SharedArrayBuffer;
  /** Which of BUDGET_DEVICES_MAX it is. */
  readonly slot: number;
  readonly generation: number;
}

export class BudgetShare {
  readonly #whole: Int32Array;
  readonly #own: Int32Array;
  readonly #refusals: Float64Array;
  readonly #lock: SpinLock;
  readonly #generation: number;

  constructor({ buffer, slot, generation }: BudgetTerms) {
    assert(slot >= 0 && slot < BUDGET_DEVICES_MAX, 'a share has its place');
    const start = (BUDGET.COUNT + slot * SHARE.WORDS) * 4;
    this.#whole = new Int32Array(buffer, 0, BUDGET.COUNT);
    this.#own = new Int32Array(buffer, start, SHARE.WORDS);
    this.#refusals = new Float64Array(buffer, start + SHARE.refusals * 4, 1);
    this.#lock = new SpinLock(this.#own, SHARE.lock);
    this.#generation = generation;
  }

  /** The terms of whoever has the place next; nobody has it now. */
  static termsOf(buffer: SharedArrayBuffer, slot: number): BudgetTerms {
    const at = BUDGET.COUNT + slot * SHARE.WORDS + SHARE.generation;
    return { buffer, slot, generation: new Int32Array(buffer)[at]! };
  }

  get usedPages(): number {
    return this.#own[SHARE.usedPages]!;
  }

  get guaranteePages(): number {
    return this.#own[SHARE.guaranteePages]!;
  }

  /** Whether there is room or not. */
  set guaranteePages(pages: number) {
    this.#begin();
    this.#change(this.usedPages, pages);
    this.#lock.release();
  }

  /** So many from now on, if no more than `limit` is committed then; else, false: all is as it was. */
  guarantee(pages: number, limit: number): boolean {
    this.#begin();
    const used = this.usedPages;
    const more = Math.max(used, pages) - Math.max(used, this.guaranteePages);
    const isTaken = more > 0 && this.#commitUpTo(more, limit);
    if (isTaken) this.#own[SHARE.guaranteePages] = pages;
    else if (more <= 0) this.#change(used, pages);
    this.#lock.release();
    return isTaken || more <= 0;
  }

  get sharePages(): number {
    return this.guaranteePages + this.#whole[BUDGET.fairPages]!;
  }

  get refusals(): number {
    return this.#refusals[0]!;
  }

  /** Nobody has it any more, and what it held is free. */
  end(): void {
    this.#begin();
    this.#change(0, 0);
    this.#refusals[0] = 0;
    this.#own[SHARE.generation] = (this.#generation + 1) | 0;
    this.#lock.release();
  }

  // HOT PATH from here on: no allocation, no BigInt, no closures, no await.

  /** `pages` are to come into use: 1 or a block. False: they may not. */
  take(pages: number): boolean {
    this.#begin();
    const used = this.usedPages;
    const guarantee = this.guaranteePages;
    const more = Math.max(used + pages, guarantee) - Math.max(used, guarantee);
    const isTaken = more === 0 || this.#commit(more, used, guarantee);
    if (isTaken) this.#own[SHARE.usedPages] = used + pages;
    else this.#refusals[0]!++;
    this.#lock.release();
    return isTaken;
  }

  /** `pages` are no longer in use. */
  give(pages: number): void {
    this.#begin();
    assert(this.usedPages >= pages, 'what is given back was taken');
    this.#change(this.usedPages - pages, this.guaranteePages);
    this.#lock.release();
  }

  /** So many pages are in use, whether there is room for them or not. */
  hold(pages: number): void {
    this.#begin();
    this.#change(pages, this.guaranteePages);
    this.#lock.release();
  }

  /** Over its share: what is less than a block is rounding. */
  get isOver(): boolean {
    return this.usedPages - this.sharePages >= PAGES_PER_BLOCK;
  }

  /** Pages that it should do without for now, because others lack them. */
  get excessPages(): number {
    if (!this.isOver) return 0;
    const short = Atomics.load(this.#whole, BUDGET.committedPages) - this.#whole[BUDGET.openPages]!;
    return short <= 0 ? 0 : Math.min(short, this.usedPages - this.sharePages);
  }

  #begin(): void {
    this.#lock.acquire();
    assert(this.#own[SHARE.generation] === this.#generation, 'a share is used until its end');
  }

  #change(used: number, guarantee: number): void {
    const before = Math.max(this.usedPages, this.guaranteePages);
    Atomics.add(this.#whole, BUDGET.committedPages, Math.max(used, guarantee) - before);
    this.#own[SHARE.usedPages] = used;
    this.#own[SHARE.guaranteePages] = guarantee;
  }

  #commit(more: number, used: number, guarantee: number): boolean {
    const whole = this.#whole;
    if (used < guarantee) {
      Atomics.add(whole, BUDGET.committedPages, more);
      return true;
    }
    const isUnder = used - guarantee < whole[BUDGET.fairPages]!;
    return this.#commitUpTo(more, whole[isUnder ? BUDGET.budgetPages : BUDGET.openPages]!);
  }

  #commitUpTo(more: number, limit: number): boolean {
    const whole = this.#whole;
    // Never more than the limit, not for a moment: another device would be refused for it.
    let committed = Atomics.load(whole, BUDGET.committedPages);
    while (committed + more <= limit) {
      const found = Atomics.compareExchange(
        whole,
        BUDGET.committedPages,
        committed,
        committed + more,
      );
      if (found === committed) return true;
      committed = found;
    }
    return false;
  }
}
