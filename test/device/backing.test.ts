/**
 * A daemon with a backing swap, as a process: options, its disk, real I/O, faults on the way to it, a
 * slow one, and front ends that come and go meanwhile.
 */

import { execFileSync } from 'node:child_process';
import { chmodSync, rmSync, symlinkSync, truncateSync } from 'node:fs';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import type { Faults } from '../../src/backing/fault-io.ts';
import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_S_OK as OK,
} from '../../src/virtio-blk/protocol.ts';
import { Daemon, isBuilt, RAMZSWAPD, RZSCONTROL, sleep } from '../driver/daemon.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { joined } from '../driver/layouts.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { headerOf, makeSwapFile } from '../driver/swap-file.ts';
import { MODEL_DISK_BYTES, MODEL_QUEUE_ARGS, runModel } from '../models/model-run.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const PAGE = 4096;
const MIB = 2 ** 20;
const EIO = 5;
const ENOSPC = 28;
const KINDS = ['io_uring', 'aio'] as const;
const cleanUps: (() => unknown)[] = [];
const guests = new Set<MultiQueueGuest>();

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function swapFile(bytes: number, ...args: string[]): string {
  const { path, remove } = makeSwapFile(bytes, ...args);
  cleanUps.push(remove);
  return path;
}

async function start(args: readonly string[]): Promise<Daemon> {
  const daemon = await Daemon.start(args, { RAMZSWAP_FAULT_INJECTION: '1' });
  cleanUps.push(() => daemon.stop());
  return daemon;
}

/** A daemon with a swap file of 64 MiB, and a guest with two queues. */
async function setUp(...args: string[]) {
  const path = swapFile(64 * MIB);
  const daemon = await start(['--backing-swap', path, ...args]);
  const control = await ControlClient.connect(daemon.controlPath);
  cleanUps.push(() => control.close());
  const faults = (backing: Faults) => control.call('fault', { backing });
  const statistics = () => control.call<Statistics>('statistics', { device: 'ramzswap0' });
  return { path, daemon, guest: connect(daemon), faults, statistics };
}

function connect(daemon: Daemon): MultiQueueGuest {
  const queues = [{ size: 128 }, { size: 128 }];
  const guest = MultiQueueGuest.connect(daemon.socketPath, { queues });
  guests.add(guest);
  cleanUps.push(() => leave(guest));
  return guest;
}

/** The front end goes, with whatever it has asked for. */
function leave(guest: MultiQueueGuest): void {
  if (guests.delete(guest)) guest.close();
}

/** Requests on one queue, all at once; their statuses and data. */
function run(guest: MultiQueueGuest, requests: ReturnType<typeof read>[], queue = 0) {
  const done: { status: number; data: Uint8Array }[] = [];
  const { driver } = guest.queues[queue]!;
  for (const request of requests) driver.submit(request);
  driver.flush();
  guest.completeAll((_, { status, data }) => done.push({ status, data }));
  return done;
}

function runOne(guest: MultiQueueGuest, request: ReturnType<typeof read>) {
  return run(guest, [request])[0]!;
}

function noise(random: Random, pages: number): Uint8Array {
  return random.bytes(pages * PAGE);
}

const command = (program: string, args: readonly string[]) =>
  execa(process.execPath, [program, ...args], { reject: false, timeout: 10_000 });

