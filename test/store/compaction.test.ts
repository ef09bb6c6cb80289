/** Compaction: what churn leaves behind goes back, no page changes, each step is small. */

import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { COUNTER } from '../../src/store/statistics.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';
import { type Random, replayable } from '../models/random.ts';
import { StoreBench } from '../models/store-bench.ts';

const SLOTS = 3000;

/** A page that compresses to about `bytes`. */
function pageOf(bytes: number, random: Random): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  page.set(random.bytes(bytes));
  return page;
}

function fill(bench: StoreBench, random: Random, slots = SLOTS): void {
  for (let slot = 0; slot < slots; slot++) {
    bench.write(slot, pageOf(random.between(200, 2800), random));
  }
}

function freeAtRandom(bench: StoreBench, random: Random, percent: number): void {
  for (let slot = 0; slot < SLOTS; slot++) if (random.below(100) < percent) bench.free(slot);
}

const poolBytes = (bench: StoreBench) => bench.gauge(ARENA_GAUGE.poolPages) * PAGE_BYTES;
/** Bytes of objects over bytes of memory held for them. */
const useful = (bench: StoreBench) => bench.counter('comprDataSize') / poolBytes(bench);

describe('after 60% were freed at random', () => {
  it('memory is useful again, and every page is what it was', () => {
    replayable((random) => {
      const bench = new StoreBench({ slots: SLOTS });
      fill(bench, random);
      freeAtRandom(bench, random, 60);
      const before = useful(bench);
      bench.maintainFor(2_000_000);
      console.log(`useful after the churn ${before.toFixed(3)}, then ${useful(bench).toFixed(3)}`);
      expect(before).toBeLessThan(0.6);
      expect(useful(bench)).toBeGreaterThanOrEqual(0.93);
      expect(bench.gauge(ARENA_GAUGE.reservedPages) * PAGE_BYTES).toBeLessThan(
        poolBytes(bench) + 128 * 1024,
      );
      bench.compareAllSlots();
      bench.compareStatistics();
      expect(bench.store.maintain(2_000_001)).toBe(-1);
    });
  });

  it('never needs more than some MiB meanwhile', () => {
    replayable((random) => {
      const bench = new StoreBench({ slots: SLOTS });
      fill(bench, random);
      freeAtRandom(bench, random, 60);
      const before = poolBytes(bench);
      let most = 0;
      for (let i = 0; bench.store.maintain(500_000 + i * 100) === 0; i++) {
        most = Math.max(most, poolBytes(bench));
      }
      expect(poolBytes(bench)).toBeLessThan(before / 2);
      expect(most - before).toBeLessThan(before / 16);
    });
  });

  it('a guest may go on writing, reading and freeing between any two steps', () => {
    replayable((random) => {
      const bench = new StoreBench({ slots: SLOTS });
      fill(bench, random);
      freeAtRandom(bench, random, 60);
      let now = 0;
      for (let i = 0; i < 3000; i++) {
        const slot = random.below(SLOTS);
        const action = random.below(4);
        if (action === 0) bench.write(slot, pageOf(random.between(200, 2800), random));
        else if (action === 1) bench.free(slot);
        else expect(bench.read(slot)).toBe(true);
        const wait = bench.store.maintain(now | 0);
        now += random.rarely(50) ? wait * 1000 : 1000;
      }
      bench.compareStatistics();
      bench.maintainFor(2_000_000, now);
      expect(useful(bench)).toBeGreaterThanOrEqual(0.93);
      bench.compareAllSlots();
      bench.compareStatistics();
    });
  });
});

it('moves few objects in a step, looks at few slots, and comes to an end', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS });
    fill(bench, random);
    freeAtRandom(bench, random, 60);
    const table = bench.store.mapped.table;
    let most = 0;
    let steps = 0;
    for (let before = table.slice(); bench.store.maintain(500_000 + steps * 100) === 0; steps++) {
      const after = table.slice();
      most = Math.max(most, after.filter((word, slot) => word !== before[slot]).length);
      before = after;
      expect(steps).toBeLessThan(20_000);
    }
    expect(most).toBe(4);
  });
});

it('leaves a busy guest’s memory alone while most of it is useful', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS });
    fill(bench, random);
    freeAtRandom(bench, random, 11);
    const words = bench.store.mapped.table.slice();
    for (let i = 0; i < 40; i++) {
      bench.read(random.below(SLOTS));
      bench.store.maintain(i * 50_000);
    }
    expect(Buffer.compare(bytesOf(words), bytesOf(bench.store.mapped.table))).toBe(0);
    // And sees to it when the guest is quiet.
    bench.maintainFor(2_000_000, 2_000_000);
    expect(useful(bench)).toBeGreaterThanOrEqual(0.945);
    bench.compareAllSlots();
  });
});

