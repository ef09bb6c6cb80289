/** Pages queued, merged into I/Os, told of; and what becomes of those whose I/O fails. */

import { describe, expect, it } from 'vitest';
import { type Extent, ExtentMap } from '../../src/backing/extent-map.ts';
import { PageIo } from '../../src/backing/page-io.ts';
import { LATENCY, LATENCY_BUCKETS } from '../../src/base/latency.ts';
import { MemoryIo, type StartedIo } from '../driver/memory-io.ts';
import { replayable } from '../models/random.ts';

const PAGE = 4096;
const STAGING = 96;
const EIO = 5;
const EINTR = 4;
const EAGAIN = 11;
const ENOMEM = 12;
const ENOSPC = 28;

/** Two runs that follow each other in pages, not in the file, the second first on disk. */
const SPLIT: readonly Extent[] = [
  { page: 0, pages: 40, fileOffset: 100 * PAGE, physical: 100 * PAGE },
  { page: 40, pages: 40, fileOffset: 20 * PAGE, physical: 300 * PAGE },
];

function setUp(extents: readonly Extent[] = SPLIT, depth = 8) {
  const view = new Uint8Array(new ArrayBuffer(STAGING * PAGE));
  const io = new MemoryIo({ view, offset: 0, count: STAGING }, 200 * PAGE, depth);
  const readLatency = new Float64Array(LATENCY.DOUBLES);
  const writeLatency = new Float64Array(LATENCY.DOUBLES);
  const map = new ExtentMap(extents);
  const pages = new PageIo({ io, map, stagingPages: STAGING, readLatency, writeLatency });
  const ended: [staging: number, errno: number][] = [];
  const owner = { pageEnded: (staging: number, errno: number) => ended.push([staging, errno]) };
  return { view, io, pages, ended, owner, readLatency, writeLatency };
}

type Bench = ReturnType<typeof setUp>;

function write(bench: Bench, page: number, fill: number): number {
  const staging = bench.pages.take();
  bench.view.fill(fill, staging * PAGE, (staging + 1) * PAGE);
  bench.pages.queue(true, page, staging);
  return staging;
}

function shape({ isWrite, fileOffset, pages }: StartedIo): [string, number, number] {
  return [isWrite ? 'write' : 'read', fileOffset / PAGE, pages.length];
}

describe('what is queued in one turn', () => {
  it('becomes one I/O where a page follows the one before it', () => {
    const bench = setUp();
    for (const page of [5, 6, 7, 8, 30, 31, 9]) write(bench, page, page);
    bench.pages.flush();
    expect(bench.io.log.map(shape)).toEqual([
      ['write', 105, 4],
      ['write', 130, 2],
      ['write', 109, 1],
    ]);
    for (const io of [...bench.io.inFlight]) bench.io.end(io);
    bench.pages.reap(bench.owner);
    expect(bench.ended.map(([, errno]) => errno)).toEqual([0, 0, 0, 0, 0, 0, 0]);
    for (const page of [5, 6, 7, 8, 9, 30, 31]) {
      expect(bench.io.disk[(100 + page) * PAGE]).toBe(page);
    }
  });

  it('is started when a page comes that does not follow, not only at the end of the turn', () => {
    const bench = setUp();
    for (const page of [5, 6, 20]) write(bench, page, page);
    expect(bench.io.log.map(shape)).toEqual([['write', 105, 2]]);
  });

  it('is not merged across the end of a run, nor reads with writes', () => {
    const bench = setUp();
    for (const page of [38, 39, 40, 41]) write(bench, page, 1);
    for (const page of [42, 43]) bench.pages.queue(false, page, bench.pages.take());
    bench.pages.flush();
    expect(bench.io.log.map(shape)).toEqual([
      ['write', 138, 2],
      ['write', 20, 2],
      ['read', 22, 2],
    ]);
  });

  it('goes in I/Os of 64 pages at the most', () => {
    const bench = setUp([{ page: 0, pages: 200, fileOffset: 0, physical: 0 }]);
    for (let page = 0; page < 90; page++) write(bench, page, 1);
    bench.pages.flush();
    expect(bench.io.log.map(shape)).toEqual([
      ['write', 0, 64],
      ['write', 64, 26],
    ]);
  });

  it('waits when all I/Os are in flight, and goes before what comes later', () => {
    const bench = setUp(SPLIT, 2);
    for (const page of [20, 10, 30]) write(bench, page, page);
    bench.pages.flush();
    expect(bench.io.log.map(shape)).toEqual([
      ['write', 120, 1],
      ['write', 110, 1],
    ]);
    write(bench, 1, 1);
    bench.io.end(bench.io.inFlight[0]!);
    bench.pages.reap(bench.owner);
    bench.pages.flush();
    expect(bench.io.log.slice(2).map(shape)).toEqual([['write', 130, 1]]);
  });

  it('is handed over later when the kernel has no room, and asks to be called for that', () => {
    const bench = setUp();
    bench.io.refusals = 1;
    write(bench, 3, 3);
    bench.pages.flush();
    expect(bench.io.log).toHaveLength(0);
    expect(bench.pages.waitMillis(0)).toBe(1);
    bench.pages.flush();
    expect(bench.io.log).toHaveLength(1);
    expect(bench.pages.waitMillis(0)).toBe(-1);
  });
});