if (!isBuilt) console.warn('backing.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('options of the daemon', () => {
  it.each([
    [
      ['--backing-swap', '/nowhere', '--disksize', '64M'],
      2,
      /--disksize, --backing-swap: expected one/,
    ],
    [['--disksize', '64M', '--memlimit', '16M'], 2, /--memlimit: expected --backing-swap with it/],
    [['--disksize', '64M', '--backing-io', 'aio'], 2, /--backing-io: expected --backing-swap/],
    [['--backing-swap', '/nowhere'], 1, /backing swap \/nowhere: ENOENT/],
    [['--backing-swap', '/tmp'], 1, /backing swap \/tmp: .*got a directory/],
    [
      ['--incompressible-bytes', '5000'],
      2,
      /--incompressible-bytes: expected a number from 1 to 4092/,
    ],
  ])('%j are refused with status %i', async (args, status, message) => {
    const result = await command(RAMZSWAPD, ['--socket-path', '/tmp/rz-never.sock', ...args]);
    expect(result.exitCode).toBe(status);
    expect(result.stderr).toMatch(message);
  });

  it('give defaults, warnings and whole pages', async () => {
    const path = swapFile(MIB);
    const cases = [
      [[], MIB, /memlimit not given: 1 MiB, the smaller of/],
      [['--guest-ram', '2M'], Math.floor((2 * MIB * 0.15) / PAGE) * PAGE, /memlimit not given/],
      [['--memlimit', '3M'], MIB, /memlimit 3 MiB is more than the backing swap has: the default/],
      [['--memlimit', '10000'], 8192, /ready/],
      [['--memlimit', '1'], PAGE, /ready/],
      [
        ['--memlimit', '1M', '--guest-ram', '1M'],
        MIB,
        /memlimit 1 MiB is more than half 1 MiB of RAM/,
      ],
    ] as const;
    for (const [args, memlimit, message] of cases) {
      const daemon = await Daemon.start(['--backing-swap', path, ...args]);
      const control = await ControlClient.connect(daemon.controlPath);
      const statistics = await control.call<Statistics>('statistics', { device: 'ramzswap0' });
      control.close();
      await daemon.stop();
      expect(statistics).toMatchObject({ memlimit, disksize: MIB, backing_swap_name: path });
      expect(daemon.stderr).toMatch(message);
    }
  }, 60_000);
});

describe.skipIf(!isBuilt)('the disk of a backing swap', () => {
  it('begins with the header of the swap, its size the disk’s, and leaves that as it is', async () => {
    const path = swapFile(8 * MIB + 2048, '-L', 'my swap');
    const before = headerOf(path);
    const daemon = await start(['--backing-swap', path]);
    const guest = connect(daemon);
    const { data } = runOne(guest, read(0, 1));
    const expected = Buffer.from(before);
    expected.writeUInt32LE((8 * MIB) / PAGE - 1, 1028);
    expect(Buffer.compare(data, expected)).toBe(0);
    expect(guest.frontEnd.getConfig(0, 8)).toEqual(
      new Uint8Array(new BigUint64Array([BigInt((8 * MIB) / 512)]).buffer),
    );
    // The guest makes its own header, of noise even: the swap keeps the one it has.
    const random = new Random(1);
    const own = noise(random, 1);
    expect(run(guest, [write(0, own), write(1, noise(random, 1))])).toMatchObject([
      { status: OK },
      { status: OK },
    ]);
    expect(Buffer.compare(runOne(guest, read(0, 1)).data, own)).toBe(0);
    expect(Buffer.compare(headerOf(path), before)).toBe(0);
  });

  it('is refused while another daemon has it, and free when that one has ended', async () => {
    const path = swapFile(MIB);
    const daemon = await Daemon.start(['--backing-swap', path]);
    const args = ['--socket-path', `${daemon.socketPath}2`, '--backing-swap', path];
    const refused = await command(RAMZSWAPD, args);
    expect(refused.stderr).toMatch(/in use by another process/);
    await daemon.stop();
    await start(['--backing-swap', path]);
  });

  it('is refused while another device of the same daemon has it, with its name', async () => {
    const path = swapFile(MIB);
    chmodSync(path, 0o644);
    const link = `${path}.link`;
    symlinkSync(path, link);
    cleanUps.push(() => rmSync(link));
    const daemon = await ManyDaemon.start(['--num-devices', '2']);
    cleanUps.push(() => daemon.stop());
    const init = (device: string, at: string) =>
      daemon.rzscontrol(device, `--backing_swap=${at}`, '--init');
    const warning = `backing swap ${path}: insecure permissions 0644, 0600 suggested`;
    expect(await init('ramzswap0', path)).toMatchObject({
      exitCode: 0,
      stderr: `rzscontrol: ramzswap0: warning: ${warning}`,
    });
    expect(daemon.stderr).toContain(warning);
    expect(await init('ramzswap1', link)).toMatchObject({
      exitCode: 1,
      stderr: `rzscontrol: ramzswap1: backing swap ${link}: ramzswap0 of this daemon has it`,
    });
    await daemon.rzscontrol('ramzswap0', '--reset');
    expect((await init('ramzswap1', link)).exitCode).toBe(0);
  });
});

