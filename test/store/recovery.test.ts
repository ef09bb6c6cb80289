/**
 * A store found again in its files by another PageStore: every page and every statistic is there, what
 * no page needs is given back, and what the last process left half done or a fault has damaged is
 * mended or lost, never wrong. What a crash between two writes leaves: recovery.crash.test.ts.
 */

import { describe, expect, it } from 'vitest';
import { PAGE_DONE } from '../../src/base/page-operation.ts';
import { closeFd } from '../../src/native/fd.ts';
import { storeLayout } from '../../src/store/layout.ts';
import { mapStore } from '../../src/store/mapped-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { SLOT_BACKED, SLOT_LOST } from '../../src/store/slot-word.ts';
import { COUNTER, readStatistics } from '../../src/store/statistics.ts';
import { type PageStoreOptions, storeShape } from '../../src/store/store-options.ts';
import { ARENA_GAUGE, BLOCK_EVACUATED, BLOCK_RAW } from '../../src/xvmalloc/arena.ts';
import {
  blockOfPosition,
  pageOfPosition,
  positionOfPage,
  SEGMENT_SHIFT,
  SEGMENT_WORD_MASK,
} from '../../src/xvmalloc/xvmalloc.ts';
import { pagesHeldBy } from '../models/descriptors.ts';
import { knownFigures } from '../models/known-figures.ts';
import { PAGE_KINDS, somePage } from '../models/pages.ts';
import { replayable, SEED, seededRandom } from '../models/random.ts';
import { GUEST_PAGE, StoreBench } from '../models/store-bench.ts';
import { step } from '../models/store-step.ts';

const PAGE = 4096;
const BLOCK_WORDS = 16384;
const random = seededRandom(SEED);
const page = (kind: string) => PAGE_KINDS[kind]!(random);
const text = () => page('text');
const noise = () => page('random');

/** Another mapping of the same files, made whole; the first bench is not used any more. */
function recover(
  bench: StoreBench,
  options: PageStoreOptions = { slots: bench.store.slots },
): { bench: StoreBench; damaged: number } {
  const { fd, arenaFd } = bench.store.mapped.shared;
  const mapped = mapStore(storeShape(options), { fd, arenaFd, isKept: true });
  const [store, { damaged }] = PageStore.recover(options, mapped);
  return { bench: new StoreBench(options, store, bench.model), damaged };
}

function closeFiles({ store }: StoreBench): void {
  closeFd(store.mapped.shared.fd);
  closeFd(store.mapped.shared.arenaFd);
}

/** What is reserved is in use, and the file holds nothing else. */
function expectNothingSpare({ store }: StoreBench): void {
  const { arena, gauges, shared } = store.mapped;
  expect(arena.sparePages).toBe(0);
  const held = pagesHeldBy(shared.arenaFd);
  expect(held).toBe(gauges[ARENA_GAUGE.reservedPages]);
  // Page 0 is nobody's, and there with its block.
  expect(held - arena.usedPages).toBeLessThanOrEqual(1);
}

/** A store with pages of every kind, some freed again, and spare memory. */
function filled(options: PageStoreOptions, pages = options.slots): StoreBench {
  const bench = new StoreBench(options);
  for (let slot = 0; slot < pages; slot++) bench.write(slot, somePage(random));
  for (let slot = 0; slot < pages; slot += 3) bench.free(slot);
  for (let slot = 1; slot < pages; slot += 9) bench.writePart(slot, 512, random.bytes(700));
  return bench;
}

function programOn(bench: StoreBench, steps: number): void {
  for (let i = 0; i < steps; i++) step(bench, random);
  bench.compareAllSlots();
}

function expectAllFreed(bench: StoreBench): void {
  for (let slot = 0; slot < bench.store.slots; slot++) bench.free(slot);
  bench.compareStatistics();
  expect(bench.store.mapped.arena.usedPages).toBe(0);
}

