/**
 * What a block device's requests are executed against: pages by number. The store implements it.
 * All methods are on the hot path: they allocate nothing and never throw.
 */

import type { Window } from '../memory/window.ts';

export interface PageDevice<W extends Window = Window> {
  /** Capacity in pages. */
  readonly slots: number;
  /** Stores the 4096 bytes at `offset` of `window`. False: not stored, the old page is kept. */
  writePage(slot: number, window: W, offset: number): boolean;
  /** Fills 4096 bytes at `offset` of `window`. False: nothing was written there. */
  readPage(slot: number, window: W, offset: number): boolean;
  /** The page is needed no longer and reads as zeros. */
  freePage(slot: number): void;
  /** The page reads as zeros. */
  zeroPage(slot: number): void;
  /** Zeroes bytes [from, to) of a page, by way of a page of memory at `bounce` of `window`. */
  zeroPartOfPage(slot: number, from: number, to: number, window: W, bounce: number): boolean;
}

/**
 * Places of the request counters in the array of doubles that a queue is given; the owner decides
 * where it lies (the store's header page).
 */
export const REQUESTS = { read: 0, write: 1, discard: 2, other: 3, invalid: 4, COUNT: 5 } as const;
