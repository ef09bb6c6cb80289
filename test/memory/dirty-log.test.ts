/**
 * The dirty log alone: which bits it sets, in which file, what it refuses, and that threads
 * which set bits of the same bytes lose none.
 */

import { once } from 'node:events';
import { readSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { DirtyLog } from '../../src/memory/dirty-log.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { openFds } from '../driver/descriptors.ts';
import { pagesOf, SharedLog } from '../driver/dirty-tracker.ts';
import { Random } from '../driver/random.ts';
import { startThread } from '../driver/threads.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const GIB = 2 ** 30;
const PAGE = 4096;
const THREADS = 2;
const RACE_PAGES = 2 ** 17;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function sharedLog(end: number): SharedLog {
  const shared = new SharedLog(end);
  cleanUps.push(() => shared.close());
  return shared;
}

function setUp(end: number) {
  const shared = sharedLog(end);
  const log = new DirtyLog();
  const misses: string[] = [];
  log.onMiss = (what) => misses.push(what);
  log.map(shared.area, shared.fd);
  log.isOn = true;
  return { shared, log, misses };
}

function mark(log: DirtyLog, address: number, bytes: number): void {
  // As descriptors give them: halves, the lower one signed.
  log.mark(address | 0, Math.floor(address / 2 ** 32), bytes);
}

describe('a write', () => {
  it.each([
    [0, 1],
    [4095, 1],
    [4095, 2],
    [4096, 4096],
    [4097, 4096],
    [7 * PAGE + 100, PAGE],
    [31 * PAGE, 3 * PAGE],
    [0, 70 * PAGE + 1],
    [3 * GIB + 1, 4096],
    [4 * GIB - 1, 2],
    [5 * GIB + 5 * PAGE - 20, 40],
  ])('at %i of %i bytes marks the pages that it touches and no other', (address, bytes) => {
    const { shared, log, misses } = setUp(8 * GIB);
    mark(log, address, bytes);
    expect(shared.take()).toEqual(pagesOf(address, bytes));
    expect(misses).toEqual([]);
  });

  it(`adds to what is marked, until it is taken out (seed ${SEED})`, () => {
    const { shared, log } = setUp(GIB);
    const random = new Random(SEED);
    for (let round = 0; round < 50; round++) {
      const expected = new Set<number>();
      for (let i = random.between(0, 200); i > 0; i--) {
        const [address, bytes] = [random.below(GIB - 9000), random.between(1, 9000)];
        mark(log, address, bytes);
        for (const page of pagesOf(address, bytes)) expected.add(page);
      }
      expect(shared.take()).toEqual([...expected].sort((a, b) => a - b));
    }
  });

  it('marks nothing while the log is off', () => {
    const { shared, log, misses } = setUp(GIB);
    log.isOn = false;
    mark(log, 4096, 1);
    mark(log, 2 * GIB, 1);
    expect(shared.take()).toEqual([]);
    expect(misses).toEqual([]);
  });

  it('beyond the log marks what is within it, and is told once', () => {
    const { shared, log, misses } = setUp(9 * PAGE);
    expect(shared.area.mmapSize).toBe(2);
    mark(log, 15 * PAGE, 2 * PAGE);
    expect(shared.take()).toEqual([15]);
    expect(misses).toEqual([
      'written up to guest address 0x11000, which is not in the dirty log ' +
        '(expected 3 bytes of it, got 2): a migration may miss it',
    ]);
    mark(log, 16 * PAGE, 1);
    mark(log, 2 ** 52, 1);
    log.mark(-1, -1, 1);
    expect(shared.take()).toEqual([]);
    expect(misses).toHaveLength(1);
  });

  it('without a log is told once, and again after a release', () => {
    const log = new DirtyLog();
    const misses: string[] = [];
    log.onMiss = (what) => misses.push(what);
    for (let i = 0; i < 2; i++) {
      log.isOn = true;
      mark(log, 0, 1);
      mark(log, 0, 1);
      log.release();
      mark(log, 0, 1);
    }
    expect(misses).toHaveLength(2);
    expect(misses[0]).toMatch(/expected 1 bytes of it, got 0/);
  });

  it('signals the event descriptor where it sets a bit that was not set', () => {
    const { shared, log } = setUp(GIB);
    const fd = createEventFd();
    cleanUps.push(() => closeFd(fd));
    const count = () => {
      const bytes = Buffer.alloc(8);
      readSync(fd, bytes);
      return bytes.readBigUInt64LE();
    };
    log.eventFd = fd;
    mark(log, 0, 3 * PAGE);
    mark(log, PAGE, 4 * PAGE);
    expect(count()).toBe(5n);
    shared.take();
    mark(log, PAGE, 1);
    mark(log, PAGE, 1);
    expect(count()).toBe(1n);
  });
});

describe('a log', () => {
  it('takes the place of the one before, larger or smaller, which is left alone then', () => {
    const { shared, log } = setUp(GIB);
    for (const end of [4 * GIB, 64 * PAGE, 32 * GIB]) {
      const next = sharedLog(end);
      mark(log, 0, 1);
      log.map(next.area, next.fd);
      expect(shared.take(), 'marked before').toContain(0);
      mark(log, end - PAGE, 1);
      expect(next.take()).toEqual([end / PAGE - 1]);
      expect(shared.take()).toEqual([]);
      log.map(shared.area, shared.fd);
    }
  });

  it('that is dropped keeps its bits and gets no more', () => {
    const { shared, log, misses } = setUp(GIB);
    mark(log, PAGE, 1);
    log.drop();
    mark(log, 2 * PAGE, 1);
    expect(shared.take()).toEqual([1]);
    expect(misses).toHaveLength(1);
  });

  it('may end within a page of its file', () => {
    const fd = createMemfd('log', 2);
    cleanUps.push(() => closeFd(fd));
    const log = new DirtyLog();
    log.isOn = true;
    log.map({ mmapSize: 2, mmapOffset: 0 }, fd);
    mark(log, 9 * PAGE, 1);
    const bytes = Buffer.alloc(2);
    readSync(fd, bytes, 0, 2, 0);
    expect([...bytes]).toEqual([0, 2]);
  });

  const REFUSALS: [string, number, number, RegExp][] = [
    ['no bytes', 0, 0, /^dirty log: expected 1 to 2147483648 bytes, got 0$/],
    ['more than a window holds', 2 ** 31 + 1, 0, /got 2147483649$/],
    ['an offset within a page', 4096, 512, /expected an offset of whole pages .* got 512$/],
    ['a part beyond the file', 4096, 8192, /expected a file of 12288 bytes, got 8192$/],
    ['more than the file', 8193, 0, /expected a file of 8193 bytes, got 8192$/],
  ];

  it.each(REFUSALS)('of %s is refused, the one before stays', (_, mmapSize, mmapOffset, why) => {
    const { shared, log } = setUp(GIB);
    const fd = createMemfd('log', 8192);
    cleanUps.push(() => closeFd(fd));
    expect(() => log.map({ mmapSize, mmapOffset }, fd)).toThrow(RefusedError);
    expect(() => log.map({ mmapSize, mmapOffset }, fd)).toThrow(why);
    mark(log, PAGE, 1);
    expect(shared.take()).toEqual([1]);
  });

  it('that is no file is refused', () => {
    const fd = createEventFd();
    cleanUps.push(() => closeFd(fd));
    const log = new DirtyLog();
    const map = () => log.map({ mmapSize: 4096, mmapOffset: 0 }, fd);
    expect(map).toThrow(/expected a regular file/);
  });

  it('leaves no descriptor open', () => {
    const before = openFds();
    const { log } = setUp(GIB);
    log.release();
    for (const cleanUp of cleanUps.splice(0)) cleanUp();
    expect(openFds()).toBe(before);
  });
});

it(`${THREADS} threads that mark pages of the same bytes lose none`, async () => {
  const shared = sharedLog(RACE_PAGES * PAGE);
  const url = new URL('../models/dirty-log-thread.ts', import.meta.url);
  const arrivals = new Int32Array(new SharedArrayBuffer(4));
  const { fd, area } = shared;
  const ended = Array.from({ length: THREADS }, (_, thread) => {
    const part = { fd, area, arrivals, thread, threads: THREADS, pages: RACE_PAGES };
    return once(startThread(url, part), 'exit');
  });
  expect(await Promise.all(ended)).toEqual(ended.map(() => [0]));
  expect(shared.take()).toHaveLength(RACE_PAGES);
});

it('a log that cannot be unmapped is told, and the next one lies elsewhere', () => {
  const ENOMEM = 12;
  const [first, second] = [sharedLog(PAGE * 8), sharedLog(PAGE * 8)];
  const log = new DirtyLog(() => -ENOMEM);
  const told: string[] = [];
  log.onTrouble = (what) => told.push(what);
  log.isOn = true;
  log.map(first.area, first.fd);
  log.map(second.area, second.fd);
  expect(told).toEqual(['the dirty log stays mapped: mmap: ENOMEM (not enough memory)']);
  mark(log, 0, 1);
  expect([first.take(), second.take()]).toEqual([[], [0]]);
  log.release();
  expect(told).toHaveLength(2);
});
