/**
 * The page store against a map from slot to bytes: random operations with pages of every kind, at
 * any alignment; after each, the slot's bytes and every statistic are the model's.
 */

import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';
import { replayable } from '../models/random.ts';
import { StoreBench } from '../models/store-bench.ts';
import { step } from '../models/store-step.ts';

function freeAll(bench: StoreBench): void {
  for (let slot = 0; slot < bench.store.slots; slot++) bench.free(slot);
  bench.compareStatistics();
  expect(bench.store.mapped.arena.usedPages).toBe(0);
  bench.maintainFor(2_000_000);
  expect(bench.gauge(ARENA_GAUGE.poolPages)).toBe(0);
  expect(bench.gauge(ARENA_GAUGE.rawPages)).toBe(0);
  expect(bench.gauge(ARENA_GAUGE.reservedPages)).toBeLessThanOrEqual(16);
}

describe('random operations equal the model', () => {
  it('with all the memory they want', () => {
    replayable((random) => {
      const bench = new StoreBench({ slots: 48 });
      for (let i = 0; i < 5000; i++) {
        step(bench, random);
        if (random.rarely(10)) bench.store.maintain((i * 20_000) | 0);
        if (random.rarely(250)) bench.compareAllSlots();
      }
      bench.compareAllSlots();
      expect(bench.troubles).toEqual([]);
      freeAll(bench);
    });
  });

  it('with less memory than they want', () => {
    replayable((random) => {
      const bench = new StoreBench({ slots: 48, poolLimitBytes: 18 * PAGE_BYTES });
      for (let i = 0; i < 3000; i++) {
        step(bench, random);
        expect(bench.store.mapped.arena.usedPages).toBeLessThanOrEqual(18);
        if (random.rarely(250)) bench.compareAllSlots();
      }
      bench.compareAllSlots();
      expect(bench.model.failedWrites).toBeGreaterThan(100);
      freeAll(bench);
    });
  });

  it('with a handful of slots, written over and over', () => {
    replayable((random) => {
      const bench = new StoreBench({ slots: 3 });
      for (let i = 0; i < 2000; i++) step(bench, random);
      freeAll(bench);
    });
  });
});
