/**
 * Who may read what: the front end that comes after another, its own reconnection, a guest whose
 * area names another store. In one thread; front ends of other processes are named in the header.
 */

import { fstatSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { makeInflightArea, markedStore, markStore } from '../../src/device/inflight-area.ts';
import { closeFd } from '../../src/native/fd.ts';
import { readStatistics } from '../../src/store/statistics.ts';
import { UNKNOWN_PROCESS } from '../../src/store/store-header.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_S_OK as OK,
  VIRTIO_BLK_T_DISCARD,
} from '../../src/virtio-blk/protocol.ts';
import { openFds } from '../driver/descriptors.ts';
import { RequestRefused } from '../driver/front-end.ts';
import type { BlockRequest, GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice, type LocalDeviceOptions } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';

const PAGE = 4096;
const FEATURES =
  BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX;
const ANOTHER_PROCESS = { process: 1, start: 4711 };
const ANOTHER_STORE = new Uint8Array(16).fill(7);
const ZEROS = new Uint8Array(PAGE);
const PAGES = 60;
const cleanUps: (() => unknown)[] = [];

afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

const pageOf = (slot: number) => new Random(slot + 1).bytes(PAGE);

function setUp(options: LocalDeviceOptions = {}): LocalDevice {
  const local = new LocalDevice({ diskBytes: 1 << 20, ...options });
  cleanUps.push(() => local.close());
  begin(local);
  return local;
}

function begin(local: LocalDevice): void {
  local.negotiate(FEATURES);
  local.frontEnd.setMemoryTable(local.ram);
}

function reconnect(local: LocalDevice): void {
  local.frontEnd.close();
  local.device.detach();
  local.connect();
  begin(local);
}

