/**
 * A disk with logical blocks of 512 bytes, as a process: what configuration space says of it, and
 * random requests of sectors against an array of bytes, from several queues that share pages: by one
 * thread, by several, and with a backing swap.
 */

import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { expectBytes } from '../driver/bytes.ts';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD } from '../driver/daemon.ts';
import type { Completion } from '../driver/guest-driver.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { MultiQueueGuest, type QueueDriver } from '../driver/multi-queue.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { SectorProgram } from '../models/sector-program.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const MIB = 2 ** 20;
const QUEUES = 4;
const DEPTH = 16;
/** Page 0 is the swap header. */
const FIRST_SECTOR = 11;
const SECTOR_ARGS = ['--logical-block-size', '512', '--log-level', 'warn'];
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function start(args: readonly string[]): Promise<Daemon> {
  const daemon = await Daemon.start(args);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

async function statisticsOf(daemon: Daemon): Promise<Statistics> {
  const control = await ControlClient.connect(daemon.controlPath);
  cleanUps.push(() => control.close());
  return control.call<Statistics>('statistics', { device: 'ramzswap0' });
}

/** Runs a program from several queues, and reads all of it back at the end. */
async function runProgram(daemon: Daemon, sectors: number, operations: number) {
  const queues = Array.from({ length: QUEUES }, () => ({ size: 256 }));
  const ram = new GuestRam(32 * MIB);
  const guest = MultiQueueGuest.connect(daemon.socketPath, { queues, ram });
  cleanUps.push(() => guest.close());
  const program = new SectorProgram({ seed: SEED, first: FIRST_SECTOR, sectors });
  const take = ({ index }: QueueDriver, done: Completion) => program.take(index, done);
  while (program.operations < operations) {
    program.submit(
      guest.queues.map(({ driver }) => driver),
      DEPTH,
    );
    for (const { driver } of guest.queues) driver.flush();
    guest.completeAll(take);
  }
  const statistics = await statisticsOf(daemon);
  const { request, expected } = program.readAll();
  guest.queues[0]!.driver.submit(request);
  guest.queues[0]!.driver.flush();
  guest.completeAll((_, { data }) => expectBytes(data, expected));
  expect(statistics).toMatchObject({ failed_reads: 0, failed_writes: 0, invalid_io: 0 });
  return { program, statistics };
}

if (!isBuilt) console.warn('sub-page.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('--logical-block-size', () => {
  it.each([
    [[], 4096, 4096],
    [['--logical-block-size', '4096'], 4096, 4096],
    [SECTOR_ARGS, 512, 4096],
  ])('with %j blocks are %i bytes, on physical ones of %i', async (args, logical, physical) => {
    const daemon = await start(args);
    const driver = AttachedDriver.connect(daemon);
    cleanUps.push(() => driver.close());
    const view = new DataView(driver.frontEnd.getConfig(0, 60)!.slice().buffer);
    expect(view.getUint32(20, true)).toBe(logical);
    expect(logical << view.getUint8(24)).toBe(physical);
    expect(view.getUint16(26, true) * logical).toBe(physical);
  });

  it.each(['1024', '0', 'x', '65536'])('%s is refused', async (bytes) => {
    const args = [RAMZSWAPD, '--socket-path', '/nowhere/s', '--logical-block-size', bytes];
    const done = await execa(process.execPath, args, { reject: false, timeout: 10_000 });
    expect(done.exitCode).toBe(2);
    expect(done.stderr).toMatch(/--logical-block-size: expected one of 512, 4096/);
  });
});

describe.skipIf(!isBuilt)(
  `sectors from several queues equal an array of bytes (seed ${SEED})`,
  () => {
    it.each([1, 2, 4])(
      'by %i threads, and are counted by the page',
      async (threads) => {
        const daemon = await start([...SECTOR_ARGS, '--queue-threads', `${threads}`]);
        const { program, statistics } = await runProgram(daemon, 333, 4000);
        expect(statistics.num_reads).toBe(program.reads);
        expect(statistics.num_writes).toBe(program.writes);
        expect(daemon.stderr).toBe('');
      },
      60_000,
    );

    it.each(['io_uring', 'aio'])(
      'with a backing swap, by %s',
      async (io) => {
        const { path, remove } = makeSwapFile(16 * MIB);
        cleanUps.push(remove);
        const backing = ['--backing-swap', path, '--backing-io', io, '--memlimit', '64K'];
        const daemon = await start([...SECTOR_ARGS, ...backing]);
        const { program, statistics } = await runProgram(daemon, 333, 3000);
        expect(statistics.num_writes).toBe(program.writes);
        expect(statistics.bdev_num_reads).toBeGreaterThan(300);
        expect(statistics.bdev_num_writes).toBeGreaterThan(300);
        expect(daemon.stderr).toBe('');
      },
      60_000,
    );
  },
);
