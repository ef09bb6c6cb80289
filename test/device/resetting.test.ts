/**
 * A device that gets its disk and loses it again: without one it has no capacity and every request
 * fails; a guest that is there learns of both; nothing of a disk is left when it is gone; in one thread
 * or several.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { PAGE_DONE } from '../../src/base/page-operation.ts';
import { ControlClient } from '../../src/control/client.ts';
import type { BlockDevice } from '../../src/device/block-device.ts';
import { makeInflightArea, markStore } from '../../src/device/inflight-area.ts';
import { closeFd } from '../../src/native/fd.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { readStatistics, type Statistics } from '../../src/store/statistics.ts';
import { Connection, encodeInflight, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_T_GET_ID } from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt, RZSCONTROL, until } from '../driver/daemon.ts';
import type { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { socketPair } from '../driver/sockets.ts';
import { makeSwapFile } from '../driver/swap-file.ts';

const FAULTS = { RAMZSWAP_FAULT_INJECTION: '1' };
const ZEROS = new Uint8Array(4096);
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const noise = (seed: number) => new Random(seed).bytes(4096);
const statisticsOf = ({ device }: LocalDevice) => readStatistics(null, device.store.mapped);

const openFds = () => readdirSync('/proc/self/fd').length;
/** Of all memory files that this process has mapped. */
const sharedBytes = () =>
  Number(/^RssShmem:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024;
/** In sectors. */
const capacityOf = (device: BlockDevice) => Buffer.from(device.getConfig(0, 8)!).readBigUInt64LE(0);

function startedRing(local: LocalDevice): GuestDriver {
  const driver = local.makeRing();
  local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
  local.frontEnd.setEnabled(0, true);
  return driver;
}

function runningRing(local: LocalDevice): GuestDriver {
  local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
  local.frontEnd.setMemoryTable(local.ram);
  return startedRing(local);
}

describe('a device in this thread', () => {
  /** A ring that is started, not enabled; nothing was served yet. */
  function started() {
    const local = new LocalDevice();
    cleanUps.push(() => local.close());
    const asNew = statisticsOf(local);
    local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing();
    local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
    return { local, driver, asNew };
  }

  function run(
    local: LocalDevice,
    driver: GuestDriver,
    request: Parameters<GuestDriver['submit']>[0],
  ) {
    driver.submit(request);
    driver.ring.publish();
    local.serve();
    return driver.complete()[0]!;
  }

  it('is not reset while a ring is started, enabled or not, broken or not', () => {
    const { local, driver } = started();
    const { frontEnd, device } = local;
    const refusal = 'ramzswap0: in use: a front end has its queues running';
    expect(() => device.reset()).toThrow(refusal);
    frontEnd.setEnabled(0, true);
    expect(run(local, driver, write(5, noise(1))).status).toBe(0);
    expect(() => device.reset()).toThrow(refusal);
    driver.ring.setAvailIdx(driver.ring.availIdx + 1000);
    local.serve();
    expect(local.reports.at(-1)).toMatch(/broken by the guest/);
    expect(() => device.reset()).toThrow(refusal);
    expect(statisticsOf(local).pages_stored).toBe(2);
    frontEnd.getBase(0);
    device.reset();
    expect(device.isInitialised).toBe(false);
    expect(() => device.reset()).toThrow('ramzswap0: not initialised');
  });

  it('is as new when it is initialised again: figures, pages, header', () => {
    const { local, driver, asNew } = started();
    const { frontEnd, device } = local;
    frontEnd.setEnabled(0, true);
    const header = run(local, driver, read(0, 1)).data;
    for (let page = 1; page < 200; page++) run(local, driver, write(page, noise(page)));
    run(local, driver, write(0, noise(0)));
    expect(run(local, driver, read(1000, 1)).status).not.toBe(0);
    const base = frontEnd.getBase(0);
    device.reset();
    expect(() => device.store).toThrow();
    local.init();
    expect(() => local.init()).toThrow('ramzswap0: already initialised');
    expect(statisticsOf(local)).toEqual(asNew);
    expect(device.store.mapped.header.frontEnd).toBeUndefined();
    const fds = { kick: local.eventFd(), call: local.eventFd() };
    frontEnd.startRing(0, driver.ring, fds, base);
    frontEnd.setEnabled(0, true);
    expect(run(local, driver, read(7, 1))).toMatchObject({ status: 0, data: ZEROS });
    // All but the UUID of the swap area.
    const { data } = run(local, driver, read(0, 1));
    expect([data.slice(0, 1036), data.slice(1052)]).toEqual([
      header.slice(0, 1036),
      header.slice(1052),
    ]);
    expect(data.slice(1036, 1052)).not.toEqual(header.slice(1036, 1052));
    expect(device.store.mapped.header.frontEnd).toBeDefined();
  });

  it('leaves no memory and no descriptor behind, however often it is initialised and reset', () => {
    const local = new LocalDevice({ isUninitialised: true });
    cleanUps.push(() => local.close());
    const filled = () => {
      local.init({ diskBytes: 16 << 20 });
      const { store } = local.device;
      const window = new PageWindow(1 << 17);
      for (let slot = 1; slot < 2000; slot++) {
        window.u8.set(noise(slot), 65536);
        expect(store.writePage(slot, window, 65536)).toBe(PAGE_DONE);
      }
      local.device.reset();
    };
    filled();
    const before = [openFds(), sharedBytes()];
    for (let round = 0; round < 10; round++) filled();
    const after = [openFds(), sharedBytes()];
    expect(after[0]).toBe(before[0]);
    // A disk holds 8 MiB here.
    expect(after[1]! - before[1]!).toBeLessThan(2 << 20);
  });

  it('has no capacity without a disk, and fails every request but identity and flush', () => {
    const local = new LocalDevice({ isUninitialised: true });
    cleanUps.push(() => local.close());
    const { device } = local;
    expect(capacityOf(device)).toBe(0n);
    const driver = runningRing(local);
    for (const request of [read(0, 1), write(0, ZEROS), read(5, 3)]) {
      expect(run(local, driver, request).status).toBe(VIRTIO_BLK_S_IOERR);
    }
    const serial = run(local, driver, { type: VIRTIO_BLK_T_GET_ID, sector: 0, inBytes: 20 });
    expect(Buffer.from(serial.data).toString('latin1').replace(/\0+$/, '')).toBe('ramzswap0');
    expect(() => device.grow(1 << 20)).toThrow();
  });

  it('tells a guest that is there of its disk, which then works without a new connection', () => {
    const local = new LocalDevice({ isUninitialised: true });
    cleanUps.push(() => local.close());
    const [ours, theirs] = socketPair();
    const channel = new Connection(ours);
    cleanUps.push(() => channel.close());
    local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
    local.frontEnd.order(VHOST_USER.SET_BACKEND_REQ_FD, new Uint8Array(0), [theirs]);
    closeFd(theirs);
    local.frontEnd.getConfig(0, 60);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = startedRing(local);
    expect(run(local, driver, write(5, noise(1))).status).toBe(VIRTIO_BLK_S_IOERR);
    local.init({ diskBytes: 2 << 20 });
    expect(channel.receive()).toMatchObject({ request: 2, flags: 1 });
    expect(channel.receive()).toBeUndefined();
    expect(capacityOf(local.device)).toBe(4096n);
    expect(run(local, driver, write(500, noise(2))).status).toBe(0);
    expect(run(local, driver, read(500, 1))).toMatchObject({ status: 0, data: noise(2) });
    expect(run(local, driver, read(512, 1)).status).toBe(VIRTIO_BLK_S_IOERR);
    expect(local.device.store.mapped.header.frontEnd).toBeDefined();
  });

  it('says when a front end begins to run queues, and when it ends', () => {
    const { local } = started();
    expect(local.running).toEqual([true]);
    const other = local.makeRing();
    local.frontEnd.startRing(1, other.ring, { kick: local.eventFd(), call: local.eventFd() });
    local.frontEnd.getBase(0);
    expect(local.running).toEqual([true]);
    local.frontEnd.getBase(1);
    expect(local.running).toEqual([true, false]);
    local.frontEnd.startRing(1, other.ring, { kick: local.eventFd(), call: local.eventFd() });
    local.device.detach();
    expect(local.running).toEqual([true, false, true, false]);
  });

  it('does not give a guest zeros whose pages are in another store, though it had no disk', () => {
    const local = new LocalDevice({ isUninitialised: true });
    cleanUps.push(() => local.close());
    const { inflight, fd } = makeInflightArea(1, 16);
    cleanUps.push(() => closeFd(fd));
    markStore(inflight, fd, new Uint8Array(16).fill(7));
    local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
    local.frontEnd.order(VHOST_USER.SET_INFLIGHT_FD, encodeInflight(inflight), [fd]);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = startedRing(local);
    local.init();
    expect(run(local, driver, read(5, 1)).status).toBe(VIRTIO_BLK_S_IOERR);
    run(local, driver, write(5, noise(6)));
    expect(run(local, driver, read(5, 1))).toMatchObject({ status: 0, data: noise(6) });
  });

  it('reads as errors, not zeros, for a guest that was paused and goes on with its in-flight area', () => {
    const local = new LocalDevice();
    cleanUps.push(() => local.close());
    const { frontEnd, device } = local;
    local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
    const { inflight, fd } = makeInflightArea(1, 16);
    const giveArea = () =>
      frontEnd.order(VHOST_USER.SET_INFLIGHT_FD, encodeInflight(inflight), [fd]);
    giveArea();
    frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing();
    const start = (base?: number) => {
      const fds = { kick: local.eventFd(), call: local.eventFd() };
      frontEnd.startRing(0, driver.ring, fds, base);
      frontEnd.setEnabled(0, true);
    };
    start();
    run(local, driver, write(5, noise(5)));
    const base = frontEnd.getBase(0);
    device.reset();
    local.init();
    giveArea();
    start(base);
    expect(run(local, driver, read(5, 1)).status).toBe(VIRTIO_BLK_S_IOERR);
    run(local, driver, write(5, noise(6)));
    expect(run(local, driver, read(5, 1))).toMatchObject({ status: 0, data: noise(6) });
    closeFd(fd);
  });
});

describe.skipIf(!isBuilt)('rzscontrol --reset', () => {
  async function daemonWith(args: readonly string[] = []): Promise<Daemon> {
    const daemon = await Daemon.start(args, FAULTS);
    cleanUps.push(() => daemon.stop());
    return daemon;
  }

  const rzscontrol = ({ controlPath }: Daemon, ...args: string[]) =>
    execa(process.execPath, [RZSCONTROL, '--control-path', controlPath, ...args], {
      reject: false,
      timeout: 20_000,
    });

  /** But for the threads' processor time, which is not the device's. */
  async function statistics(daemon: Daemon): Promise<Statistics> {
    const { stdout } = await rzscontrol(daemon, 'ramzswap0', '--stats', '--json');
    const all = JSON.parse(stdout) as Statistics;
    return { ...all, cpu_micros: 0, mem_reserved: 0 };
  }

  function submit(attached: AttachedDriver, request: Parameters<GuestDriver['submit']>[0]) {
    attached.driver.submit(request);
    attached.driver.flush();
  }

  it.each([
    [1, '--reset'],
    [3, '-r'],
  ])(
    'with %i queue threads is refused while a queue runs, then frees all',
    async (threads, option) => {
      const daemon = await daemonWith(['--queue-threads', `${threads}`]);
      const asNew = await statistics(daemon);
      // The last thread's.
      const attached = AttachedDriver.connect(daemon, { index: threads - 1 });
      for (let page = 1; page < 30; page++) {
        submit(attached, write(page, noise(page)));
        expect(attached.completeAll()[0]!.status).toBe(0);
      }
      const refused = await rzscontrol(daemon, 'ramzswap0', option);
      expect([refused.exitCode, refused.stderr]).toEqual([
        1,
        'rzscontrol: ramzswap0: in use: a front end has its queues running',
      ]);
      expect((await statistics(daemon)).pages_stored).toBe(30);
      attached.frontEnd.getBase(threads - 1);
      const done = await rzscontrol(daemon, 'ramzswap0', option);
      expect([done.exitCode, done.stdout, done.stderr]).toEqual([0, '', '']);
      expect(await rzscontrol(daemon, 'ramzswap0', '--stats')).toMatchObject({
        exitCode: 1,
        stderr: 'rzscontrol: ramzswap0: not initialised',
      });
      // As its command line says.
      expect((await rzscontrol(daemon, 'ramzswap0', '--init')).exitCode).toBe(0);
      expect(await statistics(daemon)).toEqual(asNew);
      attached.close();
    },
  );

  it('names a device, and one that there is', async () => {
    const daemon = await daemonWith();
    expect(await rzscontrol(daemon, '--reset')).toMatchObject({
      exitCode: 2,
      stderr: 'rzscontrol: --reset: expected a device name',
    });
    expect(await rzscontrol(daemon, 'other', '--reset')).toMatchObject({
      exitCode: 1,
      stderr: "rzscontrol: no device 'other': this daemon has ramzswap0",
    });
  });

  it('is answered each time, however many ask at once', async () => {
    const daemon = await daemonWith();
    const client = await ControlClient.connect(daemon.controlPath);
    cleanUps.push(() => client.close());
    const device = 'ramzswap0';
    const answers = Array.from({ length: 20 }, async () => [
      await client.call<{ state: string }>('reset', { device }),
      await client.call<{ state: string }>('init', { device }),
    ]);
    const settled = await Promise.allSettled(answers);
    expect(settled.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThan(0);
    await client.call('init', { device }).catch(() => {});
    const attached = AttachedDriver.connect(daemon);
    cleanUps.push(() => attached.close());
    const refused = await Promise.allSettled([1, 2].map(() => client.call('reset', { device })));
    expect(refused.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(daemon.stderr).not.toContain('MaxListeners');
  });

  it('waits for I/O on the backing swap that is under way', async () => {
    const swap = makeSwapFile(32 << 20);
    cleanUps.push(swap.remove);
    const daemon = await daemonWith(['--backing-swap', swap.path]);
    const asNew = await statistics(daemon);
    const client = await ControlClient.connect(daemon.controlPath);
    cleanUps.push(() => client.close());
    await client.call('fault', { backing: { delayMillis: 700 } });
    const attached = AttachedDriver.connect(daemon);
    submit(attached, write(100, noise(1)));
    // A page in memory is answered in its turn, so nothing says that the write has begun but time.
    await new Promise((resolve) => setTimeout(resolve, 50));
    attached.close();
    await until(() => daemon.stderr.includes('disconnected'), 'the front end has left', 5000);
    const start = Date.now();
    await client.call('reset', { device: 'ramzswap0' });
    expect(Date.now() - start).toBeGreaterThan(300);
    await client.call('init', { device: 'ramzswap0' });
    expect(await statistics(daemon)).toEqual(asNew);
    await client.call('fault', { backing: {} });
    const next = AttachedDriver.connect(daemon);
    cleanUps.push(() => next.close());
    submit(next, read(100, 1));
    expect(next.completeAll()).toMatchObject([{ status: 0, data: ZEROS }]);
  });
});
