/**
 * Stores that share a budget: who is refused, what counts, and what those over their share do for
 * the others. What a share is: xvmalloc/budget-share.test.ts.
 */

import { describe, expect, it } from 'vitest';
import { Budget } from '../../src/store/budget.ts';
import { mapStore } from '../../src/store/mapped-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { type PageStoreOptions, storeShape } from '../../src/store/store-options.ts';
import { BackedBench } from '../models/backed-bench.ts';
import { PAGE_KINDS } from '../models/pages.ts';
import { SEED, seededRandom } from '../models/random.ts';
import { runStoreThreads } from '../models/run-store-threads.ts';
import { StoreBench } from '../models/store-bench.ts';

const PAGE = 4096;
const BLOCK = 16 * PAGE;
const random = seededRandom(SEED);
const text = () => PAGE_KINDS.text!(random);
const noise = () => PAGE_KINDS.random!(random);

/** Writes pages from `from` on until one is refused, or to the end: how many were stored. */
function fill(bench: StoreBench, from = 0, page = text): number {
  for (let slot = from; slot < bench.store.slots; slot++) {
    if (!bench.write(slot, page())) return slot - from;
  }
  return bench.store.slots - from;
}

function usedBytes({ store }: StoreBench): number {
  return store.mapped.arena.usedPages * PAGE;
}

/** What another process, or this one at another time, has left of a store. */
function mapped({ store }: StoreBench, options: PageStoreOptions) {
  const { fd, arenaFd } = store.mapped.shared;
  return mapStore(storeShape(options), { fd, arenaFd, isKept: true });
}

describe('of two stores', () => {
  it('the one over its share is refused first, and the other still stores', () => {
    const budget = Budget.make(64 * BLOCK);
    const [greedy, late] = ['greedy', 'late'].map((name) => {
      return new StoreBench({ slots: 6000, budget: budget.add(name).terms });
    });
    expect(fill(greedy!)).toBeLessThan(6000);
    expect(greedy!.troubles).toEqual([
      expect.stringMatching(/^the memory budget of all devices is used up, .*writes fail until/),
    ]);
    expect(usedBytes(greedy!)).toBe(56 * BLOCK);
    const stored = fill(late!);
    expect(usedBytes(late!)).toBe(8 * BLOCK);
    // What the one frees is for the other as well.
    for (let slot = 0; slot < 6000; slot++) greedy!.free(slot);
    expect(fill(late!, stored)).toBeGreaterThan(4 * stored);
    expect(usedBytes(late!)).toBe(56 * BLOCK);
    expect(budget.figures()).toMatchObject({
      usedBytes: 56 * BLOCK,
      devices: [{ usedBytes: 0 }, { isOverShare: true }],
    });
    for (const bench of [greedy!, late!]) {
      bench.compareAllSlots();
      bench.compareStatistics();
    }
  });

  it('one with a guarantee has it, however late it comes', () => {
    const budget = Budget.make(64 * BLOCK);
    const [greedy, late] = [budget.add('greedy'), budget.add('late', 20 * BLOCK)];
    fill(new StoreBench({ slots: 6000, budget: greedy.terms }));
    const bench = new StoreBench({ slots: 6000, budget: late.terms });
    fill(bench);
    expect(usedBytes(bench)).toBeGreaterThanOrEqual(20 * BLOCK);
    expect(budget.figures().committedBytes).toBeLessThanOrEqual(64 * BLOCK);
  });
});

