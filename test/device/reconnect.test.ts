/**
 * A daemon whose front ends go and come back, and that is killed itself: the program of the model
 * with connections cut at any moment; what the next guest, or the same one at another daemon, may
 * read; a slow disk when rings stop, guests change, or the daemon is killed.
 */

import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import type { Faults } from '../../src/backing/fault-io.ts';
import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_S_OK as OK,
} from '../../src/virtio-blk/protocol.ts';
import { Daemon, isBuilt, sleep, until } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import type { BlockRequest } from '../driver/guest-driver.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { MODEL_DAEMON_ARGS, MODEL_DISK_BYTES, MODEL_QUEUE_ARGS } from '../models/model-run.ts';
import { MortalDaemon, runReconnects } from '../models/reconnect-run.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const READ_PAGE = fileURLToPath(new URL('../../scripts/read-page.ts', import.meta.url));
const PAGE = 4096;
const MIB = 2 ** 20;
const FAULTS = { RAMZSWAP_FAULT_INJECTION: '1' };
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function swapFile(bytes: number): string {
  const { path, remove } = makeSwapFile(bytes);
  cleanUps.push(remove);
  return path;
}

async function mortal(args: readonly string[]): Promise<MortalDaemon> {
  const daemon = await MortalDaemon.start(args, FAULTS);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

async function daemonOf(args: readonly string[]): Promise<Daemon> {
  const daemon = await Daemon.start(args, FAULTS);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

function connect({ socketPath }: Daemon, hasInflight: boolean): MultiQueueGuest {
  const queues = [{ size: 256 }, { size: 256 }];
  const guest = MultiQueueGuest.connect(socketPath, { queues, hasInflight });
  cleanUps.push(() => guest.close());
  return guest;
}

async function control<T>({ controlPath }: Daemon, method: string, params: object): Promise<T> {
  const client = await ControlClient.connect(controlPath);
  try {
    return await client.call<T>(method, params);
  } finally {
    client.close();
  }
}

const faults = (daemon: Daemon, backing: Faults) => control(daemon, 'fault', { backing });
const statistics = (daemon: Daemon) =>
  control<Statistics>(daemon, 'statistics', { device: 'ramzswap0' });

function submit(guest: MultiQueueGuest, requests: readonly BlockRequest[], queue = 0): void {
  const { driver } = guest.queues[queue]!;
  for (const request of requests) driver.submit(request);
  driver.flush();
}

/** What comes back, by the number of the request; once each, or it throws. */
function finish(guest: MultiQueueGuest, millis = 10_000) {
  const done = new Map<number, { status: number; data: Uint8Array }>();
  guest.completeAll(
    (_, { ticket, status, data }) => done.set(ticket.number, { status, data }),
    millis,
  );
  return [...done].sort(([a], [b]) => a - b).map(([, each]) => each);
}

function run(guest: MultiQueueGuest, requests: readonly BlockRequest[]) {
  submit(guest, requests);
  return finish(guest);
}

function noise(random: Random, count: number): Uint8Array[] {
  return Array.from({ length: count }, () => random.bytes(PAGE));
}

function expectPages(guest: MultiQueueGuest, first: number, pages: readonly Uint8Array[]): void {
  const found = run(
    guest,
    pages.map((_, i) => read(first + i, 1)),
  );
  found.forEach(({ status, data }, i) => {
    expect([first + i, status, Buffer.compare(data, pages[i]!)]).toEqual([first + i, OK, 0]);
  });
}

if (!isBuilt) console.warn('reconnect.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)(`the model's program, interrupted anywhere (seed ${SEED})`, () => {
  it.each([
    ['connections that end, with an in-flight area', true, 1],
    ['connections that end, with an in-flight area; two queue threads', true, 2],
    ['connections that end, with the used indices alone', false, 1],
  ])(
    'has the same results with %s',
    async (_, hasInflight, threads) => {
      const daemon = await daemonOf([...MODEL_DAEMON_ARGS, '--queue-threads', `${threads}`]);
      const options = { seed: SEED, operations: 4_000, hasInflight };
      const figures = await runReconnects({ current: daemon }, options);
      expect(figures.cuts).toBeGreaterThan(5);
      expect(figures.interrupted).toBeGreaterThan(100);
    },
    120_000,
  );

  it.each([
    ['an in-flight area', true],
    ['the used indices alone', false],
  ])(
    'has the same results with a daemon that is killed, with %s',
    async (_, hasInflight) => {
      const daemon = await mortal(MODEL_DAEMON_ARGS);
      const options = { seed: SEED, operations: 2_000, hasInflight, cutsPerKill: 2 };
      const { kills } = await runReconnects(daemon, options);
      expect(kills).toBeGreaterThan(0);
    },
    120_000,
  );

  it('has the same results with a daemon that is killed, and a backing swap', async () => {
    const path = swapFile(MODEL_DISK_BYTES);
    const daemon = await mortal([...MODEL_QUEUE_ARGS, '--backing-swap', path, '--memlimit', '1M']);
    const run = { operations: 2_000, hasInflight: true, hasBacking: true, cutsPerKill: 3 };
    const { kills } = await runReconnects(daemon, { ...run, seed: SEED });
    expect(kills).toBeGreaterThan(0);
  }, 120_000);
});

describe.skipIf(!isBuilt)('a daemon without files, killed and started again', () => {
  it('gives errors for what the guest had there, not zeros; and serves on', async () => {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const own = { path: folder.path, remove: () => {} };
    const first = await Daemon.start([], {}, own);
    const guest = connect(first, true);
    const random = new Random(SEED);
    const pages = noise(random, 20);
    run(
      guest,
      pages.map((data, i) => write(10 + i, data)),
    );
    submit(guest, [write(40, pages[0]!)]);
    first.child.kill('SIGKILL');
    await first.child;
    const second = await Daemon.start([], {}, own);
    cleanUps.push(() => second.stop());
    guest.reconnect(FrontEnd.connect(second.socketPath));
    // It had been returned before the end, or is done now.
    const [late] = finish(guest);
    expect(late?.status ?? OK).toBe(OK);
    const found = run(guest, [read(0, 1), ...pages.map((_, i) => read(10 + i, 1))]);
    expect(found.map(({ status }) => status)).toEqual([OK, ...pages.map(() => IOERR)]);
    run(
      guest,
      pages.map((data, i) => write(10 + i, data)),
    );
    expectPages(guest, 10, pages);
  }, 60_000);
});

describe.skipIf(!isBuilt)('another process as the front end', () => {
  it('finds an empty store, once the I/O for the last one has ended', async () => {
    const daemon = await daemonOf(['--backing-swap', swapFile(16 * MIB)]);
    const guest = connect(daemon, true);
    const random = new Random(SEED);
    const pages = noise(random, 60);
    const writes = pages.map((data, i) => write(10 + i, data));
    run(guest, writes);
    await faults(daemon, { delayMillis: 300 });
    submit(guest, writes);
    await sleep(20);
    guest.cut();
    // It reads page 0 by the library's front end: a ring starts for it.
    const { stdout } = await execa(process.execPath, [
      '--import',
      'tsx',
      READ_PAGE,
      daemon.socketPath,
    ]);
    expect(stdout).toMatch(/SWAPSPACE2/);
    await faults(daemon, {});
    expect(await statistics(daemon)).toMatchObject({
      ...{ pages_stored: 1, pages_on_backing: 0, pages_lost: 0, compr_data_size: PAGE },
    });
    // The last guest comes back: its pages are gone, and it is told so.
    guest.reconnect(FrontEnd.connect(daemon.socketPath));
    finish(guest);
    const statuses = run(guest, [read(0, 1), read(80, 1)]).map(({ status }) => status);
    expect(statuses).toEqual([OK, IOERR]);
    run(guest, writes);
    expectPages(guest, 10, pages);
  }, 60_000);
});

describe.skipIf(!isBuilt)('a slow disk', () => {
  it.each([true, false])(
    'is waited for when a ring stops (in-flight area: %s)',
    async (hasArea) => {
      const daemon = await daemonOf(['--backing-swap', swapFile(16 * MIB)]);
      const guest = connect(daemon, hasArea);
      const pages = noise(new Random(SEED), 40);
      await faults(daemon, { delayMillis: 300 });
      submit(
        guest,
        pages.map((data, i) => write(10 + i, data)),
      );
      const { ring } = guest.queues[0]!.driver;
      await until(() => ring.availEvent === 40, 'the daemon to begin all', 5000);
      const start = performance.now();
      guest.frontEnd.setEnabled(0, false);
      expect(ring.usedCount).toBe(40);
      expect(guest.frontEnd.getBase(0)).toBe(40);
      expect(performance.now() - start).toBeGreaterThan(200);
      expect(finish(guest)).toHaveLength(40);
      guest.startAt(0, 40);
      guest.frontEnd.setEnabled(0, true);
      expectPages(guest, 10, pages);
    },
    60_000,
  );

  it.each([true, false])(
    'that hangs is waited for once, not by each ring (area: %s)',
    async (hasArea) => {
      const daemon = await daemonOf(['--backing-swap', swapFile(16 * MIB)]);
      const guest = connect(daemon, hasArea);
      const pages = noise(new Random(SEED), 20);
      const write20 = (first: number) => pages.map((data, i) => write(first + i, data));
      await faults(daemon, { delayMillis: 6_000 });
      submit(guest, write20(10), 0);
      submit(guest, write20(40), 1);
      await sleep(50);
      const start = performance.now();
      for (const ring of [0, 1]) guest.frontEnd.setEnabled(ring, false);
      const bases = [0, 1].map((ring) => guest.frontEnd.getBase(ring));
      expect(performance.now() - start).toBeLessThan(3_500);
      // With an area it says what is open; without, the index does.
      expect(bases).toEqual(hasArea ? [20, 20] : [0, 0]);
      for (const ring of [0, 1]) {
        guest.startAt(ring, bases[ring]!);
        guest.frontEnd.setEnabled(ring, true);
      }
      await faults(daemon, {});
      expect(finish(guest, 20_000).every(({ status }) => status === OK)).toBe(true);
      expectPages(guest, 10, pages);
      expectPages(guest, 40, pages);
    },
    60_000,
  );

  it('whose pages are overwritten when the daemon is killed has the new ones afterwards', async () => {
    const daemon = await mortal(['--backing-swap', swapFile(16 * MIB)]);
    const guest = connect(daemon.current, true);
    const random = new Random(SEED);
    const [old, newer] = [noise(random, 60), noise(random, 60)];
    run(
      guest,
      old.map((data, i) => write(10 + i, data)),
    );
    await faults(daemon.current, { delayMillis: 200, oneIn: 3 });
    submit(
      guest,
      newer.map((data, i) => write(10 + i, data)),
    );
    await sleep(5);
    await daemon.kill();
    guest.reconnect(FrontEnd.connect(daemon.current.socketPath));
    finish(guest);
    expectPages(guest, 10, newer);
    expect(await statistics(daemon.current)).toMatchObject({ pages_lost: 0, failed_reads: 0 });
  }, 60_000);
});
