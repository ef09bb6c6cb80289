/** The built daemon's privileges: it needs none, and gives away no more than it was told to. */

import { spawnSync } from 'node:child_process';
import { closeSync, lstatSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import {
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD, RZSCONTROL } from '../driver/daemon.ts';
import { AS_NOBODY, NOBODY, nobodysFolder, whyNotNobody } from '../driver/nobody.ts';
import { Random } from '../driver/random.ts';
import { makeFolder } from '../driver/sockets.ts';
import { tracesOf } from '../models/arena-scan.ts';
import { lockedKilobytes } from '../models/descriptors.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const obstacle = isBuilt ? whyNotNobody() : 'dist/ is missing: run "npm run build"';
if (obstacle !== undefined) console.warn(`privileges.test.ts: SKIPPED in part: ${obstacle}`);

async function daemonWith(args: readonly string[] = [], wrapper: readonly string[] = []) {
  const folder = wrapper.length > 0 ? nobodysFolder() : makeFolder();
  const daemon = await Daemon.start(args, {}, folder, [], wrapper);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

/** Writes pages of noise and reads them back. */
function useDisk(daemon: Daemon): void {
  const attached = AttachedDriver.connect(daemon);
  cleanUps.push(() => attached.close());
  const { driver } = attached;
  const data = new Random(7).bytes(16 * 4096);
  driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 80, data });
  driver.flush();
  expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
  driver.submit({ type: VIRTIO_BLK_T_IN, sector: 80, inBytes: data.length });
  driver.flush();
  const [done] = attached.completeAll();
  expect(Buffer.compare(done!.data, data)).toBe(0);
}

const modeOf = (path: string) => (lstatSync(path).mode & 0o7777).toString(8);
const statusField = (pid: number, name: string) =>
  new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1];

describe.skipIf(!isBuilt)('sockets', () => {
  it('let in the group at the front end’s, and the owner alone at the control socket', async () => {
    const daemon = await daemonWith();
    expect([modeOf(daemon.socketPath), modeOf(daemon.controlPath)]).toEqual(['660', '600']);
    expect(lstatSync(daemon.socketPath).gid).toBe(process.getgid!());
  });

  it.skipIf(obstacle !== undefined).each([
    ['daemon', 1],
    ['54321', 54321],
  ])('are of group %s where that is asked for', async (group, id) => {
    const daemon = await daemonWith(['--socket-group', group]);
    expect(lstatSync(daemon.socketPath).gid).toBe(id);
    expect(lstatSync(daemon.controlPath).gid).toBe(process.getgid!());
    expect([modeOf(daemon.socketPath), modeOf(daemon.controlPath)]).toEqual(['660', '600']);
  });

  it.each([
    [
      ['--socket-group', 'no-such-group-here'],
      1,
      /socket group 'no-such-group-here': no such group/,
    ],
    [['--socket-group', '4294967295'], 1, /expected 4294967294 at most, got 4294967295/],
    [['--socket-group', ''], 2, /--socket-group: expected text that is not empty, got ''/],
  ])('are not made for %j: status %i', async (args, status, message) => {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const socket = ['--socket-path', join(folder.path, 's'), '--disksize', '16M'];
    const result = await execa(process.execPath, [RAMZSWAPD, ...socket, ...args], {
      reject: false,
    });
    expect(result.exitCode).toBe(status);
    expect(result.stderr).toMatch(message);
    expect(lstatSync(join(folder.path, 's'), { throwIfNoEntry: false })).toBeUndefined();
  });

  it('have no group where an open one is handed over: usage, status 2', async () => {
    const args = [RAMZSWAPD, '--fd', '3', '--socket-group', 'daemon'];
    const result = await execa(process.execPath, args, { reject: false });
    expect(result.exitCode).toBe(2);
    expect(result.stderr).toMatch(/--socket-group: expected --socket-path or --socket-dir with it/);
  });
});

