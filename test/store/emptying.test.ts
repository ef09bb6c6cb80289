/**
 * A store that is emptied little by little: its memory goes back in steps, its words first, the budget
 * last; and whoever finds it between two steps finds nothing of what it held.
 */

import { fstatSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { closeFd } from '../../src/native/fd.ts';
import { Budget } from '../../src/store/budget.ts';
import { Emptying } from '../../src/store/emptying.ts';
import { mapStore } from '../../src/store/mapped-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { SLOT_EMPTY, SLOT_LOST } from '../../src/store/slot-word.ts';
import { readStatistics } from '../../src/store/statistics.ts';
import { UNKNOWN_PROCESS } from '../../src/store/store-header.ts';
import { type PageStoreOptions, storeShape } from '../../src/store/store-options.ts';
import { PAGE_KINDS } from '../models/pages.ts';
import { SEED, seededRandom } from '../models/random.ts';
import { StoreBench } from '../models/store-bench.ts';

const PAGE = 4096;
const random = seededRandom(SEED);
const noise = () => PAGE_KINDS.random!(random);
const text = () => PAGE_KINDS.text!(random);

const heldBy = ({ store }: StoreBench) => fstatSync(store.mapped.shared.arenaFd).blocks * 512;

/** Raw pages and objects, 4 to 8 MiB. */
function filled(options: PageStoreOptions): StoreBench {
  const bench = new StoreBench(options);
  for (let slot = 0; slot < options.slots; slot++)
    bench.write(slot, slot % 4 === 0 ? text() : noise());
  return bench;
}

describe('draining', () => {
  it('gives memory back in steps, and the budget has it back with the last', () => {
    const share = Budget.make(64 << 20).add('one');
    const bench = filled({ slots: 2000, budget: share.terms });
    const { store } = bench;
    const used = share.figures.usedBytes;
    let held = heldBy(bench);
    let steps = 1;
    for (; store.drain(); steps++) {
      const now = heldBy(bench);
      expect(held - now).toBeLessThanOrEqual(2 << 20);
      held = now;
      expect(share.figures.usedBytes).toBe(used);
    }
    expect(steps).toBeGreaterThan(2);
    expect(heldBy(bench)).toBe(0);
    // Asked again it has nothing to do.
    expect([store.drain(), store.isDrained]).toEqual([false, true]);
    store.reset(1, false);
    expect([store.isDrained, share.figures.usedBytes]).toEqual([false, 0]);
    const after = new StoreBench({ slots: 2000 }, store);
    for (let slot = 0; slot < 2000; slot += 3) after.write(slot, noise());
    after.compareAllSlots();
    expect(readStatistics(null, after.store.mapped).pages_stored).toBe(667);
  });

  it('names nothing from its first step on, and is another store of nobody known', () => {
    const { store } = filled({ slots: 2000 });
    const { header, table } = store.mapped;
    const { uuid } = header;
    header.frontEnd = { process: 4711, start: 1 };
    store.drain();
    expect(header.frontEnd).toEqual(UNKNOWN_PROCESS);
    expect(header.uuid).not.toEqual(uuid);
    expect(table.every((word) => word === SLOT_EMPTY)).toBe(true);
    const { pages_stored, compr_data_size } = readStatistics(null, store.mapped);
    expect([pages_stored, compr_data_size]).toEqual([0, 0]);
  });

  it('goes on with upkeep, which has nothing else to do then', () => {
    const bench = filled({ slots: 2000 });
    bench.store.drain();
    let steps = 0;
    while (bench.store.maintain(0) === 0) steps++;
    expect(steps).toBeGreaterThan(0);
    expect([heldBy(bench), bench.store.maintain(0)]).toEqual([0, -1]);
  });

  it.each([0, 1, 2, 1000])('is found after %i steps as a store that holds nothing', (steps) => {
    const options = { slots: 2000 };
    const before = filled(options);
    before.store.drain();
    for (let i = 0; i < steps && before.store.drain(); i++);
    const { fd, arenaFd } = before.store.mapped.shared;
    const mapped = mapStore(storeShape(options), { fd, arenaFd, isKept: true });
    const [store, { damaged }] = PageStore.recover(options, mapped);
    expect([damaged, mapped.header.frontEnd]).toEqual([0, UNKNOWN_PROCESS]);
    const after = new StoreBench(options, store);
    expect(heldBy(after)).toBe(0);
    for (let slot = 0; slot < 2000; slot += 3) after.write(slot, noise());
    after.compareAllSlots();
    expect(readStatistics(null, after.store.mapped).pages_stored).toBe(667);
    for (const file of [fd, arenaFd]) closeFd(file);
  });
});

describe('a reset', () => {
  it.each([0, 1, 1000])('after %i steps leaves what one without them leaves', (steps) => {
    const { store } = filled({ slots: 2000, slotsMax: 3000 });
    for (let i = 0; i < steps && store.drain(); i++);
    store.reset(2, true);
    const { table, header, arena, shared } = store.mapped;
    expect([...table.subarray(0, 3)]).toEqual([SLOT_EMPTY, SLOT_EMPTY, SLOT_LOST]);
    expect(table.subarray(2).every((word) => word === SLOT_LOST)).toBe(true);
    expect([header.frontEnd, arena.usedPages, arena.sparePages]).toEqual([undefined, 0, 0]);
    expect(fstatSync(shared.arenaFd).blocks).toBe(0);
    expect(readStatistics(null, store.mapped)).toMatchObject({ pages_stored: 0, pages_lost: 1998 });
  });
});

it('touches no memory of blocks that hold none', () => {
  const { mapped } = new StoreBench({ slots: 16 * PAGE }).store;
  const emptying = new Emptying(mapped);
  expect([emptying.isBegun, emptying.drain(), emptying.isBegun]).toEqual([false, false, true]);
  emptying.finish(1, false, 16 * PAGE);
  expect(emptying.isBegun).toBe(false);
});