describe('an I/O that fails', () => {
  it('with one page ends it with that error; a short one with EIO', () => {
    for (const [result, errno] of [
      [-ENOSPC, ENOSPC],
      [2048, EIO],
      [0, EIO],
    ] as const) {
      const bench = setUp();
      const staging = write(bench, 3, 3);
      bench.pages.flush();
      bench.io.end(bench.io.inFlight[0]!, result);
      bench.pages.reap(bench.owner);
      expect(bench.ended).toEqual([[staging, errno]]);
    }
  });

  it('with several is tried again page by page: only a bad page ends with an error', () => {
    const bench = setUp();
    const stagings = [3, 4, 5, 6].map((page) => write(bench, page, page));
    bench.pages.flush();
    bench.io.end(bench.io.inFlight[0]!, -EIO);
    bench.pages.reap(bench.owner);
    expect(bench.ended).toEqual([]);
    bench.pages.flush();
    expect(bench.io.log.slice(1).map(shape)).toEqual(
      [103, 104, 105, 106].map((at) => ['write', at, 1]),
    );
    for (const io of [...bench.io.inFlight]) {
      bench.io.end(io, io.fileOffset === 105 * PAGE ? -EIO : PAGE);
    }
    bench.pages.reap(bench.owner);
    expect(new Map(bench.ended)).toEqual(
      new Map(stagings.map((staging, i) => [staging, i === 2 ? EIO : 0])),
    );
  });

  it('short ends the pages that were whole, and tries the others again', () => {
    const bench = setUp();
    const stagings = [3, 4, 5].map((page) => write(bench, page, page));
    bench.pages.flush();
    bench.io.end(bench.io.inFlight[0]!, PAGE + 100);
    bench.pages.reap(bench.owner);
    expect(bench.ended).toEqual([[stagings[0], 0]]);
    bench.pages.flush();
    expect(bench.io.inFlight).toHaveLength(2);
  });

  it.each([EINTR, EAGAIN, ENOMEM])('with an errno that may pass (%i) is tried again', (errno) => {
    const bench = setUp();
    const staging = write(bench, 3, 3);
    for (let tries = 0; bench.ended.length === 0; tries++) {
      if (tries > 20) expect.fail('it never gives up');
      bench.pages.flush();
      expect(bench.io.inFlight).toHaveLength(1);
      bench.io.end(bench.io.inFlight[0]!, -errno);
      bench.pages.reap(bench.owner);
    }
    expect(bench.ended).toEqual([[staging, errno]]);
    expect(bench.io.log.length).toBeGreaterThan(5);
    bench.ended.length = 0;
    write(bench, 3, 4);
    bench.pages.flush();
    bench.io.end(bench.io.inFlight[0]!, -errno);
    bench.pages.reap(bench.owner);
    bench.pages.flush();
    bench.io.end(bench.io.inFlight[0]!);
    bench.pages.reap(bench.owner);
    expect(bench.ended).toMatchObject([[expect.any(Number), 0]]);
  });
});

