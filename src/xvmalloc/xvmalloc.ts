/**
 * xvmalloc: an allocator for objects of 1 to 4092 bytes in 4 KiB pages of an arena, after TLSF with
 * a small range of sizes. Alloc and free are O(1): free blocks hang in lists 8 bytes of size apart,
 * and a two-level bitmap finds the nearest list that fits. It knows nothing of pages' contents.
 *
 * A block is a header word and its payload; a page is filled exactly by its blocks:
 *
 *     31          18 17 16 15             0
 *    ┌──────────────┬──┬──┬────────────────┐
 *    │ offset of the│PF│ F│ size in bytes  │   F: this block is free; PF: the previous one is.
 *    │ previous block (bytes, low bits 0)  │   The size of a live object is exact and never
 *    └──────────────┴──┴──┴────────────────┘   rewritten; blocks are 4-byte aligned.
 *
 * A free block of 32 bytes or more is in the list of its size: payload words 0 and 1 are the next
 * and previous block there. Smaller ones stay out of the lists until a neighbour merges them.
 *
 * Positions count 4-byte words from the arena's beginning (32 bits, signed in JavaScript). An
 * object's position is its payload's; `position & 1023` is its word in the page and never 0, which
 * tells it from a raw page's. Position 0 means "none".
 */

import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { type Arena, PAGE_POOL } from './arena.ts';
import { BitTree } from './bit-tree.ts';

const WORDS_PER_PAGE = PAGE_BYTES / 4;
const HEADER_BYTES = 4;
/** The largest object: a page less its header. */
export const OBJECT_BYTES_MAX = PAGE_BYTES - HEADER_BYTES;

const LISTED_BYTES_MIN = 32;
const LIST_STEP_SHIFT = 3;
const LISTS = ((OBJECT_BYTES_MAX - LISTED_BYTES_MIN) >> LIST_STEP_SHIFT) + 1;
const LIST_TREE_WORDS = BitTree.wordsFor(LISTS);

const SIZE_MASK = 0xffff;
const FREE = 1 << 16;
const PREVIOUS_FREE = 1 << 17;
/** The previous block's offset: a multiple of 4, so its two low bits are the flags above. */
const PREVIOUS_SHIFT = 16;
const PREVIOUS_MASK = 0xfffc0000 | 0;

/** Words of a segment's positions: positions are cut into segment number and word. */
export const SEGMENT_SHIFT = 28;
export const SEGMENT_WORD_MASK = (1 << SEGMENT_SHIFT) - 1;

assert(OBJECT_BYTES_MAX % 4 === 0, 'the largest object fills a page exactly');
assert(1 << (LIST_STEP_SHIFT + 1) < LISTED_BYTES_MIN, 'lists are finer than the smallest block');

/** The arena page of a position. */
export function pageOfPosition(position: number): number {
  return position >>> 10;
}

/** The position of a whole (raw) page. */
export function positionOfPage(page: number): number {
  return page << 10;
}

/** Whether a position is a whole page's, not an object's. */
export function isPagePosition(position: number): boolean {
  return (position & (WORDS_PER_PAGE - 1)) === 0;
}

export class Xvmalloc {
  /** Words of state: list heads, then the bitmap of lists that are not empty. */
  static readonly STATE_WORDS = LISTS + LIST_TREE_WORDS;

  readonly #arena: Arena;
  readonly #segments: Int32Array[];
  readonly #heads: Int32Array;
  readonly #filled: BitTree;

  /** `state`: STATE_WORDS zeroed words. */
  constructor(arena: Arena, state: Int32Array) {
    this.#arena = arena;
    this.#segments = arena.segments;
    this.#heads = state.subarray(0, LISTS);
    this.#filled = new BitTree(state.subarray(LISTS), LISTS);
  }

