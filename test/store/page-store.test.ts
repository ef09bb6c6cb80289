/**
 * The page store: limits, damage, memory that comes back, and what the table's words say. Random
 * operations against a model are in page-store.model.test.ts.
 */

import { describe, expect, it } from 'vitest';
import { PAGE_DONE, PAGE_FAILED } from '../../src/base/page-operation.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { WINDOW_BOUNCE_OFFSET, WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { INCOMPRESSIBLE_BYTES, PageStore } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { recoverStore } from '../../src/store/recovery.ts';
import { COUNTER, HELD_COUNTERS, sumCounter } from '../../src/store/statistics.ts';
import { UNKNOWN_PROCESS } from '../../src/store/store-header.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';
import { pagesHeldBy } from '../models/descriptors.ts';
import { compressedBytes, keepingOf } from '../models/page-store-model.ts';
import { PAGE_KINDS, pageCompressingTo, somePage } from '../models/pages.ts';
import { SEED, seededRandom } from '../models/random.ts';
import { GUEST_PAGE, StoreBench } from '../models/store-bench.ts';

const random = seededRandom(SEED);
const kind = (name: string) => PAGE_KINDS[name]!(random);
const incompressible = () => kind('random');
/** A page whose compressed length is about `bytes`. */
function pageOf(bytes: number): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  page.set(random.bytes(bytes));
  return page;
}

describe('a slot', () => {
  it.each(Object.keys(PAGE_KINDS))('gives back a page of kind %s', (name) => {
    const bench = new StoreBench({ slots: 4 });
    expect(bench.write(2, kind(name))).toBe(true);
    expect(bench.read(2)).toBe(true);
    bench.compareStatistics();
  });

  it('reads as zeros when it was never written, and counts that as a read', () => {
    const bench = new StoreBench({ slots: 4 });
    bench.compareAllSlots();
    expect(bench.counter('numReads')).toBe(4);
    bench.compareStatistics();
  });

  it('is raw above three quarters of a page, and compressed at three quarters', () => {
    const bench = new StoreBench({ slots: 2 });
    const [atThreshold, above] = [0, 1].map((more) =>
      pageCompressingTo(INCOMPRESSIBLE_BYTES + more, random, compressedBytes),
    );
    bench.write(0, atThreshold!);
    expect([bench.counter('pagesExpand'), bench.counter('comprDataSize')]).toEqual([0, 3072]);
    bench.write(0, above!);
    expect([bench.counter('pagesExpand'), bench.counter('comprDataSize')]).toEqual([1, 4096]);
    bench.compareAllSlots();
  });

  it('compresses well at half a page, and not well at one byte more', () => {
    const bench = new StoreBench({ slots: 1 });
    for (const [length, isGood] of [
      [2048, 1],
      [2049, 0],
    ] as const) {
      bench.write(0, pageCompressingTo(length, random, compressedBytes));
      expect([bench.counter('comprDataSize'), bench.counter('goodCompress')]).toEqual([
        length,
        isGood,
      ]);
    }
  });

  it('of a fill pattern takes next to no memory, and of one byte no memory at all', () => {
    const bench = new StoreBench({ slots: 600 });
    bench.write(0, kind('zero'));
    bench.write(1, kind('byteFill'));
    expect(bench.store.mapped.arena.usedPages).toBe(0);
    // 64 KiB, a block of the pool, hold 5461 of them.
    for (let slot = 2; slot < 340; slot++) bench.write(slot, kind('eightByteFill'));
    expect(bench.store.mapped.arena.usedPages).toBe(16);
    bench.compareAllSlots();
    bench.compareStatistics();
  });

  it('freed twice, or never written, counts one free or none', () => {
    const bench = new StoreBench({ slots: 2 });
    bench.free(0);
    bench.write(1, kind('text'));
    bench.free(1);
    bench.free(1);
    bench.zero(0);
    bench.free(0);
    expect(bench.counter('notifyFree')).toBe(2);
    bench.compareStatistics();
  });

  it('has nothing of its page number in common with its neighbours', () => {
    const bench = new StoreBench({ slots: 3 });
    for (const name of ['text', 'random', 'byteFill', 'fourByteFill']) {
      bench.write(1, kind(name));
      bench.free(0);
      bench.free(2);
      bench.compareAllSlots();
    }
  });
});

