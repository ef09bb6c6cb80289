/** The in-flight area: made, found again, another's; what is refused; what a session does with it. */

import { closeSync, fstatSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import {
  checkInflightArea,
  InflightArea,
  makeInflightArea,
  markedStore,
  markStore,
} from '../../src/device/inflight-area.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { type Inflight, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { INFLIGHT, INFLIGHT_ENTRY, inflightRegionBytes } from '../../src/virtio/inflight.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { openFds } from '../driver/descriptors.ts';
import { RequestRefused } from '../driver/front-end.ts';
import type { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { QueueThread } from '../driver/threads.ts';

const PAGE = 4096;
const FEATURES =
  BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX;
const UUID = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function made(queues: number, queueSize: number): { inflight: Inflight; fd: number } {
  const area = makeInflightArea(queues, queueSize);
  cleanUps.push(() => closeFd(area.fd));
  return area;
}

/** As other back ends make it: regions as large as the queue size says, and nothing behind them. */
function foreign(queues: number, queueSize: number, spareBytes = 0) {
  const mmapBytes = queues * inflightRegionBytes(queueSize) + spareBytes;
  const fd = createMemfd('foreign', mmapBytes);
  cleanUps.push(() => closeFd(fd));
  return { inflight: { mmapBytes, mmapOffset: 0, queues, queueSize }, fd };
}

/** Where in its file a queue's region begins. */
function regionOffsets(inflight: Inflight, fd: number): number[] {
  const area = new InflightArea(inflight, fd, 64);
  const file = Buffer.alloc(inflight.mmapBytes);
  for (let queue = 0; queue < inflight.queues; queue++) {
    area.region(queue).resume(16, 1000 + queue);
  }
  readSync(fd, file, 0, file.length, inflight.mmapOffset);
  return Array.from({ length: inflight.queues }, (_, queue) => {
    for (let at = 0; at < file.length; at += 64) {
      if (file.readUInt16LE(at + INFLIGHT.used_idx) === 1000 + queue) return at;
    }
    return -1;
  });
}

describe('an area that is made', () => {
  it('has room for rings of 1024, whatever size is named, and a page behind', () => {
    for (const queueSize of [1, 128, 1024]) {
      const { inflight, fd } = made(3, queueSize);
      const each = inflightRegionBytes(1024);
      const mmapBytes = Math.ceil((3 * each) / PAGE) * PAGE + PAGE;
      expect(inflight).toEqual({ mmapBytes, mmapOffset: 0, queues: 3, queueSize });
      expect(fstatSync(fd).size).toBe(mmapBytes);
      expect(regionOffsets(inflight, fd)).toEqual([0, each, 2 * each]);
      expect(new InflightArea(inflight, fd, 64).region(2).entries).toBe(1024);
    }
    const { inflight, fd } = made(1, 32768);
    expect(new InflightArea(inflight, fd, 64).region(0).entries).toBe(32768);
  });

  it.each([
    [0, 128],
    [1, 0],
    [1, 32769],
  ])('is none for %i queues of %i', (queues, queueSize) => {
    const fds = openFds();
    expect(() => makeInflightArea(queues, queueSize)).toThrow(
      `expected queues, of up to 32768 descriptors, got ${queues} of ${queueSize}`,
    );
    expect(openFds()).toBe(fds);
  });

  it('has no region for a queue that it was not made for', () => {
    const { inflight, fd } = made(2, 128);
    expect(() => new InflightArea(inflight, fd, 64).region(2)).toThrow(
      'in-flight area: expected one for queue 2, got one for 2 queues',
    );
  });

  it('names a store once that was marked', () => {
    const { inflight, fd } = made(2, 128);
    expect(markedStore(inflight, fd)).toBeUndefined();
    markStore(inflight, fd, UUID);
    expect(markedStore(inflight, fd)).toEqual(UUID);
    // The mark is in nobody's region.
    expect(regionOffsets(inflight, fd)[0]).toBe(0);
    expect(markedStore(inflight, fd)).toEqual(UUID);
  });

  it('that cannot be marked is no end of the process', () => {
    const { inflight, fd } = made(1, 128);
    const readOnly = openSync(`/proc/self/fd/${fd}`, 'r');
    cleanUps.push(() => closeSync(readOnly));
    expect(() => markStore(inflight, readOnly, UUID)).toThrow(RefusedError);
    expect(() => markStore(inflight, readOnly, UUID)).toThrow('in-flight area: write: EBADF');
  });
});

describe("another back end's area", () => {
  it.each([0, PAGE, 2 << 20])(
    'has regions as large as it says, with %i bytes to spare',
    (spare) => {
      const { inflight, fd } = foreign(4, 128, spare);
      expect(regionOffsets(inflight, fd)).toEqual([0, 2112, 4224, 6336]);
      expect(new InflightArea(inflight, fd, 64).region(3).entries).toBe(128);
    },
  );

  it('is not marked', () => {
    const { inflight, fd } = foreign(1, 128, 2 << 20);
    markStore(inflight, fd, UUID);
    expect(markedStore(inflight, fd)).toBeUndefined();
    const file = Buffer.alloc(inflight.mmapBytes);
    readSync(fd, file, 0, file.length, 0);
    expect(file.every((byte) => byte === 0)).toBe(true);
  });

  it('may begin at any page of its file', () => {
    const { inflight, fd } = foreign(1, 128, 3 * PAGE);
    const behind = { ...inflight, mmapBytes: PAGE, mmapOffset: 2 * PAGE };
    expect(regionOffsets(behind, fd)).toEqual([0]);
  });
});

describe('what cannot be an area is refused:', () => {
  const good = { mmapBytes: 3 * PAGE, mmapOffset: 0, queues: 4, queueSize: 128 };

  it.each([
    [{ queues: 0 }, 'expected queues, of up to 32768 descriptors, got 0 of 128'],
    [{ queueSize: 0 }, 'got 4 of 0'],
    [{ queueSize: 65535 }, 'got 4 of 65535'],
    [{ mmapBytes: 8447 }, 'expected 8448 to 1073741824 bytes for 4 queues, got 8447'],
    [{ mmapBytes: 2 ** 30 + 1 }, 'got 1073741825'],
    [{ mmapBytes: 0 }, 'got 0'],
    [{ mmapOffset: 64 }, 'expected a page aligned offset, got 64'],
    [{ mmapOffset: 8192 }, 'expected a file of 20480 bytes, got 16384'],
    [{ mmapOffset: 2 ** 52 }, 'got 16384'],
  ])('%j', (change, message) => {
    const fd = createMemfd('test', 4 * PAGE);
    cleanUps.push(() => closeFd(fd));
    checkInflightArea(good, fd);
    expect(() => checkInflightArea({ ...good, ...change }, fd)).toThrow(RefusedError);
    expect(() => checkInflightArea({ ...good, ...change }, fd)).toThrow(message);
  });

  it('a descriptor that is no file', () => {
    const fd = createEventFd();
    cleanUps.push(() => closeFd(fd));
    expect(() => checkInflightArea(good, fd)).toThrow('expected a regular file');
  });
});

// ── In a session ────────────────────────────────────────────────────────────────────────────────

function deviceOf(threads: readonly QueueThread[] = []): LocalDevice {
  const callers = threads.map(({ caller }) => caller);
  const local = new LocalDevice({}, undefined, callers);
  cleanUps.push(() => local.close());
  begin(local);
  return local;
}

function begin(local: LocalDevice): void {
  local.negotiate(FEATURES);
  local.frontEnd.setMemoryTable(local.ram);
}

function startRing(local: LocalDevice, driver: GuestDriver, index = 0, base?: number): void {
  const fds = { kick: local.eventFd(), call: local.eventFd() };
  local.frontEnd.startRing(index, driver.ring, fds, base);
  local.frontEnd.setEnabled(index, true);
}

/** Bytes of it that this process has mapped. */
function mappedBytes(fd: number): number {
  const inode = String(fstatSync(fd).ino);
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const ours = lines.filter((line) => line.split(/ +/)[4] === inode);
  return ours.reduce((sum, line) => {
    const [start, end] = line.split(/[- ]/).map((address) => Number.parseInt(address, 16));
    return sum + end! - start!;
  }, 0);
}

/** The connection ends and another comes, as QEMU does it. */
function reconnect(local: LocalDevice): void {
  local.frontEnd.close();
  local.device.detach();
  local.connect();
  begin(local);
}

/** The marks of chains in flight of a queue whose region begins at `offset`. */
function headsInFlight(fd: number, offset: number, size: number): number[] {
  const bytes = Buffer.alloc(inflightRegionBytes(size));
  readSync(fd, bytes, 0, bytes.length, offset);
  const heads = Array.from({ length: size }, (_, head) => head);
  return heads.filter((head) => bytes[INFLIGHT.HEADER_BYTES + head * INFLIGHT_ENTRY.BYTES] !== 0);
}

function flush(driver: GuestDriver): void {
  driver.submit({ type: 4, sector: 0 });
  driver.ring.publish();
}

describe('a session', () => {
  it.each([20, 24])('makes an area and takes it, in messages of %i bytes', (bytes) => {
    const local = deviceOf();
    const { inflight, fd } = local.frontEnd.getInflight(4, 128, bytes);
    cleanUps.push(() => closeFd(fd));
    expect(inflight).toMatchObject({ queues: 4, queueSize: 128, mmapOffset: 0 });
    local.frontEnd.setInflight(inflight, fd, bytes);
    const driver = local.makeRing(16);
    startRing(local, driver);
    flush(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
    expect(markedStore(inflight, fd)).toEqual(local.device.store.mapped.header.uuid);
  });

  it('refuses areas that are none, and leaks no descriptor', () => {
    const local = deviceOf();
    const { inflight, fd } = foreign(4, 128);
    const fds = openFds();
    for (const change of [
      { queues: 0 },
      { mmapBytes: 8000 },
      { mmapBytes: 2 * inflight.mmapBytes },
      { mmapOffset: 1 },
    ]) {
      const bring = () => local.frontEnd.setInflight({ ...inflight, ...change }, fd);
      expect(bring).toThrow(RequestRefused);
    }
    expect(local.reports.at(-1)).toMatch(/refused: SET_INFLIGHT_FD: in-flight area: expected/);
    expect(openFds()).toBe(fds);
  });

  it('refuses a ring that is larger than its region, or has none, and leaks no descriptor', () => {
    const local = deviceOf();
    const { inflight, fd } = foreign(2, 16);
    local.frontEnd.setInflight(inflight, fd);
    const fds = openFds();
    expect(() => startRing(local, local.makeRing(32))).toThrow(RequestRefused);
    expect(local.reports.at(-1)).toMatch(
      /expected an in-flight area for rings of 32, got one for 16/,
    );
    expect(() => startRing(local, local.makeRing(16), 2)).toThrow(RequestRefused);
    // The test's own two of each ring, and what the session has kept: of a queue
    // without a region not the kick descriptor.
    expect(openFds()).toBe(fds + 4 + 3);
    local.frontEnd.close();
    local.device.detach();
    // Gone with it: both ends of its socket, the area's and the memory's.
    expect(openFds()).toBe(fds + 4 - 4);
  });

  it.each([0, 1])(
    'maps an area as far as it needs it, until it leaves; %i threads beside',
    (beside) => {
      const threads = Array.from({ length: beside }, () => new QueueThread());
      cleanUps.push(() => Promise.all(threads.map((thread) => thread.stop())));
      const local = deviceOf(threads);
      // 1000 queues of which the device has 4, and 64 MiB that nobody uses.
      const { inflight, fd } = foreign(1000, 128, 64 << 20);
      const each = PAGE * Math.ceil((4 * inflightRegionBytes(128)) / PAGE);
      local.frontEnd.setInflight(inflight, fd);
      expect(mappedBytes(fd)).toBe((beside + 1) * each);
      const driver = local.makeRing(16);
      startRing(local, driver, 3);
      local.frontEnd.close();
      local.device.detach();
      expect(mappedBytes(fd)).toBe(0);
    },
  );

  it('that is brought another area lets go of the one before when no ring may note in it', () => {
    const local = deviceOf();
    const [first, second] = [foreign(4, 128), foreign(4, 128)];
    local.frontEnd.setInflight(first.inflight, first.fd);
    const driver = local.makeRing(16);
    startRing(local, driver);
    local.frontEnd.setInflight(second.inflight, second.fd);
    expect(mappedBytes(first.fd)).toBeGreaterThan(0);
    flush(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(1);
    const base = local.frontEnd.getBase(0);
    expect([mappedBytes(first.fd), mappedBytes(second.fd) > 0]).toEqual([0, true]);
    startRing(local, driver, 0, base);
    local.frontEnd.order(VHOST_USER.RESET_DEVICE, new Uint8Array(0));
    expect(mappedBytes(second.fd)).toBe(0);
  });

  it('does what another back end has left undone, in its order, and only that', () => {
    const local = deviceOf();
    const driver = local.makeRing(16, { startIndex: 65535 });
    const page = new Random(1).bytes(PAGE);
    const tickets = [write(3, page), write(3, new Uint8Array(PAGE)), read(3, 1)].map((request) =>
      driver.submit(request),
    );
    driver.ring.publish();
    // The second was returned; the third had been popped before the first.
    const { inflight, fd } = foreign(1, 16);
    const [first, second, third] = [0, 3, 6];
    const region = Buffer.alloc(inflight.mmapBytes);
    region.writeUInt16LE(1, INFLIGHT.version);
    region.writeUInt16LE(16, INFLIGHT.desc_num);
    region.writeUInt16LE(second, INFLIGHT.last_batch_head);
    region.writeUInt16LE(65535, INFLIGHT.used_idx);
    for (const [head, counter] of [
      [first, 9],
      [second, 8],
      [third, 7],
    ] as const) {
      const entry = INFLIGHT.HEADER_BYTES + head * INFLIGHT_ENTRY.BYTES;
      region[entry] = 1;
      region.writeBigUInt64LE(BigInt(counter), entry + INFLIGHT_ENTRY.counter);
    }
    writeSync(fd, region);
    pretendUsed(local, driver, second);
    local.frontEnd.setInflight(inflight, fd);
    startRing(local, driver, 0, 0);
    local.serve();
    const done = driver.complete();
    expect(done.map(({ ticket }) => ticket)).toEqual([tickets[1], tickets[2], tickets[0]]);
    expect(Buffer.compare(done[1]!.data, new Uint8Array(PAGE))).toBe(0);
    flush(driver);
    driver.submit(read(3, 1));
    driver.ring.publish();
    local.serve();
    expect(Buffer.compare(driver.complete()[1]!.data, page)).toBe(0);
  });

  it('that is brought an area while its ring runs uses it from the next start on', () => {
    const local = deviceOf();
    const driver = local.makeRing(16);
    startRing(local, driver);
    const { inflight, fd } = foreign(1, 16);
    flush(driver);
    local.serve();
    local.frontEnd.setInflight(inflight, fd);
    driver.submit(write(1, new Random(1).bytes(2 * PAGE)));
    driver.ring.publish();
    local.device.queues.serve();
    const version = Buffer.alloc(16);
    readSync(fd, version, 0, 16, 0);
    expect(version.readUInt16LE(INFLIGHT.version)).toBe(0);
    const base = local.frontEnd.getBase(0);
    startRing(local, driver, 0, base);
    readSync(fd, version, 0, 16, 0);
    expect(version.readUInt16LE(INFLIGHT.version)).toBe(1);
    flush(driver);
    local.serve();
    expect(driver.complete()).toHaveLength(3);
    expect(headsInFlight(fd, 0, 16)).toEqual([]);
  });

  it('that ends in the middle of a request notes it, and the next one with the area does it', () => {
    const local = deviceOf();
    const { inflight, fd } = local.frontEnd.getInflight(4, 128);
    cleanUps.push(() => closeFd(fd));
    local.frontEnd.setInflight(inflight, fd);
    const driver = local.makeRing(128);
    startRing(local, driver);
    const data = new Random(1).bytes(100 * PAGE);
    driver.submit(write(10, data));
    driver.ring.publish();
    expect(local.device.queues.serve()).toBe(true);
    expect(headsInFlight(fd, 0, 128)).toHaveLength(1);
    reconnect(local);
    local.frontEnd.setInflight(inflight, fd);
    startRing(local, driver, 0, driver.ring.usedIdx);
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
    expect(headsInFlight(fd, 0, 128)).toEqual([]);
    driver.submit(read(10, 100));
    driver.ring.publish();
    local.serve();
    expect(Buffer.compare(driver.complete()[0]!.data, data)).toBe(0);
  });

  it('with a new area forgets what the old one says: the guest was reset', () => {
    const local = deviceOf();
    const first = local.frontEnd.getInflight(1, 128);
    const second = local.frontEnd.getInflight(1, 128);
    cleanUps.push(
      () => closeFd(first.fd),
      () => closeFd(second.fd),
    );
    local.frontEnd.setInflight(first.inflight, first.fd);
    const old = local.makeRing(128);
    startRing(local, old);
    old.submit(write(10, new Random(1).bytes(PAGE)));
    old.ring.publish();
    local.serve();
    // The guest is gone before it takes anything back.
    local.frontEnd.getBase(0);
    local.frontEnd.setInflight(second.inflight, second.fd);
    const driver = local.makeRing(128);
    startRing(local, driver);
    driver.submit(read(10, 1));
    driver.ring.publish();
    local.serve();
    const [done] = driver.complete();
    // The same process: its pages are kept.
    expect(Buffer.compare(done!.data, new Random(1).bytes(PAGE))).toBe(0);
  });

  it('has the rings of all threads in one area', async () => {
    const thread = new QueueThread();
    cleanUps.push(() => thread.stop());
    const local = deviceOf([thread]);
    const { inflight, fd } = local.frontEnd.getInflight(4, 128);
    cleanUps.push(() => closeFd(fd));
    local.frontEnd.setInflight(inflight, fd);
    for (const index of [0, 1, 2, 3]) startRing(local, local.makeRing(16), index);
    for (const index of [0, 1, 2, 3]) {
      const header = Buffer.alloc(INFLIGHT.HEADER_BYTES);
      readSync(fd, header, 0, header.length, index * inflightRegionBytes(1024));
      expect([index, header.readUInt16LE(INFLIGHT.desc_num)]).toEqual([index, 16]);
    }
    const small = foreign(1, 16);
    expect(() => local.frontEnd.getInflight(5, 128)).toThrow();
    local.frontEnd.close();
    local.device.detach();
    local.connect();
    begin(local);
    local.frontEnd.setInflight(small.inflight, small.fd);
    const fds = openFds();
    // Refused in the other thread, which keeps the call descriptor alone.
    expect(() => startRing(local, local.makeRing(16), 1)).toThrow(RequestRefused);
    expect(openFds()).toBe(fds + 2 + 1);
  });
});

/** A used element and index as the last back end has left them. */
function pretendUsed(local: LocalDevice, driver: GuestDriver, head: number): void {
  const { ring } = driver;
  const at = local.ram.offsetOf(ring.used) >> 1;
  const { i32, u16, u8 } = local.ram.window;
  const slot = (at >> 1) + 1 + 2 * (ring.startIndex & (ring.size - 1));
  i32[slot] = head;
  i32[slot + 1] = 1;
  u16[at + 1] = ring.startIndex + 1;
  // Its status byte: the last writable one of that chain.
  const descriptor = local.ram.offsetOf(ring.desc) + (head + 2) * 16;
  u8[local.ram.offsetOf(i32[descriptor >> 2]!)] = 0;
}
