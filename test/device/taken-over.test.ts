/**
 * A device that goes on in another object, as it would in another process: what becomes of rings in
 * each state, of sessions, news and memory, and of the first one when the second is given up.
 */

import { readSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlockDevice } from '../../src/device/block-device.ts';
import type { CompletionWatcher } from '../../src/device/disk.ts';
import { decodeState, encodeState } from '../../src/device/handover.ts';
import type { KickWatcher } from '../../src/device/ring.ts';
import { closeFd, duplicateFd } from '../../src/native/fd.ts';
import { Connection } from '../../src/vhost-user-ts/connection.ts';
import { encodeMemTable, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { openFds, signals } from '../driver/descriptors.ts';
import type { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice, pollOften } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { socketPair } from '../driver/sockets.ts';

const FEATURES =
  BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX;
const cleanUps: (() => unknown)[] = [];
let before = 0;

beforeEach(() => {
  before = openFds();
});

afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
  expect(openFds(), 'open descriptors').toBe(before);
});

function setUp(protocolFeatures?: bigint): LocalDevice {
  const local = new LocalDevice();
  const { fd, arenaFd } = local.device.store.mapped.shared;
  cleanUps.push(() => {
    local.close();
    for (const each of [fd, arenaFd]) closeFd(each);
  });
  local.negotiate(FEATURES, protocolFeatures);
  local.frontEnd.setMemoryTable(local.ram);
  return local;
}

/** A ring in the guest's memory, started and enabled. */
function ring(local: LocalDevice, index = 0, kick?: number): GuestDriver {
  const driver = local.makeRing(16);
  const fds = { kick, call: local.eventFd(), err: local.eventFd() };
  local.frontEnd.startRing(index, driver.ring, fds);
  local.frontEnd.setEnabled(index, true);
  return driver;
}

/** A new in-flight area, which the front end has kept and given back. */
function track({ device }: LocalDevice): void {
  const { inflight, fd } = device.getInflight(4, 16);
  const kept = duplicateFd(fd);
  device.setInflight(inflight, kept);
  closeFd(kept);
}

const NOWHERE = { listenFd: undefined, listenPath: undefined, controlFd: undefined };

/** The second device, with descriptors of its own: not yet resumed. */
class Successor implements KickWatcher, CompletionWatcher {
  readonly device: BlockDevice;
  readonly watched = new Set<number>();
  readonly reports: string[] = [];

  constructor({ device }: LocalDevice, more = {}) {
    const { text, fds } = encodeState(device.pause(NOWHERE));
    const takenOver = decodeState(text, fds.map(duplicateFd));
    const { name, files, guestPageBytes, slotsMax } = takenOver;
    const options = { name, files, guestPageBytes, diskBytes: slotsMax * 4096, numQueues: 4 };
    const report = (level: string, message: string) => {
      this.reports.push(`${level}: ${message}`);
    };
    this.device = new BlockDevice({ ...options, ...more }, this, { report });
    this.device.init({ ...options, takenOver, ...more });
    cleanUps.push(() => {
      this.device.detach();
      for (const fd of [files.fd, files.arenaFd]) closeFd(fd);
    });
  }

  watchKick(fd: number): void {
    this.watched.add(fd);
  }

  unwatchKick(fd: number): void {
    if (!this.watched.delete(fd)) throw new Error(`fd ${fd} was not watched`);
  }

  watchCompletions(): void {}

  unwatchCompletions(): void {}

  serve(): void {
    while (this.device.queues.serve());
  }
}

/** The first one is given up, as if its process had ended; the front end talks to the second. */
function succeed(local: LocalDevice, more = {}): Successor {
  const next = new Successor(local, more);
  const { frontEnd } = local;
  local.device.detach();
  next.device.resume();
  local.pump = () => next.device.pollSession();
  cleanUps.push(() => frontEnd.close());
  return next;
}

