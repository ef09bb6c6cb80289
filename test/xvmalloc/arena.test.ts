/** The arena: pages handed out and taken back, memory reserved and given back to the system. */

import { openSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  ARENA_GAUGE,
  ARENA_PAGES_MAX,
  Arena,
  PAGE_FREE,
  PAGE_POOL,
  PAGE_RAW,
} from '../../src/xvmalloc/arena.ts';
import {
  type ArenaHarness,
  emptyState,
  withArena,
  withdrawPagesBelow,
} from '../models/arena-harness.ts';
import { ArenaModel } from '../models/arena-model.ts';
import { pagesHeldBy, withMount } from '../models/descriptors.ts';
import { replayable } from '../models/random.ts';

const ENOSPC = 28;

function allocateMany(arena: Arena, count: number): number[] {
  return Array.from({ length: count }, () => arena.allocatePage(PAGE_RAW));
}

function trimAll(arena: Arena): void {
  for (let steps = 0; arena.trim(); steps++) expect(steps).toBeLessThan(1000);
}

function expectEqual({ arena, fd, state }: ArenaHarness, model: ArenaModel): void {
  expect({
    used: arena.usedPages,
    spare: arena.sparePages,
    pool: state.gauges[ARENA_GAUGE.poolPages],
    raw: state.gauges[ARENA_GAUGE.rawPages],
    reserved: state.gauges[ARENA_GAUGE.reservedPages],
    held: pagesHeldBy(fd),
  }).toEqual({
    used: model.used,
    spare: model.spare().length,
    pool: model.count(PAGE_POOL),
    raw: model.count(PAGE_RAW),
    reserved: model.reserved,
    held: model.reserved,
  });
}

describe('random changes', () => {
  it('leave the arena equal to its model, and the file holding just the reserved pages', () => {
    replayable((random) => {
      const pages = 160;
      withArena(pages, (harness) => {
        const { arena, state } = harness;
        const model = new ArenaModel(pages);
        for (let i = 0; i < 6000; i++) {
          const isGrowing = i % 1500 < 800;
          const action = random.below(100);
          if (action < (isGrowing ? 60 : 25)) {
            const kind = random.pick([PAGE_POOL, PAGE_RAW] as const);
            const expected = model.allocate(kind, arena.limitPages);
            const page = arena.allocatePage(kind);
            expect(page).toBe(expected);
            if (page !== 0) arena.segments[0]!.fill(i, page * 1024, (page + 1) * 1024);
          } else if (action < 90 && model.used > 0) {
            const page = random.pick([...model.kinds.keys()]);
            model.free(page);
            arena.freePage(page);
            expect(arena.kindOf(page)).toBe(PAGE_FREE);
          } else if (action < 96) {
            expect(arena.trim()).toBe(model.trim());
          } else if (action < 98) {
            model.markTrimInterval();
            arena.markTrimInterval();
          } else {
            arena.limitPages = random.rarely(2) ? pages : random.below(pages);
          }
          expectEqual(harness, model);
          const page = random.below(pages);
          expect(state.pageMap[page]).toBe(model.kinds.get(page) ?? PAGE_FREE);
        }
      });
    });
  });
});

describe('a page', () => {
  it('is every one of the arena but page 0, once, lowest first', () => {
    withArena(64, ({ arena }) => {
      expect(allocateMany(arena, 63)).toEqual(Array.from({ length: 63 }, (_, i) => i + 1));
      expect(arena.allocatePage(PAGE_RAW)).toBe(0);
      expect(arena.lastErrno).toBe(0);
    });
  });

  it('is handed out again after it was freed, and never page 0', () => {
    withArena(32, ({ arena }) => {
      for (const page of allocateMany(arena, 31)) arena.freePage(page);
      trimAll(arena);
      arena.markTrimInterval();
      trimAll(arena);
      expect(arena.sparePages).toBe(0);
      expect(allocateMany(arena, 32).sort((a, b) => a - b)).toEqual(
        Array.from({ length: 32 }, (_, i) => i),
      );
    });
  });

  it('is freed once', () => {
    withArena(16, ({ arena }) => {
      const page = arena.allocatePage(PAGE_POOL);
      expect(arena.kindOf(page)).toBe(PAGE_POOL);
      arena.freePage(page);
      expect(() => arena.freePage(page)).toThrow(AssertionError);
      expect(() => arena.freePage(0)).toThrow(AssertionError);
    });
  });
});

describe('the limit', () => {
  it('stops allocation at that many pages, until one is freed or the limit is raised', () => {
    withArena(64, ({ arena }) => {
      arena.limitPages = 5;
      expect(allocateMany(arena, 6)).toEqual([1, 2, 3, 4, 5, 0]);
      arena.freePage(3);
      expect(allocateMany(arena, 2)).toEqual([3, 0]);
      arena.limitPages = 7;
      expect(allocateMany(arena, 3)).toEqual([6, 7, 0]);
      arena.limitPages = 2;
      arena.freePage(1);
      expect(arena.allocatePage(PAGE_RAW)).toBe(0);
    });
  });

  it('may be given at construction', () => {
    const state = emptyState(32);
    withArena(32, ({ fd }) => {
      const arena = new Arena(fd, 32, state, 1);
      expect(allocateMany(arena, 2)).toEqual([1, 0]);
    });
  });
});

