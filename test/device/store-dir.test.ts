/**
 * The built daemon with --store-dir: what it has answered outlives it, however it ends; who may have
 * a store, and what is left where it may not be had.
 */

import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PROTOCOL_FEATURES } from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import {
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD, RZSCONTROL } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { Random } from '../driver/random.ts';
import { makeFolder } from '../driver/sockets.ts';
import { EMPTY, fillVersion, versionOf } from '../models/named-pages.ts';
import { makeTmpfsFolder } from '../models/tmpfs.ts';

const PAGE = 4096;
const FEATURES =
  BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX;
/** The swap header is the first page. */
const FIRST = 1;
const PAGES = 300;

const cleanUps: (() => unknown)[] = [];
let directory: string;

beforeEach(() => {
  const { path, remove } = makeTmpfsFolder();
  directory = path;
  cleanUps.push(remove);
});

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const stored = (...args: string[]) => ['--store-dir', directory, ...args];

/** At the socket's path of the last one, where there was one. */
async function start(args: readonly string[], last?: Daemon): Promise<Daemon> {
  // A socket left behind must not pass for the new one's.
  if (last !== undefined) rmSync(last.socketPath, { force: true });
  const daemon = await Daemon.start(args, {}, last?.folder ?? makeFolder());
  cleanUps.push(() => daemon.stop());
  return daemon;
}

async function kill(daemon: Daemon): Promise<void> {
  daemon.child.kill('SIGKILL');
  expect((await daemon.child).signal).toBe('SIGKILL');
}

function attach(daemon: Daemon): AttachedDriver {
  const attached = AttachedDriver.connect(daemon);
  cleanUps.push(() => attached.close());
  return attached;
}

/** As a front end does whose back end has gone: the same memory, the ring from its used index on. */
function attachAgain(daemon: Daemon, { driver, ram, kickFd, callFd, errFd }: AttachedDriver): void {
  const frontEnd = FrontEnd.connect(daemon.socketPath);
  cleanUps.push(() => frontEnd.close());
  frontEnd.negotiate(FEATURES, PROTOCOL_FEATURES);
  frontEnd.setMemoryTable(ram);
  const fds = { kick: kickFd, call: callFd, err: errFd };
  frontEnd.startRing(0, driver.ring, fds, driver.ring.usedIdx);
  frontEnd.setEnabled(0, true);
}

/** What a driver has written: by page, its version. */
class Written {
  readonly #versions = new Int32Array(FIRST + PAGES);
  readonly #random: Random;
  #version = EMPTY;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  /** Submits some writes and frees, in one queue: they take effect in this order. */
  submit({ driver }: AttachedDriver, count: number): void {
    for (let i = 0; i < count; i++) {
      const page = FIRST + this.#random.below(PAGES);
      if (this.#random.oneIn(6)) this.#discard(driver, page);
      else this.#write(driver, page);
    }
    driver.flush();
  }

  #write(driver: AttachedDriver['driver'], page: number): void {
    this.#versions[page] = ++this.#version;
    const words = new Int32Array(PAGE / 4);
    fillVersion(words, 0, page, this.#version);
    const data = new Uint8Array(words.buffer);
    driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 8 * page, data });
  }

  #discard(driver: AttachedDriver['driver'], page: number): void {
    this.#versions[page] = EMPTY;
    const data = new Uint8Array(16);
    const view = new DataView(data.buffer);
    view.setUint32(0, 8 * page, true);
    view.setUint32(8, 8, true);
    driver.submit({ type: VIRTIO_BLK_T_DISCARD, sector: 0, data });
  }

  expectAll(attached: AttachedDriver): void {
    for (let page = FIRST; page < FIRST + PAGES; page++) {
      expect(readVersion(attached, page), `page ${page}`).toBe(this.#versions[page]);
    }
  }
}

