/** One ring as a front end drives it: what starts, stops, resumes and breaks it, what is refused. */

import { afterEach, describe, expect, it } from 'vitest';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { ProtocolError, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import {
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/virtio-blk/protocol.ts';
import { openFds, signals } from '../driver/descriptors.ts';
import { RequestRefused } from '../driver/front-end.ts';
import type { GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam, USER_BASE } from '../driver/guest-ram.ts';
import { LocalDevice, type LocalDeviceOptions, pollOften } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';

const FEATURES = BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC;
const devices: LocalDevice[] = [];

afterEach(() => {
  for (const device of devices.splice(0)) device.close();
});

function setUp(options: LocalDeviceOptions = {}, ram?: GuestRam): LocalDevice {
  const local = new LocalDevice(options, ram);
  devices.push(local);
  return local;
}

/** Negotiated, memory sent; a ring set up, not enabled. */
function started(
  index = 0,
  options: { size?: number; startIndex?: number } = {},
  device: LocalDeviceOptions = {},
  ram?: GuestRam,
) {
  const local = setUp(device, ram);
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

describe('starting and stopping', () => {
  it('a request offered before ENABLE is served on ENABLE, with no further kick', () => {
    const { local, frontEnd, driver } = started();
    flushRequest(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(0);
    expect(local.device.queues.hasWork()).toBe(false);
    frontEnd.setEnabled(0, true);
    expect(local.device.queues.hasWork()).toBe(true);
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });

  it('a ring enabled before it is set up is served once it is kicked into being', () => {
    const local = setUp();
    local.negotiate(FEATURES);
    local.frontEnd.setEnabled(1, true);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing(16, { eventIdx: false });
    flushRequest(driver);
    local.frontEnd.startRing(1, driver.ring, { kick: local.eventFd() });
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });

  it('a disabled ring is not served, and goes on where it was', () => {
    const { local, frontEnd, driver } = started();
    frontEnd.setEnabled(0, true);
    flushRequest(driver);
    local.serve();
    frontEnd.setEnabled(0, false);
    flushRequest(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
    frontEnd.setEnabled(0, true);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });

  it('ENABLE and start signal the driver once: interrupts lost before are not replayed', () => {
    const { frontEnd, fds } = started();
    signals(fds.call);
    frontEnd.setEnabled(0, true);
    expect(signals(fds.call)).toBe(1);
  });

  it('a new call descriptor of a running ring is signalled at once', () => {
    const { local, frontEnd } = started();
    frontEnd.setEnabled(0, true);
    const call = local.eventFd();
    frontEnd.setRingFd(VHOST_USER.SET_VRING_CALL, 0, call);
    expect(signals(call)).toBe(1);
  });

  it('GET_VRING_BASE stops the ring and says where to resume, memory not being sent again', () => {
    const { local, frontEnd, driver, fds } = started(0, { startIndex: 65534 });
    frontEnd.setEnabled(0, true);
    for (let i = 0; i < 3; i++) flushRequest(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(3);
    frontEnd.setEnabled(0, false);
    const base = frontEnd.getBase(0);
    expect(base).toBe(1);
    flushRequest(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(0);
    frontEnd.startRing(0, driver.ring, fds, base);
    frontEnd.setEnabled(0, true);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
    expect(driver.inFlight).toBe(0);
  });

  it('GET_VRING_BASE in the middle of a request finishes it', () => {
    const { local, frontEnd, driver } = started(0, { size: 128 });
    frontEnd.setEnabled(0, true);
    driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 80, data: new Random(1).bytes(100 * 4096) });
    driver.ring.publish();
    expect(local.device.queues.serve()).toBe(true);
    expect(frontEnd.getBase(0)).toBe(1);
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });

  it.each([
    ['GET_VRING_BASE', false],
    ['SET_VRING_ENABLE 0', true],
  ])('%s finishes also a request of thousands of pages', (_, isDisabled) => {
    // More than is done between two looks at the clock.
    const ram = new GuestRam(16 << 20);
    const { local, frontEnd, driver, fds } = started(
      0,
      { size: 2048 },
      { diskBytes: 16 << 20 },
      ram,
    );
    frontEnd.setEnabled(0, true);
    const data = new Random(1).bytes(1200 * 4096);
    driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 80, data });
    driver.ring.publish();
    expect(local.device.queues.serve()).toBe(true);
    if (isDisabled) frontEnd.setEnabled(0, false);
    else expect(frontEnd.getBase(0)).toBe(1);
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
    if (isDisabled) expect(frontEnd.getBase(0)).toBe(1);
    frontEnd.startRing(0, driver.ring, fds, 1);
    frontEnd.setEnabled(0, true);
    driver.submit({ type: VIRTIO_BLK_T_IN, sector: 80, inBytes: data.length });
    driver.ring.publish();
    local.serve();
    expect(Buffer.compare(driver.complete()[0]!.data, data)).toBe(0);
  });

  it('GET_VRING_BASE of a ring that was never set up is its base', () => {
    const { frontEnd } = started();
    expect(frontEnd.getBase(3)).toBe(0);
  });

  it('a legacy front end needs no ENABLE', () => {
    const local = setUp();
    local.negotiate(FEATURES, 0n);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing(16, { eventIdx: false });
    flushRequest(driver);
    local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
    pollOften(local.device);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });

  it('bits that were never offered are ignored; EVENT_IDX and indirection hold as acknowledged', () => {
    const local = setUp();
    local.negotiate(1n << 27n);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing(16, { eventIdx: false });
    driver.ring.setUsedEvent(1000);
    const call = local.eventFd();
    local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call });
    local.frontEnd.setEnabled(0, true);
    for (let i = 0; i < 3; i++) {
      signals(call);
      flushRequest(driver);
      local.serve();
      expect(signals(call), 'every completion interrupts').toBe(1);
      driver.complete();
    }
    const segments = [{ bytes: 16 }];
    driver.submit(
      { type: VIRTIO_BLK_T_FLUSH, sector: 0 },
      { readable: segments, writable: [{ bytes: 1 }], indirectFrom: 0 },
    );
    driver.ring.publish();
    local.serve();
    expect(local.reports.at(-1)).toMatch(/ring 0 broken by the guest: indirect.*not negotiated/);
  });

  it('a ring without a kick descriptor is one that must be polled', () => {
    const local = setUp();
    local.negotiate(FEATURES);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing();
    local.frontEnd.startRing(0, driver.ring, {});
    expect(local.device.queues.mustPoll()).toBe(false);
    local.frontEnd.setEnabled(0, true);
    expect(local.device.queues.mustPoll()).toBe(true);
    local.frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, 0, local.eventFd());
    expect(local.device.queues.mustPoll()).toBe(false);
    expect(local.watched.size).toBe(1);
  });

  it('a kick descriptor that cannot be waited for is refused and closed', () => {
    const { local, frontEnd } = started();
    local.watchKick = () => {
      throw new ProtocolError('cannot be polled');
    };
    const fd = createMemfd('not-an-eventfd', 4096);
    const before = openFds();
    expect(() => frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, 1, fd)).toThrow();
    expect(openFds()).toBe(before);
    closeFd(fd);
  });

  it('RESET_OWNER disables rings; ENABLE resumes them', () => {
    const { local, frontEnd, driver } = started();
    frontEnd.setEnabled(0, true);
    frontEnd.order(VHOST_USER.RESET_OWNER, new Uint8Array(0));
    flushRequest(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(0);
    frontEnd.setEnabled(0, true);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });

  it('RESET_DEVICE keeps the descriptors to signal, which are sent once a session', () => {
    const { local, frontEnd, driver, fds } = started();
    frontEnd.order(VHOST_USER.RESET_DEVICE, new Uint8Array(0));
    frontEnd.setNum(0, driver.ring.size);
    frontEnd.setAddress(0, driver.ring);
    frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, 0, fds.kick);
    signals(fds.call);
    frontEnd.setEnabled(0, true);
    expect(signals(fds.call)).toBe(1);
    driver.ring.setAvailIdx(17);
    local.serve();
    expect(signals(fds.err)).toBe(1);
  });

  it('RESET_DEVICE stops rings for good: they are set up from the beginning', () => {
    const { local, frontEnd, driver, fds } = started();
    frontEnd.setEnabled(0, true);
    flushRequest(driver);
    frontEnd.order(VHOST_USER.RESET_DEVICE, new Uint8Array(0));
    local.serve();
    expect(driver.complete()).toHaveLength(0);
    frontEnd.setEnabled(0, true);
    local.serve();
    expect(driver.complete()).toHaveLength(0);
    frontEnd.setEnabled(0, false);
    frontEnd.startRing(0, driver.ring, fds);
    local.serve();
    expect(driver.complete(), 'not enabled yet').toHaveLength(0);
    frontEnd.setEnabled(0, true);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });
});