describe.skipIf(!isBuilt)('requests', () => {
  it.each([
    ['io_uring', 'everything on the swap', '4K'],
    ['aio', 'everything on the swap', '4K'],
    ['io_uring', 'some in memory', '2M'],
    ['aio', 'only the incompressible on the swap', '32M'],
  ])(
    'by %s, %s, do what the model says',
    async (kind, _, memlimit) => {
      const path = swapFile(MODEL_DISK_BYTES);
      const args = ['--backing-swap', path, '--memlimit', memlimit, '--backing-io', kind];
      const daemon = await start([...MODEL_QUEUE_ARGS, ...args]);
      const options = { seed: SEED, operations: 6_000, hasBacking: true };
      const { statistics } = await runModel(daemon, options);
      expect(statistics.bdev_num_reads).toBeGreaterThan(500);
      expect(statistics.bdev_num_writes).toBeGreaterThan(500);
      const sum = (counts: readonly number[]) => counts.reduce((all, count) => all + count, 0);
      const { bdev_read_latency, bdev_write_latency } = statistics;
      // Neighbours go in one I/O.
      expect(sum(bdev_write_latency)).toBeGreaterThan(500);
      expect(sum(bdev_write_latency)).toBeLessThan(statistics.bdev_num_writes);
      expect(sum(bdev_read_latency)).toBeLessThan(statistics.bdev_num_reads);
    },
    120_000,
  );
});

describe.skipIf(!isBuilt)('faults of the backing', () => {
  it.each(KINDS)(
    'fail the requests that meet them, and nothing else (%s)',
    async (kind) => {
      const { guest, faults, statistics, daemon } = await setUp('--backing-io', kind);
      const random = new Random(SEED);
      const model = new Map<number, Uint8Array>();
      const put = (slot: number) => {
        const data = noise(random, 1);
        const { status } = runOne(guest, write(slot, data));
        if (status === OK) model.set(slot, data);
        return status;
      };
      for (let slot = 10; slot < 60; slot++) expect(put(slot)).toBe(OK);
      for (const each of [{ readErrno: EIO }, { shortBytes: 512 }, { corruptReads: true }]) {
        await faults({ ...each, oneIn: 3 });
        let failed = 0;
        for (let i = 0; i < 60; i++) {
          const slot = random.between(10, 59);
          const { status, data } = runOne(guest, read(slot, 1));
          if (status === OK) expect(Buffer.compare(data, model.get(slot)!)).toBe(0);
          else failed++;
        }
        expect(failed).toBe(20);
      }
      await faults({ writeErrno: ENOSPC, oneIn: 2 });
      const lost = new Set<number>();
      for (let slot = 10; slot < 30; slot++) if (put(slot) === IOERR) lost.add(slot);
      expect(lost.size).toBe(10);
      await faults({});
      for (let slot = 10; slot < 60; slot++) {
        const { status, data } = runOne(guest, read(slot, 1));
        if (lost.has(slot)) expect(status).toBe(IOERR);
        else expect(Buffer.compare(data, model.get(slot)!)).toBe(0);
      }
      expect(await statistics()).toMatchObject({
        ...{ failed_reads: 60 + 10, failed_writes: 10, pages_lost: 10, pages_on_backing: 40 },
      });
      for (const slot of lost) expect(put(slot)).toBe(OK);
      for (const [slot, data] of model) {
        expect(Buffer.compare(runOne(guest, read(slot, 1)).data, data)).toBe(0);
      }
      expect((await statistics()).pages_lost).toBe(0);
      const said = [...daemon.stderr.matchAll(/backing swap, page \d+: ([a-z ]+)/g)].map(
        (m) => m[1],
      );
      expect(said).toEqual(['read failed', 'other bytes than were written', 'write failed']);
    },
    60_000,
  );
});

