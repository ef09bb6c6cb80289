/**
 * How a store forgets all of its pages, for another guest: at once, or little by little before that,
 * for the memory of stored pages takes 0.2 s a GiB to give back, and its thread serves other devices.
 *
 *   whole → drain() … drained → finish() → whole, another store, nobody's pages
 *     └──────────── finish() ─────────────────▲
 *
 * From the first drain() on no word means anything, the allocator does not know where memory is any
 * more, and nothing may be asked of the store but to go on. A process that ends meanwhile leaves a
 * store whose pages are somebody's whom nobody knows, and what no word names is given back when it is
 * found (recovery.ts). No thread serves anything meanwhile, and no I/O is under way.
 */

import { randomBytes } from 'node:crypto';
import { assert } from '../base/assert.ts';
import { STORE_UUID_BYTES } from './layout.ts';
import type { MappedStore } from './mapped-store.ts';
import { settleCounters } from './recovery.ts';
import { SLOT_EMPTY, SLOT_LOST } from './slot-word.ts';
import { COUNTER } from './statistics.ts';
import { UNKNOWN_PROCESS } from './store-header.ts';

export class Emptying {
  readonly #mapped: MappedStore;
  /** The block that drain() is at; undefined: the store is whole. */
  #block: number | undefined;

  constructor(mapped: MappedStore) {
    this.#mapped = mapped;
  }

  /** drain() has begun, and finish() is to follow. */
  get isBegun(): boolean {
    return this.#block !== undefined;
  }

  /** Gives back about a millisecond's worth of memory. Whether there is more of it. */
  drain(): boolean {
    const { arena } = this.#mapped;
    if (this.#block === undefined) this.#disown();
    this.#block = arena.punchFrom(this.#block ?? 0);
    return this.#block < arena.blocks;
  }

  /**
   * Slots from `from` on are empty, or with `isLost` read as an error until they are written; those
   * before it are empty. Lost are those that the disk, of `slots` now, has yet to grow to as well: where
   * the pages are, it may have been larger.
   */
  finish(from: number, isLost: boolean, slots: number): void {
    const { header, arena, objects, row, ages, table } = this.#mapped;
    const { limitPages } = arena;
    if (!this.isBegun) this.#disown();
    if (isLost) table.fill(SLOT_LOST, from);
    objects.clear();
    const errno = arena.restore(() => 0);
    assert(errno === 0, 'nothing in use needs no memory');
    arena.limitPages = limitPages;
    // Without a look at each slot: a table of 64 GiB would take 0.4 s.
    row[COUNTER.pagesLost] = isLost ? Math.max(0, slots - from) : 0;
    ages.clear();
    header.frontEnd = undefined;
    this.#block = undefined;
  }

  #disown(): void {
    const { header, table } = this.#mapped;
    // Whoever finds it half done must not take what is left for nobody's, nor for its own.
    header.uuid = randomBytes(STORE_UUID_BYTES);
    header.frontEnd = UNKNOWN_PROCESS;
    table.fill(SLOT_EMPTY);
    settleCounters(this.#mapped);
  }
}
