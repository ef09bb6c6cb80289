/**
 * What one thread serves, without a session: sets of queues over objects of one store, as several
 * threads have them, here in one.
 */

import { readSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { LATENCY, LATENCY_BUCKETS } from '../../src/base/latency.ts';
import { QueueSet } from '../../src/device/queue-set.ts';
import { turnClock } from '../../src/native/clock.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { COUNTER, readStatistics, sumCounter } from '../../src/store/statistics.ts';
import { REQUESTS } from '../../src/virtio-blk/page-device.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { checkLatencies } from '../models/known-figures.ts';

const QUEUES = 4;
const SLOTS = 256;
const TERMS = { eventIdx: false, indirect: false, startsEnabled: true };
const cleanUps: (() => void)[] = [];

afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

/** Sets over one store, and a guest's memory. */
function setUp(threads: number) {
  const store = PageStore.make({ slots: SLOTS, threads });
  const ram = new GuestRam(4 << 20);
  const reports: string[] = [];
  const watched = new Set<number>();
  const watcher = {
    watchKick: (fd: number) => void watched.add(fd),
    unwatchKick: (fd: number) => void watched.delete(fd),
  };
  const sets = Array.from({ length: threads }, (_, thread) => {
    const own = thread === 0 ? store : PageStore.join(store.share, thread);
    const set = new QueueSet(
      { name: 'ramzswap0', queueCount: QUEUES },
      watcher,
      (level, message) => {
        reports.push(`${level}: ${message}`);
      },
    );
    set.openDisk({ store: own });
    cleanUps.push(() => set.close());
    return set;
  });
  cleanUps.push(() => ram.close());
  return { store, ram, sets, reports, watched };
}

function tableOf(ram: GuestRam): Parameters<QueueSet['setMemoryTable']> {
  return [ram.regions, ram.regions.map(() => ram.fd)];
}

/** A ring of the set, running. */
function start(set: QueueSet, ram: GuestRam, index: number, size = 16): GuestDriver {
  const driver = new GuestDriver(ram, size);
  set.setVringNum(index, size);
  set.setVringBase(index, 0);
  set.setVringAddress({ index, flags: 0, log: 0n, ...driver.ring.userAddresses });
  set.setVringKick(index, createEventFd(), TERMS);
  return driver;
}

/** One request, served; its data. */
function served(set: QueueSet, driver: GuestDriver, request: ReturnType<typeof read>): Uint8Array {
  driver.submit(request);
  driver.ring.publish();
  // As a reactor has.
  turnClock.read();
  while (set.serve());
  const [done] = driver.complete();
  expect(done!.status).toBe(0);
  return done!.data;
}

describe('sets of queues over one store', () => {
  it('read what another wrote, and count together', () => {
    const { store, ram, sets } = setUp(2);
    const drivers = sets.map((set, index) => {
      set.setMemoryTable(...tableOf(ram));
      return start(set, ram, index);
    });
    const random = new Random(1);
    for (let i = 0; i < 20; i++) {
      const page = random.page();
      const [from, to] = i % 2 === 0 ? [0, 1] : [1, 0];
      served(sets[from]!, drivers[from]!, write(i, page));
      expect(served(sets[to]!, drivers[to]!, read(i, 1))).toEqual(page);
    }
    const { counters } = store.mapped;
    expect(sumCounter(counters, COUNTER.requestsRead)).toBe(20);
    expect(sumCounter(counters, COUNTER.requestsWrite)).toBe(20);
    expect(store.counters[COUNTER.requestsWrite]).toBe(10);
    const figures = readStatistics(null, store.mapped);
    checkLatencies(figures);
    // Each thread has counted its own.
    const writes = REQUESTS.write * LATENCY.DOUBLES;
    const own = store.mapped.requestLatencyRow.subarray(writes, writes + LATENCY_BUCKETS);
    expect(own.reduce((sum, count) => sum + count)).toBe(10);
    // What is left of the time that it took is counted at the end.
    for (const set of sets) set.close();
    const { read_latency_micros, write_latency_micros } = figures;
    const { serve_micros } = readStatistics(null, store.mapped);
    expect(serve_micros).toBeGreaterThanOrEqual(read_latency_micros + write_latency_micros);
  });

  it('say who had something to do, and count what is polled for those that have rings', () => {
    const { store, ram, sets } = setUp(2);
    const [first, second] = sets as [QueueSet, QueueSet];
    for (const set of sets) set.setMemoryTable(...tableOf(ram));
    const driver = start(first, ram, 0);
    driver.submit(read(3, 1));
    driver.ring.publish();
    for (const set of sets) set.serve();
    expect(sets.map(({ hasServed }) => hasServed)).toEqual([true, false]);
    first.serve();
    expect(first.hasServed).toBe(false);
    const polled = () => sumCounter(store.mapped.counters, COUNTER.pollMicros);
    for (let i = 0; i < 40; i++) first.countPolling(30);
    first.serve();
    expect(polled()).toBe(40 * 30);
    for (let i = 0; i < 40; i++) second.countPolling(30);
    for (const set of sets) set.close();
    expect(polled()).toBe(40 * 30);
  });

  it('have memory of their own: what one unmaps, another still has', () => {
    const { ram, sets } = setUp(2);
    const [first, second] = sets as [QueueSet, QueueSet];
    for (const set of sets) set.setMemoryTable(...tableOf(ram));
    const driver = start(second, ram, 1);
    first.close();
    expect(served(second, driver, read(3, 1))).toEqual(new Uint8Array(4096));
  });

  it('grow together, each when it is told', () => {
    const store = PageStore.make({ slots: SLOTS, slotsMax: 2 * SLOTS, threads: 2 });
    const set = new QueueSet(
      { name: 'a', queueCount: 1 },
      { watchKick() {}, unwatchKick() {} },
      () => {},
    );
    set.openDisk({ store: PageStore.join(store.share, 1) });
    const ram = new GuestRam(1 << 20);
    cleanUps.push(
      () => ram.close(),
      () => set.close(),
    );
    set.setMemoryTable(...tableOf(ram));
    const driver = start(set, ram, 0);
    driver.submit(read(SLOTS, 1));
    driver.ring.publish();
    while (set.serve());
    expect(driver.complete()).toMatchObject([{ status: 1 }]);
    set.grow(2 * SLOTS);
    expect(served(set, driver, read(SLOTS, 1))).toEqual(new Uint8Array(4096));
  });
});

describe('a set of queues', () => {
  it('has one turn for all of its rings, and begins the next with who comes after', () => {
    const { ram, sets } = setUp(1);
    const [set] = sets as [QueueSet];
    set.setMemoryTable(...tableOf(ram));
    const drivers = [0, 1, 2, 3].map((index) => start(set, ram, index, 64));
    // 17 pages of a turn's 64 each, so a ring has more than half a turn's.
    for (const driver of drivers) {
      for (let i = 0; i < 2; i++) driver.submit(read(0, 16));
      driver.ring.publish();
    }
    const doneAfterTurn = () => {
      turnClock.read();
      const hasMore = set.serve();
      return [hasMore, drivers.map(({ ring }) => ring.usedCount)];
    };
    expect(doneAfterTurn()).toEqual([true, [2, 1, 0, 0]]);
    expect(doneAfterTurn()).toEqual([true, [2, 1, 2, 1]]);
    expect(doneAfterTurn()).toEqual([false, [2, 2, 2, 2]]);
  });

  it('takes a memory table whole or not at all', () => {
    const { ram, sets, reports } = setUp(1);
    const [set] = sets as [QueueSet];
    set.setMemoryTable(...tableOf(ram));
    start(set, ram, 0);
    expect(set.isServing()).toBe(true);
    const [region] = ram.regions;
    const beyond = { ...region!, guestAddress: 2 ** 40, userAddress: 2 ** 41, bytes: 2 ** 30 };
    const fds = [ram.fd, ram.fd];
    expect(() => set.setMemoryTable([region!, beyond], fds)).toThrow(RefusedError);
    expect(reports).toEqual([expect.stringMatching(/^warn: ring 0 stopped: desc ring.*got 0/)]);
    expect(set.isServing()).toBe(false);
    // The first of them is not there: it can be added.
    set.addMemoryRegion(region!, ram.fd);
    expect(set.isServing()).toBe(true);
  });

  it('says whether it serves: not without memory, not when disabled, not after the end', () => {
    const { ram, sets, watched } = setUp(1);
    const [set] = sets as [QueueSet];
    set.setMemoryTable(...tableOf(ram));
    expect(set.isServing()).toBe(false);
    const driver = start(set, ram, 2);
    expect([set.isServing(), set.hasWork(), set.mustPoll()]).toEqual([true, false, false]);
    driver.submit(read(1, 1));
    driver.ring.publish();
    expect(set.hasWork()).toBe(true);
    set.disableRings();
    expect([set.isServing(), set.hasWork()]).toEqual([false, false]);
    set.setVringEnable(2, true);
    expect([set.isServing(), set.hasWork()]).toEqual([true, true]);
    set.close();
    expect([set.isServing(), watched.size]).toEqual([false, 0]);
  });

  it('breaks a ring alone: its error descriptor is signalled, the others go on', () => {
    const { ram, sets, reports } = setUp(1);
    const [set] = sets as [QueueSet];
    set.setMemoryTable(...tableOf(ram));
    const [broken, whole] = [start(set, ram, 0), start(set, ram, 1)];
    const err = createEventFd();
    set.setVringErr(0, err);
    broken.ring.offer(99);
    broken.ring.publish();
    while (set.serve());
    expect(reports).toEqual([
      expect.stringMatching(/^warn: ring 0 broken by the guest: descriptor index/),
    ]);
    expect(readSync(err, new Uint8Array(8)), 'signals').toBe(8);
    expect(served(set, whole, read(1, 1))).toEqual(new Uint8Array(4096));
  });
});

it('descriptors are closed with the session, each once', () => {
  const { ram, sets } = setUp(1);
  const [set] = sets as [QueueSet];
  set.setMemoryTable(...tableOf(ram));
  start(set, ram, 0);
  const call = createEventFd();
  set.setVringCall(0, call);
  set.close();
  // Closing a second time is our bug, which closeFd asserts.
  expect(() => closeFd(call)).toThrow();
});
