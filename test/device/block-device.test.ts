/** A device's rings as a front end drives them: what starts, stops and resumes them, what is refused. */

import { afterEach, describe, expect, it } from 'vitest';
import { closeFd } from '../../src/native/fd.ts';
import { Connection } from '../../src/vhost-user-ts/connection.ts';
import { encodeMemTable, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import {
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/virtio-blk/protocol.ts';
import { openFds } from '../driver/descriptors.ts';
import { RequestRefused } from '../driver/front-end.ts';
import type { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { socketPair } from '../driver/sockets.ts';

const FEATURES = BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC;
const devices: LocalDevice[] = [];

afterEach(() => {
  for (const device of devices.splice(0)) device.close();
});

function setUp(): LocalDevice {
  const local = new LocalDevice();
  devices.push(local);
  return local;
}

/** Negotiated, memory sent; a ring set up, not enabled. */
function started(index = 0, options: { size?: number; startIndex?: number } = {}) {
  const local = setUp();
  local.negotiate(FEATURES | VIRTIO_RING_F_EVENT_IDX);
  local.frontEnd.setMemoryTable(local.ram);
  const driver = local.makeRing(options.size ?? 16, options);
  const fds = { kick: local.eventFd(), call: local.eventFd(), err: local.eventFd() };
  local.frontEnd.startRing(index, driver.ring, fds);
  return { local, frontEnd: local.frontEnd, driver, fds };
}

function flushRequest(driver: GuestDriver): void {
  driver.submit({ type: VIRTIO_BLK_T_FLUSH, sector: 0 });
  driver.ring.publish();
}

function expectRefused(run: () => void, local: LocalDevice, reason: RegExp): void {
  expect(run).toThrow(RequestRefused);
  expect(local.reports.at(-1)).toMatch(reason);
}

describe('configuration', () => {
  it('says the capacity and the number of queues; 60 bytes and 57 are answered alike', () => {
    const { frontEnd } = started();
    const config = Buffer.from(frontEnd.getConfig(0, 60)!);
    expect(config.readBigUInt64LE(0)).toBe(2048n);
    expect(config.readUInt16LE(34)).toBe(4);
    expect(frontEnd.getConfig(0, 57)).toEqual(Uint8Array.from(config.subarray(0, 57)));
  });

  it('writeback is off for a driver with CONFIG_WCE and without FLUSH', () => {
    for (const [features, writeback] of [
      [VIRTIO_BLK_F_CONFIG_WCE, 0],
      [VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_FLUSH, 1],
      [0n, 1],
    ] as const) {
      const local = setUp();
      local.negotiate(features);
      expect(local.frontEnd.getConfig(32, 1)).toEqual(Uint8Array.of(writeback));
    }
  });
});

describe('growing', () => {
  function grown(hasReadConfig = true) {
    const local = new LocalDevice({ diskBytesMax: 2 << 20 });
    devices.push(local);
    local.negotiate(FEATURES);
    const [ours, theirs] = socketPair();
    const channel = new Connection(ours);
    local.onClose(() => channel.close());
    local.frontEnd.order(VHOST_USER.SET_BACKEND_REQ_FD, new Uint8Array(0), [theirs]);
    closeFd(theirs);
    if (hasReadConfig) local.frontEnd.getConfig(0, 60);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing();
    const start = () => {
      local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
      local.frontEnd.setEnabled(0, true);
    };
    return { local, channel, driver, start };
  }

  const LAST = { type: VIRTIO_BLK_T_OUT, sector: 4096 - 8, data: new Uint8Array(4096).fill(7) };

  it('tells a running front end until it has read, and serves what is new', () => {
    const { local, channel, driver, start } = grown();
    start();
    driver.submit(LAST);
    driver.ring.publish();
    local.serve();
    expect(driver.complete().map(({ status }) => status)).toEqual([VIRTIO_BLK_S_IOERR]);
    local.device.grow(2 << 20);
    expect(channel.receive()).toMatchObject({ request: 2, flags: 1 });
    expect(channel.receive()).toBeUndefined();
    expect(Buffer.from(local.frontEnd.getConfig(0, 8)!).readBigUInt64LE()).toBe(4096n);
    local.frontEnd.setEnabled(0, true);
    expect(channel.receive()).toBeUndefined();
    local.device.grow(1 << 20);
    expect(local.device.store.slots).toBe(512);
    expect(channel.receive()).toBeUndefined();
    driver.submit(LAST);
    driver.submit({ type: VIRTIO_BLK_T_IN, sector: LAST.sector, inBytes: 4096 });
    driver.ring.publish();
    local.serve();
    const [written, read] = driver.complete();
    expect([written!.status, read!.status]).toEqual([VIRTIO_BLK_S_OK, VIRTIO_BLK_S_OK]);
    expect(read!.data).toEqual(LAST.data);
  });

  it('while no ring runs, is told when one does: QEMU would not listen before', () => {
    const { local, channel, start } = grown();
    local.device.grow(2 << 20);
    expect(channel.receive()).toBeUndefined();
    start();
    expect(channel.receive()).toMatchObject({ request: 2, flags: 1 });
    expect(channel.receive()).toBeUndefined();
  });

  it('before the front end came is told when a ring starts, to one that did not read it', () => {
    for (const hasReadConfig of [true, false]) {
      const { channel, start } = grown(hasReadConfig);
      start();
      if (hasReadConfig) expect(channel.receive()).toBeUndefined();
      else expect(channel.receive()).toMatchObject({ request: 2 });
    }
  });

  it('is told again when a ring starts, if nobody has read it: QEMU may have been stopping', () => {
    const { local, channel, start } = grown();
    start();
    local.device.grow(2 << 20);
    expect(channel.receive()).toMatchObject({ request: 2 });
    local.frontEnd.setEnabled(0, false);
    expect(channel.receive()).toBeUndefined();
    local.frontEnd.setEnabled(0, true);
    expect(channel.receive()).toMatchObject({ request: 2 });
  });
});

describe('guest memory', () => {
  it('a new memory table while a ring runs puts it in its new place', () => {
    const { local, frontEnd, driver } = started();
    frontEnd.setEnabled(0, true);
    flushRequest(driver);
    frontEnd.setMemoryTable(local.ram);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
    frontEnd.setMemoryTable(local.ram);
    flushRequest(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });

  it('a new memory table in the middle of a request does not spoil it', () => {
    const { local, frontEnd, driver } = started(0, { size: 128 });
    frontEnd.setEnabled(0, true);
    const data = new Random(1).bytes(100 * 4096);
    driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 80, data });
    driver.ring.publish();
    local.device.queues.serve();
    // One region more, before the others: everything is mapped at other places than before.
    const region = { guestAddress: 2 ** 40, userAddress: 2 ** 46, bytes: 65536, mmapOffset: 0 };
    const table = encodeMemTable([region, ...local.ram.regions]);
    frontEnd.order(VHOST_USER.SET_MEM_TABLE, table, [local.ram.fd, local.ram.fd]);
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0, len: 1 }]);
    driver.submit({ type: VIRTIO_BLK_T_IN, sector: 80, inBytes: data.length });
    driver.ring.publish();
    local.serve();
    expect(Buffer.compare(driver.complete()[0]!.data, data)).toBe(0);
  });

  it('a region removed under a ring stops it; back again, it goes on', () => {
    const { local, frontEnd, driver } = started();
    const region = local.ram.regions[0]!;
    frontEnd.setEnabled(0, true);
    flushRequest(driver);
    frontEnd.removeRegion(region);
    expect(local.reports.at(-1)).toMatch(/^warn: ring 0 stopped: desc ring.*got 0/);
    local.serve();
    expect(driver.complete()).toHaveLength(0);
    expect(frontEnd.getConfig(0, 4), 'the session goes on').toBeDefined();
    frontEnd.addRegion(region, local.ram.fd);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });

  it('a region that exceeds its file, overlaps another or is not there is refused', () => {
    const { local, frontEnd, driver } = started();
    const [region] = local.ram.regions;
    const larger = {
      ...region!,
      guestAddress: 2 ** 40,
      userAddress: 2 ** 41,
      bytes: (4 << 20) + 4096,
    };
    expectRefused(() => frontEnd.addRegion(larger, local.ram.fd), local, /expected a file of/);
    // A second refusal of the same kind is not told again: a guest can cause any number.
    const told = local.reports.length;
    expect(() => frontEnd.addRegion(region!, local.ram.fd)).toThrow();
    expect(local.reports).toHaveLength(told);
    expectRefused(() => frontEnd.removeRegion(larger), local, /no such memory region/);
    frontEnd.setEnabled(0, true);
    flushRequest(driver);
    local.serve();
    expect(driver.complete(), 'the ring still runs').toHaveLength(1);
  });
});

