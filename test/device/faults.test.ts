/**
 * What befalls a daemon from outside and needs no recovery: its socket's file removed, clients of the
 * control socket that hang or flood, nobody reading its log, no descriptors, no memory, a stop for a
 * while, guest memory that is truncated. Devices go on, or the process ends as it should.
 */

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  encodeMemTable,
  encodeVringAddress,
  PROTOCOL_FEATURES,
  VHOST_USER,
} from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD, sleep, until } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { USER_BASE } from '../driver/guest-ram.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';

const PAGE = 4096;
const FLOOD_REQUESTS = 20_000;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function start(args: readonly string[] = [], folder = makeFolder()): Promise<Daemon> {
  const daemon = await Daemon.start(args, {}, folder);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

/** Where another has left its sockets behind, as a supervisor does. */
async function restart(folder: ReturnType<typeof makeFolder>): Promise<Daemon> {
  const daemon = await start([], folder);
  await until(() => daemon.stderr.includes('ready'), 'ready', 10_000);
  return daemon;
}

function attach(daemon: Daemon): AttachedDriver {
  const attached = AttachedDriver.connect(daemon);
  cleanUps.push(() => attached.close());
  return attached;
}

function put(attached: AttachedDriver, slot: number, data: Uint8Array): void {
  attached.driver.submit(write(slot, data));
  attached.driver.flush();
  expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
}

function get(attached: AttachedDriver, slot: number): Uint8Array {
  attached.driver.submit(read(slot, 1));
  attached.driver.flush();
  const [done] = attached.completeAll(5000);
  expect(done!.status).toBe(0);
  return done!.data;
}

/** Milliseconds of each of `count` reads, sorted. */
function latencies(attached: AttachedDriver, count: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const begun = performance.now();
    get(attached, 20 + (i % 10));
    return performance.now() - begun;
  }).sort((a, b) => a - b);
}

async function client(daemon: Daemon): Promise<Socket> {
  const socket = connect(daemon.controlPath);
  socket.on('error', () => {});
  cleanUps.push(() => socket.destroy());
  await once(socket, 'connect');
  return socket;
}

if (!isBuilt) console.warn('faults.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('the file of a socket', () => {
  it('is removed: the session goes on, and the next daemon there is not robbed of its own', async () => {
    const folder = makeFolder();
    const first = await Daemon.start([], {}, folder);
    const attached = attach(first);
    const page = new Random(1).page();
    put(attached, 20, page);
    for (const path of [first.socketPath, first.controlPath]) unlinkSync(path);
    expect(get(attached, 20)).toEqual(page);
    const second = await start([], { path: folder.path, remove: () => {} });
    expect(get(attached, 20)).toEqual(page);
    first.child.kill('SIGTERM');
    expect((await first.child).exitCode).toBe(0);
    expect([second.socketPath, second.controlPath].map((path) => existsSync(path))).toEqual([
      true,
      true,
    ]);
    expect(get(attach(second), 20)).toEqual(new Uint8Array(PAGE));
    cleanUps.unshift(folder.remove);
  });
});

describe.skipIf(!isBuilt)('a client of the control socket', () => {
  it('hangs without reading, and others flood: reads wait no longer than they did', async () => {
    const daemon = await start();
    const attached = attach(daemon);
    for (let slot = 20; slot < 30; slot++) put(attached, slot, new Random(slot).page());
    latencies(attached, 200);
    const alone = latencies(attached, 400);
    const hanging = await client(daemon);
    hanging.pause();
    const line = `${JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'devices', params: {} })}\n`;
    hanging.write(line.repeat(FLOOD_REQUESTS));
    const flooding = await client(daemon);
    flooding.resume();
    flooding.write(line.repeat(FLOOD_REQUESTS));
    await sleep(0);
    const beside = latencies(attached, 400);
    // Three threads that work and two processors: the scheduler takes its turns, nobody waits for all.
    expect(beside[200]!, `alone ${alone[200]}`).toBeLessThan(20);
    expect(beside[360]!, `alone ${alone[360]}`).toBeLessThan(100);
    const good = await ControlClient.connect(daemon.controlPath);
    cleanUps.push(() => good.close());
    expect(await good.call('devices')).toMatchObject([{ connected: true }]);
  });
});

describe.skipIf(!isBuilt)('the log', () => {
  it('has no reader any more: devices, control and SIGTERM go on', async () => {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const path = join(folder.path, 'vhost.sock');
    const args = [RAMZSWAPD, '--socket-path', path, '--disksize', '16M'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    cleanUps.push(() => child.kill('SIGKILL'));
    const ended = once(child, 'exit');
    await until(() => existsSync(path), 'socket', 10_000);
    child.stderr!.destroy();
    // Each connection is two lines of log.
    for (let i = 0; i < 20; i++) {
      const attached = new AttachedDriver(FrontEnd.connect(path), { ramBytes: 2 << 20 });
      put(attached, 20 + i, new Random(i).page());
      expect(get(attached, 20 + i)).toEqual(new Random(i).page());
      attached.close();
      await sleep(5);
    }
    const control = await ControlClient.connect(`${path}.control`);
    expect(await control.call('statistics', { device: 'ramzswap0' })).toMatchObject({
      num_writes: 20,
    });
    control.close();
    child.kill('SIGTERM');
    expect(await ended).toEqual([0, null]);
  });
});

/** The number that the next descriptor of a process will have: limited to it, it gets none. */
function nextFdOf(pid: number): number {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let next = 0;
  while (open.has(next)) next++;
  return next;
}

describe.skipIf(!isBuilt)('descriptors', () => {
  it('are used up: connections are put off and then served, and the session goes on', async () => {
    const daemon = await start();
    const limit = (n: number) => {
      execFileSync('prlimit', ['--pid', `${daemon.pid}`, `--nofile=${n}:`]);
    };
    limit(nextFdOf(daemon.pid));
    const waiting = FrontEnd.connect(daemon.socketPath);
    cleanUps.push(() => waiting.close());
    await until(() => daemon.stderr.includes('connections put off: EMFILE'), 'the log', 3000);
    await sleep(1200);
    expect(daemon.stderr.match(/put off/g)).toHaveLength(1);
    limit(1024);
    const attached = new AttachedDriver(waiting);
    put(attached, 20, new Uint8Array(PAGE).fill(7));
    // None for what a message brings: that one session ends, and says why.
    limit(nextFdOf(daemon.pid));
    expect(() => attached.frontEnd.addRegion(attached.ram.regions[0]!, attached.ram.fd)).toThrow();
    await until(() => daemon.stderr.includes('connection dropped: '), 'the log', 2000);
    limit(1024);
    expect(get(attach(daemon), 20)).toEqual(new Uint8Array(PAGE).fill(7));
    expect(daemon.child.exitCode).toBeNull();
  });
});

/** R, S, D, T, Z: field 3, behind the name in brackets. */
function stateOf(pid: number): string {
  return /\) (\w)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))![1]!;
}