it('a few I/Os are told of at a time, the rest when asked again', () => {
  const bench = setUp();
  for (const page of [1, 3, 5, 7, 9, 11]) write(bench, page, page);
  bench.pages.flush();
  for (const io of [...bench.io.inFlight]) bench.io.end(io);
  bench.pages.reap(bench.owner);
  expect(bench.ended).toHaveLength(4);
  expect(bench.pages.hasEnded()).toBe(true);
  bench.pages.reap(bench.owner);
  expect(bench.ended).toHaveLength(6);
  expect(bench.pages.hasEnded()).toBe(false);
});

it('staging pages are taken once, and all come back', () => {
  const { pages } = setUp();
  const taken = Array.from({ length: STAGING }, () => pages.take());
  expect(new Set(taken).size).toBe(STAGING);
  expect([pages.take(), pages.freeStaging]).toEqual([-1, 0]);
  pages.give(taken[5]!);
  expect(pages.take()).toBe(taken[5]);
});

it('every I/O is counted once with its latency, reads and writes apart', () => {
  const bench = setUp();
  write(bench, 3, 3);
  write(bench, 4, 3);
  bench.pages.queue(false, 20, bench.pages.take());
  bench.pages.flush();
  for (const io of [...bench.io.inFlight]) bench.io.end(io);
  bench.pages.reap(bench.owner);
  for (const latency of [bench.readLatency, bench.writeLatency]) {
    const counts = [...latency.subarray(0, LATENCY_BUCKETS)];
    expect(counts.reduce((all, count) => all + count, 0)).toBe(1);
    // The sum is the one there is: it lies in the bucket that has it.
    const bucket = counts.indexOf(1);
    const micros = latency[LATENCY.sum]!;
    expect(micros).toBeGreaterThanOrEqual(bucket === 0 ? 0 : 2 ** bucket);
    expect(micros).toBeLessThan(2 ** (bucket + 1));
  }
});

describe('random pages', () => {
  it('are read as they were written, in I/Os that end in any order, now and then with errors', () => {
    replayable((random) => {
      const bench = setUp(SPLIT, random.between(1, 12));
      const model = new Map<number, number>();
      const moving = new Map<number, { page: number; fill: number | undefined }>();
      const owner = {
        pageEnded(staging: number, errno: number) {
          const { page, fill } = moving.get(staging)!;
          moving.delete(staging);
          if (errno !== 0) model.delete(page);
          else if (fill !== undefined) model.set(page, fill);
          else if (model.has(page)) expect(bench.view[staging * PAGE + 77]).toBe(model.get(page));
          bench.pages.give(staging);
        },
      };
      for (let step = 0; step < 3000; step++) {
        const page = random.below(80);
        const isBusy = [...moving.values()].some((each) => each.page === page);
        if (!isBusy && random.rarely(2)) {
          const isWrite = random.rarely(2);
          const fill = isWrite ? random.below(256) : undefined;
          const staging = bench.pages.take();
          if (fill !== undefined) bench.view.fill(fill, staging * PAGE, (staging + 1) * PAGE);
          moving.set(staging, { page, fill });
          bench.pages.queue(isWrite, page, staging);
        }
        if (random.rarely(3)) bench.pages.flush();
        if (random.rarely(2) && bench.io.inFlight.length > 0) {
          const io = random.pick(bench.io.inFlight);
          bench.io.end(io, random.rarely(8) ? random.pick([-EIO, 100, 5000]) : undefined);
        }
        if (random.rarely(2)) bench.pages.reap(owner);
      }
      while (moving.size > 0) {
        bench.pages.flush();
        for (const io of [...bench.io.inFlight]) bench.io.end(io);
        bench.pages.reap(owner);
      }
      expect(bench.pages.freeStaging).toBe(STAGING);
      expect(model.size).toBeGreaterThan(20);
    });
  });
});
