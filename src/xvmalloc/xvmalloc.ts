/**
 * xvmalloc: an allocator for objects of 1 to 4092 bytes in pool blocks (64 KiB) of an arena, after
 * TLSF with a small range of sizes. Alloc and free are O(1): free chunks hang in lists 8 bytes of
 * size apart, and a bitmap of levels finds the nearest list that fits. It knows nothing of objects'
 * contents, nor who refers to them.
 *
 * A chunk is a header word and its payload; a pool block is filled exactly by its chunks:
 *
 *     31          18 17 16 15             0
 *    ┌──────────────┬──┬──┬────────────────┐
 *    │ offset of the│PF│ F│ size in bytes  │   F: this chunk is free; PF: the previous one is.
 *    │ previous     │  │  │                │   The size of a live object is exact and never
 *    │ chunk, words │  │  │                │   rewritten; chunks are 4-byte aligned.
 *    └──────────────┴──┴──┴────────────────┘
 *
 * A free chunk of 32 bytes or more is in the list of its size: payload words 0 and 1 are the next
 * and previous chunk there. All of a page or more are in the last list, where anything fits.
 * Smaller ones stay out of the lists until a neighbour merges them.
 *
 * The original had 4 KiB pages. An object of more than half of one left the rest hard to use: memory
 * at the peak was 1.089 × ideal with sizes of 1024 to 2600 bytes; with 64 KiB it is 1.009. What large
 * blocks hold on to after churn is for compaction: a block is *evacuated* (its free chunks leave the
 * lists, so nothing new goes there) while somebody who knows the references moves its objects out.
 *
 * Each thread has a shard, lists of its own over blocks of its own, and so hardly waits for others:
 * only when it frees what another has allocated, or when there is no memory but in the others' blocks.
 * A pool block belongs to one shard while it is one.
 *
 * Positions count 4-byte words from the arena's beginning (32 bits, signed in JavaScript). An
 * object's position is its payload's. Position 0 means "none". Positions of whole raw pages are of
 * the same kind; the block map tells them apart.
 */

import { assert } from '../base/assert.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { SpinLock } from '../memory/spin-lock.ts';
import {
  type Arena,
  BLOCK_BYTES,
  BLOCK_EVACUATED,
  BLOCK_FREE,
  BLOCK_RAW,
  SHARDS_MAX,
} from './arena.ts';
import { BitTree } from './bit-tree.ts';

const BLOCK_WORDS = BLOCK_BYTES / 4;
const BLOCK_SHIFT = 14;
const HEADER_BYTES = 4;
/** The largest object: with its header it fills a page. */
export const OBJECT_BYTES_MAX = PAGE_BYTES - HEADER_BYTES;
/** The free chunk of an empty block. */
const CHUNK_BYTES_MAX = BLOCK_BYTES - HEADER_BYTES;

const LISTED_BYTES_MIN = 32;
const LIST_STEP_SHIFT = 3;
/** The last list: chunks of a page or more. */
const LAST_LIST = (PAGE_BYTES - LISTED_BYTES_MIN) >> LIST_STEP_SHIFT;
const LISTS = LAST_LIST + 1;

const SIZE_MASK = 0xffff;
const FREE = 1 << 16;
const PREVIOUS_FREE = 1 << 17;
const PREVIOUS_SHIFT = 18;
const PREVIOUS_MASK = (-1 << PREVIOUS_SHIFT) | 0;

/** Words of a segment's positions: positions are cut into segment number and word. */
export const SEGMENT_SHIFT = 28;
export const SEGMENT_WORD_MASK = (1 << SEGMENT_SHIFT) - 1;

assert(1 << BLOCK_SHIFT === BLOCK_WORDS, 'a block number is the upper bits of a position');
assert(CHUNK_BYTES_MAX <= SIZE_MASK, 'the largest chunk has a size that fits its header');
assert(BLOCK_WORDS <= 1 << (32 - PREVIOUS_SHIFT), 'and so has any offset in a block');
assert(1 << (LIST_STEP_SHIFT + 1) < LISTED_BYTES_MIN, 'lists are finer than the smallest chunk');
assert(OBJECT_BYTES_MAX <= PAGE_BYTES, 'whatever is in the last list fits any object');

