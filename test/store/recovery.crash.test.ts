/**
 * A process that ends between any two writes to the store's memory: systematically, after each one.
 * What it leaves is made whole by recovery, and every slot is read: all are as they were after the
 * last operation that had ended, but the one of the operation under way, which is old or new. So it is
 * when recovery itself ends after any of its writes.
 */

import { describe, expect, it } from 'vitest';
import { PAGE_DONE } from '../../src/base/page-operation.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import type { PageStoreOptions } from '../../src/store/store-options.ts';
import { ARENA_GAUGE, PAGES_PER_BLOCK } from '../../src/xvmalloc/arena.ts';
import { Random } from '../driver/random.ts';
import { EMPTY, fillVersion } from '../models/named-pages.ts';
import {
  CrashedMemory,
  type Image,
  RecordingMemory,
  withRecordedAtomics,
} from '../models/recording-memory.ts';
import { compareAges } from '../models/store-bench.ts';

const SLOTS = 24;
const GUEST_PAGE = WINDOW_WORK_BYTES;
/** After so many crashes one, the recovered store goes on being used. */
const USED_EVERY = 61;
/** And after so many, it is recovery that is recorded and ended everywhere. */
const RECOVERED_EVERY = 509;

type Page = Uint8Array;

/** Where in the record an operation ended, and what it made of which slot. */
interface Step {
  readonly end: number;
  readonly slot: number;
  readonly page: Page | undefined;
}

const ZEROS = new Uint8Array(PAGE_BYTES);
const window = new PageWindow(4 * WINDOW_WORK_BYTES);

function pageOf(slot: number, version: number): Page {
  const words = new Int32Array(PAGE_BYTES / 4);
  fillVersion(words, 0, slot, version);
  return new Uint8Array(words.buffer);
}

class Program {
  readonly memory: RecordingMemory;
  readonly steps: Step[] = [];
  readonly store: PageStore;
  readonly #pages = new Map<number, Page>();
  readonly #random: Random;
  #now = 0;
  /** Objects that were to be moved. */
  moves = 0;

  constructor(options: PageStoreOptions, seed: number) {
    this.memory = new RecordingMemory({ slots: options.slots });
    this.store = PageStore.make(options, this.memory.store);
    this.#random = new Random(seed);
  }

  run(operations: number): void {
    for (let version = 1; version <= operations; version++) {
      const slot = this.#random.below(SLOTS);
      const kind = this.#random.below(10);
      if (kind < 6) this.#write(slot, version);
      else if (kind < 8) this.#free(slot);
      else if (kind === 8) this.#writePart(slot, version);
      else this.#move();
    }
    // Half of all goes, and its memory with it.
    for (let slot = 0; slot < SLOTS; slot += 2) this.#free(slot);
    for (let i = 0; i < 200; i++) this.#rest();
  }

  #ended(slot: number, page: Page | undefined): void {
    if (page === undefined) this.#pages.delete(slot);
    else this.#pages.set(slot, page);
    this.steps.push({ end: this.memory.writes.length, slot, page });
  }

  #write(slot: number, version: number): void {
    const page = pageOf(slot, version);
    window.u8.set(page, GUEST_PAGE);
    if (this.store.writePage(slot, window, GUEST_PAGE) === PAGE_DONE) this.#ended(slot, page);
    else this.#ended(slot, this.#pages.get(slot));
  }

  #free(slot: number): void {
    this.store.freePage(slot);
    this.#ended(slot, undefined);
  }

  #writePart(slot: number, version: number): void {
    const [from, to] = [512, 3072];
    const page = (this.#pages.get(slot) ?? pageOf(slot, EMPTY)).slice();
    const part = pageOf(slot, version).subarray(from, to);
    window.u8.set(part, GUEST_PAGE);
    const done = this.store.writePart(slot, from, to, window, GUEST_PAGE);
    if (done === PAGE_DONE) page.set(part, from);
    this.#ended(slot, page);
  }

  /** Trimming gives memory back. */
  #rest(): void {
    this.#now += 50_000;
    this.store.maintain(this.#now);
    this.#ended(-1, undefined);
  }

  /** Compaction, of one block: so small a store is not worth it by itself. */
  #move(): void {
    const { arena, objects } = this.store.mapped;
    let block = 0;
    while (block < arena.blocks && objects.liveWords(block) <= 0) block++;
    if (block === arena.blocks) return;
    objects.evacuate(block);
    for (let slot = 0; slot < SLOTS; slot++) {
      if (!this.store.isToMove(slot)) continue;
      this.store.moveObject(slot);
      this.moves++;
    }
    objects.readmit(block);
    this.#ended(-1, undefined);
  }
}

