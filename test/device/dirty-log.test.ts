/**
 * The dirty log as a front end asks for it: switched on and off while rings run, in all threads;
 * replaced, dropped, refused. That every page written is marked is judged over all of guest memory.
 */

import { openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { ControlClient } from '../../src/control/client.ts';
import { BlockDevice } from '../../src/device/block-device.ts';
import { decodeState, encodeState } from '../../src/device/handover.ts';
import type { QueueCall } from '../../src/device/orders.ts';
import type { ThreadCaller } from '../../src/device/thread-call.ts';
import { closeFd, createMemfd, duplicateFd } from '../../src/native/fd.ts';
import { readStatistics } from '../../src/store/statistics.ts';
import { encodeVringAddress, VHOST_F_LOG_ALL, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { availRingBytes, descTableBytes, usedRingBytes } from '../../src/virtio/split-ring.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_T_GET_ID } from '../../src/virtio-blk/protocol.ts';
import { Daemon, isBuilt, sleep, until } from '../driver/daemon.ts';
import { openFds, signals } from '../driver/descriptors.ts';
import { DirtyTracker, pagesOf, SharedLog } from '../driver/dirty-tracker.ts';
import { DriverRing } from '../driver/driver-ring.ts';
import { RequestRefused } from '../driver/front-end.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { joined, randomLayout } from '../driver/layouts.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { QueueThread } from '../driver/threads.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const PAGE = 4096;
const MIB = 2 ** 20;
const SLOTS = 256;
const BATCHES = 15;
const FEATURES =
  BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** Pages that a ring's own parts lie in: the device's, and the driver's that it writes by itself. */
function usedPages(ring: DriverRing): number[] {
  return pagesOf(ring.used, usedRingBytes(ring.size));
}

function availPages(ring: DriverRing): number[] {
  return pagesOf(ring.avail, availRingBytes(ring.size));
}

/** A device with this many rings, `threads` threads beside this one, and a log that is not in force. */
function setUp(rings = 1, threads: readonly ThreadCaller<QueueCall>[] = []) {
  const local = new LocalDevice({}, undefined, threads);
  local.negotiate(FEATURES);
  local.frontEnd.setMemoryTable(local.ram);
  // The driver's part of a ring has pages of its own: it is written while the device works.
  const parts = Array.from({ length: rings }, () => ({ avail: local.ram.allocate(PAGE, PAGE) }));
  const drivers = parts.map((part, index) => {
    const driver = local.makeRing(64, part);
    local.frontEnd.startRing(index, driver.ring, { call: local.eventFd() });
    local.frontEnd.setEnabled(index, true);
    return driver;
  });
  const tracker = new DirtyTracker(local.ram);
  cleanUps.push(
    () => tracker.close(),
    () => local.close(),
  );
  return { local, frontEnd: local.frontEnd, drivers, driver: drivers[0]!, tracker };
}

type Bench = ReturnType<typeof setUp>;

/** As QEMU begins: the log, the feature, each ring's addresses once more. */
function beginLog({ frontEnd, drivers, tracker }: Bench, log = tracker.log): void {
  frontEnd.setLogBase(log.area, log.fd);
  frontEnd.setFeatures(FEATURES | VHOST_F_LOG_ALL);
  drivers.forEach(({ ring }, index) => {
    frontEnd.setAddress(index, ring, true);
  });
}

function endLog({ frontEnd, drivers }: Bench): void {
  frontEnd.setFeatures(FEATURES);
  drivers.forEach(({ ring }, index) => {
    frontEnd.setAddress(index, ring);
  });
}

/** One read, served here; the pages that were written: data, status, used ring. */
function readOne({ local, driver, tracker }: Bench): number[] {
  driver.submit(read(0, 1));
  driver.flush();
  tracker.snapshot();
  local.serve();
  const changed = tracker.changed();
  expect(driver.complete()).toMatchObject([{ status: 0 }]);
  expect(changed.length).toBeGreaterThan(1);
  return changed;
}

function someRequest(random: Random) {
  const page = random.below(SLOTS - 8);
  switch (random.below(4)) {
    case 0:
      return write(page, random.page());
    case 1:
      return { type: VIRTIO_BLK_T_GET_ID, sector: 0, inBytes: 20 };
    default:
      return read(page, random.between(1, 8));
  }
}

describe('while logging is on', () => {
  it.each([1, 2, 3])('%i threads mark all that they write', async (count) => {
    const threads = Array.from({ length: count - 1 }, () => new QueueThread());
    for (const thread of threads) cleanUps.push(() => thread.stop());
    const bench = setUp(
      4,
      threads.map(({ caller }) => caller),
    );
    const { local, frontEnd, drivers, tracker } = bench;
    beginLog(bench);
    const random = new Random(SEED);
    let marked = 0;
    for (let batch = 0; batch < BATCHES; batch++) {
      for (const driver of drivers) {
        for (let i = random.between(1, 8); i > 0; i--) {
          const request = someRequest(random);
          const layout = randomLayout(random, GuestDriver.sizes(request), 12, true);
          if (driver.hasRoom(layout)) driver.submit(request, layout);
        }
      }
      tracker.snapshot();
      for (const driver of drivers) driver.flush();
      local.serve();
      local.device.queues.enableKicks();
      const isOver = () => drivers.every(({ ring, inFlight }) => ring.usedCount === inFlight);
      await until(isOver, 'all is returned', 10_000);
      // At rest: what other threads still write before they sleep is written, and marked, by then.
      const bases = drivers.map((_, index) => frontEnd.getBase(index));
      marked += tracker.check(
        drivers.flatMap(({ ring }) => usedPages(ring)),
        drivers.flatMap(({ ring }) => availPages(ring)),
      );
      drivers.forEach(({ ring }, index) => {
        frontEnd.setBase(index, bases[index]!);
        frontEnd.setAddress(index, ring, true);
        frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, index, undefined);
      });
      for (const driver of drivers) {
        for (const { status } of driver.complete()) expect(status).toBe(0);
      }
    }
    expect(marked).toBeGreaterThan(20 * BATCHES);
    expect(local.reports.filter((report) => /dirty log/.test(report))).toEqual([]);
  });

  it('a log takes the place of another while the ring runs', () => {
    const bench = setUp();
    beginLog(bench);
    readOne(bench);
    bench.tracker.log.take();
    const other = new SharedLog(bench.local.ram.window.bytes);
    cleanUps.push(() => other.close());
    bench.frontEnd.setLogBase(other.area, other.fd);
    expect(other.take()).toEqual([]);
    expect(readOne(bench)).toEqual(other.take());
    expect(bench.tracker.log.take()).toEqual([]);
  });

  it('a log too small is missed: told once, the guest is served, what it covers is marked', () => {
    const bench = setUp();
    const { ring } = bench.driver;
    const small = new SharedLog(8 * PAGE);
    cleanUps.push(() => small.close());
    expect(ring.used).toBeLessThan(8 * PAGE);
    bench.local.ram.allocate(16 * PAGE);
    beginLog(bench, small);
    for (let i = 0; i < 3; i++) readOne(bench);
    expect(small.take()).toEqual(usedPages(ring));
    expect(bench.local.reports).toEqual([
      expect.stringMatching(/^warn: written up to guest address 0x[0-9a-f]+, .* dirty log/),
    ]);
  });

  it('what is written without any log is told once', () => {
    const bench = setUp();
    bench.frontEnd.setFeatures(FEATURES | VHOST_F_LOG_ALL);
    for (let i = 0; i < 3; i++) readOne(bench);
    expect(bench.local.reports).toEqual([
      expect.stringMatching(/dirty log .* got 0\): a migration/),
    ]);
  });

  it('the used ring is marked where its ring is asked to, and data in any case', () => {
    const bench = setUp();
    const { frontEnd, tracker, driver } = bench;
    // The rest of the used ring's page, and some: no status byte will lie there.
    bench.local.ram.allocate(8 * PAGE);
    frontEnd.setLogBase(tracker.log.area, tracker.log.fd);
    frontEnd.setFeatures(FEATURES | VHOST_F_LOG_ALL);
    readOne(bench);
    expect(tracker.log.take()).not.toContain(usedPages(driver.ring)[0]);
    frontEnd.setAddress(0, driver.ring, true);
    readOne(bench);
    expect(tracker.log.take()).toContain(usedPages(driver.ring)[0]);
    frontEnd.setFeatures(FEATURES);
    readOne(bench);
    expect(tracker.log.take()).toEqual([]);
  });

  it('SET_LOG_FD is signalled for what is new in the log; a second one replaces it', () => {
    const bench = setUp();
    const [first, second] = [bench.local.eventFd(), bench.local.eventFd()];
    const setLogFd = (fd: number) =>
      bench.frontEnd.order(VHOST_USER.SET_LOG_FD, new Uint8Array(0), [fd]);
    beginLog(bench);
    setLogFd(first);
    expect(readOne(bench)).toHaveLength(signals(first));
    setLogFd(second);
    bench.tracker.log.take();
    const pages = readOne(bench);
    expect([signals(first), signals(second)]).toEqual([0, pages.length]);
  });

  it('what the guest has set stays: the features are the same but for the log', () => {
    const bench = setUp();
    const { frontEnd } = bench;
    frontEnd.setConfig(32, Uint8Array.of(0));
    beginLog(bench);
    expect(frontEnd.getConfig(32, 1)).toEqual(Uint8Array.of(0));
    endLog(bench);
    expect(frontEnd.getConfig(32, 1)).toEqual(Uint8Array.of(0));
  });
});

