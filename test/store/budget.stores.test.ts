/**
 * Stores that share a budget: who is refused, what counts, and what those over their share do for
 * the others. What a share is: xvmalloc/budget-share.test.ts.
 */

import { describe, expect, it } from 'vitest';
import { Budget } from '../../src/store/budget.ts';
import { mapStore } from '../../src/store/mapped-store.ts';
import { PageStore, type PageStoreOptions, storeShape } from '../../src/store/page-store.ts';
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