describe.skipIf(obstacle !== undefined)('as nobody, without a capability', () => {
  it.each([1, 2])('it serves a disk and gives statistics, %i queue threads', async (threads) => {
    const daemon = await daemonWith(['--queue-threads', `${threads}`], AS_NOBODY);
    expect(statusField(daemon.pid, 'Uid')).toBe([NOBODY, NOBODY, NOBODY, NOBODY].join('\t'));
    for (const set of ['CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
      expect([set, statusField(daemon.pid, set)]).toEqual([set, '0000000000000000']);
    }
    expect(lstatSync(daemon.socketPath)).toMatchObject({ uid: NOBODY, gid: NOBODY });
    useDisk(daemon);
    const tool = [RZSCONTROL, '--control-path', daemon.controlPath, 'ramzswap0', '--stats'];
    const [program, ...args] = [...AS_NOBODY, process.execPath, ...tool];
    expect((await execa(program!, args, { cwd: '/' })).stdout).toContain('PagesStored: 17');
  });

  it('it may give its socket to a group of its own, and is told that it may to no other', async () => {
    const member = AS_NOBODY.map((arg) => (arg === '--clear-groups' ? '--groups=54321' : arg));
    const daemon = await daemonWith(['--socket-group', '54321'], member);
    expect(lstatSync(daemon.socketPath)).toMatchObject({ uid: NOBODY, gid: 54321 });
    await expect(daemonWith(['--socket-group', '54322'], member)).rejects.toThrow(
      /vhost.sock: expected a socket group that this process is a member of .*, got group 54322/,
    );
  });
});

/** A disk so small that what is needed is below the limit that systems have by default, 8 MiB. */
const SMALL = ['--mlock', '--disksize', '1M'];
const SMALL_KILOBYTES = 8192;
const { status: limitStatus } = spawnSync('prlimit', [
  `--memlock=${SMALL_KILOBYTES * 1024}`,
  'true',
]);
if (limitStatus !== 0) console.warn('privileges.test.ts: SKIPPED: --mlock wants a limit of 8 MiB');

describe.skipIf(obstacle !== undefined || limitStatus !== 0)('--mlock', () => {
  const limited = (kilobytes: number) => [
    ...['prlimit', `--memlock=${kilobytes * 1024}:${kilobytes * 1024}`],
    ...AS_NOBODY,
  ];
  /** What a refusal says that is needed. */
  async function neededFor(args: readonly string[]): Promise<number> {
    const refusal = await daemonWith(args, limited(64)).catch(({ message }: Error) => message);
    const needed = /expected RLIMIT_MEMLOCK of (\d+) KiB at least, .*, got 64 KiB/.exec(
      `${refusal}`,
    );
    expect(refusal).toMatch(needed === null ? /expected RLIMIT_MEMLOCK/ : /mlock2: ENOMEM/);
    return Number(needed![1]);
  }

  it.each([1, 2])(
    'needs as much as it says, with which the store is locked as it is used, %i threads',
    async (threads) => {
      const args = [...SMALL, '--queue-threads', `${threads}`];
      const needed = await neededFor(args);
      await expect(daemonWith(args, limited(needed - 4))).rejects.toThrow(`of ${needed} KiB`);
      const daemon = await daemonWith(args, limited(needed));
      expect(statusField(daemon.pid, 'VmLck')).toBe(`${needed} kB`);
      const before = lockedKilobytes(daemon.pid, 'memfd:ramzswap-arena');
      useDisk(daemon);
      expect(lockedKilobytes(daemon.pid, 'memfd:ramzswap-arena') - before).toBe(16 * 4);
    },
  );

  it('locks nothing unasked', async () => {
    const daemon = await daemonWith([], AS_NOBODY);
    useDisk(daemon);
    expect(statusField(daemon.pid, 'VmLck')).toBe('0 kB');
  });
});

describe.skipIf(!isBuilt)('--wipe-on-free', () => {
  it.each([
    [1, true],
    [2, true],
    [1, false],
  ])(
    'leaves nothing of a discarded page in memory, %i threads; asked for: %s',
    async (threads, isAsked) => {
      const args = ['--queue-threads', `${threads}`, ...(isAsked ? ['--wipe-on-free'] : [])];
      const daemon = await daemonWith(args);
      const attached = AttachedDriver.connect(daemon, { index: threads - 1 });
      cleanUps.push(() => attached.close());
      const pages = Array.from({ length: 8 }, (_, i) => new Random(i).bytes(4096).fill(0, 2000));
      const { driver } = attached;
      // Others stay, so that no block is given back with what is in it.
      pages.concat(pages[0]!).forEach((data, i) => {
        const header = { type: VIRTIO_BLK_T_OUT, sector: 8 * (10 + i) };
        driver.submit({ ...header, data: i < 8 ? data : new Random(99).bytes(4096).fill(0, 900) });
      });
      driver.flush();
      attached.completeAll();
      const arena = openArena(daemon.pid);
      expect(tracesOf(pages, arena)).toBeGreaterThan(0);
      driver.submit({ type: VIRTIO_BLK_T_DISCARD, sector: 0, data: segment(80, 64) });
      driver.flush();
      expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
      if (isAsked) expect(tracesOf(pages, arena)).toBe(0);
      else expect(tracesOf(pages, arena)).toBeGreaterThan(0);
    },
  );
});

/** struct virtio_blk_discard_write_zeroes. */
function segment(sector: number, sectors: number): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(16));
  bytes.setBigUint64(0, BigInt(sector), true);
  bytes.setUint32(8, sectors, true);
  return new Uint8Array(bytes.buffer);
}

/** The arena's file of a daemon. */
function openArena(pid: number): number {
  const folder = `/proc/${pid}/fd`;
  const isArena = (name: string) => readlinkSync(`${folder}/${name}`).includes('ramzswap-arena');
  const fd = openSync(`${folder}/${readdirSync(folder).find(isArena)}`, 'r');
  cleanUps.push(() => closeSync(fd));
  return fd;
}