describe('switched while requests are under way', () => {
  const PAGES = 150;

  /** A read of which a first turn has moved some pages and not all. */
  function halfDone() {
    const bench = setUp();
    const { local, driver } = bench;
    driver.submit(read(1, PAGES), joined(GuestDriver.sizes(read(1, PAGES))));
    driver.flush();
    bench.tracker.snapshot();
    expect(local.device.queues.serve()).toBe(true);
    return bench;
  }

  it('on: what is still written is marked, and nothing is begun again', () => {
    const bench = halfDone();
    const { local, tracker, driver } = bench;
    const before = tracker.changed();
    expect(before.length).toBeGreaterThan(PAGES / 4);
    tracker.snapshot();
    beginLog(bench);
    local.serve();
    expect(tracker.check(usedPages(driver.ring))).toBeGreaterThan(PAGES / 4);
    expect(driver.complete()).toMatchObject([{ status: 0, len: PAGES * PAGE + 1 }]);
    const { mapped } = local.device.store;
    expect(readStatistics(null, mapped).num_reads).toBe(PAGES);
  });

  it('off: nothing is marked from then on', () => {
    const bench = setUp();
    const { local, driver, tracker } = bench;
    beginLog(bench);
    driver.submit(read(1, PAGES), joined(GuestDriver.sizes(read(1, PAGES))));
    driver.flush();
    local.device.queues.serve();
    expect(tracker.log.take().length).toBeGreaterThan(PAGES / 4);
    endLog(bench);
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
    expect(tracker.log.take()).toEqual([]);
  });

  it('at another place a running ring begins again what it had not returned', () => {
    const bench = halfDone();
    const { local, frontEnd, driver } = bench;
    const { ring } = driver;
    const moved = new DriverRing(local.ram, ring.size, { avail: local.ram.allocate(PAGE, PAGE) });
    for (const [from, to, bytes] of [
      [ring.desc, moved.desc, descTableBytes(ring.size)],
      [ring.avail, moved.avail, availRingBytes(ring.size)],
      [ring.used, moved.used, usedRingBytes(ring.size)],
    ] as const) {
      local.ram.write(to, local.ram.read(from, bytes));
    }
    frontEnd.setAddress(0, moved, true);
    local.serve();
    expect(ring.usedIdx).toBe(0);
    expect(moved.takeUsed()).toMatchObject({ len: PAGES * PAGE + 1 });
  });
});

