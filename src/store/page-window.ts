/**
 * A window in which the codec works: guest memory whose pages are compressed in place. It adds to
 * the window a codec instance over the same linear memory and divides up the work area.
 *
 *   0 ──── dictionary ──── out ──── in ──── page ──── whole ──── WINDOW_CODEC_BYTES
 */

import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { LZO1X_DICT_BYTES, Lzo1x, lzo1xWorstCase } from '../lzo-wasm/lzo1x.ts';
import { copyWords, WINDOW_CODEC_BYTES, Window } from '../memory/window.ts';

const DICTIONARY = 0;
/** Compressor's result. */
export const WORK_OUT = 16384;
/** A stored object on its way to the decompressor. */
export const WORK_IN = 24576;
/** A whole page, 4-byte aligned, for what cannot go to its place directly. */
export const WORK_PAGE = 32768;
/** The whole of a page that is changed in part. */
export const WORK_WHOLE = WORK_PAGE + PAGE_BYTES;

assert(LZO1X_DICT_BYTES <= WORK_OUT - DICTIONARY, 'the dictionary ends before the result');
assert(lzo1xWorstCase(PAGE_BYTES) <= WORK_IN - WORK_OUT, 'the worst result ends before the input');
assert(WORK_IN + PAGE_BYTES <= WORK_PAGE, 'an input ends before the page');
assert(WORK_WHOLE + PAGE_BYTES <= WINDOW_CODEC_BYTES, 'the pages end in the work area');

export class PageWindow extends Window {
  readonly codec: Lzo1x;

  constructor(bytes: number) {
    super(bytes);
    this.codec = new Lzo1x(this.memory, DICTIONARY);
  }
}

/** HOT PATH: no allocation. Where the bytes at `offset` begin at a word: there, or copied to `work`. */
export function wordAligned(
  window: PageWindow,
  offset: number,
  bytes: number,
  work: number,
): number {
  if ((offset & 3) === 0) return offset;
  window.u8.copyWithin(work, offset, offset + bytes);
  return work;
}

/** HOT PATH: no allocation. A page from one window, at any byte offset, to a whole place in another. */
export function copyPage(from: PageWindow, offset: number, to: PageWindow, toOffset: number): void {
  const at = wordAligned(from, offset, PAGE_BYTES, WORK_PAGE);
  copyWords(from.i32, at >> 2, to.i32, toOffset >> 2, PAGE_BYTES / 4);
}