describe('the end of a session', () => {
  it('closes every descriptor that it brought, and forgets rings and memory', () => {
    const before = openFds();
    const { local, frontEnd, driver, fds } = started();
    frontEnd.setEnabled(0, true);
    for (const request of ['SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR'] as const) {
      for (let i = 0; i < 3; i++) frontEnd.setRingFd(VHOST_USER[request], 0, fds.kick);
      if (request !== 'SET_VRING_KICK') frontEnd.setRingFd(VHOST_USER[request], 3, fds.kick);
    }
    flushRequest(driver);
    const withSession = openFds();
    local.device.detach();
    frontEnd.close();
    // Kick, call and err of ring 0, call and err of ring 3, memory, and both ends of the socket.
    expect(openFds()).toBe(withSession - 7 - local.ram.regions.length);
    expect(local.watched.size).toBe(0);
    expect(local.device.queues.hasWork()).toBe(false);
    expect(local.device.queues.serve()).toBe(false);
    local.close();
    // The store keeps its two files for the life of the process.
    expect(openFds()).toBe(before + 2);
    devices.length = 0;
  });

  it('the store keeps its pages for the next', () => {
    const { local, frontEnd, driver } = started();
    frontEnd.setEnabled(0, true);
    const data = new Random(9).page();
    driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 80, data });
    driver.ring.publish();
    local.serve();
    local.device.detach();
    frontEnd.close();
    local.connect();
    local.negotiate(FEATURES);
    local.frontEnd.setMemoryTable(local.ram);
    const next = local.makeRing(16, { eventIdx: false });
    local.frontEnd.startRing(0, next.ring, {});
    local.frontEnd.setEnabled(0, true);
    next.submit({ type: VIRTIO_BLK_T_IN, sector: 80, inBytes: 4096 });
    next.ring.publish();
    local.serve();
    expect(next.complete()[0]!.data).toEqual(data);
  });
});