function readVersion(attached: AttachedDriver, page: number): number {
  attached.driver.submit({ type: VIRTIO_BLK_T_IN, sector: 8 * page, inBytes: PAGE });
  attached.driver.flush();
  const [done] = attached.completeAll(5000);
  expect(done!.status).toBe(0);
  return versionOf(new Int32Array(done!.data.slice().buffer), 0, page);
}

function expectDone(attached: AttachedDriver): void {
  for (const { status } of attached.completeAll(5000)) expect(status).toBe(0);
}

async function statistics(daemon: Daemon): Promise<Record<string, number>> {
  const args = ['--control-path', daemon.controlPath, 'ramzswap0', '--stats', '--json'];
  const { stdout } = await execa(process.execPath, [RZSCONTROL, ...args]);
  return JSON.parse(stdout) as Record<string, number>;
}

/** A daemon that must not start: its words. */
async function refusal(...args: string[]): Promise<string> {
  const folder = makeFolder();
  cleanUps.push(folder.remove);
  const all = ['--socket-path', join(folder.path, 's'), '--log-level', 'silent', ...args];
  const { exitCode, stderr } = await execa(process.execPath, [RAMZSWAPD, ...all], {
    reject: false,
    timeout: 30_000,
  });
  expect(exitCode).toBe(1);
  expect(readdirSync(folder.path)).toEqual([]);
  return stderr;
}

if (!isBuilt) console.warn('store-dir.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('what was answered is there', () => {
  it.each([
    [1, 1],
    [2, 1],
    [3, 2],
  ])('after SIGKILL amid writes, seed %i, %i queue threads', async (seed, threads) => {
    const args = stored('--queue-threads', `${threads}`);
    const written = new Written(seed);
    const random = new Random(seed);
    let daemon = await start(args);
    const attached = attach(daemon);
    for (let round = 0; round < 4; round++) {
      for (let i = random.below(20); i > 0; i--) {
        written.submit(attached, random.between(1, 32));
        expectDone(attached);
      }
      written.submit(attached, 40);
      await kill(daemon);
      daemon = await start(args, daemon);
      expect(daemon.stderr).toMatch(/store found, left by a process that was killed: \d+ pages/);
      expect(daemon.stderr).not.toContain('damaged');
      attachAgain(daemon, attached);
      expectDone(attached);
      written.expectAll(attached);
    }
  });

  it('after SIGTERM, which keeps the files', async () => {
    const written = new Written(4);
    const first = await start(stored());
    const attached = attach(first);
    for (let i = 0; i < 10; i++) {
      written.submit(attached, 30);
      expectDone(attached);
    }
    const before = await statistics(first);
    first.child.kill('SIGTERM');
    expect((await first.child).exitCode).toBe(0);
    expect(readdirSync(directory).sort()).toEqual(['ramzswap0.arena', 'ramzswap0.table']);
    const second = await start(stored(), first);
    expect(second.stderr).toMatch(/store found, left in order: \d+ pages/);
    const after = await statistics(second);
    expect(after).toEqual({
      ...before,
      pages_used: expect.any(Number),
      mem_used_total: expect.any(Number),
      mem_reserved: expect.any(Number),
      // What is left of a millisecond is counted at the end, and the threads are others.
      serve_micros: expect.any(Number),
      poll_micros: expect.any(Number),
      cpu_micros: expect.any(Number),
      oldest_page_seconds: expect.any(Number),
    });
    expect(after.oldest_page_seconds).toBeGreaterThanOrEqual(before.oldest_page_seconds!);
    expect(after.oldest_page_seconds).toBeLessThan(before.oldest_page_seconds! + 60);
    attachAgain(second, attached);
    written.expectAll(attached);
  });

  it('and the swap header, whoever wrote it', async () => {
    const first = await start(stored());
    const attached = attach(first);
    const header = attachedRead(attached, 0);
    await kill(first);
    const second = await start(stored(), first);
    attachAgain(second, attached);
    expect(attachedRead(attached, 0)).toEqual(header);
    expect(header.subarray(4086).toString('latin1')).toBe('SWAPSPACE2');
  });
});

