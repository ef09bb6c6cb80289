/**
 * A device two threads serve: the session in this one, rings with odd numbers in a queue thread that
 * runs by itself. What a front end gets to see must be the same as with one.
 */

import { readSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import type { QueueCall } from '../../src/device/orders.ts';
import { RemoteQueues } from '../../src/device/remote-queues.ts';
import type { ThreadCaller } from '../../src/device/thread-call.ts';
import { EPOLLIN, Epoll } from '../../src/native/epoll.ts';
import { createEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { readStatistics } from '../../src/store/statistics.ts';
import { encodeMemTable, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { until } from '../driver/daemon.ts';
import { openFds } from '../driver/descriptors.ts';
import { type FrontEnd, RequestRefused } from '../driver/front-end.ts';
import { type Completion, GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { QueueThread } from '../driver/threads.ts';

const FEATURES = BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_EVENT_IDX;
const LOCAL = 0;
const REMOTE = 1;
const SESSIONS = 50;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

it('another thread is not asked whether it serves a ring before one may be enabled', () => {
  const asked: string[] = [];
  const caller = {
    call(call: QueueCall) {
      if (call.kind === 'queues') asked.push(call.method);
      return true;
    },
  } as unknown as ThreadCaller<QueueCall>;
  const queues = new RemoteQueues(caller, { name: 'ramzswap0', queueCount: 2 });
  const terms = { eventIdx: true, indirect: true, startsEnabled: false };
  expect(queues.isServing()).toBe(false);
  queues.setVringKick(1, undefined, terms);
  queues.setVringEnable(1, false);
  expect(queues.isServing()).toBe(false);
  expect(asked).not.toContain('isServing');
  for (const enable of [
    () => queues.setVringEnable(1, true),
    () => queues.setVringKick(1, undefined, { ...terms, startsEnabled: true }),
    () => queues.restore([]),
  ]) {
    enable();
    asked.length = 0;
    expect(queues.isServing()).toBe(true);
    expect(asked).toEqual(['isServing']);
    queues.close();
    expect(queues.isServing()).toBe(false);
  }
});

function threadOf(): QueueThread {
  const thread = new QueueThread();
  cleanUps.push(() => thread.stop());
  return thread;
}

function deviceOf(threads: readonly QueueThread[], options = {}): LocalDevice {
  const callers = threads.map(({ caller }) => caller);
  const local = new LocalDevice(options, undefined, callers);
  // As a reactor does: what cannot be waited for is refused.
  const epoll = new Epoll();
  local.watchKick = (fd) => epoll.add(fd, EPOLLIN, fd);
  local.unwatchKick = (fd) => epoll.remove(fd);
  cleanUps.push(
    () => epoll.close(),
    () => local.close(),
  );
  begin(local);
  return local;
}

function begin(local: LocalDevice): void {
  local.negotiate(FEATURES);
  local.frontEnd.setMemoryTable(local.ram);
}

function startRing(local: LocalDevice, index: number) {
  const fds = { kick: local.eventFd(), call: local.eventFd(), err: local.eventFd() };
  const driver = new GuestDriver(local.ram, 16, {}, () => signalEventFd(fds.kick));
  local.frontEnd.startRing(index, driver.ring, fds);
  local.frontEnd.setEnabled(index, true);
  return { driver, fds };
}

/** Takes back one request, whichever thread serves it. */
async function completed(local: LocalDevice, driver: GuestDriver): Promise<Completion> {
  driver.flush();
  local.serve();
  await until(() => driver.ring.usedCount > 0, 'the request is completed', 2000);
  return driver.complete()[0]!;
}

describe('rings in two threads', () => {
  it('see what the other has written, and their requests are counted together', async () => {
    const local = deviceOf([threadOf()]);
    const drivers = [LOCAL, REMOTE].map((index) => startRing(local, index).driver);
    const random = new Random(7);
    for (let i = 0; i < 16; i++) {
      const [from, to] = [drivers[i % 2]!, drivers[(i + 1) % 2]!];
      const page = random.page();
      from.submit(write(1 + i, page));
      expect((await completed(local, from)).status).toBe(0);
      to.submit(read(1 + i, 1));
      expect((await completed(local, to)).data).toEqual(page);
    }
    const figures = readStatistics(null, local.device.store.mapped);
    expect(figures).toMatchObject({ requests_read: 16, requests_write: 16, num_writes: 16 });
  });

  it('stop where they are asked to, and go on from there', async () => {
    const local = deviceOf([threadOf()]);
    const { driver, fds } = startRing(local, REMOTE);
    for (let i = 0; i < 5; i++) {
      driver.submit(read(1 + i, 1));
      expect((await completed(local, driver)).status).toBe(0);
    }
    expect(local.frontEnd.getBase(REMOTE)).toBe(5);
    driver.submit(read(9, 1));
    driver.flush();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(driver.ring.usedCount, 'a stopped ring is left alone').toBe(0);
    local.frontEnd.startRing(REMOTE, driver.ring, fds, 5);
    expect((await completed(local, driver)).status).toBe(0);
  });

  it('are broken one by one: told of, signalled, the other goes on', async () => {
    const thread = threadOf();
    const local = deviceOf([thread]);
    const { driver: whole } = startRing(local, LOCAL);
    const { driver: broken, fds } = startRing(local, REMOTE);
    broken.ring.offer(99);
    broken.flush();
    await thread.untilReported(/^warn: ring 1 broken by the guest: descriptor index/);
    expect(readSync(fds.err, new Uint8Array(8))).toBe(8);
    whole.submit(read(0, 1));
    expect((await completed(local, whole)).status).toBe(0);
  });

  it('grow together', async () => {
    const threads = [threadOf(), threadOf()];
    const local = deviceOf(threads, { diskBytesMax: 2 << 20 });
    const drivers = [0, 1, 2].map((index) => startRing(local, index).driver);
    local.device.grow(2 << 20);
    for (const driver of drivers) {
      driver.submit(read(511, 1));
      expect((await completed(local, driver)).status).toBe(0);
    }
    const [capacity] = new BigUint64Array(local.frontEnd.getConfig(0, 8)!.buffer);
    expect(capacity).toBe(4096n);
  });
});

/** A thread that has nothing to serve, and refuses calls of one method. */
function refusing(method: string): ThreadCaller<QueueCall> {
  const call = (call: QueueCall) => {
    if (call.kind === 'queues' && call.method === method) throw new RefusedError('no room');
  };
  return { call } as unknown as ThreadCaller<QueueCall>;
}

/** What a front end may get wrong; each step's refusal is in the log once a session. */
const WRONGS: Record<string, (frontEnd: FrontEnd, local: LocalDevice) => void> = {
  'a ring of a wrong size': (frontEnd) => frontEnd.setNum(REMOTE, 300),
  'a base beyond 65535': (frontEnd) => frontEnd.setBase(REMOTE, 65536),
  'a kick before anything else': (frontEnd, local) =>
    frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, REMOTE, local.eventFd()),
  'a kick descriptor that cannot be waited for': (frontEnd) => {
    const fd = createMemfd('not-an-eventfd', 4096);
    try {
      frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, REMOTE, fd);
    } finally {
      closeFd(fd);
    }
  },
  'a ring outside memory': (frontEnd, local) => {
    const { ring } = local.makeRing();
    const desc = 2 ** 46;
    frontEnd.setNum(REMOTE, 16);
    const elsewhere = { ...ring.userAddresses, desc };
    frontEnd.setAddress(REMOTE, { ...ring, userAddresses: elsewhere } as typeof ring);
  },
  'a region twice': (frontEnd, local) => frontEnd.addRegion(local.ram.regions[0]!, local.ram.fd),
  'a region that is not there': (frontEnd, local) =>
    frontEnd.removeRegion({ ...local.ram.regions[0]!, bytes: 4096 }),
  'a table beyond its file': (frontEnd, local) => {
    const region = { ...local.ram.regions[0]!, bytes: 2 ** 30 };
    frontEnd.order(VHOST_USER.SET_MEM_TABLE, encodeMemTable([region]), [local.ram.fd]);
  },
};

describe('a refusal', () => {
  it.each(Object.keys(WRONGS))('of %s is the same as with one thread', (what) => {
    const said = [[], [threadOf()]].map((threads) => {
      const local = deviceOf(threads);
      const before = openFds();
      expect(() => WRONGS[what]!(local.frontEnd, local)).toThrow(RequestRefused);
      return { reports: local.reports, leaked: openFds() - before };
    });
    expect(said[1]).toEqual(said[0]);
    expect(said[0]!.reports).toEqual([expect.stringMatching(/^warn: refused: /)]);
  });
});

describe('guest memory', () => {
  it('is changed in all threads or in none', async () => {
    const local = deviceOf([threadOf()]);
    const { frontEnd, ram } = local;
    const drivers = [LOCAL, REMOTE].map((index) => startRing(local, index).driver);
    const other = { guestAddress: 2 ** 40, userAddress: 2 ** 45, bytes: 65536, mmapOffset: 0 };
    frontEnd.addRegion(other, ram.fd);
    expect(() => frontEnd.addRegion(other, ram.fd)).toThrow(RequestRefused);
    frontEnd.removeRegion(other);
    expect(() => frontEnd.removeRegion(other)).toThrow(RequestRefused);
    frontEnd.addRegion(other, ram.fd);
    for (const driver of drivers) {
      driver.submit(read(3, 1));
      expect((await completed(local, driver)).status).toBe(0);
    }
  });

  it('that one thread cannot add is not there in another', () => {
    const local = new LocalDevice({}, undefined, [refusing('addMemoryRegion')]);
    cleanUps.push(() => local.close());
    begin(local);
    const other = { guestAddress: 2 ** 40, userAddress: 2 ** 45, bytes: 65536, mmapOffset: 0 };
    expect(() => local.frontEnd.addRegion(other, local.ram.fd)).toThrow(RequestRefused);
    expect(() => local.frontEnd.removeRegion(other)).toThrow(RequestRefused);
    expect(local.reports).toEqual([
      'warn: refused: ADD_MEM_REG: no room',
      expect.stringMatching(/^warn: refused: REM_MEM_REG: no such memory region/),
    ]);
  });

  it('is in no thread after a table that one of them cannot map', () => {
    const local = new LocalDevice({}, undefined, [refusing('setMemoryTable')]);
    cleanUps.push(() => local.close());
    local.negotiate(FEATURES);
    expect(() => local.frontEnd.setMemoryTable(local.ram)).toThrow(RequestRefused);
    local.frontEnd.addRegion(local.ram.regions[0]!, local.ram.fd);
    const { driver } = startRing(local, LOCAL);
    driver.submit(read(0, 1));
    driver.flush();
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
  });
});

it(`${SESSIONS} sessions leave no descriptor behind, whatever was replaced or refused`, () => {
  const local = deviceOf([threadOf()]);
  local.device.detach();
  local.frontEnd.close();
  const before = openFds();
  for (let i = 0; i < SESSIONS; i++) {
    local.connect();
    begin(local);
    const fd = createEventFd();
    const { ring } = local.makeRing();
    for (let n = 0; n < 3; n++) {
      local.frontEnd.startRing(REMOTE, ring, { kick: fd, call: fd, err: fd });
      local.frontEnd.setEnabled(REMOTE, true);
      if (n < 2) local.frontEnd.getBase(REMOTE);
    }
    const wrong = WRONGS['a kick descriptor that cannot be waited for']!;
    expect(() => wrong(local.frontEnd, local)).toThrow(RequestRefused);
    closeFd(fd);
    local.device.detach();
    local.frontEnd.close();
  }
  expect(openFds()).toBe(before);
});
