/**
 * --wipe-on-free: of a page that the guest needs no longer nothing is left in the arena, whichever
 * way it went, and of a page that compaction has moved there is one copy. Each claim is also made the
 * other way round without the option: the scan does find what is there.
 */

import { describe, expect, it } from 'vitest';
import { PAGE_DONE } from '../../src/base/page-operation.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { mapStore } from '../../src/store/mapped-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { storeShape } from '../../src/store/store-options.ts';
import { tracesOf } from '../models/arena-scan.ts';
import { type Random, replayable, SEED, seededRandom } from '../models/random.ts';
import { GUEST_PAGE, StoreBench } from '../models/store-bench.ts';

const arenaOf = ({ store }: StoreBench) => store.mapped.shared.arenaFd;
/** Noise that the compressor keeps as it is, and zeros behind it; `bytes` 8: a fill pattern. */
function pageOf(bytes: number, random: Random): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  const noise = random.bytes(bytes);
  if (bytes === 8) for (let at = 0; at < PAGE_BYTES; at += 8) page.set(noise, at);
  else page.set(noise);
  return page;
}

/** What is kept as: a fill pattern, objects with 0 to 3 bytes of the last word unused, a raw page. */
const SIZES = [8, 300, 1001, 1002, 1003, 2600, 4096];
const WAYS: Record<string, (bench: StoreBench, slot: number, random: Random) => void> = {
  freed: (bench, slot) => bench.free(slot),
  zeroed: (bench, slot) => bench.zero(slot),
  'overwritten with less': (bench, slot, random) => bench.write(slot, pageOf(200, random)),
  'overwritten with more': (bench, slot, random) => bench.write(slot, pageOf(2900, random)),
  'zeroed in two parts': (bench, slot) => {
    bench.writePart(slot, 0, new Uint8Array(3000));
    bench.writePart(slot, 3000, new Uint8Array(PAGE_BYTES - 3000));
  },
};

describe.each(Object.keys(WAYS))('a page that is %s', (way) => {
  it.each(SIZES)('leaves nothing of its %i bytes', (bytes) => {
    const random = seededRandom(SEED);
    for (const wipesOnFree of [true, false]) {
      const bench = new StoreBench({ slots: 64, wipesOnFree });
      const neighbour = pageOf(700, random);
      const pages = Array.from({ length: 8 }, () => pageOf(bytes, random));
      bench.write(0, neighbour);
      pages.forEach((page, i) => {
        bench.write(1 + i, page);
      });
      bench.write(20, neighbour);
      expect(tracesOf(pages, arenaOf(bench))).toBeGreaterThan(0);
      pages.forEach((_, i) => {
        WAYS[way]!(bench, 1 + i, random);
      });
      const traces = tracesOf(pages, arenaOf(bench));
      if (wipesOnFree) expect(traces).toBe(0);
      else expect(traces).toBeGreaterThan(0);
      bench.compareAllSlots();
      bench.compareStatistics();
    }
  });
});

describe('pages that are moved', () => {
  it('are there once, and what was freed around them not at all', () => {
    replayable((random) => {
      for (const wipesOnFree of [true, false]) {
        const slots = 500;
        const bench = new StoreBench({ slots, wipesOnFree });
        const freed: Uint8Array[] = [];
        for (let slot = 0; slot < slots; slot++) {
          bench.write(slot, pageOf(random.between(200, 2800), random));
        }
        for (let slot = 0; slot < slots; slot++) {
          if (random.below(100) >= 60) continue;
          freed.push(bench.model.page(slot));
          bench.free(slot);
        }
        const kept = [...bench.model.slots.values()].map(({ page }) => page);
        const before = bench.store.mapped.table.slice();
        const once = tracesOf(kept, arenaOf(bench));
        const freedBefore = tracesOf(freed, arenaOf(bench));
        bench.maintainFor(2_000_000);
        const moved = bench.store.mapped.table.filter((word, slot) => word !== before[slot]);
        expect(moved.length).toBeGreaterThan(50);
        const traces = [tracesOf(kept, arenaOf(bench)), tracesOf(freed, arenaOf(bench))];
        if (wipesOnFree) {
          expect(freedBefore).toBe(0);
          expect(traces[1]).toBe(0);
          // Where an object now lies across two pages of memory, a few bytes are not seen together.
          expect(Math.abs(traces[0]! - once)).toBeLessThan(once / 100);
        } else {
          expect(freedBefore).toBeGreaterThan(0);
          expect(traces[1]).toBeGreaterThan(0);
        }
        bench.compareAllSlots();
        bench.compareStatistics();
      }
    });
  });

  it('leave nothing in the block that they have left, while it is kept for reuse', () => {
    const random = seededRandom(SEED);
    for (const wipesOnFree of [true, false]) {
      const bench = new StoreBench({ slots: 64, wipesOnFree });
      const page = pageOf(2000, random);
      bench.write(1, page);
      const { table, objects, arena } = bench.store.mapped;
      objects.evacuate(table[1]! >>> 14);
      const from = table[1]!;
      expect(bench.store.moveObject(1)).toBe(true);
      expect(table[1]).not.toBe(from);
      const old = arena.segments[0]!.subarray(from, from + 400);
      expect(old.every((word) => word === 0)).toBe(wipesOnFree);
      bench.compareAllSlots();
    }
  });
});