describe('a store found again', () => {
  it('has every page and statistic, and nothing that no page needs', () => {
    const before = filled({ slots: 1500 });
    before.read(1);
    expect(before.store.mapped.arena.sparePages).toBeGreaterThan(16);
    const { bench, damaged } = recover(before);
    expect(damaged).toBe(0);
    bench.compareStatistics();
    expectNothingSpare(bench);
    bench.compareAllSlots();
    programOn(bench, 500);
    expectAllFreed(bench);
    closeFiles(bench);
  });

  it('when it is empty', () => {
    const { bench } = recover(new StoreBench({ slots: 100 }));
    expectNothingSpare(bench);
    expect(pagesHeldBy(bench.store.mapped.shared.arenaFd)).toBe(0);
    programOn(bench, 100);
    closeFiles(bench);
  });

  it('any number of times', () => {
    let bench = filled({ slots: 200 });
    for (let i = 0; i < 5; i++) {
      bench = recover(bench).bench;
      bench.compareStatistics();
      programOn(bench, 100);
    }
    expect(bench.store.mapped.header.generation).toBe(6);
    closeFiles(bench);
  });

  it('within the limit that it has now, which may be less than it holds', () => {
    const before = filled({ slots: 300 });
    const options = { slots: 300, poolLimitBytes: 16 * PAGE };
    const { bench } = recover(before, options);
    bench.compareAllSlots();
    expect(bench.write(0, noise())).toBe(false);
    for (let slot = 0; slot < 300; slot++) bench.free(slot);
    expect(bench.write(0, noise())).toBe(true);
    closeFiles(bench);
  });

  it.each([
    [1, 3],
    [3, 1],
    [4, 2],
    [2, 16],
  ])('by a process of other threads: %i before, %i now', (threads, threadsNow) => {
    const before = filled({ slots: 400, threads });
    writeByOthers(before, threads);
    const { bench, damaged } = recover(before, { slots: 400, threads: threadsNow });
    expect(damaged).toBe(0);
    bench.compareStatistics();
    bench.compareAllSlots();
    expect(bench.store.mapped.header.threads).toBe(threadsNow);
    writeByOthers(bench, threadsNow);
    programOn(bench, 300);
    expectAllFreed(bench);
    closeFiles(bench);
  });

  it('as large as it has grown', () => {
    const options = { slots: 32, slotsMax: 64 };
    const before = new StoreBench(options);
    before.store.grow(48);
    before.write(40, text());
    const { bench } = recover(before, options);
    expect(bench.store.slots).toBe(48);
    bench.compareStatistics();
    bench.compareAllSlots();
    expect(recover(bench, { slots: 56, slotsMax: 64 }).bench.store.slots).toBe(56);
    closeFiles(bench);
  });

  it('with the lost pages of its disk counted, not those that it may grow to', () => {
    const before = new StoreBench({ slots: 32, slotsMax: 64 });
    before.store.reset(1, true);
    before.store.grow(40);
    const after = recover(before, { slots: 32, slotsMax: 64 });
    const { store } = after.bench;
    expect([after.damaged, store.counters[COUNTER.pagesLost]]).toEqual([0, 39]);
    store.grow(64);
    expect(store.counters[COUNTER.pagesLost]).toBe(63);
    closeFiles(before);
  });

  it.each([Number.NaN, -4096, 40 * PAGE + 1, 65 * PAGE, Infinity])(
    'as large as it is asked for where its own figure cannot be: %d',
    (disksize) => {
      const options = { slots: 32, slotsMax: 64 };
      const before = new StoreBench(options);
      before.store.counters[COUNTER.disksize] = disksize;
      const { bench } = recover(before, options);
      expect(bench.store.slots).toBe(32);
      expect(bench.counter('disksize')).toBe(32 * PAGE);
      closeFiles(bench);
    },
  );
});

/** Every thread but the first writes some slots. */
function writeByOthers({ store, model, window }: StoreBench, threads: number): void {
  for (let thread = 1; thread < threads; thread++) {
    const other = PageStore.join(store.share, thread);
    for (let slot = thread; slot < store.slots; slot += 7) {
      const bytes = somePage(random);
      window.u8.set(bytes, GUEST_PAGE);
      expect(other.writePage(slot, window, GUEST_PAGE)).toBe(PAGE_DONE);
      model.writes++;
      model.put(slot, bytes);
    }
  }
}