describe.skipIf(!isBuilt)('a stop for a while', () => {
  it('loses no request, and delays it by no more than the stop', async () => {
    const daemon = await start(['--queue-threads', '2']);
    const attached = attach(daemon);
    for (let i = 0; i < 10; i++) {
      const page = new Random(i).page();
      daemon.child.kill('SIGSTOP');
      await until(() => stateOf(daemon.pid) === 'T', 'it has stopped', 2000);
      attached.driver.submit(write(20, page));
      attached.driver.flush();
      await sleep(20);
      expect(attached.driver.complete()).toEqual([]);
      daemon.child.kill('SIGCONT');
      expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
      expect(get(attached, 20)).toEqual(page);
    }
  });
});

const CGROUP = `/sys/fs/cgroup/memory/ramzswap-test-${process.pid}`;

function hasCgroup(): boolean {
  try {
    mkdirSync(CGROUP);
    rmdirSync(CGROUP);
    return true;
  } catch {
    console.warn('faults.test.ts: no memory in a cgroup: SKIPPED, none can be made here');
    return false;
  }
}

describe.skipIf(!isBuilt || !hasCgroup())('no memory in its cgroup', () => {
  it('ends it by SIGKILL and no other way, and its place can be taken again', async () => {
    mkdirSync(CGROUP);
    cleanUps.push(() => rmdirSync(CGROUP));
    const folder = makeFolder();
    const daemon = await Daemon.start(['--disksize', '512M'], {}, folder);
    writeFileSync(join(CGROUP, 'memory.limit_in_bytes'), `${192 << 20}`);
    writeFileSync(join(CGROUP, 'cgroup.procs'), `${daemon.pid}`);
    const attached = AttachedDriver.connect(daemon);
    const noise = new Random(1).bytes(64 * PAGE);
    let isOver = false;
    void daemon.child.then(() => {
      isOver = true;
    });
    for (let slot = 64; slot < 100_000 && !isOver; slot += 64) {
      attached.driver.submit(write(slot, noise));
      attached.driver.flush();
      const end = Date.now() + 5000;
      while (attached.driver.inFlight > 0 && !isOver && Date.now() < end) {
        await sleep(0);
        attached.driver.complete();
      }
    }
    attached.close();
    expect((await daemon.child).signal).toBe('SIGKILL');
    const next = await restart(folder);
    expect(get(attach(next), 64)).toEqual(new Uint8Array(PAGE));
  }, 60_000);
});

/** A front end whose memory is a plain file, with a ring in it that is about to be enabled. */
function startRingIn(daemon: Daemon, path: string): () => void {
  const bytes = 65536;
  writeFileSync(path, new Uint8Array(bytes));
  const [fd, kickFd] = [openSync(path, 'r+'), createEventFd()];
  const frontEnd = FrontEnd.connect(daemon.socketPath);
  cleanUps.push(() => [fd, kickFd, frontEnd.fd].map(closeFd));
  frontEnd.negotiate(VIRTIO_F_VERSION_1, PROTOCOL_FEATURES);
  const region = { guestAddress: 0, userAddress: USER_BASE, bytes, mmapOffset: 0 };
  frontEnd.order(VHOST_USER.SET_MEM_TABLE, encodeMemTable([region]), [fd]);
  frontEnd.setNum(0, 16);
  const [desc, avail, used] = [0, 1, 2].map((page) => USER_BASE + page * PAGE) as [
    number,
    number,
    number,
  ];
  const address = { index: 0, flags: 0, log: 0n, desc, avail, used };
  frontEnd.order(VHOST_USER.SET_VRING_ADDR, encodeVringAddress(address));
  frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, 0, kickFd);
  return () => frontEnd.setEnabled(0, true);
}

describe.skipIf(!isBuilt)('guest memory', () => {
  it('is truncated by its owner: SIGBUS, after a warning, and a daemon can begin there again', async () => {
    const folder = makeFolder();
    const daemon = await Daemon.start([], {}, folder);
    const path = join(folder.path, 'memory');
    const begin = startRingIn(daemon, path);
    await until(() => daemon.stderr.includes('not sealed against shrinking'), 'the log', 2000);
    const begun = Date.now();
    writeFileSync(path, '');
    begin();
    const { signal } = await daemon.child;
    expect(signal).toBe('SIGBUS');
    expect(Date.now() - begun).toBeLessThan(3000);
    const next = await restart(folder);
    expect(get(attach(next), 20)).toEqual(new Uint8Array(PAGE));
  });
});
