/**
 * The store with a backing swap: what goes where, in which order, what remains after failures, and
 * moving out. Random operations with faults are compared with a model throughout.
 */

import { describe, expect, it } from 'vitest';
import { PAGE_DONE, PAGE_FAILED, PAGE_PENDING } from '../../src/base/page-operation.ts';
import { STAGING_PAGES } from '../../src/store/backed-store.ts';
import { BackedBench, type BackedBenchOptions } from '../models/backed-bench.ts';
import { compressedBytes } from '../models/page-store-model.ts';
import { PAGE_KINDS, pageCompressingTo, somePage, somePart } from '../models/pages.ts';
import { type Random, replayable, SEED, seededRandom } from '../models/random.ts';

const PAGE = 4096;
const MIB = 2 ** 20;
const EIO = 5;
const random = seededRandom(SEED);
const page = (kind: string) => PAGE_KINDS[kind]!(random);
/** Compresses to a little less than half a page, the most that stays in memory. */
const almostHalf = () => new Uint8Array(PAGE).map((_, i) => (i < 1850 ? random.below(256) : 0));
const noise = () => page('random');
const text = () => page('text');
const zeros = (bytes: number) => new Uint8Array(bytes);

function setUp(options: Partial<BackedBenchOptions> = {}): BackedBench {
  return new BackedBench({ slots: 64, memlimitBytes: MIB, ...options });
}

describe('a page', () => {
  it('that compresses to half a page stays in memory; above that it goes to the swap', () => {
    const bench = setUp();
    const [half, more] = [2048, 2049].map((bytes) =>
      pageCompressingTo(bytes, random, compressedBytes),
    );
    expect(bench.write(3, half!)).toBe(PAGE_DONE);
    expect(bench.write(4, more!)).toBe(PAGE_PENDING);
    bench.settle();
    expect(bench.statistics).toMatchObject({
      ...{ pages_stored: 1, pages_on_backing: 1, num_writes: 2, bdev_num_writes: 1 },
      ...{ pages_expand_pct: 0, failed_writes: 0, compr_data_size: 2048 },
    });
    expect(bench.io.log).toMatchObject([{ isWrite: true, fileOffset: 4 * PAGE }]);
    bench.compareAll();
    expect(bench.statistics).toMatchObject({ num_reads: 63, bdev_num_reads: 1 });
  });

  it('goes to the swap when compressed data is above the limit less a page, and not before', () => {
    const bench = setUp({ memlimitBytes: 3 * PAGE });
    const pages = [2000, 2000, 2000, 2000, 1900, 1900].map((bytes) =>
      pageCompressingTo(bytes, random, compressedBytes),
    );
    // 8192 is the mark: 0, 2000, 4000, 6000, 8000 are not above it, 9900 is.
    const results = pages.map((bytes, i) => bench.write(10 + i, bytes));
    expect(results.map((result) => result === PAGE_PENDING)).toEqual([
      ...[false, false, false, false, false],
      true,
    ]);
    bench.settle();
    bench.free(10);
    expect(bench.write(20, pages[5]!)).toBe(PAGE_DONE);
    bench.compareAll();
    bench.compareCounts();
  });

  it('of zeros or a pattern needs no room: it stays, whatever the limit', () => {
    const bench = setUp({ memlimitBytes: PAGE });
    expect(bench.write(5, text())).toBe(PAGE_DONE);
    expect(bench.write(6, text())).toBe(PAGE_PENDING);
    for (const kind of ['zero', 'byteFill', 'eightByteFill']) {
      expect(bench.write(7, page(kind)), kind).toBe(PAGE_DONE);
    }
    bench.settle();
    bench.compareAll();
  });

  it('goes to the swap when memory is refused', () => {
    const bench = setUp({ poolLimitBytes: 16 * PAGE });
    const results = Array.from({ length: 60 }, (_, i) => bench.write(2 + i, almostHalf()));
    expect(results).toContain(PAGE_PENDING);
    bench.settle();
    expect(bench.statistics).toMatchObject({ failed_writes: 0, pages_used: 16 });
    expect(bench.troubles).toEqual([]);
    bench.compareAll();
  });

  it('of the header stays in memory, compressed or not, and fails without room', () => {
    const bench = setUp({ headerSlots: 2, memlimitBytes: PAGE, poolLimitBytes: 2 * PAGE });
    expect(bench.write(0, noise())).toBe(PAGE_DONE);
    expect(bench.write(1, noise())).toBe(PAGE_DONE);
    expect(bench.write(0, noise())).toBe(PAGE_FAILED);
    expect(bench.write(2, noise())).toBe(PAGE_PENDING);
    bench.settle();
    expect(bench.statistics).toMatchObject({ failed_writes: 1, num_writes: 4 });
    bench.compareAll();
  });

  it('has its own place on the swap, whose first pages are never written', () => {
    const bench = setUp({ headerSlots: 16 });
    for (let slot = 0; slot < 64; slot++) bench.write(slot, noise());
    bench.settle();
    for (const { isWrite, fileOffset } of bench.io.log) {
      expect(isWrite).toBe(true);
      expect(fileOffset).toBeGreaterThanOrEqual(16 * PAGE);
    }
    expect(bench.io.disk.subarray(0, 16 * PAGE).every((byte) => byte === 0)).toBe(true);
    bench.compareAll();
  });
});

