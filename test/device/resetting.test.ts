/** A device that is reset: refused while it is in use, as new afterwards, in one thread or several. */

import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import { makeInflightArea } from '../../src/device/inflight-area.ts';
import { closeFd } from '../../src/native/fd.ts';
import { readStatistics, type Statistics } from '../../src/store/statistics.ts';
import { encodeInflight, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_S_IOERR } from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt, RZSCONTROL, until } from '../driver/daemon.ts';
import type { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { pagesHeldBy } from '../models/descriptors.ts';

const FAULTS = { RAMZSWAP_FAULT_INJECTION: '1' };
const ZEROS = new Uint8Array(4096);
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const noise = (seed: number) => new Random(seed).bytes(4096);
const statisticsOf = ({ device }: LocalDevice) => readStatistics(null, device.store.mapped);

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
    expect(statisticsOf(local).pages_stored).toBe(1);
  });

  it('is as new afterwards: figures, pages, header, memory', () => {
    const { local, driver, asNew } = started();
    const { frontEnd, device } = local;
    frontEnd.setEnabled(0, true);
    const header = run(local, driver, read(0, 1)).data;
    for (let page = 1; page < 200; page++) run(local, driver, write(page, noise(page)));
    run(local, driver, write(0, noise(0)));
    expect(run(local, driver, read(1000, 1)).status).not.toBe(0);
    const { arenaFd } = device.store.mapped.shared;
    expect(pagesHeldBy(arenaFd)).toBeGreaterThan(190);
    const base = frontEnd.getBase(0);
    device.reset();
    expect(statisticsOf(local)).toEqual(asNew);
    expect(pagesHeldBy(arenaFd)).toBeLessThanOrEqual(16);
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

  async function statistics(daemon: Daemon): Promise<Statistics> {
    const { stdout } = await rzscontrol(daemon, 'ramzswap0', '--stats', '--json');
    return JSON.parse(stdout) as Statistics;
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
    const answers = Array.from({ length: 20 }, () => client.call('reset', { device }));
    expect(await Promise.all(answers)).toEqual(new Array(20).fill(null));
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
    expect(await statistics(daemon)).toEqual(asNew);
    await client.call('fault', { backing: {} });
    const next = AttachedDriver.connect(daemon);
    cleanUps.push(() => next.close());
    submit(next, read(100, 1));
    expect(next.completeAll()).toMatchObject([{ status: 0, data: ZEROS }]);
  });
});
