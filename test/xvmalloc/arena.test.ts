/** The arena: pages handed out and taken back, memory reserved and given back to the system. */

import { openSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { closeFd } from '../../src/native/fd.ts';
import { Budget } from '../../src/store/budget.ts';
import {
  ARENA_GAUGE,
  ARENA_PAGES_MAX,
  Arena,
  BLOCK_FREE,
  BLOCK_RAW,
} from '../../src/xvmalloc/arena.ts';
import { MappedArenaFile } from '../../src/xvmalloc/arena-file.ts';
import { BudgetShare } from '../../src/xvmalloc/budget-share.ts';
import {
  type ArenaHarness,
  emptyState,
  withArena,
  withdrawBlocksBelow,
} from '../models/arena-harness.ts';
import { ArenaModel } from '../models/arena-model.ts';
import { pagesHeldBy, withMount } from '../models/descriptors.ts';
import { type Random, replayable } from '../models/random.ts';

const ENOSPC = 28;

function allocateMany(arena: Arena, count: number): number[] {
  return Array.from({ length: count }, () => arena.allocatePage());
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
    pool: model.pool.size * 16,
    raw: model.raw.size,
    reserved: model.reserved,
    held: model.reserved,
  });
}

/** One random change to both. */
function change({ arena }: ArenaHarness, model: ArenaModel, random: Random, growing: boolean) {
  const action = random.below(100);
  const toGrow = growing ? 60 : 25;
  if (action < toGrow * 0.7) {
    const page = arena.allocatePage();
    expect(page).toBe(model.allocatePage(arena.limitPages));
    if (page !== 0) arena.segments[0]!.fill(page, page * 1024, (page + 1) * 1024);
  } else if (action < toGrow) {
    const owner = random.between(1, 16);
    const block = arena.allocateBlock(owner);
    expect(block).toBe(model.allocateBlock(owner, arena.limitPages));
    if (block !== 0) arena.segments[0]!.fill(block, block * 16384, (block + 1) * 16384);
  } else if (action < 98) {
    giveBack(arena, model, random, action);
  } else {
    arena.limitPages = random.rarely(2) ? 400 : random.below(400);
  }
}

/** By `action`, below 98: a page or a block is freed, or memory goes back to the system. */
function giveBack(arena: Arena, model: ArenaModel, random: Random, action: number): void {
  if (action < 80 && model.raw.size > 0) {
    const page = random.pick([...model.raw]);
    model.freePage(page);
    arena.freePage(page);
  } else if (action < 90 && model.pool.size > 0) {
    const block = random.pick([...model.pool.keys()]);
    model.freeBlock(block);
    arena.freeBlock(block);
  } else if (action < 96) {
    expect(arena.trim()).toBe(model.trim());
  } else {
    model.markTrimInterval();
    arena.markTrimInterval();
  }
}

describe('random changes', () => {
  it('leave the arena equal to its model, and the file holding just the reserved pages', () => {
    replayable((random) => {
      const pages = 400;
      withArena(pages, (harness) => {
        const { state } = harness;
        const model = new ArenaModel(pages);
        for (let i = 0; i < 6000; i++) {
          change(harness, model, random, i % 1500 < 800);
          expectEqual(harness, model);
          const block = random.below(pages / 16);
          const owner = model.isRaw(block) ? BLOCK_RAW : (model.pool.get(block) ?? BLOCK_FREE);
          expect(state.blockMap[block]).toBe(owner);
        }
      });
    });
  });
});