describe('an operation on a slot with I/O under way', () => {
  it('waits for it, and those behind it for that one, in order', () => {
    const bench = setUp();
    bench.write(9, noise());
    bench.read(9);
    bench.write(9, text());
    bench.read(9);
    bench.writePart(9, 512, random.bytes(512));
    bench.read(9);
    bench.free(9);
    bench.read(9);
    bench.write(9, noise());
    bench.read(9);
    expect(bench.inFlight).toBe(10);
    // Another slot does not wait.
    expect(bench.write(10, text())).toBe(PAGE_DONE);
    bench.settle();
    const kinds = bench.outcomes.filter(({ slot }) => slot === 9).map(({ kind }) => kind);
    expect(kinds).toEqual([
      ...['write', 'read', 'write', 'read', 'part', 'read', 'free', 'read', 'write', 'read'],
    ]);
    expect(bench.outcomes.every(({ isDone }) => isDone)).toBe(true);
    bench.compareCounts();
  });

  it('counts exactly as if it had not waited', () => {
    const bench = setUp();
    for (let i = 0; i < 3; i++) {
      bench.write(9, noise());
      bench.read(9);
      bench.write(9, text());
      bench.read(9);
    }
    bench.settle();
    expect(bench.statistics).toMatchObject({
      ...{ num_writes: 6, bdev_num_writes: 3, num_reads: 3, bdev_num_reads: 3 },
      ...{ failed_reads: 0, failed_writes: 0, pages_stored: 1, pages_on_backing: 0 },
    });
  });

  it('that is given up is dropped if it waits, and goes on if it is in I/O', () => {
    const bench = setUp();
    const old = noise();
    bench.write(9, old);
    bench.settle();
    const data = noise();
    const other = new BackedBench({ slots: 64, memlimitBytes: MIB });
    bench.store.writePage(
      ...([9, ...placed(other, data)] as unknown as Parameters<typeof bench.store.writePage>),
    );
    bench.read(9);
    bench.store.abandon(other);
    bench.model.set(9, data);
    bench.settle();
    expect(bench.outcomes.at(-1)).toEqual({ kind: 'read', slot: 9, isDone: true });
    bench.compareAll();
  });
});

/** Arguments of a write by another client: window, offset, client, request, page. */
function placed(client: BackedBench, data: Uint8Array): unknown[] {
  const window = Object.assign(Object.create(null), {
    u8: new Uint8Array(PAGE + 65536),
    i32: undefined as unknown,
    codec: { fillPeriod: () => 0, compress: () => PAGE },
  });
  window.u8.set(data, 65536);
  window.i32 = new Int32Array(window.u8.buffer);
  return [window, 65536, client, 0, 0];
}