describe('rings', () => {
  it('a served one is served on where it was, and its driver is told to look', () => {
    const local = setUp();
    const call = local.eventFd();
    const driver = ring(local);
    local.frontEnd.setRingFd(VHOST_USER.SET_VRING_CALL, 0, call);
    const page = new Random(1).page();
    driver.submit(write(20, page));
    driver.flush();
    local.serve();
    driver.submit(read(20, 1));
    driver.flush();
    signals(call);
    const next = succeed(local);
    expect(signals(call)).toBeGreaterThan(0);
    next.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }, { status: 0, data: page }]);
  });

  it('one that was not enabled waits for that', () => {
    const local = setUp();
    const driver = local.makeRing(16);
    local.frontEnd.startRing(2, driver.ring, { kick: local.eventFd() });
    driver.submit(read(0, 1));
    driver.flush();
    const next = succeed(local);
    next.serve();
    expect(driver.complete()).toEqual([]);
    local.frontEnd.setEnabled(2, true);
    next.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });

  it('one that was enabled before it is started is served when it is', () => {
    const local = setUp();
    local.frontEnd.setEnabled(1, true);
    const next = succeed(local);
    const driver = local.makeRing(16);
    local.frontEnd.startRing(1, driver.ring, { kick: local.eventFd() });
    driver.submit(read(0, 1));
    driver.flush();
    next.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });

  it('one without a kick descriptor must be polled', () => {
    const local = setUp();
    ring(local);
    expect(succeed(local).device.queues.mustPoll()).toBe(true);
  });

  it('kicks are not taken before it is settled who serves', () => {
    const local = setUp();
    ring(local, 0, local.eventFd());
    const next = new Successor(local);
    expect(next.watched.size).toBe(0);
    local.device.detach();
    cleanUps.push(() => local.frontEnd.close());
    next.device.resume();
    expect(next.watched.size).toBe(1);
  });

  it('one that the guest has broken stays broken until it is started again', () => {
    const local = setUp();
    const driver = ring(local);
    driver.ring.setAvailIdx(driver.ring.availIdx + 100);
    local.serve();
    expect(local.reports.at(-1)).toContain('broken by the guest');
    driver.ring.setAvailIdx(0);
    const next = succeed(local);
    driver.submit(read(0, 1));
    driver.flush();
    next.serve();
    expect(driver.complete()).toEqual([]);
    const base = local.frontEnd.getBase(0);
    local.frontEnd.startRing(0, driver.ring, {}, base);
    next.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });

  it('one that notes its requests in the in-flight area does so after it, too', () => {
    const local = setUp();
    track(local);
    const driver = ring(local);
    driver.submit(read(0, 1));
    driver.flush();
    const next = succeed(local);
    expect(next.device.queues.pause()).toMatchObject([{ isTracked: true }]);
    next.device.resume();
    next.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });

  it('started with another in-flight area than the one there is now: not now', () => {
    const local = setUp();
    track(local);
    const driver = ring(local);
    track(local);
    expect(() => local.device.pause(NOWHERE)).toThrow(
      'ring 0 was started with another in-flight area',
    );
    driver.submit(read(0, 1));
    driver.flush();
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });

  it('in memory that was taken away: not now', () => {
    const local = setUp();
    ring(local);
    local.frontEnd.order(VHOST_USER.SET_MEM_TABLE, encodeMemTable([]), []);
    expect(() => local.device.pause(NOWHERE)).toThrow(
      'ring 0 was started, and its memory is not there',
    );
  });

  it('of a session without protocol features start enabled, before and after', () => {
    const local = setUp(0n);
    const driver = local.makeRing(16);
    local.frontEnd.startRing(0, driver.ring, {});
    pollOften(local.device);
    const next = succeed(local);
    driver.submit(read(0, 1));
    const later = local.makeRing(16);
    local.frontEnd.startRing(1, later.ring, {});
    pollOften(next.device);
    later.submit(read(0, 1));
    for (const each of [driver, later]) each.flush();
    next.serve();
    for (const each of [driver, later]) expect(each.complete()).toMatchObject([{ status: 0 }]);
  });
});

describe('the first device, when the second is given up', () => {
  it('finds its store as it was, and serves on', () => {
    const local = setUp();
    const driver = ring(local);
    const page = new Random(1).page();
    driver.submit(write(20, page));
    driver.flush();
    local.serve();
    driver.complete();
    const { header, counters } = local.device.store.mapped;
    const { fd } = local.device.store.mapped.shared;
    const bytes = () => {
      const all = Buffer.alloc(1 << 20);
      readSync(fd, all, 0, all.length, 0);
      return all;
    };
    local.device.pause(NOWHERE);
    const left = bytes();
    local.device.resume();
    const generation = header.generation;
    const next = new Successor(local, {
      poolLimitBytes: 1 << 20,
      queueThreads: 1,
      wipesOnFree: true,
    });
    // Paused again, once more opened: the second has written nothing.
    const now = bytes();
    now.writeUInt32LE(left.readUInt32LE(20), 20);
    expect(Buffer.compare(now, left)).toBe(0);
    next.device.close();
    expect(Buffer.compare(bytes().subarray(24), left.subarray(24))).toBe(0);
    local.device.resume();
    expect(header.generation).toBe(generation + 1);
    expect(header.isClean).toBe(false);
    driver.submit(read(20, 1));
    driver.flush();
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0, data: page }]);
    expect(counters.some((count) => count > 0)).toBe(true);
  });
});

describe('news of a larger disk', () => {
  function withChannel() {
    const local = new LocalDevice({ diskBytesMax: 2 << 20 });
    const { fd, arenaFd } = local.device.store.mapped.shared;
    cleanUps.push(() => {
      local.close();
      for (const each of [fd, arenaFd]) closeFd(each);
    });
    local.negotiate(FEATURES);
    local.frontEnd.setMemoryTable(local.ram);
    const [own, theirs] = socketPair();
    local.frontEnd.order(VHOST_USER.SET_BACKEND_REQ_FD, new Uint8Array(0), [theirs]);
    closeFd(theirs);
    local.frontEnd.getConfig(0, 60);
    const channel = new Connection(own);
    cleanUps.push(() => channel.close());
    ring(local);
    return { local, channel };
  }

  it('is told by the second device as it would be by the first', () => {
    const { local, channel } = withChannel();
    const next = succeed(local);
    expect(channel.receive()).toBeUndefined();
    next.device.grow(2 << 20);
    expect(channel.receive()).toMatchObject({ request: 2 });
    expect(Buffer.from(local.frontEnd.getConfig(0, 8)!).readBigUInt64LE()).toBe(4096n);
  });

  it('that nobody has read is told again', () => {
    const { local, channel } = withChannel();
    local.device.grow(2 << 20);
    expect(channel.receive()).toMatchObject({ request: 2 });
    const next = succeed(local);
    expect(channel.receive()).toMatchObject({ request: 2 });
    expect(next.device.store.slots).toBe(512);
    expect(Buffer.from(local.frontEnd.getConfig(0, 8)!).readBigUInt64LE()).toBe(4096n);
  });
});
