/**
 * A store found again: what its last process has left is made whole. Only the table's words, the
 * block map and the objects' own sizes are believed; allocator, arena sets and gauges are made anew
 * from them. The process may have been killed at any instruction:
 *
 *   object written, word not yet        the object is nobody's: its memory is free
 *   word changed, old object not freed  likewise
 *   object moved, old one not freed     likewise
 *
 * Two words can never mean one object, nor a word mean memory that is free, unless the files were
 * damaged. Such slots are lost: they read as an error until they are written again. What recovery
 * itself writes can be interrupted anywhere and done again.
 *
 *   count the words of each block → reserve those blocks, give back all else → sort the words by block
 *   → block by block: objects that lie apart stay, what is between them becomes free
 *
 * So the arena is read once, from its beginning to its end, and never where no memory is reserved.
 */

import { assert } from '../base/assert.ts';
import { SystemError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { BLOCK_RAW, PAGES_PER_BLOCK } from '../xvmalloc/arena.ts';
import {
  blockOfPosition,
  pageOfPosition,
  positionInBlock,
  positionOfPage,
} from '../xvmalloc/xvmalloc.ts';
import { SLOTS_MAX } from './layout.ts';
import type { MappedStore } from './mapped-store.ts';
import {
  accountWord,
  SLOT_BACKED,
  SLOT_EMPTY,
  SLOT_FILLED,
  SLOT_FILLED_END,
  SLOT_LOST,
  SLOT_POSITION_MIN,
  takesRoom,
} from './slot-word.ts';
import { COUNTER, COUNTER_ROW, HELD_COUNTERS, sumCounter } from './statistics.ts';

const BLOCK_FULL = (1 << PAGES_PER_BLOCK) - 1;
const TWO_32 = 2 ** 32;
const NONE = -1;

assert(SLOTS_MAX <= TWO_32, 'a slot is the lower part of what is sorted');

export interface Recovered {
  /** Slots whose word meant nothing that can be: they are lost now. */
  readonly damaged: number;
}

/**
 * Makes the store what its table says. Nobody else uses it meanwhile. Throws SystemError where memory
 * is refused for what it holds.
 */
export function recoverStore(store: MappedStore): Recovered {
  const recovery = new Recovery(store);
  settleCounters(store);
  // Whoever held them is gone.
  store.slotLocks?.forEach((lock) => {
    lock.release();
  });
  recovery.readTable();
  recovery.restoreArena();
  recovery.restoreBlocks();
  recountAges(store);
  return { damaged: recovery.damaged };
}

/** Counters of events stay, in thread 0's row; those of what is held begin anew. */
export function settleCounters({ counters, row }: MappedStore): void {
  for (let index = 0; index < COUNTER_ROW; index++) {
    // In this order: what thread 0 alone counts is never gone, not for a moment.
    row[index] = HELD_COUNTERS.has(index) ? 0 : sumCounter(counters, index);
    for (let at = index + COUNTER_ROW; at < counters.length; at += COUNTER_ROW) counters[at] = 0;
  }
}

/** A page has the age that it had, or is new: the one written last may be either. */
function recountAges({ ages, table }: MappedStore): void {
  ages.recount((slot) => takesRoom(table[slot]!));
}

/** Lost slots count where the disk is: beyond its end, it may yet grow to them. */
function countSlot({ row, table, objects }: MappedStore, slot: number): void {
  const word = table[slot]!;
  if (word === SLOT_LOST && slot * PAGE_BYTES >= row[COUNTER.disksize]!) return;
  accountWord(row, objects, word, 1);
}

class Recovery {
  damaged = 0;

  readonly #store: MappedStore;
  /** By block: words that mean objects there. */
  readonly #objectCount: Uint32Array;
  /** By block: a bit for each raw page in use. */
  readonly #rawPages: Uint16Array;

  constructor(store: MappedStore) {
    this.#store = store;
    this.#objectCount = new Uint32Array(store.arena.blocks);
    this.#rawPages = new Uint16Array(store.arena.blocks);
  }

  /** Counts the words by the blocks that they mean; what means nothing that can be is lost. */
  readTable(): void {
    const { table, arena, objects } = this.#store;
    const { blockMap, blocks } = arena;
    // Whatever the map says of it: page 0 is nobody's, so it is no pool block.
    blockMap[0] = BLOCK_RAW;
    const shared = new Set<number>();
    for (let slot = 0; slot < table.length; slot++) {
      const word = table[slot]!;
      if (word === SLOT_EMPTY) continue;
      if (word >>> 0 < SLOT_POSITION_MIN) {
        if (this.#isState(word)) countSlot(this.#store, slot);
        else this.#lose(slot);
        continue;
      }
      const block = blockOfPosition(word);
      if (block < blocks && blockMap[block] === BLOCK_RAW) this.#readPage(slot, word, shared);
      else if (block < blocks && objects.isPool(block)) this.#objectCount[block]!++;
      else this.#lose(slot);
    }
    if (shared.size > 0) this.#losePages(shared);
  }

  #isState(word: number): boolean {
    if (word === SLOT_LOST) return true;
    if (word === SLOT_BACKED) return this.#store.checksums.length > 0;
    return word >= SLOT_FILLED && word < SLOT_FILLED_END;
  }

  #readPage(slot: number, position: number, shared: Set<number>): void {
    const page = pageOfPosition(position);
    if (position !== positionOfPage(page)) {
      this.#lose(slot);
      return;
    }
    const block = blockOfPosition(position);
    const bit = 1 << (page % PAGES_PER_BLOCK);
    if ((this.#rawPages[block]! & bit) !== 0) shared.add(page);
    this.#rawPages[block]! |= bit;
  }

  /** Raw pages that several words mean: whose they are nobody knows. */
  #losePages(shared: ReadonlySet<number>): void {
    const { table, objects } = this.#store;
    for (let slot = 0; slot < table.length; slot++) {
      const word = table[slot]!;
      if (word >>> 0 < SLOT_POSITION_MIN || !objects.isPage(word)) continue;
      if (shared.has(pageOfPosition(word))) this.#lose(slot);
    }
    for (const page of shared) {
      this.#rawPages[Math.floor(page / PAGES_PER_BLOCK)]! &= ~(1 << (page % PAGES_PER_BLOCK));
    }
  }

  #lose(slot: number): void {
    Atomics.store(this.#store.table, slot, SLOT_LOST);
    countSlot(this.#store, slot);
    this.damaged++;
  }

  /** From here on all that is in use is reserved, and nothing else. */
  restoreArena(): void {
    const { arena, objects } = this.#store;
    objects.clear();
    const errno = arena.restore((block) =>
      this.#objectCount[block]! > 0 ? BLOCK_FULL : this.#rawPages[block]!,
    );
    if (errno !== 0) throw new SystemError('fallocate', errno, 'memory of the store');
  }

  /** Objects and free chunks of the pool blocks, and what all words with positions count for. */
  restoreBlocks(): void {
    const { arena, objects, row } = this.#store;
    const [words, starts] = this.#wordsByBlock();
    const positions = new Int32Array(this.#objectCount.reduce((a, b) => Math.max(a, b), 0));
    for (let block = 0; block < arena.blocks; block++) {
      if (this.#objectCount[block] === 0) continue;
      const found = words.subarray(starts[block], starts[block]! + this.#objectCount[block]!);
      const count = this.#objectsOf(block, found.sort(), positions);
      objects.restoreBlock(block, positions.subarray(0, count));
      for (let i = 0; i < count; i++) accountWord(row, objects, positions[i]!, 1);
    }
  }

  /**
   * Of each word that means an object, the position in its block and the slot, in one number that
   * sorts by position; those of a block together, from its start on. Raw pages are counted.
   */
  #wordsByBlock(): [words: Float64Array, starts: Uint32Array] {
    const { table, objects, row } = this.#store;
    const starts = new Uint32Array(this.#objectCount.length);
    let total = 0;
    this.#objectCount.forEach((count, block) => {
      starts[block] = total;
      total += count;
    });
    const next = starts.slice();
    const words = new Float64Array(total);
    for (let slot = 0; slot < table.length; slot++) {
      const word = table[slot]!;
      if (word >>> 0 < SLOT_POSITION_MIN) continue;
      if (objects.isPage(word)) accountWord(row, objects, word, 1);
      else words[next[blockOfPosition(word)]!++] = positionInBlock(word) * TWO_32 + slot;
    }
    return [words, starts];
  }

  /**
   * Writes the positions of a block's objects, ascending, and returns how many. Of those that overlap
   * nobody knows whose the memory is.
   */
  #objectsOf(block: number, words: Float64Array, positions: Int32Array): number {
    const { objects } = this.#store;
    const first = positionOfPage(block * PAGES_PER_BLOCK);
    let count = 0;
    let end = 0;
    let last = NONE;
    for (let i = 0; i < words.length; i++) {
      const inBlock = Math.floor(words[i]! / TWO_32);
      const slot = words[i]! - inBlock * TWO_32;
      const position = first | inBlock;
      if (!objects.isObject(position)) {
        this.#lose(slot);
        continue;
      }
      if (inBlock - 1 >= end) {
        positions[count++] = position;
        last = slot;
      } else {
        this.#lose(slot);
        if (last !== NONE) {
          this.#lose(last);
          count--;
        }
        last = NONE;
      }
      end = Math.max(end, inBlock + ((objects.sizeOf(position) + 3) >> 2));
    }
    return count;
  }
}