describe('writing part of a page', () => {
  it('that is on the swap reads it, and keeps or writes what is left', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.write(6, noise());
    bench.settle();
    // What is left of one is as little to compress as it was; of the other nearly nothing.
    bench.writePart(5, 0, random.bytes(512));
    bench.writePart(6, 512, zeros(3584));
    bench.settle();
    expect(bench.statistics).toMatchObject({ pages_on_backing: 1, pages_stored: 1, num_writes: 4 });
    bench.compareAll();
  });

  it('that is in memory, and no longer fits there, goes to the swap', () => {
    const bench = setUp({ memlimitBytes: 2 * PAGE });
    for (let slot = 5; slot < 9; slot++)
      bench.write(slot, pageCompressingTo(2040, random, compressedBytes));
    bench.writePart(5, 0, random.bytes(512));
    bench.settle();
    expect(bench.statistics).toMatchObject({ pages_on_backing: 2, num_writes: 5 });
    bench.compareAll();
    bench.compareCounts();
  });

  it('fails where the page cannot be read, and leaves it', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.settle();
    bench.writePart(5, 0, random.bytes(512));
    bench.settle(-EIO);
    expect(bench.outcomes.at(-1)).toEqual({ kind: 'part', slot: 5, isDone: false });
    expect(bench.statistics).toMatchObject({ num_writes: 2, failed_writes: 1, failed_reads: 0 });
    expect(bench.troubles).toEqual([expect.stringMatching(/read failed: EIO .*failed_writes/)]);
    bench.compareAll();
  });

  it('fails where other bytes than were written come back, and leaves them', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.settle();
    bench.io.disk[5 * PAGE + 4000]! ^= 1;
    bench.writePart(5, 0, random.bytes(512));
    bench.settle();
    expect(bench.outcomes.at(-1)!.isDone).toBe(false);
    expect(bench.io.log.filter(({ isWrite }) => isWrite)).toHaveLength(1);
    bench.io.disk[5 * PAGE + 4000]! ^= 1;
    bench.compareAll();
  });

  it('fails on a page in memory that is damaged, says so once, and leaves it', () => {
    const bench = setUp();
    bench.write(5, text());
    const { table, arena } = bench.memory.mapped;
    const position = table[5]!;
    const words = arena.segments[0]!;
    words.fill(-1, position, position + 100);
    for (let i = 0; i < 2; i++) expect(bench.writePart(5, 0, random.bytes(512))).toBe(PAGE_FAILED);
    expect(table[5]).toBe(position);
    expect(bench.statistics.failed_writes).toBe(2);
    expect(bench.troubles).toEqual([expect.stringMatching(/page 5: .*damaged; failed_writes/)]);
  });

  it('several of one page, its I/O under way, are all in it', () => {
    const bench = setUp();
    bench.write(5, noise());
    for (let sector = 0; sector < 8; sector++) {
      expect(bench.writePart(5, sector * 512, random.bytes(512))).toBe(PAGE_PENDING);
    }
    bench.settle();
    expect(bench.outcomes.filter(({ isDone }) => isDone)).toHaveLength(9);
    bench.compareAll();
  });

  it('is dropped with its client while the page is read, and counts as nothing', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.settle();
    bench.writePart(5, 512, random.bytes(512));
    bench.store.flush();
    bench.store.abandon(bench);
    bench.forget();
    bench.settle();
    expect(bench.statistics).toMatchObject({ num_writes: 1, failed_writes: 0, bdev_num_reads: 1 });
    bench.compareAll();
  });

  it('fails where its bytes are gone when the page has come', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.settle();
    bench.writePart(5, 512, random.bytes(512));
    bench.isMemoryGone = true;
    bench.settle();
    expect(bench.outcomes.at(-1)).toEqual({ kind: 'part', slot: 5, isDone: false });
    bench.compareAll();
  });
});

