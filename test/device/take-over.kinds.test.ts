/** Devices of every kind are taken over, twice each: what they hold, and hold on to, goes along. */

import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { encodeMessage, encodeU64, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { AttachedDriver, Daemon, isBuilt, until } from '../driver/daemon.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { DatagramPlace } from '../native/datagram-place.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20261125);
const PAGES = 600;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function start(args: readonly string[], env = {}): Promise<Daemon> {
  const daemon = await Daemon.start(args, env);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

async function upgraded(old: Daemon, args: readonly string[], env = {}): Promise<Daemon> {
  const next = await old.successor(args, env);
  cleanUps.push(() => next.stop());
  expect(next.child.exitCode, next.stderr).toBeNull();
  expect((await old.child).exitCode, old.stderr).toBe(0);
  return next;
}

function attach(daemon: Daemon): AttachedDriver {
  const attached = AttachedDriver.connect(daemon);
  cleanUps.push(() => attached.close());
  return attached;
}

function run({ driver }: AttachedDriver, request: ReturnType<typeof read>): void {
  driver.submit(request);
  driver.flush();
}

/** Pages that hardly compress, from page 16 on, all different. */
function fill(attached: AttachedDriver): Uint8Array[] {
  const random = new Random(SEED);
  const pages = Array.from({ length: PAGES }, () => random.page());
  pages.forEach((page, i) => {
    run(attached, write(16 + i, page));
    if (i % 32 === 31) attached.completeAll(10_000);
  });
  for (const { status } of attached.completeAll(10_000)) expect(status).toBe(0);
  return pages;
}

function expectPages(attached: AttachedDriver, pages: readonly Uint8Array[]): void {
  pages.forEach((page, i) => {
    run(attached, read(16 + i, 1));
    const [done] = attached.completeAll(10_000);
    expect(done!.status).toBe(0);
    expect(Buffer.compare(done!.data, page), `page ${16 + i}`).toBe(0);
  });
}

async function call<T>(daemon: Daemon, method: string, params: object = {}): Promise<T> {
  const client = await ControlClient.connect(daemon.controlPath);
  try {
    const device = method === 'devices' ? {} : { device: 'ramzswap0' };
    return await client.call<T>(method, { ...device, ...params });
  } finally {
    client.close();
  }
}

const statistics = (daemon: Daemon) => call<Statistics>(daemon, 'statistics');

function storeFolder(): string {
  const folder = mkdtempSync('/dev/shm/rz-test-');
  cleanUps.push(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function swapFile(): string {
  const { path, remove } = makeSwapFile(16 << 20);
  cleanUps.push(remove);
  return path;
}

describe.skipIf(!isBuilt)('taken over twice', () => {
  it.each([
    ['volatile', () => []],
    ['locked in memory', () => ['--mlock']],
    ['wiping', () => ['--wipe-on-free']],
    ['in a directory', () => ['--store-dir', storeFolder()]],
    ['with a backing swap', () => ['--backing-swap', swapFile(), '--memlimit', '1M']],
    [
      'with a backing swap by AIO',
      () => ['--backing-swap', swapFile(), '--backing-io', 'aio', '--memlimit', '1M'],
    ],
  ])('a device %s keeps its pages and its figures', async (_, make) => {
    const args = make();
    let daemon = await start(args);
    const attached = attach(daemon);
    const pages = fill(attached);
    for (let n = 0; n < 2; n++) {
      const before = await statistics(daemon);
      daemon = await upgraded(daemon, args);
      const after = await statistics(daemon);
      expect(after.num_writes).toBe(before.num_writes);
      expect(after.orig_data_size).toBe(before.orig_data_size);
      expect(after.memlimit).toBe(before.memlimit);
      expectPages(attached, pages);
    }
    expect((await call<[DeviceStatus]>(daemon, 'devices'))[0].connected).toBe(true);
  });

  it('a store in a directory stays locked: nobody else may have it', async () => {
    const args = ['--store-dir', storeFolder()];
    const first = await start(args);
    const next = await upgraded(first, args);
    await expect(Daemon.start(args)).rejects.toThrow(/in use|lock/);
    expect(next.child.exitCode).toBeNull();
  });

  it('a disk that has grown may grow on', async () => {
    const args = ['--max-disksize', '128M'];
    let daemon = await start(args);
    const attached = attach(daemon);
    for (const size of [96, 128]) {
      await call(daemon, 'grow', { bytes: size << 20 });
      daemon = await upgraded(daemon, args);
      expect((await statistics(daemon)).disksize).toBe(size << 20);
      run(attached, write((size << 20) / 4096 - 1, new Random(size).page()));
      expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
    }
  });

  it('a device whose pool was limited is so no longer, where the new one has no limit', async () => {
    const daemon = await start(['--pool-limit', '1M']);
    const attached = attach(daemon);
    const page = new Random(1);
    const writeSome = () => {
      const statuses: number[] = [];
      for (let i = 0; i < 400; i++) {
        run(attached, write(16 + i, page.bytes(4096)));
        statuses.push(...attached.completeAll().map(({ status }) => status));
      }
      return statuses.some((status) => status !== 0);
    };
    expect(writeSome()).toBe(true);
    await upgraded(daemon, []);
    expect(writeSome()).toBe(false);
  });

  it.each([
    ['of the session that was taken over', false],
    ['of the next session', true],
  ])('a front end that gives away its own end %s does not hold the device', async (_, isNext) => {
    const first = await start([]);
    let attached = AttachedDriver.connect(first);
    const daemon = await upgraded(first, []);
    if (isNext) {
      attached.close();
      attached = AttachedDriver.connect(daemon);
    }
    const message = encodeMessage(VHOST_USER.SET_VRING_CALL, 0, encodeU64(0n));
    attached.frontEnd.sendRaw(message, [attached.frontEnd.fd]);
    attached.close();
    await until(() => daemon.stderr.includes("the peer's own socket"), 'the log', 5000);
    attach(daemon);
  });

  it('the service manager hears from the old one who the service is, before it ends', async () => {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const place = new DatagramPlace(join(folder.path, 'notify'));
    cleanUps.push(() => place.close());
    const daemon = await start([], { NOTIFY_SOCKET: place.path });
    expect(place.receive(5000)!.text).toContain(`MAINPID=${daemon.pid}`);
    const next = await upgraded(daemon, []);
    expect(place.receive(5000)!.text).toBe(`MAINPID=${next.pid}`);
    expect(place.receive()).toBeUndefined();
  });
});