describe('writing part of a page', () => {
  const zeros = (bytes: number) => new Uint8Array(bytes);

  it.each(['zero', 'byteFill', 'eightByteFill', 'text', 'random'])(
    'leaves the rest of a page of kind %s',
    (name) => {
      const bench = new StoreBench({ slots: 2 });
      bench.write(0, kind(name));
      expect(bench.writePart(0, 512, random.bytes(512), GUEST_PAGE + 1)).toBe(true);
      expect(bench.writePart(0, 3584, zeros(512))).toBe(true);
      expect(bench.writePart(0, 4095, random.bytes(1))).toBe(true);
      expect(bench.writePart(1, 0, zeros(512))).toBe(true);
      bench.compareAllSlots();
      bench.compareStatistics();
      expect(bench.writePart(0, 0, zeros(4096))).toBe(true);
      expect(bench.counter('pagesZero')).toBe(2);
      bench.compareStatistics();
    },
  );

  it('keeps the page where there is no memory for what becomes of it', () => {
    const bench = new StoreBench({ slots: 2, poolLimitBytes: PAGE_BYTES });
    bench.write(0, incompressible());
    expect(bench.writePart(0, 0, random.bytes(512))).toBe(false);
    expect(bench.troubles).toEqual([expect.stringMatching(/^memory limit of 4096 bytes reached/)]);
    bench.compareAllSlots();
    expect(bench.writePart(0, 0, zeros(4096))).toBe(true);
    bench.compareStatistics();
  });

  it('fails on damaged data, says so once, and leaves it', () => {
    const bench = new StoreBench({ slots: 1 });
    bench.write(0, kind('text'));
    damage(bench, 0);
    const word = bench.store.wordOf(0);
    for (let i = 0; i < 2; i++) expect(bench.writePart(0, 0, zeros(512))).toBe(false);
    expect(bench.store.wordOf(0)).toBe(word);
    expect(bench.counter('failedWrites')).toBe(2);
    expect(bench.troubles).toEqual([expect.stringMatching(/page 0: .*damaged; failed_writes/)]);
  });
});

describe('growing', () => {
  it('adds empty slots that work, and keeps what was there', () => {
    const bench = new StoreBench({ slots: 4, slotsMax: 8 });
    const page = incompressible();
    bench.write(3, page);
    bench.compareStatistics();
    bench.store.grow(8);
    bench.write(7, kind('text'));
    bench.compareAllSlots();
    bench.compareStatistics();
    expect(bench.store.mapped.table).toHaveLength(8);
  });

  it('is within the table that was made, and never shrinks', () => {
    const { store } = new StoreBench({ slots: 4, slotsMax: 8 });
    for (const slots of [3, 9]) expect(() => store.grow(slots)).toThrow(/grows within its table/);
  });
});

describe('the pool limit', () => {
  it('fails the write, counts it and keeps the old page', () => {
    const bench = new StoreBench({ slots: 16, poolLimitBytes: 4 * PAGE_BYTES + 100 });
    for (let slot = 0; slot < 4; slot++) expect(bench.write(slot, incompressible())).toBe(true);
    bench.write(4, kind('byteFill'));
    expect(bench.write(5, incompressible())).toBe(false);
    expect(bench.write(4, kind('text'))).toBe(false);
    expect(bench.write(0, incompressible())).toBe(false);
    expect(bench.counter('failedWrites')).toBe(3);
    bench.compareAllSlots();
    bench.compareStatistics();
    bench.free(2);
    expect(bench.write(5, incompressible())).toBe(true);
    bench.compareAllSlots();
    bench.compareStatistics();
  });

  it('is told of once, until a write succeeds again', () => {
    const bench = new StoreBench({ slots: 8, poolLimitBytes: 2 * PAGE_BYTES });
    bench.write(0, incompressible());
    bench.write(1, incompressible());
    expect(bench.troubles).toEqual([]);
    for (let i = 0; i < 5; i++) expect(bench.write(2, incompressible())).toBe(false);
    expect(bench.troubles).toHaveLength(1);
    expect(bench.troubles[0]).toMatch(/^memory limit of 8192 bytes reached/);
    bench.free(0);
    expect(bench.write(2, incompressible())).toBe(true);
    for (let i = 0; i < 3; i++) bench.write(3, incompressible());
    expect(bench.troubles).toHaveLength(2);
  });

  it('changes at any time, and what is there already stays', () => {
    const bench = new StoreBench({ slots: 16 });
    for (let slot = 0; slot < 8; slot++) bench.write(slot, incompressible());
    bench.store.poolLimitBytes = 6 * PAGE_BYTES;
    expect(bench.write(8, incompressible())).toBe(false);
    for (let slot = 0; slot < 3; slot++) bench.free(slot);
    expect(bench.write(8, incompressible())).toBe(true);
    expect(bench.write(9, incompressible())).toBe(false);
    bench.store.poolLimitBytes = undefined;
    expect(bench.write(9, incompressible())).toBe(true);
    bench.compareAllSlots();
    bench.compareStatistics();
  });

  it('leaves pages that need no memory writable', () => {
    const bench = new StoreBench({ slots: 4, poolLimitBytes: PAGE_BYTES });
    bench.write(0, incompressible());
    expect(bench.write(1, kind('zero'))).toBe(true);
    expect(bench.write(0, kind('byteFill'))).toBe(true);
    expect(bench.write(1, incompressible())).toBe(true);
    bench.compareAllSlots();
    bench.compareStatistics();
  });

  it('of no page at all is a limit too', () => {
    const bench = new StoreBench({ slots: 1, poolLimitBytes: PAGE_BYTES - 1 });
    expect(bench.write(0, kind('text'))).toBe(false);
    expect(bench.write(0, kind('zero'))).toBe(true);
  });
});