describe('a failed write', () => {
  it('of a page that was in memory keeps the old one', () => {
    const bench = setUp();
    const old = text();
    bench.write(5, old);
    bench.write(5, noise());
    bench.settle(-EIO);
    expect(bench.outcomes.at(-1)!.isDone).toBe(false);
    expect(bench.statistics).toMatchObject({ failed_writes: 1, pages_stored: 1, pages_lost: 0 });
    bench.compareAll();
    expect(bench.model.get(5)).toEqual(old);
  });

  it('of a page that was nowhere leaves nothing', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.settle(-EIO);
    bench.compareAll();
    expect(bench.statistics.pages_on_backing).toBe(0);
  });

  it('of a page on the swap loses it: reads fail until it is written again', () => {
    for (const again of ['text', 'random', 'zero']) {
      const bench = setUp();
      bench.write(5, noise());
      bench.settle();
      bench.write(5, noise());
      bench.settle(-EIO);
      expect(bench.statistics).toMatchObject({ pages_lost: 1, pages_on_backing: 0 });
      expect(bench.read(5)).toBe(PAGE_FAILED);
      expect(bench.writePart(5, 0, random.bytes(512))).toBe(PAGE_FAILED);
      expect(bench.statistics).toMatchObject({ failed_reads: 1, failed_writes: 2 });
      bench.write(5, page(again));
      bench.settle();
      expect(bench.statistics.pages_lost).toBe(0);
      bench.compareAll();
    }
  });

  it('is told of once, however many there are', () => {
    const bench = setUp();
    for (let slot = 5; slot < 20; slot++) bench.write(slot, noise());
    bench.settle(-EIO);
    expect(bench.troubles).toHaveLength(1);
    expect(bench.troubles[0]).toMatch(/write failed: EIO .*failed_writes/);
    expect(bench.statistics.failed_writes).toBe(15);
  });

  it('for want of the data itself is a failed write too', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.write(5, noise());
    bench.isMemoryGone = true;
    bench.settle();
    expect(bench.outcomes.map(({ isDone }) => isDone)).toEqual([true, false]);
    expect(bench.statistics).toMatchObject({ num_writes: 2, failed_writes: 1 });
    bench.isMemoryGone = false;
    bench.compareAll();
  });
});

describe('what comes back from the swap', () => {
  it.each(['flipped bit', 'zeros', 'another page', 'an older page'])(
    'as other bytes than were written (%s) is an error, told of once',
    (how) => {
      const bench = setUp();
      const [older, newer, other] = [noise(), noise(), noise()];
      for (const [slot, data] of [
        [5, older],
        [5, newer],
        [6, other],
      ] as const) {
        bench.write(slot, data);
        bench.settle();
      }
      const { disk } = bench.io;
      if (how === 'flipped bit') disk[5 * PAGE + 4095]! ^= 1;
      if (how === 'zeros') disk.fill(0, 5 * PAGE, 6 * PAGE);
      if (how === 'another page') disk.copyWithin(5 * PAGE, 6 * PAGE, 7 * PAGE);
      if (how === 'an older page') disk.set(older, 5 * PAGE);
      for (let i = 0; i < 2; i++) {
        bench.read(5);
        bench.settle();
        expect(bench.outcomes.at(-1)!.isDone).toBe(false);
      }
      expect(bench.troubles).toHaveLength(1);
      expect(bench.troubles[0]).toMatch(/page 5: other bytes than were written/);
      expect(bench.statistics.failed_reads).toBe(2);
      disk.set(newer, 5 * PAGE);
      bench.compareAll();
    },
  );

  it('is an error while reads fail, and the page afterwards', () => {
    const bench = setUp();
    bench.write(5, noise());
    bench.settle();
    for (const result of [-EIO, 100, 0]) {
      bench.read(5);
      bench.settle(result);
      expect(bench.outcomes.at(-1)!.isDone).toBe(false);
    }
    expect(bench.statistics).toMatchObject({ failed_reads: 3, bdev_num_reads: 3 });
    bench.compareAll();
  });
});

