/**
 * Operations on pages, as those who ask for them (request queues) and those who carry them out (a
 * store) know them: how they end, and whom to tell when they end later. Both sides import it from
 * here; neither knows the other.
 *
 * An operation is done or has failed when its call returns, or it is pending: then its client is
 * told later, never from within a call of the client's own.
 */

/** What has become of an operation. Failed: nothing has changed (a read: nothing was written). */
export const PAGE_FAILED = 0;
export const PAGE_DONE = 1;
export const PAGE_PENDING = 2;
export type PageResult = typeof PAGE_FAILED | typeof PAGE_DONE | typeof PAGE_PENDING;

/**
 * Whose pending operations end later. `request` and `page` are what the operation was begun with;
 * they mean something to the client only. Methods are on the hot path: no allocation, no throw.
 */
export interface PageClient<W> {
  /**
   * The data of a pending write is wanted now: copies its `bytes` bytes, a page or the part that is
   * written, to `offset` of `window`. False: they are not there any more, the write fails.
   */
  takePage(request: number, page: number, window: W, offset: number, bytes: number): boolean;
  /**
   * A pending operation has ended. The 4096 bytes that a read found are at `offset` of `window`, for
   * as long as this call lasts.
   */
  endPage(request: number, page: number, isDone: boolean, window: W, offset: number): void;
}
