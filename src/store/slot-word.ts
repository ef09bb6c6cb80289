/**
 * The word that says what a slot of the table holds, and what that adds to the statistics. Values are
 * unsigned; JavaScript reads them signed.
 *
 *         0            never written, or freed: reads as zeros
 *         1            on the backing swap
 *         2            lost: nobody knows what it held (overwriting it on the backing swap has failed or
 *                      is under way; or it was another process's, and that is gone); reads as an error
 *                      until it is written again
 *         3 …  255     other states (none yet)
 *       256 …  511     every byte of the page is word − 256
 *      1024 … 2^32−1   position in the arena: of an object (its size tells what it is), or of a
 *                      raw page (a whole arena page)
 *
 * An object of 4 or 8 bytes is a fill pattern of that period; no compressed page is that short.
 */

import { PAGE_BYTES } from '../base/units.ts';
import type { Xvmalloc } from '../xvmalloc/xvmalloc.ts';
import { COUNTER } from './statistics.ts';

export const SLOT_EMPTY = 0;
export const SLOT_BACKED = 1;
export const SLOT_LOST = 2;
export const SLOT_FILLED = 256;
export const SLOT_FILLED_END = 512;
export const SLOT_POSITION_MIN = 1024;

export const FILL_OBJECT_BYTES_MAX = 8;
const GOOD_COMPRESS_BYTES = PAGE_BYTES / 2;

/** HOT PATH: no allocation. Whether the slot's page takes room, in memory or on the backing swap. */
export function takesRoom(word: number): boolean {
  return word >>> 0 >= SLOT_POSITION_MIN || word === SLOT_BACKED;
}

/**
 * HOT PATH: no allocation. Counts a slot's content in (`by` 1) or out (-1) of a row of counters. The
 * object must exist.
 */
export function accountWord(
  counters: Float64Array,
  objects: Xvmalloc,
  word: number,
  by: number,
): void {
  if (word >>> 0 < SLOT_POSITION_MIN) {
    if (word === SLOT_FILLED) counters[COUNTER.pagesZero]! += by;
    else if (word > SLOT_FILLED) counters[COUNTER.pagesSame]! += by;
    else if (word === SLOT_BACKED) counters[COUNTER.pagesOnBacking]! += by;
    else if (word === SLOT_LOST) counters[COUNTER.pagesLost]! += by;
    return;
  }
  if (objects.isPage(word)) {
    counters[COUNTER.pagesStored]! += by;
    counters[COUNTER.pagesExpand]! += by;
    counters[COUNTER.comprDataSize]! += by * PAGE_BYTES;
    return;
  }
  const bytes = objects.sizeOf(word);
  if (bytes <= FILL_OBJECT_BYTES_MAX) {
    counters[COUNTER.pagesSame]! += by;
    return;
  }
  counters[COUNTER.pagesStored]! += by;
  counters[COUNTER.comprDataSize]! += by * bytes;
  if (bytes <= GOOD_COMPRESS_BYTES) counters[COUNTER.goodCompress]! += by;
}