/** The block of a position. */
export function blockOfPosition(position: number): number {
  return position >>> BLOCK_SHIFT;
}

/** The arena page of a position. */
export function pageOfPosition(position: number): number {
  return position >>> 10;
}

/** Words from the beginning of its block. */
export function positionInBlock(position: number): number {
  return position & (BLOCK_WORDS - 1);
}

/** The position of a whole (raw) page. */
export function positionOfPage(page: number): number {
  return page << 10;
}

/** Words of one shard: its lock, list heads, the bitmap of lists that are not empty. */
const SHARD = {
  lock: 0,
  heads: 16,
  tree: 16 + LISTS,
  WORDS: (16 + LISTS + BitTree.wordsFor(LISTS) + 15) & ~15,
} as const;

/** What a thread knows of one shard. */
class Shard {
  readonly heads: Int32Array;
  readonly filled: BitTree;
  readonly lock: SpinLock | undefined;

  constructor(words: Int32Array, isShared: boolean) {
    this.heads = words.subarray(SHARD.heads, SHARD.heads + LISTS);
    this.filled = new BitTree(words.subarray(SHARD.tree), LISTS);
    this.lock = isShared ? new SpinLock(words, SHARD.lock) : undefined;
  }
}

export class Xvmalloc {
  readonly #arena: Arena;
  readonly #segments: readonly Int32Array[];
  readonly #blockMap: Uint8Array;
  /** By block: words of live objects, headers included. */
  readonly #liveWords: Uint16Array;
  readonly #shards: Shard[] = [];
  /** Where this thread allocates, and what the block map calls it. */
  readonly #own: Shard;
  readonly #owner: number;

  /**
   * `state`: stateWords() zeroed words, or those of the allocator that another thread has made.
   * `thread` of `threads`: whose shard this object allocates from.
   */
  constructor(arena: Arena, state: Int32Array, thread = 0, threads = 1) {
    assert(thread < threads && threads <= SHARDS_MAX, 'each thread has its shard');
    this.#arena = arena;
    this.#segments = arena.segments;
    this.#blockMap = arena.blockMap;
    for (let i = 0; i < threads; i++) {
      const words = state.subarray(i * SHARD.WORDS, (i + 1) * SHARD.WORDS);
      this.#shards.push(new Shard(words, threads > 1));
    }
    this.#own = this.#shards[thread]!;
    this.#owner = thread + 1;
    const start = state.byteOffset + threads * SHARD.WORDS * 4;
    this.#liveWords = new Uint16Array(state.buffer, start, arena.blocks);
  }

  /** Words of state for `threads` shards over `blocks` blocks. */
  static stateWords(blocks: number, threads = 1): number {
    return threads * SHARD.WORDS + ((blocks + 1) >> 1);
  }

  // HOT PATH: no allocation, no BigInt, no closures, no await.

  /** Whether a position is a whole page's, not an object's. */
  isPage(position: number): boolean {
    return this.#blockMap[position >>> BLOCK_SHIFT] === BLOCK_RAW;
  }

  /** Size in bytes of the object at `position`, as it was asked for. */
  sizeOf(position: number): number {
    return this.#read(position - 1) & SIZE_MASK;
  }

  /** The position of a new object of `bytes`, contents undefined; 0 when there is no memory. */
  allocate(bytes: number): number {
    assert(bytes >= 1 && bytes <= OBJECT_BYTES_MAX, 'an object has 1 to 4092 bytes');
    const own = this.#own;
    own.lock?.acquire();
    let position = this.#allocate(own, bytes, true);
    own.lock?.release();
    // No block is left: what the others' blocks have free is as good. One shard's lock at a time.
    for (let i = 0; position === 0 && i < this.#shards.length; i++) {
      const other = this.#shards[i]!;
      if (other === own) continue;
      other.lock?.acquire();
      position = this.#allocate(other, bytes, false);
      other.lock?.release();
    }
    return position;
  }