describe.skipIf(!isBuilt)('an order of faults', () => {
  it('regression: has been obeyed when it is answered, however busy the reactor is', async () => {
    const { guest, faults } = await setUp();
    const random = new Random(SEED);
    runOne(guest, write(20, noise(random, 1)));
    const [reads, load] = [0, 1];
    // Half noise: it stays in memory, and takes its time to compress.
    const pages = Buffer.concat(Array.from({ length: 64 }, () => random.bytes(PAGE / 2)));
    const heavy = write(100, Buffer.concat([pages, pages]));
    const { driver } = guest.queues[reads]!;
    for (let round = 0; round < 30; round++) {
      const readErrno = round % 2 === 0 ? EIO : 0;
      const busy = guest.queues[load]!.driver;
      while (busy.inFlight < 8) busy.submit(heavy, joined(GuestDriver.sizes(heavy)));
      busy.flush();
      await faults({ readErrno });
      driver.submit(read(20, 1));
      driver.flush();
      let status: number | undefined;
      while (status === undefined) {
        guest.takeCompleted(({ index }, done) => {
          if (index === reads) status = done.status;
        });
      }
      expect([round, status]).toEqual([round, readErrno === 0 ? OK : IOERR]);
    }
    guest.completeAll(() => {});
  }, 60_000);
});

describe.skipIf(!isBuilt)('a file that is changed while in use', () => {
  it('gives errors for what is gone, and everything else as it was', async () => {
    const { path, guest, statistics } = await setUp();
    const random = new Random(SEED);
    const pages = Array.from({ length: 30 }, () => noise(random, 1));
    run(
      guest,
      pages.map((data, i) => write(100 + i, data)),
    );
    const expectReadable = (isReadable: (slot: number) => boolean) => {
      pages.forEach((page, i) => {
        const { status, data } = runOne(guest, read(100 + i, 1));
        expect([100 + i, status]).toEqual([100 + i, isReadable(100 + i) ? OK : IOERR]);
        if (status === OK) expect(Buffer.compare(data, page)).toBe(0);
      });
    };
    execFileSync('fallocate', ['-p', '-o', `${105 * PAGE}`, '-l', `${2 * PAGE}`, path]);
    expectReadable((slot) => slot < 105 || slot > 106);
    truncateSync(path, 120 * PAGE + 512);
    expectReadable((slot) => slot < 120 && (slot < 105 || slot > 106));
    expect(await statistics()).toMatchObject({ failed_reads: 2 + 2 + 10, pages_lost: 0 });
    // Written again, they are there again: the file grows back.
    run(
      guest,
      pages.map((data, i) => write(100 + i, data)),
    );
    expectReadable(() => true);
  }, 60_000);
});

