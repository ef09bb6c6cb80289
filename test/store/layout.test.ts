/** The store's layout: parts in order, page aligned, not overlapping, large enough. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Window } from '../../src/memory/window.ts';
import {
  arenaPagesFor,
  arenaState,
  HEADER,
  headerFigures,
  storeLayout,
} from '../../src/store/layout.ts';
import { COUNTER_COUNT } from '../../src/store/statistics.ts';
import { ARENA_GAUGE, ARENA_PAGES_MAX, Arena } from '../../src/xvmalloc/arena.ts';
import { Xvmalloc } from '../../src/xvmalloc/xvmalloc.ts';

describe('an arena for a disk', () => {
  it.each([
    [1, 16],
    [14, 16],
    [15, 32],
    [30, 32],
    [1000, 1008],
    [ARENA_PAGES_MAX - 2, ARENA_PAGES_MAX],
    [ARENA_PAGES_MAX, ARENA_PAGES_MAX],
    [2 ** 26, ARENA_PAGES_MAX],
  ])('of %i pages has %i', (slots, pages) => {
    expect(arenaPagesFor(slots)).toBe(pages);
  });
});

it('puts the parts one after the other, each on pages of its own', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 24 }), (slots) => {
      const layout = storeLayout(slots);
      const parts: [number, number][] = [
        [0, 4096],
        [layout.lists, Xvmalloc.STATE_WORDS * 4],
        [layout.blocks, Arena.stateWords(layout.arenaPages) * 4],
        [layout.pageMap, layout.arenaPages],
        [layout.table, slots * 4],
      ];
      let end = 0;
      for (const [start, bytes] of parts) {
        expect(start % 4096).toBe(0);
        expect(start).toBeGreaterThanOrEqual(end);
        end = start + bytes;
      }
      expect(layout.bytes).toBeGreaterThanOrEqual(end);
      expect(layout.bytes % 4096).toBe(0);
    }),
  );
});

it('keeps bookkeeping near a thousandth of the disk, and 1.2 MiB of one GiB', () => {
  expect(storeLayout(2 ** 18).bytes).toBeLessThan(1.5 * 2 ** 20);
});

it('gives views that do not overlap', () => {
  const layout = storeLayout(100);
  const file = new Window(layout.bytes);
  const { counters, gauges } = headerFigures(file);
  const { words, pageMap } = arenaState(file, layout);
  expect([counters.length, gauges.length]).toEqual([COUNTER_COUNT, ARENA_GAUGE.COUNT]);
  file.i32.fill(-1, 0, HEADER.counters / 4);
  counters.fill(1);
  gauges.fill(2);
  words.fill(3);
  pageMap.fill(4);
  const isAll = (view: ArrayLike<number>, value: number) =>
    Array.from(view).every((one) => one === value);
  expect([isAll(counters, 1), isAll(gauges, 2), isAll(words, 3), isAll(pageMap, 4)]).toEqual([
    true,
    true,
    true,
    true,
  ]);
  expect(isAll(file.i32.subarray(0, HEADER.counters / 4), -1)).toBe(true);
});