  /** HOT PATH: no allocation. Size in bytes of the object at `position`, as it was asked for. */
  sizeOf(position: number): number {
    return this.#read(position - 1) & SIZE_MASK;
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * The position of a new object of `bytes`, contents undefined; 0 when there is no memory.
   */
  allocate(bytes: number): number {
    assert(bytes >= 1 && bytes <= OBJECT_BYTES_MAX, 'an object has 1 to 4092 bytes');
    const wanted = (bytes + 3) & ~3;
    let block = this.#findFree(wanted);
    let found: number;
    if (block === 0) {
      const page = this.#arena.allocatePage(PAGE_POOL);
      if (page === 0) return 0;
      block = page << 10;
      found = OBJECT_BYTES_MAX;
      this.#write(block, found | FREE);
    } else {
      found = this.#read(block) & SIZE_MASK;
      this.#unlink(block, found);
    }
    this.#split(block, found, wanted);
    this.#write(block, (this.#read(block) & PREVIOUS_MASK) | bytes);
    return (block + 1) | 0;
  }

  /** HOT PATH: no allocation. Frees an object; its page goes back when nothing is left in it. */
  free(position: number): void {
    let block = (position - 1) | 0;
    const header = this.#read(block);
    assert((header & FREE) === 0, 'an object is freed once');
    // Marked even if a neighbour swallows the block: freeing it again is then still noticed.
    this.#write(block, header | FREE);
    let size = ((header & SIZE_MASK) + 3) & ~3;
    let after = (block + 1 + (size >> 2)) | 0;
    if (!startsPage(after)) {
      const next = this.#read(after);
      if ((next & FREE) !== 0) {
        const nextSize = next & SIZE_MASK;
        this.#unlink(after, nextSize);
        size += HEADER_BYTES + nextSize;
        after = (after + 1 + (nextSize >> 2)) | 0;
      }
    }
    let previousBits = header & PREVIOUS_MASK;
    if ((header & PREVIOUS_FREE) !== 0) {
      block = (block & ~(WORDS_PER_PAGE - 1)) | (header >>> (PREVIOUS_SHIFT + 2));
      const previous = this.#read(block);
      const previousSize = previous & SIZE_MASK;
      this.#unlink(block, previousSize);
      size += HEADER_BYTES + previousSize;
      previousBits = previous & PREVIOUS_MASK;
    }
    if (size === OBJECT_BYTES_MAX) {
      this.#arena.freePage(pageOfPosition(block));
      return;
    }
    this.#write(block, previousBits | FREE | size);
    this.#link(block, size);
    if (!startsPage(after)) this.#setPrevious(after, block, PREVIOUS_FREE);
  }

  /** A free block of at least `wanted` bytes (still linked), or 0. */
  #findFree(wanted: number): number {
    const above = wanted - LISTED_BYTES_MIN;
    let list = 0;
    if (above > 0) {
      // The list that `wanted` itself belongs to may hold smaller blocks: try its head only.
      const own = this.#heads[above >> LIST_STEP_SHIFT]!;
      if (own !== 0 && (this.#read(own) & SIZE_MASK) >= wanted) return own;
      list = (above + (1 << LIST_STEP_SHIFT) - 1) >> LIST_STEP_SHIFT;
    }
    const found = this.#filled.firstFrom(list);
    return found < 0 ? 0 : this.#heads[found]!;
  }

  /** Cuts `found` bytes of free block down to `wanted`; what is left becomes a free block. */
  #split(block: number, found: number, wanted: number): void {
    const left = found - wanted;
    const after = (block + 1 + (found >> 2)) | 0;
    if (left === 0) {
      if (!startsPage(after)) this.#setPrevious(after, block, 0);
      return;
    }
    const rest = (block + 1 + (wanted >> 2)) | 0;
    const restSize = left - HEADER_BYTES;
    this.#write(rest, (offsetInPage(block) << PREVIOUS_SHIFT) | FREE | restSize);
    this.#link(rest, restSize);
    if (!startsPage(after)) this.#setPrevious(after, rest, PREVIOUS_FREE);
  }

  #setPrevious(block: number, previous: number, previousFree: number): void {
    const kept = this.#read(block) & (SIZE_MASK | FREE);
    this.#write(block, (offsetInPage(previous) << PREVIOUS_SHIFT) | previousFree | kept);
  }

  #link(block: number, size: number): void {
    if (size < LISTED_BYTES_MIN) return;
    const list = (size - LISTED_BYTES_MIN) >> LIST_STEP_SHIFT;
    const head = this.#heads[list]!;
    this.#write(block + 1, head);
    this.#write(block + 2, 0);
    if (head === 0) this.#filled.add(list);
    else this.#write(head + 2, block);
    this.#heads[list] = block;
  }

  #unlink(block: number, size: number): void {
    if (size < LISTED_BYTES_MIN) return;
    const next = this.#read(block + 1);
    const previous = this.#read(block + 2);
    if (next !== 0) this.#write(next + 2, previous);
    if (previous !== 0) {
      this.#write(previous + 1, next);
      return;
    }
    const list = (size - LISTED_BYTES_MIN) >> LIST_STEP_SHIFT;
    this.#heads[list] = next;
    if (next === 0) this.#filled.remove(list);
  }

  #read(position: number): number {
    return this.#segments[position >>> SEGMENT_SHIFT]![position & SEGMENT_WORD_MASK]!;
  }

  #write(position: number, word: number): void {
    this.#segments[position >>> SEGMENT_SHIFT]![position & SEGMENT_WORD_MASK] = word;
  }
}

function startsPage(position: number): boolean {
  return (position & (WORDS_PER_PAGE - 1)) === 0;
}

function offsetInPage(position: number): number {
  return (position & (WORDS_PER_PAGE - 1)) << 2;
}