describe('a page', () => {
  it('is every one of the arena but page 0, once, lowest first', () => {
    withArena(64, ({ arena }) => {
      expect(allocateMany(arena, 63)).toEqual(Array.from({ length: 63 }, (_, i) => i + 1));
      expect(arena.allocatePage()).toBe(0);
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

  it('is freed once, and is no block', () => {
    withArena(64, ({ arena }) => {
      const [page, other] = [arena.allocatePage(), arena.allocatePage()];
      arena.freePage(page);
      expect(() => arena.freePage(page)).toThrow(AssertionError);
      expect(() => arena.freePage(0)).toThrow(AssertionError);
      expect(() => arena.freeBlock(Math.floor(other / 16))).toThrow(AssertionError);
    });
  });
});

describe('a block', () => {
  it('is every one of the arena but the first, once, lowest first', () => {
    withArena(64, ({ arena, state }) => {
      expect([7, 8, 9, 10].map((owner) => arena.allocateBlock(owner))).toEqual([1, 2, 3, 0]);
      expect([...state.blockMap]).toEqual([BLOCK_RAW, 7, 8, 9]);
      expect(arena.usedPages).toBe(48);
    });
  });

  it('is freed once, and not a page at a time', () => {
    withArena(64, ({ arena }) => {
      const block = arena.allocateBlock(1);
      expect(() => arena.freePage(block * 16)).toThrow(AssertionError);
      arena.freeBlock(block);
      expect(() => arena.freeBlock(block)).toThrow(AssertionError);
    });
  });

  it('of raw pages is free for the pool when the last of them is freed', () => {
    withArena(48, ({ arena }) => {
      const pages = allocateMany(arena, 16);
      expect([arena.allocateBlock(1), arena.allocateBlock(1)]).toEqual([2, 0]);
      arena.freePage(pages[15]!);
      expect(arena.allocateBlock(1)).toBe(1);
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
      expect(arena.allocatePage()).toBe(0);
    });
  });

  it('gives no block where less than a block is left', () => {
    withArena(64, ({ arena }) => {
      arena.limitPages = 17;
      expect([arena.allocateBlock(1), arena.allocateBlock(1)]).toEqual([1, 0]);
      expect(allocateMany(arena, 2)).toEqual([1, 0]);
    });
  });

  it('in bytes is whole pages, and none is all of the arena', () => {
    withArena(64, ({ arena }) => {
      arena.limitTo(3 * 4096 + 4095);
      expect(arena.limitPages).toBe(3);
      for (const bytes of [undefined, 2 ** 50]) {
        arena.limitTo(bytes);
        expect(arena.limitPages).toBe(63);
      }
    });
  });

  it('may be given at construction', () => {
    const state = emptyState(32);
    withArena(32, ({ fd }) => {
      const arena = new Arena(new MappedArenaFile(fd, 32), 32, state);
      arena.begin(1);
      expect(allocateMany(arena, 2)).toEqual([1, 0]);
    });
  });
});

describe('a budget', () => {
  /** Two devices, and an arena that is the first one's. */
  function withBudget(
    pages: number,
    budgetPages: number,
    use: (harness: ArenaHarness, budget: Budget, other: BudgetShare) => void,
  ): void {
    const budget = Budget.make(budgetPages * 4096);
    const own = budget.add('own');
    const other = new BudgetShare(budget.add('other').terms);
    withArena(pages, ({ fd, state }) => {
      state.words.fill(0);
      const share = new BudgetShare(own.terms);
      const arena = new Arena(new MappedArenaFile(fd, pages), pages, state, { budget: share });
      arena.begin();
      use({ arena, fd, state }, budget, other);
    });
  }

  const ownFigures = (budget: Budget) => budget.figures().devices[0]!;
  const usedBy = (budget: Budget) => ownFigures(budget).usedBytes / 4096;

  it('has what the arena uses, after every random change', () => {
    replayable((random) => {
      withBudget(400, 500, (harness, budget, other) => {
        const { arena } = harness;
        const model = new ArenaModel(400);
        for (let i = 0; i < 4000; i++) {
          if (random.rarely(20)) other.hold(random.below(500));
          const before = ownFigures(budget).refusals;
          // The model has no budget: it is not asked where that refuses.
          if (random.below(100) < 55) {
            const isPage = random.rarely(3);
            const got = isPage ? arena.allocatePage() : arena.allocateBlock(3);
            const isRefused = ownFigures(budget).refusals > before;
            if (got === 0) expect(arena.refusedBy === 'budget').toBe(isRefused);
            if (isRefused) expect(got).toBe(0);
            else expect(got).toBe(isPage ? model.allocatePage(399) : model.allocateBlock(3, 399));
          } else {
            giveBack(arena, model, random, random.between(50, 97));
          }
          expectEqual(harness, model);
          expect(usedBy(budget)).toBe(arena.usedPages);
        }
        expect(ownFigures(budget).refusals).toBeGreaterThan(10);
      });
    });
  });

  it('that refuses is a shortage, and the file is not asked for memory', () => {
    withBudget(64, 64, ({ arena, fd }, _, other) => {
      other.hold(64);
      expect([arena.allocatePage(), arena.allocateBlock(1)]).toEqual([0, 0]);
      expect(pagesHeldBy(fd)).toBe(0);
      expect([arena.takeShortage(), arena.takeShortage()]).toEqual([true, false]);
      expect(arena.refusal).toMatch(/budget of all devices is used up, of which 131072 bytes are/);
      other.hold(0);
      expect(arena.allocateBlock(1)).toBe(1);
    });
  });

  it('is asked for nothing that the limit of the arena itself refuses', () => {
    withBudget(64, 64, ({ arena }, budget) => {
      arena.limitPages = 15;
      expect([arena.allocateBlock(1), arena.refusedBy]).toEqual([0, 'limit']);
      expect(ownFigures(budget)).toMatchObject({ usedBytes: 0, refusals: 0 });
    });
  });

  it('has back what the system refuses', () => {
    const budget = Budget.make(64 * 4096);
    const share = new BudgetShare(budget.add('own').terms);
    const file = { segments: [], reserve: () => -ENOSPC, punch: () => 0 };
    const arena = new Arena(file, 64, emptyState(64), { budget: share });
    arena.begin();
    expect([arena.allocatePage(), arena.allocateBlock(1)]).toEqual([0, 0]);
    expect([arena.refusedBy, arena.refusal]).toEqual(['memory', expect.stringMatching('ENOSPC')]);
    expect(share.usedPages).toBe(0);
  });

  it('has to take what is found in use, and has it back when the state is made anew', () => {
    withBudget(64, 16, ({ arena, state }, budget) => {
      state.blockMap.fill(3);
      arena.restore((block) => (block === 1 || block === 2 ? 0xffff : 0));
      expect([arena.usedPages, usedBy(budget)]).toEqual([32, 32]);
      arena.freeBlock(1);
      expect(usedBy(budget)).toBe(16);
      arena.restore(() => 0);
      expect(usedBy(budget)).toBe(0);
    });
  });
});

describe('the budget, when the state is made anew', () => {
  it.each([
    ['falls, has nothing back before the file has given its memory back', 32, 16, 32],
    ['rises, has it before the file is asked for it', 16, 32, 32],
  ])('and what is in use %s', (_, before, after, meanwhile) => {
    const share = new BudgetShare(Budget.make(64 * 4096).add('own').terms);
    const seen = new Set<number>();
    const look = () => {
      seen.add(share.usedPages);
      return 0;
    };
    const state = emptyState(64);
    const arena = new Arena({ segments: [], reserve: look, punch: look }, 64, state, {
      budget: share,
    });
    arena.begin();
    const use = (pages: number) => {
      state.blockMap.fill(3);
      arena.restore((block) => (block > 0 && block <= pages / 16 ? 0xffff : 0));
    };
    use(before);
    seen.clear();
    use(after);
    expect([...seen]).toEqual([meanwhile]);
    expect(share.usedPages).toBe(after);
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
      trimAll(arena);
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
      trimAll(arena);
      expect([pagesHeldBy(fd), state.gauges[ARENA_GAUGE.reservedPages]]).toEqual([2, 2]);
      expect(arena.segments[0]!.subarray(40 * 1024, 41 * 1024).every((word) => word === 7)).toBe(
        true,
      );
      expect(arena.segments[0]![39 * 1024]).toBe(0);
    });
  });

  it('is given back a block a step', () => {
    withArena(256, ({ arena, fd }) => {
      for (const page of allocateMany(arena, 255)) arena.freePage(page);
      arena.markTrimInterval();
      for (let left = 240; left > 0; left -= 16) {
        expect(arena.trim()).toBe(true);
        expect(pagesHeldBy(fd)).toBe(left);
      }
      expect(arena.trim()).toBe(false);
    });
  });

  it('goes at once, with the page or block that is freed, above 1024 spare pages', () => {
    withArena(8192, ({ arena, fd }) => {
      const pages = allocateMany(arena, 3007);
      const blocks = Array.from({ length: 100 }, () => arena.allocateBlock(1));
      for (const page of pages.slice(0, 1024)) arena.freePage(page);
      expect(arena.sparePages).toBe(1024);
      expect(arena.punchedPages).toBe(0);
      for (const page of pages.slice(1024)) arena.freePage(page);
      for (const block of blocks) {
        arena.freeBlock(block);
        expect(arena.sparePages).toBeLessThanOrEqual(1024);
        expect(pagesHeldBy(fd)).toBe(arena.usedPages + arena.sparePages + 1);
      }
      expect(arena.sparePages).toBeGreaterThan(1024 - 16);
      expect(arena.punchedPages).toBe(3007 + 1600 - arena.sparePages);
    });
  });
});

it('has no memory, and no SIGBUS, when the file system is full', (context) => {
  const ran = withMount('tmpfs', 'size=256k', (folder) => {
    const path = join(folder, 'arena');
    writeFileSync(path, '');
    truncateSync(path, 256 * 4096);
    const fd = openSync(path, 'r+');
    const arena = new Arena(new MappedArenaFile(fd, 256), 256, emptyState(256));
    arena.begin();
    const pages: number[] = [];
    for (let page = arena.allocatePage(); page !== 0; page = arena.allocatePage()) {
      arena.segments[0]!.fill(page, page * 1024, (page + 1) * 1024);
      pages.push(page);
    }
    // 64 pages fit; one of them is page 0.
    expect([pages.length, arena.lastErrno]).toEqual([63, ENOSPC]);
    for (const page of pages) expect(arena.segments[0]![page * 1024 + 1023]).toBe(page);
    arena.freePage(pages[0]!);
    expect(arena.allocatePage()).toBe(pages[0]);
    expect([arena.allocatePage(), arena.allocateBlock(1)]).toEqual([0, 0]);
    closeFd(fd);
  });
  if (!ran) context.skip();
});

describe('the largest arena', () => {
  it('maps one segment a GiB, all at the start', () => {
    withArena(ARENA_PAGES_MAX, (harness) => {
      const { arena, state } = harness;
      arena.freePage(arena.allocatePage());
      expect(arena.segments.length).toBe(16);
      arena.markTrimInterval();
      trimAll(arena);
      withdrawBlocksBelow(harness, 2 ** 15);
      const block = arena.allocateBlock(1);
      expect(block).toBe(2 ** 15);
      arena.segments[2]![0] = 42;
      expect(pagesHeldBy(harness.fd)).toBe(17);
      arena.freeBlock(block);
      expect(state.blockMap[block]).toBe(BLOCK_FREE);
    });
  });

  it('ends at its last page', () => {
    withArena(ARENA_PAGES_MAX, (harness) => {
      const last = ARENA_PAGES_MAX / 16 - 1;
      withdrawBlocksBelow(harness, last);
      expect([harness.arena.allocateBlock(1), harness.arena.allocateBlock(1)]).toEqual([last, 0]);
      harness.arena.segments[15]!.fill(-1, (2 ** 18 - 1) * 1024);
      expect(harness.arena.segments).toHaveLength(16);
    });
  });

  const NO_FILE = { segments: [], reserve: () => 0, punch: () => 0 };

  it('is not exceeded, and is whole blocks', () => {
    expect(() => new Arena(NO_FILE, ARENA_PAGES_MAX + 16, emptyState(16))).toThrow(AssertionError);
    expect(() => new Arena(NO_FILE, 24, emptyState(32))).toThrow(AssertionError);
  });
});

describe('several threads', () => {
  it('see one arena, each through an object of its own', () => {
    withArena(64, ({ arena, fd, state }) => {
      const other = new Arena(new MappedArenaFile(fd, 64), 64, state, { isShared: true });
      const page = arena.allocatePage();
      other.segments[0]![page * 1024] = 7;
      expect(arena.segments[0]![page * 1024]).toBe(7);
      expect([other.allocatePage(), other.allocateBlock(2)]).toEqual([2, 1]);
      arena.freeBlock(1);
      arena.limitPages = 3;
      expect([other.usedPages, other.sparePages, other.limitPages]).toEqual([2, 29, 3]);
    });
  });
});