it('holds for what one thread has stored and another frees', () => {
  const random = seededRandom(SEED);
  const bench = new StoreBench({ slots: 64, wipesOnFree: true, threads: 2 });
  const other = PageStore.join(bench.store.share, 1);
  for (const bytes of SIZES) {
    const pages = [pageOf(bytes, random), pageOf(bytes, random)];
    bench.window.u8.set(pages[0]!, GUEST_PAGE);
    bench.store.writePage(1, bench.window, GUEST_PAGE);
    bench.window.u8.set(pages[1]!, GUEST_PAGE);
    other.writePage(2, bench.window, GUEST_PAGE);
    expect(tracesOf(pages, arenaOf(bench))).toBeGreaterThan(0);
    other.freePage(1);
    bench.window.u8.fill(0, GUEST_PAGE, GUEST_PAGE + PAGE_BYTES);
    bench.store.writePart(2, 0, PAGE_BYTES, bench.window, GUEST_PAGE);
    expect(tracesOf(pages, arenaOf(bench))).toBe(0);
  }
});

it('keeps nothing of an earlier page in the last word of an object', () => {
  const random = seededRandom(SEED);
  for (const wipesOnFree of [true, false]) {
    const bench = new StoreBench({ slots: 64, wipesOnFree });
    let others = 0;
    for (let bytes = 300; bytes < 340; bytes++) {
      bench.write(1, pageOf(2600, random));
      bench.free(1);
      bench.write(1, pageOf(bytes, random));
      const { table, objects, arena } = bench.store.mapped;
      const used = objects.sizeOf(table[1]!);
      const last = arena.segments[0]![table[1]! + (used >> 2)]!;
      if (used % 4 !== 0 && last >>> (8 * (used % 4)) !== 0) others++;
    }
    if (wipesOnFree) expect(others).toBe(0);
    else expect(others).toBeGreaterThan(0);
  }
});

it('holds for what a process had let go of when it was killed, once the next has the store', () => {
  const random = seededRandom(SEED);
  for (const wipesOnFree of [true, false]) {
    // It wipes nothing: as if it were killed each time between letting go and wiping.
    const bench = new StoreBench({ slots: 400 });
    const gone = SIZES.flatMap((bytes) => Array.from({ length: 16 }, () => pageOf(bytes, random)));
    const kept = Array.from({ length: gone.length }, (_, i) => pageOf(300 + 8 * i, random));
    gone.forEach((page, i) => {
      bench.write(2 * i, page);
      bench.write(2 * i + 1, kept[i]!);
    });
    for (let i = 0; i < gone.length; i++) bench.free(2 * i);
    expect(tracesOf(gone, arenaOf(bench))).toBeGreaterThan(0);
    const options = { slots: 400, wipesOnFree };
    const files = { fd: bench.store.mapped.shared.fd, arenaFd: arenaOf(bench), isKept: true };
    const [store, { damaged }] = PageStore.recover(options, mapStore(storeShape(options), files));
    expect(damaged).toBe(0);
    const traces = tracesOf(gone, arenaOf(bench));
    if (wipesOnFree) expect(traces).toBe(0);
    else expect(traces).toBeGreaterThan(0);
    kept.forEach((page, i) => {
      expect(store.readPage(2 * i + 1, bench.window, GUEST_PAGE)).toBe(PAGE_DONE);
      const found = bench.window.u8.subarray(GUEST_PAGE, GUEST_PAGE + PAGE_BYTES);
      expect(Buffer.compare(found, page)).toBe(0);
    });
  }
});