describe('with a backing swap', () => {
  const options = { slots: 100, hasBacking: true };

  function withBacked(): StoreBench {
    const bench = new StoreBench(options);
    const { store } = bench;
    for (let slot = 0; slot < 50; slot++) bench.write(slot, somePage(random));
    for (let slot = 50; slot < 80; slot++) {
      store.mapped.checksums[slot] = slot * 1000;
      store.publish(slot, SLOT_BACKED);
    }
    for (let slot = 80; slot < 90; slot++) store.publish(slot, SLOT_LOST);
    return bench;
  }

  it('what lies there and what is lost stays so, checksums too', () => {
    const { bench, damaged } = recover(withBacked(), options);
    expect(damaged).toBe(0);
    expect([bench.counter('pagesOnBacking'), bench.counter('pagesLost')]).toEqual([30, 10]);
    for (let slot = 50; slot < 80; slot++) {
      expect(bench.store.wordOf(slot)).toBe(SLOT_BACKED);
      expect(bench.store.mapped.checksums[slot]).toBe(slot * 1000);
    }
    for (let slot = 0; slot < 100; slot++) {
      if (slot < 50 || slot >= 90) expect(bench.read(slot)).toBe(true);
      else if (slot >= 80) expect(bench.read(slot)).toBe(false);
    }
    closeFiles(bench);
  });

  it('and without it, what lies there is lost', () => {
    const bench = new StoreBench({ slots: 10 });
    Atomics.store(bench.store.mapped.table, 7, SLOT_BACKED);
    const { bench: found, damaged } = recover(bench);
    expect(damaged).toBe(1);
    expect([found.counter('pagesOnBacking'), found.counter('pagesLost')]).toEqual([0, 1]);
    expect(found.read(7)).toBe(false);
    closeFiles(found);
  });
});

describe('what a process leaves half done', () => {
  it('is not believed: locks held, lists and sets of anything', () => {
    const options = { slots: 300, threads: 3 };
    const before = filled(options);
    const { mapped } = before.store;
    const layout = storeLayout(storeShape(options));
    const state = new Int32Array(
      mapped.table.buffer,
      layout.locks,
      (layout.blockMap - layout.locks) / 4,
    );
    for (let i = 0; i < state.length; i++) state[i] = random.uint32();
    mapped.slotLocks!.forEach((lock) => {
      lock.release();
      lock.acquire();
    });
    mapped.gauges.fill(Number.NaN);
    const { bench } = recover(before, options);
    // Else the test would wait for ever.
    const locks = bench.store.mapped.slotLocks!;
    expect(locks.every((lock) => lock.tryAcquire())).toBe(true);
    for (const lock of locks) lock.release();
    bench.compareStatistics();
    writeByOthers(bench, 3);
    programOn(bench, 300);
    expectAllFreed(bench);
    closeFiles(bench);
  });

  it('an evacuation is over: its blocks give memory again', () => {
    const before = new StoreBench({ slots: 200 });
    for (let slot = 0; slot < 200; slot++) before.write(slot, text());
    for (let slot = 0; slot < 200; slot += 2) before.free(slot);
    const { objects, arena } = before.store.mapped;
    const blocks = [...Array(arena.blocks).keys()].filter((block) => objects.liveWords(block) > 0);
    for (const block of blocks) objects.evacuate(block);
    const { bench } = recover(before);
    const found = bench.store.mapped;
    for (const block of blocks) {
      expect(found.objects.liveWords(block)).toBeGreaterThan(0);
      expect(found.arena.blockMap[block]! & BLOCK_EVACUATED).toBe(0);
    }
    const used = found.arena.usedPages;
    for (let slot = 0; slot < 100; slot += 2) bench.write(slot, text());
    expect(found.arena.usedPages).toBe(used);
    bench.compareAllSlots();
    closeFiles(bench);
  });

  it('of a block that has lost its last object nothing stays where freed memory is wiped', () => {
    const options = { slots: 10, wipesOnFree: true };
    const before = new StoreBench(options);
    before.write(3, text());
    const block = blockOfPosition(before.store.wordOf(3));
    header(before, 3).set(0);
    const { bench, damaged } = recover(before, options);
    expect(damaged).toBe(1);
    const { arena } = bench.store.mapped;
    expect(arena.usedPages).toBe(0);
    const [from, to] = [block * BLOCK_WORDS, (block + 1) * BLOCK_WORDS];
    expect(arena.segments[0]!.subarray(from, to).every((word) => word === 0)).toBe(true);
    bench.model.slots.delete(3);
    bench.write(3, text());
    bench.compareStatistics();
    closeFiles(bench);
  });

  it('objects that no word means are free memory', () => {
    const before = new StoreBench({ slots: 100 });
    before.write(3, text());
    for (let i = 0; i < 500; i++) before.store.mapped.objects.allocate(4000);
    for (let i = 0; i < 50; i++) before.store.mapped.arena.allocatePage();
    const { bench } = recover(before);
    expect(bench.store.mapped.arena.usedPages).toBe(16);
    expectNothingSpare(bench);
    bench.compareAllSlots();
    closeFiles(bench);
  });
});