describe('lowering the limit', () => {
  function filled(pages: number, options: Partial<BackedBenchOptions> = {}): BackedBench {
    const bench = setUp({ slots: 256, ...options });
    for (let slot = 1; slot <= pages; slot++) bench.write(slot, text());
    return bench;
  }

  function run(bench: BackedBench, micros: number, result?: number): void {
    for (let now = 0; now < micros; now += 10_000) {
      bench.store.maintain(now);
      bench.settle(result);
    }
  }

  it('moves pages out until memory holds no more, and they read as before', () => {
    const bench = filled(200);
    const before = bench.statistics;
    bench.store.memlimitBytes = 16 * PAGE;
    run(bench, 1e6);
    const { compr_data_size, pages_moved_out, pages_on_backing, bdev_num_writes, memlimit } =
      bench.statistics;
    expect(memlimit).toBe(16 * PAGE);
    expect(compr_data_size).toBeLessThanOrEqual(16 * PAGE);
    // One page more would have been one too many.
    expect(compr_data_size).toBeGreaterThan(16 * PAGE - 2048);
    expect([pages_on_backing, bdev_num_writes]).toEqual([pages_moved_out, pages_moved_out]);
    expect(bench.statistics.num_writes).toBe(before.num_writes);
    bench.compareCounts();
    bench.compareAll();
  });

  it('moves in small steps, neighbours in one I/O, and never the header or patterns', () => {
    const bench = filled(100, { headerSlots: 4 });
    for (let slot = 101; slot < 140; slot++) bench.write(slot, page('eightByteFill'));
    bench.store.memlimitBytes = PAGE;
    expect(bench.store.maintain(0)).toBe(0);
    expect(bench.io.log).toMatchObject([{ isWrite: true, fileOffset: 4 * PAGE }]);
    expect(bench.io.log[0]!.pages.length).toBeLessThanOrEqual(16);
    run(bench, 1e6);
    expect(bench.statistics.pages_same).toBe(39);
    for (const slot of [1, 2, 3]) expect(bench.memory.storedBytes(slot)).toBeGreaterThan(0);
    bench.compareAll();
  });

  it('lets a page that is being moved be read meanwhile; all else waits', () => {
    const bench = filled(20);
    bench.store.memlimitBytes = PAGE;
    bench.store.maintain(0);
    expect(bench.read(1)).toBe(PAGE_DONE);
    expect(bench.free(1)).toBe(PAGE_PENDING);
    expect(bench.read(1)).toBe(PAGE_PENDING);
    expect(bench.write(2, text())).toBe(PAGE_PENDING);
    expect(bench.read(2)).toBe(PAGE_PENDING);
    bench.settle();
    run(bench, 1e6);
    bench.compareAll();
    bench.compareCounts();
  });

  it('keeps a page in memory whose move fails, and tries again only after a while', () => {
    const bench = filled(20);
    bench.store.memlimitBytes = PAGE;
    run(bench, 500_000, -EIO);
    const writes = bench.io.log.length;
    expect(writes).toBeLessThan(40);
    expect(bench.statistics).toMatchObject({ pages_moved_out: 0, failed_writes: 0 });
    expect(bench.store.maintain(600_000)).toBeGreaterThan(100);
    bench.compareAll();
    run(bench, 3e6);
    expect(bench.statistics.compr_data_size).toBeLessThanOrEqual(PAGE);
    bench.compareAll();
  });

  it('does not run in circles when nothing can be moved', () => {
    const bench = setUp({ headerSlots: 16 });
    for (let slot = 0; slot < 16; slot++) bench.write(slot, noise());
    bench.store.memlimitBytes = PAGE;
    let now = 0;
    for (let steps = 0; steps < 8; steps++, now += 500_000) bench.store.maintain(now);
    expect(bench.store.maintain(now)).toBe(-1);
    // Until there is something that can.
    bench.store.memlimitBytes = 20 * PAGE;
    for (let slot = 20; slot < 40; slot++) bench.write(slot, text());
    bench.store.memlimitBytes = PAGE;
    run(bench, 1e6);
    expect(bench.statistics.pages_on_backing).toBe(20);
  });
});