describe.skipIf(!isBuilt)('reads from a backing swap', () => {
  it('that were under way when logging began are marked when they end', async () => {
    const swap = makeSwapFile(16 * MIB);
    cleanUps.push(swap.remove);
    const args = ['--backing-swap', swap.path, '--memlimit', '4K'];
    const daemon = await Daemon.start(args, { RAMZSWAP_FAULT_INJECTION: '1' });
    cleanUps.push(() => daemon.stop());
    const control = await ControlClient.connect(daemon.controlPath);
    cleanUps.push(() => control.close());
    const ram = new GuestRam(4 * MIB);
    const guest = MultiQueueGuest.connect(daemon.socketPath, { queues: [{ size: 512 }], ram });
    cleanUps.push(() => guest.close());
    const { driver } = guest.queues[0]!;
    const random = new Random(SEED);
    const finish = () =>
      guest.completeAll((_, { status }) => {
        if (status !== 0) throw new Error(`status ${status}`);
      });
    const [pages, count] = [8, 20];
    for (let i = 0; i < count; i++) driver.submit(write(1 + i * pages, random.bytes(pages * PAGE)));
    driver.flush();
    finish();
    await control.call('fault', { backing: { delayMillis: 300 } });
    const tracker = new DirtyTracker(ram);
    cleanUps.push(() => tracker.close());
    for (let i = 0; i < count; i++) driver.submit(read(1 + i * pages, pages));
    // What is already in memory comes at once, and is not marked yet.
    driver.flush();
    await sleep(100);
    tracker.snapshot();
    expect(driver.ring.usedCount).toBeLessThan(count);
    guest.beginLog(tracker.log);
    await until(() => driver.ring.usedCount === count, 'all is returned', 10_000);
    guest.frontEnd.getBase(0);
    expect(tracker.check(usedPages(driver.ring))).toBeGreaterThan((pages * count) / 2);
  });
});