describe('a store over its share', () => {
  it('compacts as if idle while another lacks memory', () => {
    const budget = Budget.make(64 * BLOCK);
    const [own, other] = [budget.add('own'), budget.add('other')];
    const bench = new StoreBench({ slots: 6000, budget: own.terms });
    const late = new StoreBench({ slots: 6000, budget: other.terms });
    const stored = fill(bench);
    for (let i = 0; i < 250; i++) bench.free(random.below(stored));
    const before = usedBytes(bench);
    bench.store.mapped.arena.takeShortage();
    // Too little was freed for compaction to look by itself.
    bench.maintainFor(3e6);
    expect(usedBytes(bench)).toBe(before);
    late.write(0, text());
    bench.maintainFor(3e6, 3e6);
    expect(usedBytes(bench)).toBeLessThan(before - 3 * BLOCK);
    bench.compareAllSlots();
  });

  it('looks twice a second whether another lacks memory; under its share it does not', () => {
    const budget = Budget.make(64 * BLOCK);
    const bench = new StoreBench({ slots: 6000, budget: budget.add('one').terms });
    bench.write(0, text());
    expect(bench.store.maintain(0)).toBe(-1);
    fill(bench);
    bench.store.mapped.arena.takeShortage();
    expect(bench.store.maintain(0)).toBe(-1);
    // Its share is half of that now.
    budget.add('other');
    bench.maintainFor(3e6);
    expect(bench.store.maintain(3e6)).toBe(500);
  });
});

describe('a store', () => {
  it('found again counts, though it is more than the budget, and may not grow', () => {
    const before = new StoreBench({ slots: 300 });
    fill(before, 0, noise);
    const budget = Budget.make(16 * BLOCK);
    const [share, other] = [budget.add('found'), budget.add('other', 4 * BLOCK)];
    const options = { slots: 300, budget: share.terms };
    const [store] = PageStore.recover(options, mapped(before, options));
    const bench = new StoreBench(options, store, before.model);
    expect(share.figures).toMatchObject({ usedBytes: 300 * PAGE, isOverShare: true });
    expect(budget.figures()).toMatchObject({ committedBytes: 300 * PAGE + 4 * BLOCK });
    bench.compareAllSlots();
    expect(bench.write(7, noise())).toBe(false);
    // A guarantee is met all the same.
    const guaranteed = new StoreBench({ slots: 300, budget: other.terms });
    expect(fill(guaranteed, 0, noise)).toBe(64);
    for (let slot = 100; slot < 300; slot++) bench.free(slot);
    expect(bench.write(7, noise())).toBe(true);
    bench.compareAllSlots();
  });

  it.each([true, false])('taken over counts when it goes on, whole: %s', (isWhole) => {
    const before = new StoreBench({ slots: 300 });
    fill(before, 0, noise);
    const share = Budget.make(16 * BLOCK).add('taken');
    const options = { slots: 300, budget: share.terms, wipesOnFree: true };
    const store = PageStore.takeOver(options, mapped(before, options));
    expect(share.figures.usedBytes).toBe(0);
    store.goOn(options, isWhole);
    expect(share.figures.usedBytes).toBe(300 * PAGE);
    new StoreBench(options, store, before.model).compareAllSlots();
    store.freePage(0);
    expect(share.figures.usedBytes).toBe(299 * PAGE);
  });

  it('that is reset has nothing of the budget', () => {
    const share = Budget.make(16 * BLOCK).add('one');
    const bench = new StoreBench({ slots: 300, budget: share.terms });
    fill(bench);
    expect(share.figures.usedBytes).toBe(usedBytes(bench));
    bench.store.reset(1, false);
    expect(share.figures.usedBytes).toBe(0);
    expect(bench.store.writeRaw(0, noise())).toBe(true);
    expect(share.figures.usedBytes).toBe(PAGE);
  });

  it('has one share for all its threads, exact to the page', async () => {
    const budget = Budget.make(1000 * BLOCK);
    const share = budget.add('one', BLOCK);
    const bench = new StoreBench({ slots: 40, threads: 3, budget: share.terms });
    await runStoreThreads(bench.store, { slots: 40, threads: 3, operations: 20_000 });
    expect(share.figures.usedBytes).toBe(usedBytes(bench));
    expect(share.figures.usedBytes).toBeGreaterThan(0);
    for (let slot = 0; slot < 40; slot++) bench.store.freePage(slot);
    expect(share.figures.usedBytes).toBe(0);
    expect(budget.figures().committedBytes).toBe(BLOCK);
  });
});