describe('an overwrite', () => {
  it('secures the new object before it lets go of the old one', () => {
    const bench = new StoreBench({ slots: 25, poolLimitBytes: 16 * PAGE_BYTES });
    let slots = 0;
    while (bench.write(slots, pageOf(2500))) slots++;
    expect(slots).toBeGreaterThan(20);
    // There would be room for this one if the old one went first.
    expect(bench.write(0, pageOf(2400))).toBe(false);
    expect(bench.read(0)).toBe(true);
    expect(bench.write(0, pageOf(1000))).toBe(true);
    expect(bench.write(0, pageOf(1500))).toBe(true);
    bench.compareAllSlots();
    bench.compareStatistics();
  });

  it('releases the old one, whatever it was', () => {
    const bench = new StoreBench({ slots: 1, poolLimitBytes: 18 * PAGE_BYTES });
    for (let i = 0; i < 200; i++) {
      expect(bench.write(0, kind(random.pick(Object.keys(PAGE_KINDS))))).toBe(true);
    }
    bench.write(0, kind('zero'));
    expect(bench.store.mapped.arena.usedPages).toBe(0);
    bench.compareStatistics();
  });
});

/** The words of the object that slot holds, header first. */
function objectWords(bench: StoreBench, slot: number): Int32Array {
  const { table, arena } = bench.store.mapped;
  const position = table[slot]!;
  const segment = arena.segments[position >>> 28]!;
  return segment.subarray((position & (2 ** 28 - 1)) - 1);
}

function damage(bench: StoreBench, slot: number): void {
  objectWords(bench, slot).fill(0, 1, 5);
}

describe('damaged data', () => {
  it('fails the read, counts it, and leaves the target page untouched', () => {
    const bench = new StoreBench({ slots: 2 });
    bench.write(0, kind('text'));
    bench.write(1, kind('text'));
    damage(bench, 0);
    expect(bench.read(0)).toBe(false);
    expect(bench.read(0, GUEST_PAGE + 1)).toBe(false);
    expect(bench.read(1)).toBe(true);
    expect(bench.counter('failedReads')).toBe(2);
    expect(bench.troubles[0]).toMatch(/page 0: stored data is damaged/);
    bench.compareStatistics();
  });

  it('fails the read where the stream ends too early', () => {
    const bench = new StoreBench({ slots: 1 });
    bench.write(0, kind('text'));
    const words = objectWords(bench, 0);
    words[0]! -= 8;
    expect(bench.read(0)).toBe(false);
  });

  it('fails the read where the size is impossible, and touches no other memory', () => {
    const bench = new StoreBench({ slots: 1 });
    bench.write(0, kind('text'));
    objectWords(bench, 0)[0]! |= 0xffff;
    bench.window.u8.fill(0x3c, WINDOW_BOUNCE_OFFSET, WINDOW_WORK_BYTES);
    expect(bench.read(0)).toBe(false);
    const bounce = bench.window.u8.subarray(WINDOW_BOUNCE_OFFSET, WINDOW_WORK_BYTES);
    expect(bounce.every((byte) => byte === 0x3c)).toBe(true);
  });

  it('fails the read of a word that stands for nothing', () => {
    const bench = new StoreBench({ slots: 1 });
    for (const word of [1, 255]) {
      bench.store.mapped.table[0] = word;
      expect(bench.read(0)).toBe(false);
    }
  });

  it('is over when the slot is written again', () => {
    const bench = new StoreBench({ slots: 1 });
    bench.write(0, kind('text'));
    damage(bench, 0);
    expect(bench.read(0)).toBe(false);
    expect(bench.write(0, kind('text'))).toBe(true);
    expect(bench.read(0)).toBe(true);
    bench.compareStatistics();
  });
});

