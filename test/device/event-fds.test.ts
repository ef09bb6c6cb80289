/**
 * Eventfds that the front end shares: what is none is refused, and one that it makes writes and reads
 * wait for keeps nobody waiting.
 */

import { writeSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { drainEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_T_FLUSH } from '../../src/virtio-blk/protocol.ts';
import { type AttachedDriver, isBuilt, until } from '../driver/daemon.ts';
import { openFds, signals } from '../driver/descriptors.ts';
import { RequestRefused } from '../driver/front-end.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { socketPair } from '../driver/sockets.ts';
import { counterOf, setBlocking } from '../models/descriptors.ts';

const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** A device with a ring that runs. */
function setUp() {
  const local = new LocalDevice();
  cleanUps.push(() => local.close());
  local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
  local.frontEnd.setMemoryTable(local.ram);
  const driver = local.makeRing(16, { eventIdx: false });
  const fds = { kick: local.eventFd(), call: local.eventFd(), err: local.eventFd() };
  local.frontEnd.startRing(0, driver.ring, fds);
  local.frontEnd.setEnabled(0, true);
  return { local, driver, fds };
}

describe('what is no eventfd', () => {
  const requests = ['SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR', 'SET_LOG_FD'] as const;

  it.each(requests)('is refused and closed: %s', (request) => {
    const { local } = setUp();
    const [socket, other] = socketPair();
    const memory = createMemfd('no eventfd', 4096);
    const before = openFds();
    for (const fd of [socket, memory]) {
      const send =
        request === 'SET_LOG_FD'
          ? () => local.frontEnd.order(VHOST_USER[request], new Uint8Array(0), [fd])
          : () => local.frontEnd.setRingFd(VHOST_USER[request], 0, fd);
      expect(send).toThrow(RequestRefused);
    }
    // The first of a kind is told.
    const where = request === 'SET_LOG_FD' ? request : `${request}: ring 0`;
    const got = /: expected an eventfd, got socket:\[\d+\]$/;
    expect(local.reports.at(-1)).toContain(where);
    expect(local.reports.at(-1)).toMatch(got);
    expect(openFds()).toBe(before);
    for (const fd of [socket, other, memory]) closeFd(fd);
  });

  it('leaves those in force that were there before', () => {
    const { local, driver, fds } = setUp();
    const memory = createMemfd('no eventfd', 4096);
    for (const request of requests.slice(0, 3) as 'SET_VRING_KICK'[]) {
      const send = () => local.frontEnd.setRingFd(VHOST_USER[request], 0, memory);
      expect(send).toThrow(RequestRefused);
    }
    closeFd(memory);
    expect(local.watched.size).toBe(1);
    signals(fds.call);
    driver.submit({ type: VIRTIO_BLK_T_FLUSH, sector: 0 });
    driver.ring.publish();
    local.serve();
    expect(driver.complete()).toMatchObject([{ status: 0 }]);
    expect(signals(fds.call)).toBe(1);
  });
});

if (!isBuilt) console.warn('event-fds.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('a front end that makes its eventfds wait', () => {
  /** Of a daemon that may have other devices. */
  async function attach(threads: number) {
    const daemon = await ManyDaemon.start(['--disksize', '8M', '--queue-threads', `${threads}`]);
    cleanUps.push(() => daemon.stop());
    const attached = daemon.attach('ramzswap0', { index: threads - 1 });
    cleanUps.push(() => attached.close());
    return attached;
  }

  /** Without an interrupt: it looks for itself. */
  async function flush({ driver }: AttachedDriver): Promise<void> {
    driver.submit({ type: VIRTIO_BLK_T_FLUSH, sector: 0 });
    driver.flush();
    await until(() => driver.complete().length === 1, 'the request', 5000);
  }

  it.each([1, 2])('is served with a call descriptor that is full, thread %i', async (threads) => {
    const attached = await attach(threads);
    attached.completeAll();
    drainEventFd(attached.callFd);
    const full = Buffer.alloc(8);
    full.writeBigUInt64LE(2n ** 64n - 2n);
    writeSync(attached.callFd, full);
    setBlocking(attached.callFd);
    for (let i = 0; i < 3; i++) {
      attached.driver.ring.enableInterrupts();
      await flush(attached);
    }
    attached.frontEnd.getConfig(0, 8);
  });

  it('keeps its kicks: they wake, and are not read', async () => {
    const attached = await attach(1);
    setBlocking(attached.kickFd);
    await until(
      () => {
        attached.driver.submit({ type: VIRTIO_BLK_T_FLUSH, sector: 0 });
        attached.driver.flush();
        attached.completeAll();
        return attached.kicks >= 3;
      },
      'kicks',
      5000,
    );
    expect(counterOf(attached.kickFd)).toBe(BigInt(attached.kicks));
  });
});