describe('with a backing swap', () => {
  const SLOTS = 4096;

  /** The first has all of the budget but the reserve, the second nothing yet. */
  function setUp() {
    const budget = Budget.make(64 * BLOCK);
    const [greedy, late] = ['greedy', 'late'].map((name) => {
      const { terms } = budget.add(name);
      return new BackedBench({ slots: SLOTS, memlimitBytes: 64 * BLOCK, budget: terms });
    });
    // Neighbours among slots are none in memory: what is moved out leaves holes in many blocks.
    for (let i = 0; i < SLOTS; i++) greedy!.write(1 + ((i * 1021) % (SLOTS - 1)), text());
    greedy!.settle();
    return { budget, greedy: greedy!, late: late! };
  }

  /** Upkeep and I/O of both; the time after it. */
  function run(benches: readonly BackedBench[], from: number, micros: number): number {
    for (let now = from; now < from + micros; now += 5000) {
      for (const bench of benches) {
        for (let steps = 0; bench.store.maintain(now | 0) === 0 && steps < 100; steps++);
        bench.settle();
      }
    }
    return from + micros;
  }

  const movedOut = ({ statistics }: BackedBench) => statistics.pages_moved_out;

  it('pages of the one over its share go there while the other lacks memory, and no others', () => {
    const { budget, greedy, late } = setUp();
    expect(greedy.statistics.failed_writes).toBe(0);
    expect(greedy.statistics.pages_on_backing).toBeGreaterThan(0);
    let now = run([greedy, late], 0, 1e6);
    expect(movedOut(greedy)).toBe(0);
    for (let round = 0; round < 60; round++) {
      for (let slot = 1 + round * 64; slot < 65 + round * 64; slot++) late.write(slot, text());
      now = run([greedy, late], now, 1e6);
    }
    const [greedyBytes, lateBytes] = budget.figures().devices.map(({ usedBytes }) => usedBytes);
    // Both have their shares, give or take what compaction leaves.
    expect(greedyBytes).toBeLessThanOrEqual(33 * BLOCK);
    expect(greedyBytes).toBeGreaterThan(28 * BLOCK);
    expect(lateBytes).toBeGreaterThan(28 * BLOCK);
    expect(movedOut(greedy)).toBeGreaterThan(500);
    expect(movedOut(late)).toBe(0);
    for (const bench of [greedy, late]) {
      bench.compareAll();
      bench.compareCounts();
    }
  });

  it('they go no further than the shortage, and stay when it is over', () => {
    const { budget, greedy, late } = setUp();
    const before = greedy.memory.mapped.arena.usedPages;
    for (let slot = 1; slot <= 60; slot++) late.write(slot, text());
    let now = run([greedy, late], 0, 5e6);
    const short = late.memory.mapped.arena.usedPages;
    expect(budget.figures().isShort).toBe(false);
    const given = before - greedy.memory.mapped.arena.usedPages;
    expect(given).toBeGreaterThanOrEqual(short);
    expect(given).toBeLessThan(short + 8 * 16);
    const moved = movedOut(greedy);
    expect(moved).toBeGreaterThan(0);
    for (let round = 0; round < 5; round++) now = run([greedy, late], now, 1e6);
    expect(movedOut(greedy)).toBe(moved);
    greedy.compareAll();
  });

  it('writes of the one over its share go there at once meanwhile, holes or not', () => {
    const { greedy, late } = setUp();
    const stored = Array.from({ length: SLOTS - 1 }, (_, i) => i + 1).filter(
      (slot) => greedy.memory.storedBytes(slot) > 0,
    );
    for (let i = 0; i < 20; i++) greedy.free(stored[i * 100]!);
    greedy.write(stored[0]!, text());
    expect(greedy.inFlight).toBe(0);
    for (let slot = 1; slot <= 300; slot++) late.write(slot, text());
    for (let i = 1; i < 20; i++) greedy.write(stored[i * 100]!, text());
    expect(greedy.inFlight).toBe(19);
    greedy.settle();
    greedy.compareAll();
  });
});