describe('set-up that cannot be is refused, with the reason', () => {
  it.each([0, 3, 300, 65536, 32769, 0xffffffff])('SET_VRING_NUM %i', (num) => {
    const local = setUp();
    local.negotiate(FEATURES);
    const reason = new RegExp(
      `SET_VRING_NUM: ring 2: expected a power of two up to 32768, got ${num}$`,
    );
    expectRefused(() => local.frontEnd.setNum(2, num), local, reason);
  });

  it.each([1, 2, 1024, 32768])('but not SET_VRING_NUM %i', (num) => {
    const local = setUp();
    local.negotiate(FEATURES);
    local.frontEnd.setNum(2, num);
  });

  it('SET_VRING_NUM and SET_VRING_BASE of a running ring', () => {
    const { local, frontEnd } = started();
    expectRefused(() => frontEnd.setNum(0, 8), local, /SET_VRING_NUM: ring 0: the ring is running/);
    expectRefused(
      () => frontEnd.setBase(0, 8),
      local,
      /SET_VRING_BASE: ring 0: the ring is running/,
    );
  });

  it('SET_VRING_BASE beyond 16 bits', () => {
    const { local, frontEnd } = started();
    expectRefused(
      () => frontEnd.setBase(1, 65536),
      local,
      /expected an index below 65536, got 65536/,
    );
    frontEnd.setBase(1, 65535);
    expect(frontEnd.getBase(1)).toBe(65535);
  });

  it.each([
    ['desc', 8, 16],
    ['avail', 1, 2],
    ['used', 2, 4],
  ] as const)('a misaligned %s ring', (part, by, align) => {
    const { local, frontEnd, driver } = started();
    const ring = { userAddresses: { ...driver.ring.userAddresses } };
    ring.userAddresses[part] += by;
    const set = () => frontEnd.setAddress(1, ring as never);
    expectRefused(
      set,
      local,
      new RegExp(`SET_VRING_ADDR: ring 1: ${part}: expected alignment to ${align}`),
    );
  });

  it('a kick before size and addresses', () => {
    const { local, frontEnd } = started();
    const kick = () => frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, 1, local.eventFd());
    expectRefused(kick, local, /expected SET_VRING_NUM and SET_VRING_ADDR before/);
  });

  it('a kick for a ring outside guest memory', () => {
    const local = setUp();
    local.negotiate(FEATURES);
    local.frontEnd.setMemoryTable(local.ram);
    const { ring } = local.makeRing();
    const userAddresses = { ...ring.userAddresses, used: USER_BASE + (4 << 20) };
    const outside = { size: 16, startIndex: 0, userAddresses };
    const start = () => local.frontEnd.startRing(0, outside as never, {});
    expectRefused(start, local, /used ring at 0x.*expected 134 bytes of guest memory, got 0/);
  });

  it('writing configuration space beside writeback', () => {
    const { local, frontEnd } = started();
    frontEnd.setConfig(32, Uint8Array.of(0));
    expect(frontEnd.getConfig(32, 1)).toEqual(Uint8Array.of(0));
    expectRefused(
      () => frontEnd.setConfig(0, new Uint8Array(8)),
      local,
      /SET_CONFIG: expected one byte/,
    );
  });
});