function startRing(local: LocalDevice, index = 0): GuestDriver {
  const driver = local.makeRing(16);
  local.frontEnd.startRing(index, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
  local.frontEnd.setEnabled(index, true);
  return driver;
}

function run(local: LocalDevice, driver: GuestDriver, request: BlockRequest) {
  driver.submit(request);
  driver.ring.publish();
  local.serve();
  return driver.complete()[0]!;
}

/** A guest has filled pages 1 to PAGES. */
function fill(local: LocalDevice, driver = startRing(local)): GuestDriver {
  for (let slot = 1; slot <= PAGES; slot++) run(local, driver, write(slot, pageOf(slot)));
  return driver;
}

function expectKept(local: LocalDevice, driver: GuestDriver): void {
  for (let slot = 1; slot <= PAGES; slot++) {
    expect(Buffer.compare(run(local, driver, read(slot, 1)).data, pageOf(slot))).toBe(0);
  }
}

function expectHeader(local: LocalDevice, driver: GuestDriver): void {
  const { status, data } = run(local, driver, read(0, 1));
  expect(status).toBe(OK);
  expect(Buffer.from(data.subarray(4086)).toString()).toBe('SWAPSPACE2');
}

function expectEmpty(local: LocalDevice, driver: GuestDriver): void {
  expectHeader(local, driver);
  for (let slot = 1; slot <= PAGES; slot++) {
    const { status, data } = run(local, driver, read(slot, 1));
    expect([status, Buffer.compare(data, ZEROS)]).toEqual([OK, 0]);
  }
}

function heldBy(local: LocalDevice) {
  const figures = readStatistics(null, local.device.store.mapped);
  const { pages_stored, pages_zero, pages_same, pages_lost, compr_data_size } = figures;
  return { pages_stored, pages_zero, pages_same, pages_lost, compr_data_size };
}

const ONLY_HEADER = {
  ...{ pages_stored: 1, pages_zero: 0, pages_same: 0, pages_lost: 0, compr_data_size: PAGE },
};

function area(local: LocalDevice, named?: Uint8Array) {
  const made = makeInflightArea(4, 128);
  cleanUps.push(() => closeFd(made.fd));
  if (named !== undefined) markStore(made.inflight, made.fd, named);
  local.frontEnd.setInflight(made.inflight, made.fd);
  return made;
}

/** As if the last front end had been `last`. */
function pretendLast(local: LocalDevice, last = ANOTHER_PROCESS): void {
  local.device.store.mapped.header.frontEnd = last;
}

describe('the pages are kept', () => {
  it('for the process that connects again', () => {
    const local = setUp();
    fill(local);
    reconnect(local);
    expectKept(local, startRing(local));
  });

  it('for another process whose area names the store: the guest has moved there', () => {
    const local = setUp();
    fill(local);
    pretendLast(local);
    reconnect(local);
    area(local, local.device.store.mapped.header.uuid);
    expectKept(local, startRing(local));
  });

  it('for another process with --on-new-guest keep', () => {
    const local = setUp({ onNewGuest: 'keep' });
    fill(local);
    pretendLast(local);
    reconnect(local);
    expectKept(local, startRing(local));
  });

  it('whatever rings are stopped and started in one session, new areas included', () => {
    const local = setUp();
    const driver = fill(local);
    // Also where nobody can tell who the front end is.
    pretendLast(local, UNKNOWN_PROCESS);
    const base = local.frontEnd.getBase(0);
    const fds = { kick: local.eventFd(), call: local.eventFd() };
    local.frontEnd.startRing(0, driver.ring, fds, base);
    expectKept(local, driver);
    local.frontEnd.getBase(0);
    pretendLast(local, UNKNOWN_PROCESS);
    area(local);
    expectKept(local, startRing(local));
  });
});

describe('another process finds an empty store', () => {
  it.each([
    ['one that is known', ANOTHER_PROCESS],
    ['one that cannot be told', UNKNOWN_PROCESS],
  ])('after %s: the header is there, the memory given back', (_, last) => {
    const local = setUp();
    const { shared, header } = local.device.store.mapped;
    const before = header.uuid;
    fill(local);
    expect(fstatSync(shared.arenaFd).blocks * 512).toBeGreaterThan(PAGES * PAGE);
    pretendLast(local, last);
    reconnect(local);
    const made = area(local);
    const driver = startRing(local);
    expect(heldBy(local)).toEqual(ONLY_HEADER);
    expect(fstatSync(shared.arenaFd).blocks * 512).toBeLessThanOrEqual(16 * PAGE);
    expectEmpty(local, driver);
    expect(local.reports.at(-1)).toBe('info: a new front end: what the last one left was emptied');
    // The last guest, should it come back, has its pages in a store that is no more.
    expect(header.uuid).not.toEqual(before);
    expect(markedStore(made.inflight, made.fd)).toEqual(header.uuid);
    fill(local, driver);
    expectKept(local, driver);
  });

  it('once, not with each of its rings', () => {
    const local = setUp();
    fill(local);
    pretendLast(local);
    reconnect(local);
    const driver = startRing(local);
    fill(local, driver);
    expectKept(local, startRing(local, 1));
    reconnect(local);
    expectKept(local, startRing(local));
  });

  it('in steps, while which the front end waits, and other devices are served', () => {
    const local = setUp({ diskBytes: 64 << 20 });
    const driver = startRing(local);
    const noise = new Random(7).bytes(PAGE);
    for (let slot = 1; slot <= 2048; slot++) run(local, driver, write(slot, noise));
    pretendLast(local);
    reconnect(local);
    let polls = 0;
    local.pump = () => {
      if (local.device.isWaiting) polls++;
      return local.device.pollSession();
    };
    expectEmpty(local, startRing(local));
    expect(polls).toBeGreaterThan(3);
    expect(local.device.isWaiting).toBe(false);
    expect(heldBy(local)).toEqual(ONLY_HEADER);
  });

  /** Another guest's front end has come, and left while the store was being emptied for it. */
  function leftHalfWay(options: LocalDeviceOptions = {}, named?: Uint8Array): LocalDevice {
    const local = setUp(options);
    fill(local);
    pretendLast(local);
    reconnect(local);
    if (named !== undefined) area(local, named);
    local.device.store.drain();
    reconnect(local);
    return local;
  }

  it('whoever comes when another has left while it was emptied', () => {
    const local = leftHalfWay();
    const driver = startRing(local);
    expectEmpty(local, driver);
    fill(local, driver);
    expectKept(local, driver);
  });

  it('and no zeros where any guest may have what is there', () => {
    const local = leftHalfWay({ onNewGuest: 'keep' }, ANOTHER_STORE);
    const driver = startRing(local);
    expectHeader(local, driver);
    expect(run(local, driver, read(5, 1)).status).toBe(IOERR);
  });

  it('and what is handed over to another process is whole', () => {
    const local = leftHalfWay();
    const sockets = { listenFd: undefined, listenPath: undefined, controlFd: -1 };
    local.device.pause(sockets);
    expect(local.device.store.isDrained).toBe(false);
    local.device.resume();
    const driver = startRing(local);
    expectEmpty(local, driver);
    fill(local, driver);
    expectKept(local, driver);
  });

  it('also after a process that ended while it emptied it', () => {
    const local = setUp();
    fill(local);
    const { mapped } = local.device.store;
    const uuid = mapped.header.uuid;
    const { arena } = mapped;
    arena.restore = () => {
      throw new Error('killed');
    };
    expect(() => local.device.store.reset(1, false)).toThrow('killed');
    Reflect.deleteProperty(arena, 'restore');
    // Neither the next guest nor the last one may take it for its own.
    expect(mapped.header.uuid).not.toEqual(uuid);
    reconnect(local);
    expectEmpty(local, startRing(local));
  });
});

describe('a guest whose area names another store', () => {
  it('reads errors, never zeros; writes and discards heal; the header is there', () => {
    const local = setUp();
    fill(local);
    reconnect(local);
    const made = area(local, ANOTHER_STORE);
    const driver = startRing(local);
    expectHeader(local, driver);
    expect(local.reports.at(-1)).toMatch(/^error: this guest had its pages in another store/);
    for (let slot = 1; slot < 256; slot++) {
      expect(run(local, driver, read(slot, 1)).status).toBe(IOERR);
    }
    expect(heldBy(local)).toEqual({ ...ONLY_HEADER, pages_lost: 255 });
    expect(run(local, driver, write(5, pageOf(5))).status).toBe(OK);
    expect(Buffer.compare(run(local, driver, read(5, 1)).data, pageOf(5))).toBe(0);
    const discard = clear(VIRTIO_BLK_T_DISCARD, [{ sector: 48, sectors: 8 }]);
    expect(run(local, driver, discard).status).toBe(OK);
    expect(run(local, driver, read(6, 1))).toMatchObject({ status: OK, data: ZEROS });
    expect(heldBy(local).pages_lost).toBe(253);
    // From now on it is this store's guest.
    reconnect(local);
    local.frontEnd.setInflight(made.inflight, made.fd);
    const again = startRing(local);
    expect(Buffer.compare(run(local, again, read(5, 1)).data, pageOf(5))).toBe(0);
    expect(run(local, again, read(7, 1)).status).toBe(IOERR);
  });

  it('regression: reads errors in what the disk grows to as well: there it may have been larger', () => {
    const local = setUp({ diskBytesMax: 4 << 20 });
    area(local, ANOTHER_STORE);
    const driver = startRing(local);
    local.device.grow(2 << 20);
    expectHeader(local, driver);
    for (const slot of [255, 256, 384, 511]) {
      expect(run(local, driver, read(slot, 1)).status).toBe(IOERR);
    }
    expect(heldBy(local).pages_lost).toBe(511);
    expect(run(local, driver, write(384, pageOf(384))).status).toBe(OK);
    expect(Buffer.compare(run(local, driver, read(384, 1)).data, pageOf(384))).toBe(0);
  });

  it('that comes while another ring runs is refused, and that ring has lost nothing', () => {
    const local = setUp();
    const driver = fill(local);
    area(local, ANOTHER_STORE);
    const second = local.makeRing(16);
    const fds = { kick: local.eventFd(), call: local.eventFd() };
    const open = openFds();
    const start = () => local.frontEnd.startRing(1, second.ring, fds);
    expect(start).toThrow(RequestRefused);
    expect(local.reports.at(-1)).toMatch(/expected no other ring to run with another store/);
    // The call descriptor is the ring's; the kick's was closed.
    expect(openFds()).toBe(open + 1);
    expectKept(local, driver);
  });
});