function attachedRead(attached: AttachedDriver, page: number): Buffer {
  attached.driver.submit({ type: VIRTIO_BLK_T_IN, sector: 8 * page, inBytes: PAGE });
  attached.driver.flush();
  return Buffer.from(attached.completeAll(5000)[0]!.data);
}

describe.skipIf(!isBuilt)('a store is had', () => {
  it('by one daemon at a time; another name lies beside it', async () => {
    await start(stored());
    expect(await refusal('--disksize', '64M', ...stored())).toBe(
      `ramzswapd: ramzswap0: ${directory}/ramzswap0.table: in use by another process, which has it locked`,
    );
    const other = await start(stored('--name', 'other'));
    expect(other.stderr).not.toContain('store found');
    expect(readdirSync(directory).sort()).toEqual([
      ...['other.arena', 'other.table'],
      ...['ramzswap0.arena', 'ramzswap0.table'],
    ]);
  });

  it('with the size that it was made with', async () => {
    await kill(await start(stored()));
    expect(await refusal('--disksize', '128M', ...stored())).toBe(
      `ramzswapd: ramzswap0: store ${directory}/ramzswap0.table: disk size (max-disksize where given): ` +
        'expected 128 MiB (32768 pages), got 64 MiB (16384 pages)',
    );
    expect((await start(stored())).stderr).toContain('store found');
  });

  it('as large as it has grown', async () => {
    const args = stored('--max-disksize', '256M');
    const first = await start(args);
    const grow = ['--control-path', first.controlPath, 'ramzswap0', '--grow_kb=131072'];
    await execa(process.execPath, [RZSCONTROL, ...grow]);
    await kill(first);
    const second = await start(args, first);
    expect((await statistics(second)).disksize).toBe(128 * 2 ** 20);
    const attached = attach(second);
    const last = 128 * 256 - 1;
    attached.driver.submit({ type: VIRTIO_BLK_T_IN, sector: 8 * last, inBytes: PAGE });
    attached.driver.flush();
    expectDone(attached);
  });

  it('in a directory of nobody else', async () => {
    chmodSync(directory, 0o755);
    expect(await refusal('--disksize', '64M', ...stored())).toBe(
      `ramzswapd: ramzswap0: directory ${directory}: expected mode 0700, got 0755`,
    );
    expect(readdirSync(directory)).toEqual([]);
  });
});

describe.skipIf(!isBuilt)('a daemon that does not start', () => {
  it('leaves no new store', async () => {
    const words = await refusal('--disksize', '64M', '--pool-limit', '1K', ...stored());
    expect(words).toBe('ramzswapd: ramzswap0: no room for the swap header (pool limit 1 KiB)');
    expect(readdirSync(directory)).toEqual([]);
  });

  it('leaves the store of the one before, and no socket of its own', async () => {
    await kill(await start(stored()));
    const path = join(directory, 'taken');
    writeFileSync(path, '');
    await refusal('--disksize', '64M', '--control-path', path, ...stored());
    rmSync(path);
    expect((await start(stored())).stderr).toContain('store found');
  });
});

describe.skipIf(!isBuilt)('without --store-dir', () => {
  /** What a process has open or mapped that lies in /dev/shm. */
  function inSharedMemory(pid: number): string[] {
    const fds = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
    const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n');
    return [...fds, ...maps].filter((name) => name.includes('/dev/shm/'));
  }

  it('nothing has a name that could stay behind', async () => {
    const daemon = await start([]);
    const kept = await start(stored());
    expect(inSharedMemory(daemon.pid)).toEqual([]);
    expect(inSharedMemory(kept.pid).length).toBeGreaterThan(0);
    await kill(kept);
    expect(existsSync(join(directory, 'ramzswap0.arena'))).toBe(true);
  });
});