describe('the log is dropped', () => {
  it('by RESET_DEVICE, with all that belongs to it', () => {
    const bench = setUp();
    const { local, frontEnd, driver, tracker } = bench;
    beginLog(bench);
    const eventFd = local.eventFd();
    frontEnd.order(VHOST_USER.SET_LOG_FD, new Uint8Array(0), [eventFd]);
    frontEnd.order(VHOST_USER.RESET_DEVICE, new Uint8Array(0));
    const begin = () => {
      frontEnd.startRing(0, driver.ring, {}, driver.ring.usedIdx);
      frontEnd.setEnabled(0, true);
    };
    frontEnd.setFeatures(FEATURES);
    begin();
    readOne(bench);
    frontEnd.setFeatures(FEATURES | VHOST_F_LOG_ALL);
    frontEnd.setAddress(0, driver.ring, true);
    readOne(bench);
    expect(tracker.log.take()).toEqual([]);
    expect(signals(eventFd)).toBe(0);
    expect(local.reports).toEqual([expect.stringMatching(/dirty log .* got 0\)/)]);
  });

  it('with the session; the next begins without, and no descriptor stays', () => {
    const bench = setUp();
    const { local } = bench;
    const before = openFds();
    const eventFd = local.eventFd();
    beginLog(bench);
    bench.frontEnd.order(VHOST_USER.SET_LOG_FD, new Uint8Array(0), [eventFd]);
    local.device.detach();
    bench.frontEnd.close();
    const frontEnd = local.connect();
    local.negotiate(FEATURES);
    frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing();
    frontEnd.startRing(0, driver.ring, {});
    frontEnd.setEnabled(0, true);
    expect(openFds()).toBe(before);
    readOne({ ...bench, driver });
    expect(bench.tracker.log.take()).toEqual([]);
    expect(local.reports).toEqual([]);
  });
});

it('goes with the session to another process, with all that belongs to it', () => {
  const { local, driver, tracker, frontEnd, ...rest } = setUp();
  beginLog({ local, driver, tracker, frontEnd, ...rest });
  const eventFd = local.eventFd();
  frontEnd.order(VHOST_USER.SET_LOG_FD, new Uint8Array(0), [eventFd]);
  const paused = local.device.pause({
    listenFd: undefined,
    listenPath: undefined,
    controlFd: undefined,
  });
  const { text, fds } = encodeState(paused);
  const takenOver = decodeState(text, fds.map(duplicateFd));
  local.device.detach();
  const shape = { name: 'ramzswap0', diskBytes: 1 << 20, guestPageBytes: 4096, numQueues: 4 };
  const options = { ...shape, files: takenOver.files, takenOver };
  const device = new BlockDevice(options, local, { report() {} });
  device.init(options);
  cleanUps.push(
    () => frontEnd.close(),
    () => device.detach(),
  );
  device.resume();
  driver.submit(read(0, 2));
  driver.flush();
  tracker.snapshot();
  while (device.queues.serve());
  expect(driver.complete()).toMatchObject([{ status: 0 }]);
  expect(tracker.check(usedPages(driver.ring))).toBeGreaterThan(1);
  expect(signals(eventFd)).toBeGreaterThan(1);
});