it('page 0 of a new device is a swap header', () => {
  const { local, frontEnd, driver } = started();
  frontEnd.setEnabled(0, true);
  driver.submit({ type: VIRTIO_BLK_T_IN, sector: 0, inBytes: 4096 });
  driver.ring.publish();
  local.serve();
  const page = Buffer.from(driver.complete()[0]!.data);
  expect(page.toString('latin1', 4086)).toBe('SWAPSPACE2');
  expect(page.readUInt32LE(1024)).toBe(1);
  expect(page.readUInt32LE(1028)).toBe(255);
});

it('rings take turns: a long request of one does not hold up another', () => {
  const { local, frontEnd, driver } = started(0, { size: 128 });
  frontEnd.setEnabled(0, true);
  const other = local.makeRing();
  frontEnd.startRing(1, other.ring, { kick: local.eventFd() });
  frontEnd.setEnabled(1, true);
  driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 0, data: new Random(1).bytes(110 * 4096) });
  driver.ring.publish();
  flushRequest(other);
  // The first turn is the request's, the second begins with the other ring.
  expect(local.device.queues.serve()).toBe(true);
  expect(other.complete()).toHaveLength(0);
  expect(driver.complete()).toHaveLength(0);
  local.device.queues.serve();
  expect(other.complete()).toHaveLength(1);
  local.serve();
  expect(driver.complete()).toHaveLength(1);
});

it('requests are counted for the statistics', () => {
  const { local, frontEnd, driver } = started();
  frontEnd.setEnabled(0, true);
  driver.submit({ type: VIRTIO_BLK_T_IN, sector: 3, inBytes: 4096 });
  driver.submit({ type: VIRTIO_BLK_T_DISCARD, sector: 0, data: new Uint8Array(16) });
  flushRequest(driver);
  local.serve();
  const { counters } = local.device.store;
  // requestsRead, requestsWrite, requestsDiscard, requestsOther, invalidIo.
  expect([...counters.subarray(13, 18)]).toEqual([1, 0, 1, 1, 1]);
});