it('does nothing where nothing is wasted', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS });
    fill(bench, random);
    const words = bench.store.mapped.table.slice();
    bench.maintainFor(2_000_000);
    expect(Buffer.compare(bytesOf(words), bytesOf(bench.store.mapped.table))).toBe(0);
  });
});

it('gives up where there is no memory to move to, and keeps every page', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS });
    fill(bench, random);
    freeAtRandom(bench, random, 60);
    bench.store.mapped.arena.limitPages = 1;
    bench.maintainFor(3_000_000);
    bench.compareAllSlots();
    bench.compareStatistics();
    // What was evacuated gives memory again.
    expect(bench.write(0, pageOf(300, random))).toBe(true);
    bench.store.mapped.arena.limitPages = 10_000;
  });
});

it('makes room for writes that found none', () => {
  replayable((random) => {
    const limit = 600;
    const bench = new StoreBench({ slots: SLOTS, poolLimitBytes: limit * PAGE_BYTES });
    let slots = 0;
    while (bench.write(slots, pageOf(1000, random))) slots++;
    for (let slot = 0; slot < slots; slot += 2) bench.free(slot);
    expect(bench.write(SLOTS - 1, pageOf(2000, random))).toBe(false);
    // The guest is busy throughout: it reads between any two steps.
    for (let i = 0; i < 2000; i++) {
      bench.store.maintain(i * 1000);
      bench.read(random.below(slots));
    }
    for (let slot = 0; slot < 100; slot++)
      expect(bench.write(slot * 2, pageOf(2000, random))).toBe(true);
    bench.compareStatistics();
  });
});

it('regression: does not try the same again and again when there is no memory', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS });
    fill(bench, random);
    freeAtRandom(bench, random, 60);
    // As after a burst: the guest is busy, then a write finds no memory.
    bench.store.mapped.arena.limitPages = 1;
    bench.write(0, pageOf(2800, random));
    bench.maintainFor(3_000_000);
    expect(bench.store.maintain(3_000_001)).toBe(-1);
    bench.compareAllSlots();
  });
});

it('regression: hurries for a write of another thread that found no memory', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS, threads: 2 });
    const other = PageStore.join(bench.store.share, 1);
    fill(bench, random);
    freeAtRandom(bench, random, 8);
    const words = bench.store.mapped.table.slice();
    bench.store.mapped.arena.limitPages = bench.store.mapped.arena.usedPages;
    bench.window.u8.set(random.bytes(PAGE_BYTES), 128 * 1024);
    other.writePage(0, bench.window, 128 * 1024);
    for (let i = 0; i < 4000; i++) {
      bench.read(1 + random.below(SLOTS - 1));
      bench.store.maintain(i * 1000);
    }
    expect(Buffer.compare(bytesOf(words), bytesOf(bench.store.mapped.table))).not.toBe(0);
  });
});

it('regression: begins when pages are zeroed, too', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS });
    fill(bench, random);
    bench.maintainFor(2_000_000);
    for (let slot = 0; slot < SLOTS; slot++) if (random.below(100) < 60) bench.zero(slot);
    bench.maintainFor(2_000_000, 2_000_000);
    expect(useful(bench)).toBeGreaterThanOrEqual(0.93);
    bench.compareAllSlots();
  });
});

it('looks after all threads’ objects, and is thread 0’s to do', () => {
  replayable((random) => {
    const bench = new StoreBench({ slots: SLOTS, threads: 2 });
    const other = PageStore.join(bench.store.share, 1);
    for (let slot = 0; slot < SLOTS; slot++) {
      const page = pageOf(random.between(200, 2800), random);
      if (slot % 2 === 0) {
        bench.write(slot, page);
      } else {
        bench.window.u8.set(page, 128 * 1024);
        other.writePage(slot, bench.window, 128 * 1024);
        bench.model.put(slot, page);
        bench.model.writes++;
      }
    }
    freeAtRandom(bench, random, 60);
    expect(other.maintain(0)).toBe(-1);
    expect(other.counters[COUNTER.numWrites]).toBe(SLOTS / 2);
    for (let i = 0; i < 20_000; i++) bench.store.maintain(i * 100);
    bench.compareStatistics();
    expect(bench.store.maintain(2_000_000)).toBe(500);
    expect(bench.model.objectBytes / poolBytes(bench)).toBeGreaterThanOrEqual(0.93);
    bench.compareAllSlots();
    bench.compareStatistics();
  });
});

function bytesOf(words: Int32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}