describe('memory', () => {
  it('comes back when everything is freed, over time', () => {
    const bench = new StoreBench({ slots: 3000 });
    for (let slot = 0; slot < 3000; slot++) {
      bench.write(slot, slot % 3 === 0 ? pageOf(1500) : incompressible());
    }
    const arenaPages = bench.store.mapped.arena.usedPages;
    expect(arenaPages).toBeGreaterThan(2300);
    for (let slot = 0; slot < 3000; slot++) bench.free(slot);
    expect(bench.gauge(ARENA_GAUGE.poolPages)).toBe(0);
    expect(bench.gauge(ARENA_GAUGE.rawPages)).toBe(0);
    bench.maintainFor(2_000_000);
    expect(bench.gauge(ARENA_GAUGE.reservedPages)).toBeLessThanOrEqual(16);
    expect(bench.store.maintain(3_000_000)).toBe(-1);
    bench.compareStatistics();
  });

  it('stays for reuse for an interval of 400 ms, and not much longer', () => {
    const bench = new StoreBench({ slots: 500 });
    for (let slot = 0; slot < 500; slot++) bench.write(slot, incompressible());
    while (bench.store.maintain(1_000_000) === 0);
    for (let slot = 0; slot < 500; slot++) bench.free(slot);
    const reserved = () => bench.gauge(ARENA_GAUGE.reservedPages);
    const held = reserved();
    bench.maintainFor(390_000, 1_000_000);
    expect(reserved()).toBe(held);
    bench.maintainFor(1_000_000, 1_390_000);
    expect(reserved()).toBeLessThanOrEqual(16);
  });

  it('is given back a block a step', () => {
    const bench = new StoreBench({ slots: 2000 });
    for (let slot = 0; slot < 2000; slot++) bench.write(slot, incompressible());
    for (let slot = 0; slot < 2000; slot++) bench.free(slot);
    const reserved = () => bench.gauge(ARENA_GAUGE.reservedPages);
    let before = reserved();
    while (bench.store.maintain(0) === 0) {
      expect(before - reserved()).toBeLessThanOrEqual(16);
      before = reserved();
    }
    expect(reserved()).toBeLessThanOrEqual(1024 + 16);
  });

  it('is waited for by a clock that wraps', () => {
    const bench = new StoreBench({ slots: 200 });
    for (let slot = 0; slot < 200; slot++) bench.write(slot, incompressible());
    for (let slot = 0; slot < 200; slot++) bench.free(slot);
    const beforeWrap = 2 ** 31 - 200_000;
    const held = bench.gauge(ARENA_GAUGE.reservedPages);
    while (bench.store.maintain(beforeWrap) === 0);
    expect(bench.store.maintain(beforeWrap)).toBe(400);
    for (const passed of [1, 199_999, 200_000, 399_000]) {
      expect(bench.store.maintain((beforeWrap + passed) | 0)).toBe(
        Math.ceil((400_000 - passed) / 1000),
      );
    }
    expect(bench.gauge(ARENA_GAUGE.reservedPages)).toBe(held);
    bench.maintainFor(1_000_000, beforeWrap + 400_000);
    expect(bench.gauge(ARENA_GAUGE.reservedPages)).toBeLessThanOrEqual(16);
  });

  it('is nothing to wait for when nothing was ever kept', () => {
    const bench = new StoreBench({ slots: 4 });
    bench.write(0, kind('zero'));
    expect(bench.store.maintain(0)).toBe(-1);
  });
});