  /** Frees an object; its block goes back when nothing is left in it. */
  free(position: number): void {
    // The owner of a block with a live object in it does not change.
    const owner = this.#blockMap[position >>> BLOCK_SHIFT]! & ~BLOCK_EVACUATED;
    assert(owner !== BLOCK_FREE && owner <= SHARDS_MAX, 'an object lies in a pool block');
    const shard = this.#shards[owner - 1]!;
    shard.lock?.acquire();
    this.#free(shard, position);
    shard.lock?.release();
  }

  // ── For compaction ────────────────────────────────────────────────────────────────────────────

  /** Words of live objects in a pool block; −1: it is none, or is being evacuated already. */
  liveWords(block: number): number {
    const owner = this.#blockMap[block]!;
    return owner === BLOCK_FREE || owner > SHARDS_MAX ? -1 : this.#liveWords[block]!;
  }

  /** Whether the object at `position` should be moved. */
  isEvacuated(position: number): boolean {
    return (this.#blockMap[position >>> BLOCK_SHIFT]! & BLOCK_EVACUATED) !== 0;
  }

  /** Makes a pool block give no memory any more, until it is free. */
  evacuate(block: number): void {
    const owner = this.#blockMap[block]!;
    if (owner === BLOCK_FREE || owner > SHARDS_MAX) return;
    const shard = this.#shards[owner - 1]!;
    shard.lock?.acquire();
    // It may have become free meanwhile, or another's.
    if (this.#blockMap[block] === owner) {
      this.#listFree(shard, block, false);
      this.#blockMap[block] = owner | BLOCK_EVACUATED;
    }
    shard.lock?.release();
  }

  /**
   * Ends an evacuation. False: the block has been emptied meanwhile, and was given back; true: it has
   * not, and gives memory again.
   */
  readmit(block: number): boolean {
    const owner = this.#blockMap[block]! & ~BLOCK_EVACUATED;
    if ((this.#blockMap[block]! & BLOCK_EVACUATED) === 0) return false;
    const shard = this.#shards[owner - 1]!;
    shard.lock?.acquire();
    const isLeft = this.#blockMap[block] === (owner | BLOCK_EVACUATED);
    if (isLeft) {
      this.#blockMap[block] = owner;
      this.#listFree(shard, block, true);
    }
    shard.lock?.release();
    return isLeft;
  }

  /** Puts a block's free chunks into the lists, or takes them out. */
  #listFree(shard: Shard, block: number, isListed: boolean): void {
    let chunk = (block << BLOCK_SHIFT) | 0;
    do {
      const header = this.#read(chunk);
      const size = ((header & SIZE_MASK) + 3) & ~3;
      if ((header & FREE) !== 0) {
        if (isListed) this.#link(shard, chunk, size);
        else this.#unlink(shard, chunk, size);
      }
      chunk = (chunk + 1 + (size >> 2)) | 0;
    } while (!startsBlock(chunk));
  }

  // ── For recovery ──────────────────────────────────────────────────────────────────────────────

  /** Whether the block map says that a block is a shard's, evacuated or not. */
  isPool(block: number): boolean {
    const owner = this.#blockMap[block]! & ~BLOCK_EVACUATED;
    return owner !== BLOCK_FREE && owner <= SHARDS_MAX;
  }

  /** Whether a live object can lie at `position` of a pool block: with what size it has there. */
  isObject(position: number): boolean {
    if (startsBlock(position)) return false;
    const header = this.#read(position - 1);
    const bytes = header & SIZE_MASK;
    const end = positionInBlock(position) + ((bytes + 3) >> 2);
    return (header & FREE) === 0 && bytes > 0 && bytes <= OBJECT_BYTES_MAX && end <= BLOCK_WORDS;
  }

  /** All shards to what they are before the first allocation; blocks follow by restoreBlock(). */
  clear(): void {
    for (const { heads, filled, lock } of this.#shards) {
      heads.fill(0);
      filled.clear();
      lock?.release();
    }
    this.#liveWords.fill(0);
  }

  /**
   * Makes `block` a pool block that holds exactly the objects at `positions`, ascending and apart
   * (isObject() was true of each): their sizes stay, all between them becomes free chunks. With none
   * it is given back. What is written could be interrupted anywhere, and done again.
   */
  restoreBlock(block: number, positions: ArrayLike<number>): void {
    if (positions.length === 0) {
      if (this.#arena.wipesOnFree) this.#wipe((block << BLOCK_SHIFT) | 0, BLOCK_WORDS);
      this.#arena.freeBlock(block);
      return;
    }
    // Recovered blocks are shared out, so that threads rarely wait for one another.
    const shard = block % this.#shards.length;
    this.#blockMap[block] = shard + 1;
    let chunk = (block << BLOCK_SHIFT) | 0;
    let previous = chunk;
    let previousFree = 0;
    let live = 0;
    for (let i = 0; i <= positions.length; i++) {
      // One more at the end: the next block's beginning, as if an object's header were there.
      const isEnd = i === positions.length;
      const header = isEnd ? ((block + 1) << BLOCK_SHIFT) | 0 : (positions[i]! - 1) | 0;
      const gap = (header - chunk) | 0;
      if (gap > 0) {
        const size = gap * 4 - HEADER_BYTES;
        this.#rewrite(chunk, (positionInBlock(previous) << PREVIOUS_SHIFT) | FREE | size);
        // Objects that were nobody's when the last process was killed are there.
        if (this.#arena.wipesOnFree) this.#wipe((chunk + 1) | 0, gap - 1);
        this.#link(this.#shards[shard]!, chunk, size);
        previous = chunk;
        previousFree = PREVIOUS_FREE;
      }
      if (isEnd) break;
      const bytes = this.#read(header) & SIZE_MASK;
      this.#rewrite(header, (positionInBlock(previous) << PREVIOUS_SHIFT) | previousFree | bytes);
      previous = header;
      previousFree = 0;
      const words = 1 + ((bytes + 3) >> 2);
      live += words;
      chunk = (header + words) | 0;
    }
    this.#liveWords[block] = live;
  }

  /** Most are right: a page that is only read costs a fault less. */
  #rewrite(position: number, word: number): void {
    if (this.#read(position) !== word) this.#write(position, word);
  }

  // ── Under the shard's lock ────────────────────────────────────────────────────────────────────

  /** `mayGrow`: the shard is this thread's own, and may take a new block. */
  #allocate(shard: Shard, bytes: number, mayGrow: boolean): number {
    const wanted = (bytes + 3) & ~3;
    let chunk = this.#findFree(shard, wanted);
    let found: number;
    if (chunk === 0) {
      if (!mayGrow) return 0;
      const block = this.#arena.allocateBlock(this.#owner);
      if (block === 0) return 0;
      chunk = (block << BLOCK_SHIFT) | 0;
      found = CHUNK_BYTES_MAX;
      this.#write(chunk, found | FREE);
      this.#liveWords[block] = 0;
    } else {
      found = this.#read(chunk) & SIZE_MASK;
      this.#unlink(shard, chunk, found);
    }
    this.#split(shard, chunk, found, wanted);
    this.#write(chunk, (this.#read(chunk) & PREVIOUS_MASK) | bytes);
    this.#liveWords[chunk >>> BLOCK_SHIFT]! += 1 + (wanted >> 2);
    return (chunk + 1) | 0;
  }

  #free(shard: Shard, position: number): void {
    let chunk = (position - 1) | 0;
    const block = chunk >>> BLOCK_SHIFT;
    const header = this.#read(chunk);
    assert((header & FREE) === 0, 'an object is freed once');
    // Marked even if a neighbour swallows the chunk: freeing it again is then still noticed.
    this.#write(chunk, header | FREE);
    const isListed = (this.#blockMap[block]! & BLOCK_EVACUATED) === 0;
    let size = ((header & SIZE_MASK) + 3) & ~3;
    this.#liveWords[block]! -= 1 + (size >> 2);
    if (this.#arena.wipesOnFree) this.#wipe(position, size >> 2);
    let after = (chunk + 1 + (size >> 2)) | 0;
    if (!startsBlock(after)) {
      const next = this.#read(after);
      if ((next & FREE) !== 0) {
        const nextSize = next & SIZE_MASK;
        if (isListed) this.#unlink(shard, after, nextSize);
        size += HEADER_BYTES + nextSize;
        after = (after + 1 + (nextSize >> 2)) | 0;
      }
    }
    let previousBits = header & PREVIOUS_MASK;
    if ((header & PREVIOUS_FREE) !== 0) {
      chunk = (chunk & ~(BLOCK_WORDS - 1)) | (header >>> PREVIOUS_SHIFT);
      const previous = this.#read(chunk);
      const previousSize = previous & SIZE_MASK;
      if (isListed) this.#unlink(shard, chunk, previousSize);
      size += HEADER_BYTES + previousSize;
      previousBits = previous & PREVIOUS_MASK;
    }
    if (size === CHUNK_BYTES_MAX) {
      this.#arena.freeBlock(block);
      return;
    }
    this.#write(chunk, previousBits | FREE | size);
    if (isListed) this.#link(shard, chunk, size);
    if (!startsBlock(after)) this.#setPrevious(after, chunk, PREVIOUS_FREE);
  }

  /** A free chunk of at least `wanted` bytes (still linked), or 0: no block begins with one at 0. */
  #findFree(shard: Shard, wanted: number): number {
    const above = wanted - LISTED_BYTES_MIN;
    let list = 0;
    if (above > 0) {
      // The list that `wanted` itself belongs to may hold smaller chunks: try its head only.
      const own = shard.heads[above >> LIST_STEP_SHIFT]!;
      if (own !== 0 && (this.#read(own) & SIZE_MASK) >= wanted) return own;
      list = (above + (1 << LIST_STEP_SHIFT) - 1) >> LIST_STEP_SHIFT;
    }
    const found = shard.filled.firstFrom(list);
    return found < 0 ? 0 : shard.heads[found]!;
  }

  /** Cuts `found` bytes of free chunk down to `wanted`; what is left becomes a free chunk. */
  #split(shard: Shard, chunk: number, found: number, wanted: number): void {
    const left = found - wanted;
    const after = (chunk + 1 + (found >> 2)) | 0;
    if (left === 0) {
      if (!startsBlock(after)) this.#setPrevious(after, chunk, 0);
      return;
    }
    const rest = (chunk + 1 + (wanted >> 2)) | 0;
    const restSize = left - HEADER_BYTES;
    this.#write(rest, (positionInBlock(chunk) << PREVIOUS_SHIFT) | FREE | restSize);
    this.#link(shard, rest, restSize);
    if (!startsBlock(after)) this.#setPrevious(after, rest, PREVIOUS_FREE);
  }

  #setPrevious(chunk: number, previous: number, previousFree: number): void {
    const kept = this.#read(chunk) & (SIZE_MASK | FREE);
    this.#write(chunk, (positionInBlock(previous) << PREVIOUS_SHIFT) | previousFree | kept);
  }

  #link(shard: Shard, chunk: number, size: number): void {
    if (size < LISTED_BYTES_MIN) return;
    const list = listOf(size);
    const head = shard.heads[list]!;
    this.#write(chunk + 1, head);
    this.#write(chunk + 2, 0);
    if (head === 0) shard.filled.add(list);
    else this.#write(head + 2, chunk);
    shard.heads[list] = chunk;
  }

  #unlink(shard: Shard, chunk: number, size: number): void {
    if (size < LISTED_BYTES_MIN) return;
    const next = this.#read(chunk + 1);
    const previous = this.#read(chunk + 2);
    if (next !== 0) this.#write(next + 2, previous);
    if (previous !== 0) {
      this.#write(previous + 1, next);
      return;
    }
    const list = listOf(size);
    shard.heads[list] = next;
    if (next === 0) shard.filled.remove(list);
  }

  #wipe(position: number, words: number): void {
    const start = position & SEGMENT_WORD_MASK;
    this.#segments[position >>> SEGMENT_SHIFT]!.fill(0, start, start + words);
  }

  #read(position: number): number {
    return this.#segments[position >>> SEGMENT_SHIFT]![position & SEGMENT_WORD_MASK]!;
  }

  #write(position: number, word: number): void {
    this.#segments[position >>> SEGMENT_SHIFT]![position & SEGMENT_WORD_MASK] = word;
  }
}

function listOf(size: number): number {
  const list = (size - LISTED_BYTES_MIN) >> LIST_STEP_SHIFT;
  return list < LAST_LIST ? list : LAST_LIST;
}

function startsBlock(position: number): boolean {
  return (position & (BLOCK_WORDS - 1)) === 0;
}
