/**
 * The arena: a sparse memory file of 4 KiB pages, handed out one at a time, for the allocator's
 * pool or for raw pages. Pages are reserved (fallocate) before they are touched, so a full tmpfs
 * is "no memory" and never a SIGBUS, and are given back (punched) when they stay unused.
 *
 * Pages are managed in blocks of 16 (64 KiB), one word of state each:
 *
 *    31            16 15             0
 *   ┌────────────────┬────────────────┐   reserved ⊇ used; spare = reserved and not used
 *   │ reserved, 1 bit│ used, 1 bit    │
 *   │ a page         │ a page         │
 *   └────────────────┴────────────────┘
 *
 * Allocation takes the lowest block with spare pages, else reserves the lowest block that has
 * room; giving back starts at the highest. So the arena stays dense at its low end.
 * Page 0 is never handed out: position 0 means "none".
 */

import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { mapFileWindow } from '../memory/memory-file.ts';
import { punchRange, reserveRange } from '../native/fd.ts';
import { BitTree } from './bit-tree.ts';

export const PAGE_FREE = 0;
export const PAGE_POOL = 1;
export const PAGE_RAW = 2;
export type PageKind = typeof PAGE_POOL | typeof PAGE_RAW;

export const PAGES_PER_BLOCK = 16;
const BLOCK_BYTES = PAGES_PER_BLOCK * PAGE_BYTES;
const BLOCK_FULL = 0xffff;

/** A segment is what one window maps: 1 GiB. Page numbers and positions are cut accordingly. */
export const SEGMENT_PAGES_SHIFT = 18;
const SEGMENT_PAGES = 1 << SEGMENT_PAGES_SHIFT;

/** Positions are 32-bit counts of 4-byte words: 16 GiB. */
export const ARENA_PAGES_MAX = 2 ** 22;

/** At most 4 MiB is kept for reuse; a trim works off at most 16 blocks (1 MiB) a step. */
const SPARE_PAGES_MAX = 1024;
const TRIM_BLOCKS_PER_STEP = 16;

/** Gauges, doubles in shared memory, read by other threads. */
export const ARENA_GAUGE = { poolPages: 0, rawPages: 1, reservedPages: 2, COUNT: 3 } as const;

export interface ArenaState {
  /** One byte a page: PAGE_FREE, PAGE_POOL or PAGE_RAW. */
  readonly pageMap: Uint8Array;
  /** `Arena.stateWords(pages)` words. */
  readonly words: Int32Array;
  readonly gauges: Float64Array;
}

export class Arena {
  /** Word views of the segments, by segment number. */
  readonly segments: Int32Array[] = [];
  /** Pages that may be in use at once (pool and raw): a hard limit, changeable. */
  limitPages: number;
  /** errno of the last refused reservation, 0 when memory was never refused. */
  lastErrno = 0;

  readonly #fd: number;
  readonly #pages: number;
  readonly #pageMap: Uint8Array;
  readonly #blocks: Int32Array;
  readonly #spare: BitTree;
  readonly #room: BitTree;
  readonly #gauges: Float64Array;
  #usedPages = 0;
  #sparePages = 0;
  /** Least number of spare pages since the last trim: those were needed by nobody. */
  #spareLow = 0;

  /** `fd`: a memory file of `pages` × 4096 bytes, all holes; `state`: zeroed. */
  constructor(fd: number, pages: number, state: ArenaState, limitPages = pages - 1) {
    assert(pages % PAGES_PER_BLOCK === 0 && pages <= ARENA_PAGES_MAX, 'an arena is whole blocks');
    const blocks = pages / PAGES_PER_BLOCK;
    const treeWords = BitTree.wordsFor(blocks);
    this.#fd = fd;
    this.#pages = pages;
    this.#pageMap = state.pageMap;
    this.#blocks = state.words.subarray(0, blocks);
    this.#spare = new BitTree(state.words.subarray(blocks, blocks + treeWords), blocks);
    this.#room = new BitTree(state.words.subarray(blocks + treeWords), blocks);
    this.#gauges = state.gauges;
    this.limitPages = limitPages;
    // All at once: address space only, and to have none is a refusal at start, not in a write.
    for (let first = 0; first < pages; first += SEGMENT_PAGES) this.#mapSegment(first);
    for (let block = 0; block < blocks; block++) this.#room.add(block);
    // Page 0 counts as used for ever, and is reserved when its block is.
    this.#blocks[0] = 1;
  }

  static stateWords(pages: number): number {
    const blocks = pages / PAGES_PER_BLOCK;
    return blocks + 2 * BitTree.wordsFor(blocks);
  }

  get usedPages(): number {
    return this.#usedPages;
  }

  get sparePages(): number {
    return this.#sparePages;
  }