describe('memory given back', () => {
  it('leaves the file when nobody needed it for a whole interval, not before', () => {
    withArena(64, ({ arena, fd }) => {
      for (const page of allocateMany(arena, 40)) arena.freePage(page);
      expect(pagesHeldBy(fd)).toBe(48);
      expect(arena.trim()).toBe(false);
      expect(pagesHeldBy(fd)).toBe(48);
      arena.markTrimInterval();
      expect(arena.trim()).toBe(false);
      // Page 0 stays reserved with its block: it is nobody's to give back.
      expect([pagesHeldBy(fd), arena.sparePages]).toEqual([1, 0]);
    });
  });

  it('is what was left at the lowest point of the interval', () => {
    withArena(256, ({ arena, fd }) => {
      const pages = allocateMany(arena, 255);
      for (const page of pages) arena.freePage(page);
      arena.markTrimInterval();
      const needed = allocateMany(arena, 95);
      for (const page of needed) arena.freePage(page);
      trimAll(arena);
      expect([arena.sparePages, pagesHeldBy(fd)]).toEqual([95, 96]);
    });
  });

  it('comes from the highest pages, and leaves used ones alone', () => {
    withArena(48, ({ arena, state, fd }) => {
      const pages = allocateMany(arena, 47);
      arena.segments[0]!.fill(7, 40 * 1024, 41 * 1024);
      for (const page of pages) if (page !== 40) arena.freePage(page);
      arena.markTrimInterval();
      expect(arena.trim()).toBe(false);
      expect([pagesHeldBy(fd), state.gauges[ARENA_GAUGE.reservedPages]]).toEqual([2, 2]);
      expect(arena.segments[0]!.subarray(40 * 1024, 41 * 1024).every((word) => word === 7)).toBe(
        true,
      );
      expect(arena.segments[0]![39 * 1024]).toBe(0);
    });
  });

  it('is given back at once above 1024 spare pages, in steps, down to at most that', () => {
    withArena(4096, ({ arena, fd }) => {
      // Whole blocks, so that nothing but what is freed is spare.
      const pages = allocateMany(arena, 3007);
      for (const page of pages.slice(0, 1024)) arena.freePage(page);
      expect(arena.isOverfull).toBe(false);
      arena.freePage(pages[1024]!);
      expect(arena.isOverfull).toBe(true);
      for (const page of pages.slice(1025)) arena.freePage(page);
      const before = pagesHeldBy(fd);
      expect(arena.trim()).toBe(true);
      expect(pagesHeldBy(fd)).toBe(before - 16 * 16);
      trimAll(arena);
      expect(arena.isOverfull).toBe(false);
      expect(arena.sparePages).toBeGreaterThan(1024 - 16);
      expect(arena.sparePages).toBeLessThanOrEqual(1024);
    });
  });
});

it('has no memory, and no SIGBUS, when the file system is full', (context) => {
  const ran = withMount('tmpfs', 'size=256k', (folder) => {
    const path = join(folder, 'arena');
    writeFileSync(path, '');
    truncateSync(path, 256 * 4096);
    const fd = openSync(path, 'r+');
    const arena = new Arena(fd, 256, emptyState(256));
    const pages: number[] = [];
    for (let page = arena.allocatePage(PAGE_RAW); page !== 0; page = arena.allocatePage(PAGE_RAW)) {
      arena.segments[0]!.fill(page, page * 1024, (page + 1) * 1024);
      pages.push(page);
    }
    // 64 pages fit; one of them is page 0.
    expect([pages.length, arena.lastErrno]).toEqual([63, ENOSPC]);
    for (const page of pages) expect(arena.segments[0]![page * 1024 + 1023]).toBe(page);
    arena.freePage(pages[0]!);
    expect(arena.allocatePage(PAGE_POOL)).toBe(pages[0]);
    expect(arena.allocatePage(PAGE_POOL)).toBe(0);
    closeFd(fd);
  });
  if (!ran) context.skip();
});

describe('the largest arena', () => {
  it('maps one segment a GiB, all at the start', () => {
    withArena(ARENA_PAGES_MAX, (harness) => {
      const { arena } = harness;
      arena.allocatePage(PAGE_RAW);
      expect(arena.segments.length).toBe(16);
      arena.freePage(1);
      arena.markTrimInterval();
      trimAll(arena);
      withdrawPagesBelow(harness, 2 ** 19);
      const page = arena.allocatePage(PAGE_RAW);
      expect(page).toBe(2 ** 19);
      arena.segments[2]![0] = 42;
      expect(pagesHeldBy(harness.fd)).toBe(17);
      arena.freePage(page);
      expect(arena.kindOf(page)).toBe(PAGE_FREE);
    });
  });

  it('ends at its last page', () => {
    withArena(ARENA_PAGES_MAX, (harness) => {
      withdrawPagesBelow(harness, ARENA_PAGES_MAX - 16);
      const pages = allocateMany(harness.arena, 17);
      expect(pages[15]).toBe(ARENA_PAGES_MAX - 1);
      expect(pages[16]).toBe(0);
      harness.arena.segments[15]!.fill(-1, (2 ** 18 - 1) * 1024);
      expect(harness.arena.segments).toHaveLength(16);
    });
  });

  it('is not exceeded, and is whole blocks', () => {
    expect(() => new Arena(0, ARENA_PAGES_MAX + 16, emptyState(16))).toThrow(AssertionError);
    expect(() => new Arena(0, 24, emptyState(32))).toThrow(AssertionError);
  });
});