describe('more I/O than there is room for', () => {
  it('waits for staging pages, and loses nothing', () => {
    const bench = setUp({ slots: 2048, memlimitBytes: PAGE, depth: 3 });
    for (let slot = 1; slot < 2048; slot++) bench.write(slot, noise());
    for (let slot = 1; slot < 2048; slot += 3) bench.read(slot);
    for (let slot = 2; slot < 2048; slot += 3) bench.writePart(slot, 512, random.bytes(512));
    expect(bench.inFlight).toBeGreaterThan(3 * STAGING_PAGES);
    bench.settle();
    bench.compareAll();
    bench.compareCounts();
  });

  it('is full at last, says so, and gives room again', () => {
    const bench = setUp({ slots: 20_000, memlimitBytes: PAGE });
    let slot = 1;
    while (!bench.store.isFull) bench.write(slot++, noise());
    expect(bench.store.pending).toBe(16384);
    bench.settle();
    expect([bench.store.isFull, bench.store.pending]).toEqual([false, 0]);
  }, 60_000);

  it('given up while it waits leaves the others their turn', () => {
    const bench = setUp({ slots: 2048, memlimitBytes: PAGE });
    const other = setUp({ slots: 2048, memlimitBytes: PAGE });
    for (let slot = 1; slot < 1200; slot++) {
      const owner = slot % 2 === 0 ? other : bench;
      if (owner === bench) bench.write(slot, noise());
      else bench.store.readPage(slot, ...foreign(other));
    }
    bench.store.abandon(other);
    bench.settle();
    bench.compareAll();
  });
});

/** A read by another client; its slots hold nothing. */
function foreign(client: BackedBench) {
  const window = { u8: new Uint8Array(65536 + PAGE), i32: new Int32Array(1) };
  return [window, 65536, client, 0, 0] as never as [never, number, BackedBench, number, number];
}

function step(bench: BackedBench, random: Random): void {
  const slot = random.below(bench.store.slots);
  const action = random.below(100);
  if (action < 45) bench.write(slot, somePage(random));
  else if (action < 75) bench.read(slot);
  else if (action < 85) bench.free(slot);
  else if (action < 89) bench.zero(slot);
  else bench.writePart(slot, ...somePart(random));
}

describe('random operations equal the model', () => {
  it.each([
    ['with room enough', { memlimitBytes: 64 * MIB }],
    ['with a tight limit', { memlimitBytes: 4 * PAGE }],
    ['with little memory', { memlimitBytes: MIB, poolLimitBytes: 16 * PAGE }],
  ] as const)('%s, I/O ending in any order, sometimes with an error', (_, options) => {
    replayable((random) => {
      const bench = setUp({ slots: 40, depth: random.between(1, 8), ...options });
      for (let i = 0; i < 6000; i++) {
        step(bench, random);
        if (random.rarely(3)) bench.store.flush();
        for (let j = random.below(3); j > 0 && bench.io.inFlight.length > 0; j--) {
          const isBad = random.rarely(12);
          bench.io.end(
            random.pick(bench.io.inFlight),
            isBad ? random.pick([-EIO, 512, 0]) : undefined,
          );
        }
        bench.store.reap(random.between(1, 64));
        if (random.rarely(40)) bench.store.memlimitBytes = random.pick([1, 4, 64, 256]) * PAGE;
        if (random.rarely(4)) bench.store.maintain(i * 5000);
        if (random.rarely(100)) {
          bench.settle();
          bench.compareCounts();
        }
      }
      bench.settle();
      bench.compareCounts();
      // After the faults: whatever was written successfully reads back.
      for (let slot = 0; slot < 40; slot++) {
        if (bench.memory.wordOf(slot) === 2) bench.write(slot, text());
      }
      bench.settle();
      bench.compareAll();
      const { failed_writes, failed_reads, bdev_num_reads, pages_moved_out } = bench.statistics;
      expect(Math.min(failed_writes, failed_reads, bdev_num_reads)).toBeGreaterThan(20);
      expect(pages_moved_out).toBeGreaterThan(0);
    });
  });
});