function isPage(store: PageStore, slot: number, page: Page | undefined): boolean {
  if (store.readPage(slot, window, GUEST_PAGE) !== PAGE_DONE) return false;
  const found = window.u8.subarray(GUEST_PAGE, GUEST_PAGE + PAGE_BYTES);
  return Buffer.compare(found, page ?? ZEROS) === 0;
}

/** Checks what a crash after each write leaves. */
async function crashEverywhere(program: Program, options: PageStoreOptions): Promise<void> {
  const { memory, steps } = program;
  const crashed = new CrashedMemory({ slots: options.slots });
  const image = memory.image();
  const pages = new Map<number, Page>();
  let step = 0;
  for (let i = 0; i < memory.writes.length; i++) {
    memory.apply(i, image);
    const done = i + 1;
    for (; step < steps.length && steps[step]!.end <= done; step++) {
      const { slot, page } = steps[step]!;
      if (page === undefined) pages.delete(slot);
      else pages.set(slot, page);
    }
    const [store, { damaged }] = PageStore.recover(options, crashed.storeOver(image));
    if (damaged > 0) throw new Error(`crash after write ${i}: ${damaged} slots damaged`);
    checkAll(store, pages, steps[step], `crash after write ${i}`);
    // The test runner wants to hear from its worker now and then.
    if (i % 1000 === 0) await new Promise(setImmediate);
    if (i % USED_EVERY === 0) useIt(store, pages, `used after write ${i}`);
    if (i % RECOVERED_EVERY !== 0) continue;
    const ends = crashRecovery(image, options, (found, when) =>
      checkAll(found, pages, steps[step], `crash after write ${i}, ${when}`),
    );
    expect(ends).toBeGreaterThan(0);
  }
}

/** Ends the recovery of an image after each of its writes; how many there were. */
function crashRecovery(
  start: Image,
  options: PageStoreOptions,
  check: (found: PageStore, when: string) => void,
): number {
  const shape = { slots: options.slots };
  const memory = new RecordingMemory(shape, start);
  withRecordedAtomics(() => PageStore.recover(options, memory.store));
  const crashed = new CrashedMemory(shape);
  const image = memory.image();
  for (let i = 0; i < memory.writes.length; i++) {
    memory.apply(i, image);
    const [found, { damaged }] = PageStore.recover(options, crashed.storeOver(image));
    if (damaged > 0) throw new Error(`recovery ended after write ${i}: ${damaged} slots damaged`);
    check(found, `recovery ended after write ${i}`);
  }
  return memory.writes.length;
}

function checkAll(
  store: PageStore,
  pages: ReadonlyMap<number, Page>,
  underWay: Step | undefined,
  when: string,
): void {
  for (let slot = 0; slot < SLOTS; slot++) {
    const isNew = slot === underWay?.slot && isPage(store, slot, underWay.page);
    if (!isNew && !isPage(store, slot, pages.get(slot))) {
      throw new Error(`${when}: slot ${slot} is neither old nor new`);
    }
  }
}

/** The recovered allocator hands out memory that nobody has, and counts it. */
function useIt(store: PageStore, before: ReadonlyMap<number, Page>, when: string): void {
  const pages = new Map(before);
  compareAges(store);
  for (let slot = 0; slot < SLOTS; slot += 3) {
    const page = pageOf(slot, 1000 + slot);
    window.u8.set(page, GUEST_PAGE);
    if (store.writePage(slot, window, GUEST_PAGE) === PAGE_DONE) pages.set(slot, page);
  }
  for (let slot = 0; slot < SLOTS; slot += 3) {
    if (!isPage(store, slot, pages.get(slot))) throw new Error(`${when}: slot ${slot}`);
  }
  for (let slot = 0; slot < SLOTS; slot++) store.freePage(slot);
  const { gauges } = store.mapped;
  expect([gauges[ARENA_GAUGE.poolPages], gauges[ARENA_GAUGE.rawPages]]).toEqual([0, 0]);
  expect(store.mapped.arena.usedPages).toBe(0);
}

describe('a process that ends after any write to memory', () => {
  const options = { slots: SLOTS };

  it.each([
    ['with room', undefined, 1],
    ['at its limit', 3 * PAGES_PER_BLOCK * PAGE_BYTES, 2],
  ])('leaves every page old or new, %s (limit %s, seed %i)', async (_, poolLimitBytes, seed) => {
    const all = { ...options, ...(poolLimitBytes === undefined ? {} : { poolLimitBytes }) };
    const program = new Program(all, seed);
    withRecordedAtomics(() => program.run(50));
    const given = program.memory.writes.filter(({ zeros }) => zeros > 0).length;
    expect(given).toBeGreaterThan(0);
    expect(program.moves).toBeGreaterThan(0);
    await crashEverywhere(program, all);
  });
});
