/** The store's layout: parts in order, page aligned, not overlapping, large enough. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Window } from '../../src/memory/window.ts';
import {
  arenaPagesFor,
  arenaState,
  FIGURES_BYTES,
  headerFigures,
  SLOT_LOCKS,
  storeLayout,
} from '../../src/store/layout.ts';
import { COUNTER_ROW } from '../../src/store/statistics.ts';
import { ARENA_GAUGE, ARENA_PAGES_MAX, Arena } from '../../src/xvmalloc/arena.ts';
import { Xvmalloc } from '../../src/xvmalloc/xvmalloc.ts';

describe('an arena for a disk', () => {
  it.each([
    [1, 80],
    [8, 80],
    [9, 96],
    [1000, 2064],
    [ARENA_PAGES_MAX / 2 - 32, ARENA_PAGES_MAX],
    [ARENA_PAGES_MAX, ARENA_PAGES_MAX],
    [2 ** 26, ARENA_PAGES_MAX],
  ])('of %i pages has %i', (slots, pages) => {
    expect(arenaPagesFor(slots)).toBe(pages);
  });
});

it('puts the parts one after the other, each on pages of its own', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 2 ** 24 }),
      fc.boolean(),
      fc.integer({ min: 1, max: 16 }),
      (slots, hasBacking, threads) => {
        const layout = storeLayout({ slots, hasBacking, threads });
        const blocks = layout.arenaPages / 16;
        const parts: [number, number][] = [
          [0, FIGURES_BYTES],
          [layout.locks, SLOT_LOCKS * 64],
          [layout.lists, Xvmalloc.stateWords(blocks, threads) * 4],
          [layout.blocks, Arena.stateWords(layout.arenaPages) * 4],
          [layout.blockMap, blocks],
          [layout.table, slots * 4],
          [layout.ages, slots],
          [layout.checksums, hasBacking ? slots * 4 : 0],
        ];
        let end = 0;
        for (const [start, bytes] of parts) {
          expect(start % 4096).toBe(0);
          expect(start).toBeGreaterThanOrEqual(end);
          end = start + bytes;
        }
        expect(layout.bytes).toBeGreaterThanOrEqual(end);
        expect(layout.bytes % 4096).toBe(0);
      },
    ),
  );
});

it('keeps bookkeeping near an eighth of a percent of the disk, and below 1.57 MiB of one GiB', () => {
  expect(storeLayout({ slots: 2 ** 18 }).bytes).toBeLessThan(1.57 * 2 ** 20);
});

it('gives views that do not overlap', () => {
  const layout = storeLayout({ slots: 100 });
  const file = new Window(layout.bytes);
  const { counters, gauges, latencies, requestLatencies, ageWords } = headerFigures(file);
  const { words, blockMap } = arenaState(file, layout);
  expect([counters.length, gauges.length]).toEqual([16 * COUNTER_ROW, ARENA_GAUGE.COUNT]);
  const rows = [counters, requestLatencies, ageWords];
  const views = [file.i32.subarray(0, 4), gauges, latencies, ...rows, words, blockMap];
  views.forEach((view, i) => void view.fill(i + 1));
  views.forEach((view, i) => {
    expect(Array.from(view as ArrayLike<number>).every((one) => one === i + 1)).toBe(true);
  });
});