/** A store with raw pages, objects and patterns, for damage. Slots below 40: text; then noise. */
const [TEXTS, NOISES, SLOTS] = [40, 60, 80];

function victim(): StoreBench {
  const bench = new StoreBench({ slots: SLOTS });
  for (let slot = 0; slot < SLOTS; slot++) {
    if (slot < TEXTS) bench.write(slot, text());
    else if (slot < NOISES) bench.write(slot, noise());
    else bench.write(slot, page(slot % 2 === 0 ? 'eightByteFill' : 'byteFill'));
  }
  return bench;
}

/** Recovers a damaged store; those slots are lost, and writing them mends all. */
function expectLost(before: StoreBench, lost: readonly number[]): StoreBench {
  const { bench, damaged } = recover(before);
  const { model, store } = bench;
  const words = [...store.mapped.table];
  const found = words.flatMap((word, slot) => (word === SLOT_LOST ? [slot] : []));
  expect(found).toEqual([...lost].sort((a, b) => a - b));
  expect(damaged).toBe(lost.length);
  for (const slot of lost) model.slots.delete(slot);
  const expected = model.statistics(store.slots * PAGE, store.mapped.arena.usedPages);
  const figures = knownFigures(readStatistics(null, store.mapped));
  expect(figures).toEqual({ ...expected, pages_lost: lost.length });
  for (let slot = 0; slot < store.slots; slot++) {
    expect(bench.read(slot)).toBe(!lost.includes(slot));
  }
  for (const slot of lost) expect(bench.write(slot, somePage(random))).toBe(true);
  bench.compareStatistics();
  programOn(bench, 100);
  expectAllFreed(bench);
  return bench;
}

/** The word before the object that a slot's word means. */
function header({ store }: StoreBench, slot: number) {
  const at = store.wordOf(slot) - 1;
  const segment = store.mapped.arena.segments[at >>> SEGMENT_SHIFT]!;
  const index = at & SEGMENT_WORD_MASK;
  return {
    get: () => segment[index]!,
    set: (word: number) => {
      segment[index] = word;
    },
  };
}

function setWord({ store }: StoreBench, slot: number, word: number): void {
  store.mapped.table[slot] = word;
}

describe('a damaged word is lost, and nothing else', () => {
  it.each([
    ['3', 3],
    ['255', 255],
    ['512', 512],
    ['1023', 1023],
    ['beyond the arena', -1],
    ['in a free block', positionOfPage(207) + 1],
  ])('that is %s', (_, word) => {
    for (const slot of [0, 45]) {
      const bench = victim();
      expect(bench.store.mapped.arena.blockMap[blockOfPosition(positionOfPage(207))]).toBe(0);
      setWord(bench, slot, word);
      closeFiles(expectLost(bench, [slot]));
    }
  });

  it('at the beginning of a pool block, where no object can be', () => {
    const bench = victim();
    setWord(bench, 70, bench.store.wordOf(5) & ~(BLOCK_WORDS - 1));
    closeFiles(expectLost(bench, [70]));
  });

  it('within a raw page', () => {
    const bench = victim();
    setWord(bench, 45, bench.store.wordOf(45) + 1);
    closeFiles(expectLost(bench, [45]));
  });
});

describe("memory that two words mean is nobody's", () => {
  it('an object', () => {
    const bench = victim();
    setWord(bench, 31, bench.store.wordOf(4));
    closeFiles(expectLost(bench, [4, 31]));
  });

  it('an object, three times', () => {
    const bench = victim();
    for (const slot of [31, 66]) setWord(bench, slot, bench.store.wordOf(4));
    closeFiles(expectLost(bench, [4, 31, 66]));
  });

  it('a raw page', () => {
    const bench = victim();
    for (const slot of [2, 57]) setWord(bench, slot, bench.store.wordOf(41));
    closeFiles(expectLost(bench, [2, 41, 57]));
  });

  it('objects far from the beginning of the arena, of slots of any number', () => {
    const slots = 70_000;
    const before = new StoreBench({ slots });
    // Positions of more than 24 bits.
    for (let i = 0; i < 17_000; i++) before.store.mapped.arena.allocatePage();
    const lost = [65_537, 69_999, 69_998, 3];
    for (const slot of [...lost.slice(0, 2), 65_536, 7]) before.write(slot, text());
    expect(before.store.wordOf(65_537)).toBeGreaterThan(2 ** 24);
    setWord(before, lost[2]!, before.store.wordOf(lost[0]!));
    setWord(before, lost[3]!, before.store.wordOf(lost[1]!));
    const { bench, damaged } = recover(before);
    expect(damaged).toBe(4);
    for (const slot of lost) expect(bench.store.wordOf(slot)).toBe(SLOT_LOST);
    for (const slot of [65_536, 7]) expect(bench.read(slot)).toBe(true);
    closeFiles(bench);
  });
});