  kindOf(page: number): number {
    return this.#pageMap[page]!;
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * A reserved page, contents undefined; 0 when the limit is reached or memory was refused.
   */
  allocatePage(kind: PageKind): number {
    if (this.#usedPages >= this.limitPages) return 0;
    let block = this.#spare.first();
    if (block < 0) {
      block = this.#reserveBlock();
      if (block < 0) return 0;
    }
    const state = this.#blocks[block]!;
    const spare = (state >>> 16) & ~state & BLOCK_FULL;
    const inBlock = 31 - Math.clz32(spare & -spare);
    this.#blocks[block] = state | (1 << inBlock);
    if ((spare & (spare - 1)) === 0) this.#spare.remove(block);
    this.#sparePages--;
    if (this.#sparePages < this.#spareLow) this.#spareLow = this.#sparePages;
    this.#usedPages++;
    const page = block * PAGES_PER_BLOCK + inBlock;
    this.#pageMap[page] = kind;
    this.#count(kind, 1);
    return page;
  }

  /** HOT PATH: no allocation. The page stays reserved for reuse until a trim. */
  freePage(page: number): void {
    const kind = this.#pageMap[page]!;
    assert(kind !== PAGE_FREE, 'a page is freed once');
    this.#pageMap[page] = PAGE_FREE;
    this.#count(kind as PageKind, -1);
    const block = (page / PAGES_PER_BLOCK) | 0;
    this.#blocks[block]! &= ~(1 << (page % PAGES_PER_BLOCK));
    this.#spare.add(block);
    this.#sparePages++;
    this.#usedPages--;
  }

  /** Whether more is kept for reuse than should wait for the next regular trim. */
  get isOverfull(): boolean {
    return this.#sparePages > SPARE_PAGES_MAX;
  }

  /**
   * Gives back a step's worth of what was kept but not needed since the last complete trim, or of
   * what is above the limit of kept pages. Returns whether there is more to do now.
   */
  trim(): boolean {
    const wanted = Math.max(this.#spareLow, this.#sparePages - SPARE_PAGES_MAX);
    let remaining = wanted;
    for (let i = 0; i < TRIM_BLOCKS_PER_STEP && remaining > 0; i++) {
      remaining -= this.#punchHighestSpare();
    }
    this.#spareLow = Math.max(0, this.#spareLow - (wanted - remaining));
    return remaining > 0;
  }

  /** Begins a new interval: what stays spare until the next trim is what nobody needed. */
  markTrimInterval(): void {
    this.#spareLow = this.#sparePages;
  }

  /** Punches all spare pages of the highest block that has any; the count of pages. */
  #punchHighestSpare(): number {
    const block = this.#spare.last();
    assert(block >= 0, 'spare pages are in some block');
    const state = this.#blocks[block]!;
    const spare = (state >>> 16) & ~state & BLOCK_FULL;
    for (let from = 0; from < PAGES_PER_BLOCK; ) {
      if ((spare & (1 << from)) === 0) {
        from++;
        continue;
      }
      let end = from + 1;
      while (end < PAGES_PER_BLOCK && (spare & (1 << end)) !== 0) end++;
      const result = punchRange(
        this.#fd,
        (block * PAGES_PER_BLOCK + from) * PAGE_BYTES,
        (end - from) * PAGE_BYTES,
      );
      assert(result === 0, 'a memory file can be punched');
      from = end;
    }
    const count = popCount(spare);
    this.#blocks[block] = state & ~(spare << 16);
    this.#spare.remove(block);
    this.#room.add(block);
    this.#sparePages -= count;
    this.#gauges[ARENA_GAUGE.reservedPages]! -= count;
    return count;
  }

  /** Reserves the rest of the lowest block with room: the block, or -1. */
  #reserveBlock(): number {
    const block = this.#room.first();
    if (block < 0) return -1;
    const result = reserveRange(this.#fd, block * BLOCK_BYTES, BLOCK_BYTES);
    if (result !== 0) {
      this.lastErrno = -result;
      return -1;
    }
    const state = this.#blocks[block]!;
    const added = popCount(~(state >>> 16) & BLOCK_FULL);
    this.#blocks[block] = state | (BLOCK_FULL << 16);
    this.#room.remove(block);
    this.#spare.add(block);
    // Not the same as `added`: page 0 is reserved with its block but never spare.
    this.#sparePages += popCount(~(state >>> 16) & ~state & BLOCK_FULL);
    this.#gauges[ARENA_GAUGE.reservedPages]! += added;
    return block;
  }

  #mapSegment(first: number): void {
    const pages = Math.min(SEGMENT_PAGES, this.#pages - first);
    const window = mapFileWindow(this.#fd, first * PAGE_BYTES, pages * PAGE_BYTES);
    this.segments.push(window.i32);
  }

  #count(kind: PageKind, by: number): void {
    this.#gauges[kind === PAGE_POOL ? ARENA_GAUGE.poolPages : ARENA_GAUGE.rawPages]! += by;
  }
}

function popCount(bits: number): number {
  let count = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) count++;
  return count;
}
