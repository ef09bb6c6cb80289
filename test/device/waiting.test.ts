/**
 * Messages of a front end that wait for I/O of a slow backing swap, and what the other device of the
 * reactor thread does meanwhile; the built daemon.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { makeInflightArea, markStore } from '../../src/device/inflight-area.ts';
import { closeFd } from '../../src/native/fd.ts';
import { connectUnix } from '../../src/native/socket.ts';
import { VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { encodeInflight, encodeVringState } from '../../src/vhost-user-ts/messages.ts';
import { VIRTIO_BLK_S_IOERR } from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, isBuilt, until } from '../driver/daemon.ts';
import { FrontEnd, sleepMillis } from '../driver/front-end.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeSwapFile } from '../driver/swap-file.ts';

const PAGE = 4096;
const DISK_BYTES = 8 << 20;
const PAGES = 20;
/** Of what waits: less than is waited for at the most. */
const DELAY_MILLIS = 1200;
/** Of a neighbour that waits as well there is one, or none. */
const SERVED_MIN = 100;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** A device with a slow backing swap and a guest that has written to it, and one in memory. */
async function slowAndFast() {
  process.env.RAMZSWAP_FAULT_INJECTION = '1';
  const daemon = await ManyDaemon.start(['--num-devices', '2', '--threads', '1']);
  delete process.env.RAMZSWAP_FAULT_INJECTION;
  cleanUps.push(() => daemon.stop());
  const { path, remove } = makeSwapFile(DISK_BYTES);
  cleanUps.push(remove);
  const client = await daemon.client();
  cleanUps.push(() => client.close());
  const init = (device: string, settings: object) => client.call('init', { device, settings });
  await init('ramzswap0', { 'backing-swap': path, memlimit: PAGE });
  await init('ramzswap1', { disksize: DISK_BYTES });
  const fast = daemon.attach('ramzswap1');
  cleanUps.push(() => fast.close());
  let served = 0;
  const serveFast = () => {
    fast.driver.submit(read(1, 1));
    fast.driver.flush();
    expect(fast.completeAll().map(({ status }) => status)).toEqual([0]);
    served++;
  };
  const connect = () => new FrontEnd(connectUnix(daemon.socketPath('ramzswap0')), serveFast);
  const slow = new AttachedDriver(connect());
  await client.call('fault', { backing: { delayMillis: DELAY_MILLIS } });
  const random = new Random(7);
  for (let i = 0; i < PAGES; i++) slow.driver.submit(write(10 + i, random.bytes(PAGE)));
  slow.driver.flush();
  sleepMillis(30);
  expect(slow.driver.inFlight).toBe(PAGES);
  served = 0;
  return { daemon, slow, connect, serveFast, served: () => served };
}

describe.skipIf(!isBuilt)('while I/O is under way, the other device is served', () => {
  it('as a ring stops', async () => {
    const { slow, served } = await slowAndFast();
    cleanUps.push(() => slow.close());
    expect(slow.frontEnd.getBase(0)).toBe(PAGES);
    expect(slow.completeAll()).toHaveLength(PAGES);
    expect(served()).toBeGreaterThan(SERVED_MIN);
  });

  it('as another guest comes, who then finds nothing of the last one’s', async () => {
    const { slow, connect, served } = await slowAndFast();
    slow.close();
    const { inflight, fd } = makeInflightArea(1, 128);
    cleanUps.push(() => closeFd(fd));
    markStore(inflight, fd, new Uint8Array(16).fill(7));
    const frontEnd = connect();
    frontEnd.order(VHOST_USER.SET_INFLIGHT_FD, encodeInflight(inflight), [fd]);
    const next = new AttachedDriver(frontEnd);
    cleanUps.push(() => next.close());
    expect(served()).toBeGreaterThan(SERVED_MIN);
    next.driver.submit(read(10, 1));
    next.driver.flush();
    // Not what was written there, nor zeros: its own pages are in another store.
    expect(next.completeAll().map(({ status }) => status)).toEqual([VIRTIO_BLK_S_IOERR]);
  });

  it('and who waits may go: the next one is taken at once', async () => {
    const { daemon, slow, connect, serveFast } = await slowAndFast();
    slow.frontEnd.send(VHOST_USER.GET_VRING_BASE, encodeVringState({ index: 0, num: 0 }));
    for (let i = 0; i < 10; i++) serveFast();
    slow.close();
    await until(() => /front end disconnected/.test(daemon.stderr), 'the end of who waited', 500);
    const next = connect();
    cleanUps.push(() => next.close());
    expect(next.negotiate(0n, 0n)).toBeGreaterThan(0n);
  });
});