describe('a damaged size', () => {
  const SIZE_MASK = 0xffff;

  it.each([
    ['0', 0],
    ['more than an object can have', 4093],
    ['all ones', SIZE_MASK],
  ])('of %s: the object is lost, its memory free', (_, bytes) => {
    const bench = victim();
    const { get, set } = header(bench, 11);
    set((get() & ~SIZE_MASK) | bytes);
    closeFiles(expectLost(bench, [11]));
  });

  it('of an object that is marked free', () => {
    const bench = victim();
    const { get, set } = header(bench, 11);
    set(get() | (1 << 16));
    closeFiles(expectLost(bench, [11]));
  });

  it('that reaches beyond its block', () => {
    const bench = victim();
    const end = (bench.store.wordOf(5) | (BLOCK_WORDS - 1)) - 3;
    const segment = bench.store.mapped.arena.segments[0]!;
    segment[end - 1] = 4000;
    setWord(bench, 70, end);
    closeFiles(expectLost(bench, [70]));
  });

  it('that reaches over its neighbours: all of them are lost', () => {
    const bench = victim();
    const { store } = bench;
    const texts = [...Array(TEXTS).keys()];
    const inOrder = texts
      .filter((slot) => blockOfPosition(store.wordOf(slot)) === blockOfPosition(store.wordOf(5)))
      .sort((a, b) => store.wordOf(a) - store.wordOf(b));
    const at = inOrder.indexOf(5);
    expect(at).toBeLessThan(inOrder.length - 3);
    const last = inOrder[at + 2]!;
    const bytes = (store.wordOf(last) - store.wordOf(5)) * 4 + 1;
    const { get, set } = header(bench, 5);
    set((get() & ~SIZE_MASK) | bytes);
    closeFiles(expectLost(bench, [5, inOrder[at + 1]!, last]));
  });
});

describe('a damaged block map', () => {
  const slotsIn = (bench: StoreBench, block: number) =>
    [...Array(SLOTS).keys()].filter((slot) => {
      const word = bench.store.wordOf(slot);
      return word >>> 0 >= 1024 && blockOfPosition(word) === block;
    });

  it.each([0, BLOCK_RAW, 0x7f, 0x11, 0x60])(
    'with %i for a pool block: its objects are lost',
    (owner) => {
      const bench = victim();
      const block = blockOfPosition(bench.store.wordOf(5));
      bench.store.mapped.arena.blockMap[block] = owner;
      closeFiles(expectLost(bench, slotsIn(bench, block)));
    },
  );

  it('with another thread for a pool block: nothing is lost', () => {
    const bench = victim();
    bench.store.mapped.arena.blockMap[blockOfPosition(bench.store.wordOf(5))] = 16;
    closeFiles(expectLost(bench, []));
  });

  it('with an owner for the first block, where page 0 is', () => {
    const bench = victim();
    const { arena } = bench.store.mapped;
    expect(pageOfPosition(bench.store.wordOf(40))).toBeLessThan(16);
    arena.blockMap[0] = 1;
    closeFiles(expectLost(bench, []));
  });
});

describe('random programs', () => {
  it('ended between any two operations are found as they were', () => {
    replayable((numbers) => {
      const options = { slots: 64 };
      let bench = new StoreBench(options);
      for (let round = 0; round < 40; round++) {
        const steps = numbers.between(1, 120);
        for (let i = 0; i < steps; i++) step(bench, numbers);
        for (let i = numbers.below(20); i > 0; i--) bench.store.maintain((round * 100_000) | 0);
        const found = recover(bench, options);
        expect(found.damaged).toBe(0);
        bench = found.bench;
        bench.compareStatistics();
        expectNothingSpare(bench);
        bench.compareAllSlots();
      }
      closeFiles(bench);
    });
  });
});