describe('a broken ring', () => {
  function broken() {
    const all = started();
    all.frontEnd.setEnabled(0, true);
    signals(all.fds.err);
    all.driver.ring.setAvailIdx(500);
    all.local.serve();
    return all;
  }

  it('signals the error descriptor, is reported once, and is served no more', () => {
    const { local, frontEnd, driver, fds } = broken();
    expect(signals(fds.err)).toBe(1);
    const told = () => local.reports.filter((report) => report.includes('broken by the guest'));
    expect(told()).toEqual([
      'warn: ring 0 broken by the guest: avail.idx: expected at most 16 new chains, got 500',
    ]);
    driver.ring.setAvailIdx(0);
    flushRequest(driver);
    frontEnd.setEnabled(0, false);
    frontEnd.setEnabled(0, true);
    frontEnd.setMemoryTable(local.ram);
    local.serve();
    expect(driver.complete()).toHaveLength(0);
    expect(told()).toHaveLength(1);
    expect(signals(fds.err)).toBe(0);
  });

  it('leaves the other rings alone', () => {
    const { local, frontEnd } = broken();
    const other = local.makeRing();
    frontEnd.startRing(1, other.ring, { kick: local.eventFd() });
    frontEnd.setEnabled(1, true);
    flushRequest(other);
    local.serve();
    expect(other.complete()).toHaveLength(1);
  });

  it('is served again after it was stopped and started', () => {
    const { local, frontEnd, driver, fds } = broken();
    driver.ring.setAvailIdx(0);
    expect(frontEnd.getBase(0)).toBe(0);
    frontEnd.startRing(0, driver.ring, fds);
    flushRequest(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
  });
});