describe.skipIf(!isBuilt)('a slow backing', () => {
  it('delays what is on it by its delay, and pages in memory on another queue not at all', async () => {
    const { guest, faults } = await setUp();
    const random = new Random(SEED);
    const [slow, fast] = [0, 1];
    const text = new Uint8Array(PAGE).map((_, i) => (i * 7) % 31);
    run(guest, [write(50, text), ...[1, 2, 3].map((slot) => write(slot, noise(random, 1)))]);
    await faults({ delayMillis: 50 });
    const millis: number[] = [];
    for (let round = 0; round < 5; round++) {
      const { driver } = guest.queues[slow]!;
      driver.submit(read(1 + (round % 3), 1));
      const begun = performance.now();
      driver.flush();
      for (let i = 0; i < 8; i++) {
        const start = performance.now();
        guest.queues[fast]!.driver.submit(read(50, 1));
        guest.queues[fast]!.driver.flush();
        let isDone = false;
        while (!isDone) {
          guest.takeCompleted((queue) => {
            isDone ||= queue.index === fast;
          });
        }
        millis.push(performance.now() - start);
      }
      guest.completeAll(({ index }, { status }) => expect([index, status]).toEqual([slow, OK]));
      expect(performance.now() - begun).toBeGreaterThan(49);
    }
    // The machine may be busy; most of forty reads will not have waited for 50 ms of disk.
    expect(millis.sort((a, b) => a - b)[20]).toBeLessThan(10);
  }, 60_000);

  it('keeps a ring from stopping a while, no front end from leaving, nor the daemon from ending', async () => {
    const { guest, faults, daemon, statistics } = await setUp();
    const random = new Random(SEED);
    const pages = Array.from({ length: 40 }, () => noise(random, 1));
    run(
      guest,
      pages.map((data, i) => write(100 + i, data)),
    );
    await faults({ delayMillis: 400 });
    const { driver } = guest.queues[0]!;
    for (let i = 0; i < 20; i++) driver.submit(read(100 + i, 1));
    const newer = pages.slice(20).map(() => noise(random, 1));
    newer.forEach((data, i) => {
      driver.submit(write(120 + i, data));
    });
    driver.flush();
    const start = performance.now();
    await sleep(20);
    // Stopped in the middle, and started again where it was: nothing is lost, nothing comes twice.
    guest.restart(0);
    // What it had begun has come to its end.
    expect(performance.now() - start).toBeGreaterThan(300);
    expect(guest.queues[0]!.driver.ring.usedCount).toBe(40);
    const done: number[] = [];
    guest.completeAll((_, { status, ticket }) => {
      expect(status).toBe(OK);
      done.push(ticket.number);
    });
    expect(done).toHaveLength(40);
    // Gone in the middle of writes, and another front end comes.
    newer.forEach((_, i) => {
      driver.submit(write(100 + i, newer[i]!));
    });
    driver.flush();
    await sleep(20);
    leave(guest);
    const next = connect(daemon);
    await faults({});
    const expected = newer.concat(newer);
    const found = run(
      next,
      expected.map((_, i) => read(100 + i, 1)),
    );
    found.forEach(({ status, data }, i) => {
      expect(status).toBe(OK);
      // A write that was never completed to its guest has happened or not.
      const may = i < 20 ? [pages[i]!, newer[i]!] : [expected[i]!];
      expect(may.some((each) => Buffer.compare(each, data) === 0)).toBe(true);
    });
    expect((await statistics()).pages_lost).toBe(0);
    await faults({ delayMillis: 60_000 });
    next.queues[0]!.driver.submit(read(101, 1));
    next.queues[0]!.driver.flush();
    await sleep(20);
    const stopping = performance.now();
    daemon.child.kill('SIGTERM');
    expect((await daemon.child).exitCode).toBe(0);
    expect(performance.now() - stopping).toBeLessThan(1000);
  }, 60_000);
});

describe.skipIf(!isBuilt)('rzscontrol --memlimit_kb', () => {
  it('moves pages to the backing while the guest reads them, and shows the limit', async () => {
    const { guest, statistics, daemon } = await setUp('--memlimit', '32M');
    const random = new Random(SEED);
    const pages = Array.from({ length: 3000 }, () => {
      const page = new Uint8Array(PAGE);
      page.set(random.bytes(1200));
      return page;
    });
    for (let i = 0; i < 3000; i += 60) {
      run(guest, [write(100 + i, Buffer.concat(pages.slice(i, i + 60)))]);
    }
    expect(await statistics()).toMatchObject({ pages_on_backing: 0, pages_stored: 3001 });
    const args = ['ramzswap0', '-m', '1024', '-s', '--control-path', daemon.controlPath];
    const shown = await command(RZSCONTROL, args);
    expect([shown.exitCode, shown.stderr]).toEqual([0, '']);
    expect(shown.stdout).toMatch(/^MemLimit: 1024 kB$/m);
    let looks = 0;
    for (; (await statistics()).compr_data_size > MIB && looks < 2000; looks++) {
      const i = random.below(3000);
      expect(Buffer.compare(runOne(guest, read(100 + i, 1)).data, pages[i]!)).toBe(0);
    }
    const after = await statistics();
    expect(after.compr_data_size).toBeGreaterThan(MIB - 2 * PAGE);
    expect(after.pages_stored + after.pages_on_backing).toBe(3001);
    expect(after.pages_moved_out).toBe(after.pages_on_backing);
    for (let i = 0; i < 3000; i += 60) {
      const { data } = runOne(guest, read(100 + i, 60));
      expect(Buffer.compare(data, Buffer.concat(pages.slice(i, i + 60)))).toBe(0);
    }
    for (const [kb, message] of [
      ['65537', /expected the backing swap's size \(64 MiB\) at most/],
      ['3', /expected a page \(4096 bytes\) at least/],
    ] as const) {
      const refused = await command(RZSCONTROL, ['ramzswap0', '-m', kb, ...args.slice(4)]);
      expect(refused.exitCode).toBe(1);
      expect(refused.stderr).toMatch(message);
    }
  }, 60_000);
});