describe('a raw page', () => {
  it('is kept as it is, and overwritten like any other', () => {
    const bench = new StoreBench({ slots: 2 });
    const page = kind('text');
    expect(bench.store.writeRaw(0, page)).toBe(true);
    bench.model.put(0, page, 'raw');
    bench.compareAllSlots();
    bench.compareStatistics();
    const { table, arena } = bench.store.mapped;
    const position = table[0]!;
    expect(Buffer.from(arena.segments[0]!.buffer, position * 4, 4096).equals(page)).toBe(true);
    bench.write(0, kind('text'));
    bench.compareAllSlots();
    bench.compareStatistics();
  });

  it('may be part of a longer array', () => {
    const bench = new StoreBench({ slots: 2 });
    const two = random.bytes(2 * PAGE_BYTES);
    for (const slot of [0, 1]) {
      const page = two.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
      expect(bench.store.writeRaw(slot, page)).toBe(true);
      bench.model.put(slot, page, 'raw');
    }
    bench.compareAllSlots();
  });

  it('is not kept without memory', () => {
    const bench = new StoreBench({ slots: 2, poolLimitBytes: 0 });
    expect(bench.store.writeRaw(0, kind('text'))).toBe(false);
    bench.compareAllSlots();
  });
});

describe('a reset', () => {
  const LAST = { process: 4711, start: 12345 };

  it('leaves pages that are nobody’s', () => {
    const { store } = new StoreBench({ slots: 4 });
    const { header } = store.mapped;
    expect(header.frontEnd).toBeUndefined();
    header.frontEnd = LAST;
    const { uuid } = header;
    store.reset(1, false);
    expect(header.frontEnd).toBeUndefined();
    expect(header.uuid).not.toEqual(uuid);
  });

  it('counts what a look at each slot would, in all threads, whatever was there', () => {
    const bench = new StoreBench({ slots: 40, threads: 3 });
    for (let slot = 0; slot < 40; slot++) bench.write(slot, somePage(random));
    const joined = PageStore.join(bench.store.share, 2);
    const window = new PageWindow(2 * WINDOW_WORK_BYTES);
    for (let slot = 3; slot < 30; slot += 5) {
      window.u8.set(kind('text'), WINDOW_WORK_BYTES);
      joined.writePage(slot, window, WINDOW_WORK_BYTES);
    }
    for (const isLost of [true, false]) {
      bench.store.reset(1, isLost);
      const { counters } = bench.store.mapped;
      const counted = [...HELD_COUNTERS].map((index) => sumCounter(counters, index));
      recoverStore(bench.store.mapped);
      expect([...HELD_COUNTERS].map((index) => sumCounter(counters, index))).toEqual(counted);
      expect(sumCounter(counters, COUNTER.pagesLost)).toBe(isLost ? 39 : 0);
    }
  });

  it('regression: that loses pages has lost those that the disk grows to, counted as it does', () => {
    const { store } = new StoreBench({ slots: 4, slotsMax: 12 });
    const { counters } = store;
    const window = new PageWindow(2 * WINDOW_WORK_BYTES);
    store.reset(1, true);
    expect(counters[COUNTER.pagesLost]).toBe(3);
    store.grow(8);
    expect(counters[COUNTER.pagesLost]).toBe(7);
    for (let slot = 1; slot < 8; slot++) {
      expect(store.readPage(slot, window, WINDOW_WORK_BYTES)).toBe(PAGE_FAILED);
    }
    store.freePage(6);
    store.writePage(7, window, WINDOW_WORK_BYTES);
    for (const slot of [6, 7]) {
      expect(store.readPage(slot, window, WINDOW_WORK_BYTES)).toBe(PAGE_DONE);
    }
    expect(counters[COUNTER.pagesLost]).toBe(5);
    store.reset(1, false);
    store.grow(12);
    expect(counters[COUNTER.pagesLost]).toBe(0);
    expect(store.readPage(11, window, WINDOW_WORK_BYTES)).toBe(PAGE_DONE);
  });

  it('regression: that is cut off never leaves them to whoever comes next', () => {
    const { store } = new StoreBench({ slots: 4 });
    const { header, arena } = store.mapped;
    header.frontEnd = LAST;
    arena.restore = () => {
      throw new Error('killed');
    };
    expect(() => store.reset(1, false)).toThrow('killed');
    expect(header.frontEnd).toEqual(UNKNOWN_PROCESS);
  });
});

it('is as large as its pages need, when none of them compress', () => {
  const bench = new StoreBench({ slots: 64 });
  for (let slot = 0; slot < 64; slot++) expect(bench.write(slot, incompressible())).toBe(true);
  for (let slot = 0; slot < 64; slot++) expect(bench.write(slot, incompressible())).toBe(true);
  bench.compareAllSlots();
  expect(pagesHeldBy(bench.store.mapped.shared.fd)).toBeLessThan(26);
  expect(keepingOf(incompressible())).toBe('raw');
});