describe('a log that cannot be', () => {
  it.each([
    ['beyond its file', { mmapSize: 4096, mmapOffset: 8192 }, /expected a file of 12288 bytes/],
    ['at an offset within a page', { mmapSize: 64, mmapOffset: 8 }, /whole pages/],
    ['of no bytes', { mmapSize: 0, mmapOffset: 0 }, /expected 1 to \d+ bytes, got 0/],
  ])('%s is refused; the one before stays, and no descriptor', (_, area, why) => {
    const bench = setUp();
    beginLog(bench);
    const fd = createMemfd('log', 8192);
    cleanUps.push(() => closeFd(fd));
    const before = openFds();
    expect(() => bench.frontEnd.setLogBase(area, fd)).toThrow(RequestRefused);
    expect(openFds()).toBe(before);
    expect(bench.local.reports.at(-1)).toMatch(/^warn: refused: SET_LOG_BASE: dirty log: /);
    expect(bench.local.reports.at(-1)).toMatch(why);
    bench.tracker.log.take();
    expect(readOne(bench)).toEqual(bench.tracker.log.take());
  });

  it.each([
    ['an eventfd', (local: LocalDevice) => local.eventFd()],
    ['a file that may only be read', () => readOnlyFile()],
  ])('%s is refused', (_, make) => {
    const bench = setUp();
    const fd = make(bench.local);
    const run = () => bench.frontEnd.setLogBase({ mmapSize: 64, mmapOffset: 0 }, fd);
    expect(run).toThrow(RequestRefused);
    readOne(bench);
  });

  it('had by one of the threads is had by none', () => {
    const refusing = {
      call: (call: QueueCall) => {
        if (call.kind === 'queues' && call.method === 'setLogBase') throw new RefusedError('no');
      },
    } as unknown as ThreadCaller<QueueCall>;
    const bench = setUp(1, [refusing]);
    expect(() => beginLog(bench)).toThrow(RequestRefused);
    bench.frontEnd.setFeatures(FEATURES | VHOST_F_LOG_ALL);
    readOne(bench);
    expect(bench.tracker.log.take()).toEqual([]);
    expect(bench.local.reports.at(-1)).toMatch(/dirty log .* got 0\)/);
  });

  it('an address by which to log that no used ring can have is refused', () => {
    const bench = setUp();
    const address = { index: 0, flags: 1, log: 2n, ...bench.driver.ring.userAddresses };
    const payload = encodeVringAddress(address);
    const run = () => bench.frontEnd.order(VHOST_USER.SET_VRING_ADDR, payload);
    expect(run).toThrow(RequestRefused);
    expect(bench.local.reports.at(-1)).toMatch(
      /SET_VRING_ADDR: ring 0: log: expected alignment to 4 bytes/,
    );
  });
});

it('a log that may be truncated is warned of', () => {
  const bench = setUp();
  const folder = makeFolder();
  cleanUps.push(folder.remove);
  const path = join(folder.path, 'log');
  writeFileSync(path, new Uint8Array(4096));
  const fd = openSync(path, 'r+');
  cleanUps.push(() => closeFd(fd));
  bench.frontEnd.setLogBase({ mmapSize: 4096, mmapOffset: 0 }, fd);
  expect(bench.local.reports).toEqual([expect.stringMatching(/^warn: dirty log is not sealed/)]);
});

function readOnlyFile(): number {
  const fd = openSync(fileURLToPath(import.meta.url), 'r');
  cleanUps.push(() => closeFd(fd));
  return fd;
}
