/**
 * What a block device's requests are executed against: pages by number. The store implements it,
 * the queues call it. All methods are on the hot path: they allocate nothing and never throw.
 *
 * Operations on one page take effect in the order of the calls, pending or not.
 */

import type { PageClient, PageResult } from '../base/page-operation.ts';
import type { Window } from '../memory/window.ts';

export interface PageDevice<W extends Window = Window> {
  /** Capacity in pages. */
  readonly slots: number;
  /** No further operation may be begun until pending ones have ended. */
  readonly isFull: boolean;
  /**
   * Pages of memory given back to the system by calls of this object, each about a page's work beside
   * what the calls cost otherwise. Wraps at 32 bits.
   */
  readonly punchedPages: number;
  /** Stores the 4096 bytes at `offset` of `window`. */
  writePage(
    slot: number,
    window: W,
    offset: number,
    client: PageClient<W>,
    request: number,
    page: number,
  ): PageResult;
  /** Fills 4096 bytes at `offset` of `window`, or when pending hands them to the client. */
  readPage(
    slot: number,
    window: W,
    offset: number,
    client: PageClient<W>,
    request: number,
    page: number,
  ): PageResult;
  /** The page is needed no longer and reads as zeros. */
  freePage(slot: number, client: PageClient<W>, request: number): PageResult;
  /** The page reads as zeros. */
  zeroPage(slot: number, client: PageClient<W>, request: number): PageResult;
  /**
   * Replaces bytes [from, to) of a page by those at `offset` of `window`, which nobody changes
   * meanwhile; all at once: of two that change one page neither undoes what the other did.
   */
  writePart(
    slot: number,
    from: number,
    to: number,
    window: W,
    offset: number,
    client: PageClient<W>,
    request: number,
    page: number,
  ): PageResult;
  /**
   * The client asks for nothing any more: what it has pending ends without it. Writes that have
   * begun may still take effect; those that wait do not. Cold path.
   */
  abandon(client: PageClient<W>): void;
}

/**
 * Places of the request counters in the array of doubles that a queue is given; the owner decides
 * where it lies (the store's header page).
 */
export const REQUESTS = { read: 0, write: 1, discard: 2, other: 3, invalid: 4, COUNT: 5 } as const;
