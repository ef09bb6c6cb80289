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
 */

import { SystemError } from '../base/errors.ts';
import { BLOCK_RAW, PAGES_PER_BLOCK } from '../xvmalloc/arena.ts';
import { blockOfPosition, pageOfPosition, positionOfPage } from '../xvmalloc/xvmalloc.ts';
import type { MappedStore } from './mapped-store.ts';
import {
  accountWord,
  SLOT_BACKED,
  SLOT_EMPTY,
  SLOT_FILLED,
  SLOT_FILLED_END,
  SLOT_LOST,
  SLOT_POSITION_MIN,
} from './slot-word.ts';
import { COUNTER_ROW, HELD_COUNTERS, sumCounter } from './statistics.ts';

const BLOCK_FULL = (1 << PAGES_PER_BLOCK) - 1;
const TWO_32 = 2 ** 32;
/** No slot: the end of a block's list. */
const NONE = -1;

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
  recovery.readTable();
  const errno = recovery.restoreArena();
  if (errno !== 0) throw new SystemError('fallocate', errno, 'memory of the store');
  countHeld(store);
  return { damaged: recovery.damaged };
}

class Recovery {
  damaged = 0;

  readonly #store: MappedStore;
  /** By block: the first slot of a list of those whose objects are there; by slot: the next one. */
  readonly #first: Int32Array;
  readonly #next: Int32Array;
  /** By block: a bit for each page in use, as the table says. */
  readonly #used: Uint16Array;

  constructor(store: MappedStore) {
    this.#store = store;
    this.#first = new Int32Array(store.arena.blocks).fill(NONE);
    this.#next = new Int32Array(store.table.length);
    this.#used = new Uint16Array(store.arena.blocks);
  }

  /** Sorts the slots by the blocks that hold their objects, and notes raw pages in use. */
  readTable(): void {
    const { table } = this.#store;
    for (let slot = 0; slot < table.length; slot++) {
      const word = table[slot]!;
      if (word >>> 0 >= SLOT_POSITION_MIN) this.#readPosition(slot, word);
      else if (!this.#isState(word)) this.#lose(slot);
    }
    this.#first.forEach((slot, block) => {
      if (slot !== NONE) this.#used[block] = BLOCK_FULL;
    });
  }

  #isState(word: number): boolean {
    if (word === SLOT_EMPTY || word === SLOT_LOST) return true;
    if (word === SLOT_BACKED) return this.#store.checksums.length > 0;
    return word >= SLOT_FILLED && word < SLOT_FILLED_END;
  }

  #readPosition(slot: number, position: number): void {
    const { arena, objects } = this.#store;
    const block = blockOfPosition(position);
    if (block >= arena.blocks) {
      this.#lose(slot);
    } else if (arena.blockMap[block] === BLOCK_RAW) {
      this.#readPage(slot, position, block);
    } else if (objects.isObject(position)) {
      this.#next[slot] = this.#first[block]!;
      this.#first[block] = slot;
    } else {
      this.#lose(slot);
    }
  }

  #readPage(slot: number, position: number, block: number): void {
    const page = pageOfPosition(position);
    const bit = 1 << (page % PAGES_PER_BLOCK);
    const isTaken = (this.#used[block]! & bit) !== 0;
    if (page === 0 || position !== positionOfPage(page) || isTaken) this.#lose(slot);
    else this.#used[block]! |= bit;
  }

  #lose(slot: number): void {
    Atomics.store(this.#store.table, slot, SLOT_LOST);
    this.damaged++;
  }

  /** Blocks and free chunks, from the objects that are there. */
  restoreArena(): number {
    const { arena, objects } = this.#store;
    objects.clear();
    for (let block = 0; block < arena.blocks; block++) {
      if (this.#first[block] === NONE) continue;
      const positions = this.#objectsOf(block);
      if (positions.length > 0) objects.restoreBlock(block, positions);
      else this.#used[block] = 0;
    }
    return arena.restore((block) => this.#used[block]!);
  }

  /** Positions of a block's objects, ascending; of those that overlap nobody knows whose they are. */
  #objectsOf(block: number): Int32Array {
    const { table, objects } = this.#store;
    let count = 0;
    for (let slot = this.#first[block]!; slot !== NONE; slot = this.#next[slot]!) count++;
    const found = new Float64Array(count);
    for (let slot = this.#first[block]!, i = 0; slot !== NONE; slot = this.#next[slot]!) {
      found[i++] = (table[slot]! >>> 0) * TWO_32 + slot;
    }
    found.sort();
    const positions = new Int32Array(count);
    let kept = 0;
    let end = 0;
    let lastKept = NONE;
    for (const each of found) {
      const position = Math.floor(each / TWO_32);
      const slot = each % TWO_32;
      const isApart = position - 1 >= end;
      if (isApart) {
        positions[kept++] = position | 0;
        lastKept = slot;
      } else {
        this.#lose(slot);
        if (lastKept !== NONE) {
          this.#lose(lastKept);
          lastKept = NONE;
          kept--;
        }
      }
      end = Math.max(end, position + ((objects.sizeOf(position | 0) + 3) >> 2));
    }
    return positions.subarray(0, kept);
  }
}

/** Counters of events stay, in thread 0's row; those of what is held are counted anew. */
export function countHeld({ counters, row, table, objects }: MappedStore): void {
  for (let index = 0; index < COUNTER_ROW; index++) {
    const sum = HELD_COUNTERS.has(index) ? 0 : sumCounter(counters, index);
    for (let at = index; at < counters.length; at += COUNTER_ROW) counters[at] = 0;
    row[index] = sum;
  }
  for (let slot = 0; slot < table.length; slot++) accountWord(row, objects, table[slot]!, 1);
}
