/**
 * The built daemon and its tool as processes: how they begin, end, refuse and report. Everything a
 * service manager, QEMU or a script relies on.
 */

import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { FIGURES } from '../../src/control/figures.ts';
import { createEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { listenUnix } from '../../src/native/socket.ts';
import { encodeMessage, encodeU64, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/virtio-blk/protocol.ts';
import {
  AttachedDriver,
  Daemon,
  isBuilt,
  RAMZSWAPD,
  RZSCONTROL,
  sleep,
  until,
} from '../driver/daemon.ts';
import { cpuNanoseconds } from '../driver/descriptors.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { Random } from '../driver/random.ts';
import { makeFolder, socketPair } from '../driver/sockets.ts';

const END_MILLIS_MAX = 500;
/** The first client of the control socket has schemas loaded. */
const FAULT_MILLIS_MAX = 3000;
const FAULTS = { RAMZSWAP_FAULT_INJECTION: '1' };
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function daemonWith(args: readonly string[] = [], env = {}): Promise<Daemon> {
  const daemon = await Daemon.start(args, env);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

/** Ring `index`: with several queue threads, that of its number serves it. */
function attach(daemon: Daemon, index = 0): AttachedDriver {
  const attached = AttachedDriver.connect(daemon, { index });
  cleanUps.push(() => attached.close());
  return attached;
}

function folder(): string {
  const made = makeFolder();
  cleanUps.push(made.remove);
  return made.path;
}

const run = (program: string, args: readonly string[]) =>
  execa(process.execPath, [program, ...args], { reject: false, timeout: 10_000 });

/** Milliseconds until the daemon has ended. */
async function ending(daemon: Daemon, cause: () => void, attached?: AttachedDriver) {
  const start = Date.now();
  cause();
  let isOver = false;
  void daemon.child.then(() => {
    isOver = true;
  });
  while (!isOver && Date.now() - start < 5000) {
    if (attached !== undefined) keepBusy(attached);
    await sleep(0);
  }
  return { millis: Date.now() - start, result: await daemon.child };
}

/** Pages of noise in one request: a millisecond of work. */
const BUSY_PAGES = 256;

/**
 * Keeps the reactor from ever coming to the end of its work: one large write, offered over and over,
 * as often as the ring holds.
 */
function keepBusy({ driver, kickFd }: AttachedDriver): void {
  const { ring, ram } = driver;
  if (ring.availIdx === ring.startIndex) {
    const header = ram.allocate(16, 16);
    ram.write(header, Uint8Array.of(VIRTIO_BLK_T_OUT, 0, 0, 0, 0, 0, 0, 0, 128));
    const data = ram.allocate(BUSY_PAGES * 4096, 4096);
    ram.write(data, new Random(1).bytes(BUSY_PAGES * 4096));
    ring.setDescriptor(0, { address: header, bytes: 16, flags: 1, next: 1 });
    ring.setDescriptor(1, { address: data, bytes: BUSY_PAGES * 4096, flags: 1, next: 2 });
    ring.setDescriptor(2, { address: ram.allocate(1), bytes: 1, flags: 2, next: 0 });
  }
  for (let n = (ring.availIdx - ring.usedIdx) & 0xffff; n < ring.size; n++) ring.offer(0);
  if (ring.publish()) signalEventFd(kickFd);
}

function fault(daemon: Daemon, thread: 'control' | 'reactor' | 'queue thread'): void {
  const socket = connect(daemon.controlPath);
  socket.on('error', () => {});
  const call = { jsonrpc: '2.0', id: 1, method: 'fault', params: { thread } };
  socket.write(`${JSON.stringify(call)}\n`);
  cleanUps.push(() => socket.destroy());
}

function write(attached: AttachedDriver, page: number, data: Uint8Array): void {
  attached.driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 8 * page, data });
  attached.driver.flush();
  expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
}

function read(attached: AttachedDriver, page: number): Uint8Array {
  attached.driver.submit({ type: VIRTIO_BLK_T_IN, sector: 8 * page, inBytes: 4096 });
  attached.driver.flush();
  const [done] = attached.completeAll();
  expect(done!.status).toBe(0);
  return done!.data;
}

if (!isBuilt) console.warn('daemon.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('the daemon ends', () => {
  it.each([
    [1, false],
    [1, true],
    [4, false],
    [4, true],
  ])(
    'on SIGTERM with status 0, %i queue threads, busy %s, and leaves no socket',
    async (threads, isBusy) => {
      const daemon = await daemonWith(['--queue-threads', `${threads}`]);
      const attached = isBusy ? attach(daemon, threads - 1) : undefined;
      if (attached !== undefined) keepBusy(attached);
      const stop = () => void daemon.child.kill('SIGTERM');
      const { millis, result } = await ending(daemon, stop, attached);
      expect(result.exitCode).toBe(0);
      expect(millis).toBeLessThan(END_MILLIS_MAX);
      expect(readdirSync(daemon.folder.path)).toEqual([]);
    },
  );

  it.each([
    ['control', false],
    ['control', true],
    ['reactor', false],
    ['reactor', true],
    ['queue thread', false],
    ['queue thread', true],
  ] as const)('at once when the %s thread fails, busy %s, saying why', async (thread, isBusy) => {
    const daemon = await daemonWith(['--queue-threads', '2'], FAULTS);
    const attached = isBusy ? attach(daemon, 1) : undefined;
    if (attached !== undefined) keepBusy(attached);
    const { millis, result } = await ending(daemon, () => fault(daemon, thread), attached);
    expect(result.signal).toBe('SIGABRT');
    expect(millis).toBeLessThan(FAULT_MILLIS_MAX);
    expect(daemon.stderr).toMatch(
      /fatal error in (the control thread|a reactor|a queue thread): .*fault injected/,
    );
  });

  it('faults cannot be injected where they were not allowed', async () => {
    const daemon = await daemonWith();
    fault(daemon, 'reactor');
    await sleep(100);
    expect(daemon.child.exitCode).toBeNull();
  });
});

describe.skipIf(!isBuilt)('the daemon begins', () => {
  it('not where a live process listens, which goes on', async () => {
    const daemon = await daemonWith();
    const second = await run(RAMZSWAPD, ['--socket-path', daemon.socketPath, '--disksize', '16M']);
    expect(second.exitCode).toBe(1);
    expect(second.stderr).toMatch(/vhost\.sock(\.control)?: in use by a live process/);
    expect(read(attach(daemon), 100)).toEqual(new Uint8Array(4096));
  });

  it('where a dead process has left its socket', async () => {
    const made = makeFolder();
    closeFd(listenUnix(join(made.path, 'vhost.sock')));
    closeFd(listenUnix(join(made.path, 'vhost.sock.control')));
    const child = execa(
      process.execPath,
      [RAMZSWAPD, '--socket-path', join(made.path, 'vhost.sock'), '--disksize', '16M'],
      { reject: false },
    );
    cleanUps.push(
      made.remove,
      () => child.kill('SIGTERM'),
      () => child,
    );
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk;
    });
    await until(() => stderr.includes('ready'), 'the device is ready', 10_000);
    const frontEnd = FrontEnd.connect(join(made.path, 'vhost.sock'));
    frontEnd.negotiate(0n, 0n);
    frontEnd.close();
    child.kill('SIGTERM');
    expect((await child).exitCode).toBe(0);
  });

  it('not over a file that is no socket', async () => {
    const path = join(folder(), 'file');
    await execa('touch', [path]);
    const result = await run(RAMZSWAPD, ['--socket-path', path, '--disksize', '16M']);
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toMatch(/exists and is not a socket; not replaced/);
    expect(existsSync(path)).toBe(true);
  });

  it.each([1, 4])(
    'not in a folder that is not there: status 1, with the path and the reason; %i queue threads',
    async (threads) => {
      const path = join(folder(), 'missing', 'x.sock');
      const args = ['--socket-path', path, '--disksize', '16M', '--queue-threads', `${threads}`];
      const result = await run(RAMZSWAPD, args);
      expect(result.exitCode).toBe(1);
      expect(result.stderr).toContain(path);
      expect(result.stderr).toMatch(/ENOENT/);
    },
  );

  it.each([1, 4])('not without memory for its first page, %i queue threads', async (threads) => {
    const path = join(folder(), 'x.sock');
    const args = ['--socket-path', path, '--pool-limit', '1K', '--queue-threads', `${threads}`];
    const result = await run(RAMZSWAPD, [...args, '--disksize', '16M']);
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toMatch(/no room for the swap header/);
  });

  it.each([
    [['--disksize', '12x'], /--disksize: expected a size such as 512M or 2G, got '12x'/],
    [['--disksize', '-5'], /--disksize/],
    [['--disksize', '0'], /--disksize/],
    [['--pool-limit', 'lots'], /--pool-limit: expected a size/],
    [['--num-queues', '0'], /--num-queues: expected a number from 1 to 256, got '0'/],
    [['--num-queues', '257'], /got '257'/],
    [['--queue-threads', '17'], /--queue-threads: expected a number from 1 to 16, got '17'/],
    [['--num-queues', '2', '--queue-threads', '3'], /expected a queue for each .*: 2\), got 3/],
    [['--queue-threads', '2', '--backing-swap', 'x'], /expected 1 with --backing-swap/],
    [['--name', 'a/b'], /--name: expected 1 to 20 printable characters/],
    [['--fd', '3'], /expected one of --socket-path PATH, --socket-dir DIR and --fd N/],
    [['--guest-page-size', '8192'], /guest-page-size/],
    [['--no-such-option'], /unknown option/],
  ])('not with %j: usage, status 2', async (args, message) => {
    const path = join(folder(), 'x.sock');
    const result = await run(RAMZSWAPD, ['--socket-path', path, ...args]);
    expect([result.exitCode, existsSync(path)]).toEqual([2, false]);
    expect(result.stderr).toMatch(message);
  });

  it('--print-capabilities prints one JSON object, whatever else is said', async () => {
    const result = await run(RAMZSWAPD, ['--print-capabilities', '--whatever', '--disksize', 'x']);
    expect(result.exitCode).toBe(0);
    expect(JSON.parse(result.stdout)).toEqual({ type: 'block', features: [] });
  });

  it('on an inherited listening socket', async () => {
    const path = join(folder(), 's');
    const listening = listenUnix(path);
    const child = startOnFd(listening);
    closeFd(listening);
    const frontEnd = FrontEnd.connect(path);
    expect(Buffer.from(configOf(frontEnd)).readBigUInt64LE(0)).toBe(32768n);
    frontEnd.close();
    child.stop();
    expect((await child.ended).exitCode).toBe(0);
  });

  it('on an inherited connection, and ends with it', async () => {
    const [client, server] = socketPair();
    const child = startOnFd(server);
    closeFd(server);
    const frontEnd = new FrontEnd(client);
    expect(Buffer.from(configOf(frontEnd)).readBigUInt64LE(0)).toBe(32768n);
    frontEnd.close();
    expect((await child.ended).exitCode).toBe(0);
  });

  it('not on an inherited descriptor that is no socket', async () => {
    const fd = createEventFd();
    const child = startOnFd(fd);
    closeFd(fd);
    const result = await child.ended;
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toMatch(/--fd: expected a Unix stream socket that .*, got no socket$/m);
  });

  function startOnFd(fd: number) {
    const args = ['--fd', '3', '--disksize', '16M', '--control-path', join(folder(), 'c')];
    // Node's own: execa's types have no place for a plain descriptor behind stderr.
    const child = spawn(process.execPath, [RAMZSWAPD, ...args], {
      stdio: ['ignore', 'ignore', 'pipe', fd],
    });
    let stderr = '';
    child.stderr!.on('data', (chunk: Buffer) => {
      stderr += chunk;
    });
    const ended = new Promise<{ exitCode: number | null; stderr: string }>((resolve) => {
      child.once('close', (exitCode) => resolve({ exitCode, stderr }));
    });
    cleanUps.push(() => child.kill('SIGTERM'));
    return { ended, stop: () => child.kill('SIGTERM') };
  }

  function configOf(frontEnd: FrontEnd): Uint8Array {
    frontEnd.negotiate(0n, 1n << 9n);
    return frontEnd.getConfig(0, 60)!;
  }
});

describe.skipIf(!isBuilt)('one front end at a time', () => {
  it('a second connection is closed while the first goes on', async () => {
    const daemon = await daemonWith();
    const first = attach(daemon);
    const second = FrontEnd.connect(daemon.socketPath);
    expect(second.isDropped()).toBe(true);
    second.close();
    const page = new Random(1).page();
    write(first, 20, page);
    expect(read(first, 20)).toEqual(page);
    await until(() => daemon.stderr.includes('refused: in use by process'), 'the log', 2000);
  });

  it('a front end that breaks the protocol is dropped with a reason; the next is welcome', async () => {
    const daemon = await daemonWith();
    const rude = FrontEnd.connect(daemon.socketPath);
    rude.sendRaw(new Uint8Array(12).fill(0xff));
    expect(rude.isDropped()).toBe(true);
    rude.close();
    const next = attach(daemon);
    expect(read(next, 5)).toEqual(new Uint8Array(4096));
    await until(
      () => daemon.stderr.includes('expected protocol version 1, got 3'),
      'the log',
      2000,
    );
  });

  it.each([
    ['a whole message', 20],
    ['half of one', 15],
  ])(
    'regression: one that gives its own socket with %s does not hold the device for ever',
    async (_, bytes) => {
      const daemon = await daemonWith();
      const first = AttachedDriver.connect(daemon);
      const message = encodeMessage(VHOST_USER.SET_VRING_CALL, 0, encodeU64(0n));
      first.frontEnd.sendRaw(message.subarray(0, bytes), [first.frontEnd.fd]);
      first.close();
      await until(() => daemon.stderr.includes("the peer's own socket"), 'the log', 2000);
      expect(read(attach(daemon), 5)).toEqual(new Uint8Array(4096));
    },
  );

  it('regression: what waits to be read of one is looked at before the next is refused', async () => {
    const daemon = await daemonWith();
    daemon.child.kill('SIGSTOP');
    const first = FrontEnd.connect(daemon.socketPath);
    first.send(VHOST_USER.SET_VRING_CALL, encodeU64(0n), [first.fd]);
    first.close();
    const next = FrontEnd.connect(daemon.socketPath);
    daemon.child.kill('SIGCONT');
    next.query(VHOST_USER.GET_FEATURES);
    next.close();
  });

  it('a client killed in the middle of requests leaves its pages to the next', async () => {
    const daemon = await daemonWith();
    const first = AttachedDriver.connect(daemon);
    const page = new Random(3).page();
    write(first, 20, page);
    for (let i = 0; i < 15; i++) {
      const data = new Uint8Array(6 * 4096).fill(i + 1);
      first.driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 8 * (100 + 6 * i), data });
    }
    first.driver.flush();
    first.close();
    const next = attach(daemon);
    expect(read(next, 20)).toEqual(page);
    for (let i = 0; i < 15; i++) {
      const got = read(next, 100 + 6 * i);
      expect([0, i + 1], `page ${100 + 6 * i}`).toContain(got[0]);
      expect(new Set(got).size).toBe(1);
    }
  });

  it('a new front end may come the moment the old one is gone, many times over', async () => {
    const daemon = await daemonWith(['--log-level', 'error']);
    const page = new Random(4).page();
    for (let i = 0; i < 30; i++) {
      const attached = AttachedDriver.connect(daemon, { ramBytes: 2 << 20 });
      if (i === 0) write(attached, 20, page);
      expect(read(attached, 20), `connection ${i}`).toEqual(page);
      attached.close();
    }
  });
});

describe.skipIf(!isBuilt)('an idle device', () => {
  it('with a driver attached costs less than 2 ms of processor time a second', async () => {
    const daemon = await daemonWith();
    const attached = attach(daemon);
    for (let i = 0; i < 50; i++) write(attached, 20 + i, new Random(i).page());
    await sleep(1500);
    const before = cpuNanoseconds(daemon.pid);
    await sleep(1000);
    const spent = cpuNanoseconds(daemon.pid) - before;
    expect(spent / 1e6, 'ms').toBeLessThan(2);
    // And it wakes up again.
    expect(read(attached, 20)).toEqual(new Random(0).page());
  });
});

describe.skipIf(!isBuilt)('rzscontrol', () => {
  it('shows statistics with the labels of the ancestor', async () => {
    const daemon = await daemonWith(['--name', 'swap7']);
    const attached = attach(daemon);
    write(attached, 20, new Random(9).bytes(4096));
    write(attached, 21, new Uint8Array(4096));
    write(attached, 22, new Uint8Array(4096).fill(9));
    read(attached, 20);
    const result = await run(RZSCONTROL, [
      'swap7',
      '--stats',
      '--control-path',
      daemon.controlPath,
    ]);
    expect(result.exitCode).toBe(0);
    const lines = new Map(
      result.stdout.split('\n').map((line) => line.split(': ') as [string, string]),
    );
    expect([...lines.keys()]).toEqual([
      ...['DiskSize', 'NumReads', 'NumWrites', 'FailedReads', 'FailedWrites', 'InvalidIO'],
      ...['NotifyFree', 'ZeroPages', 'SamePages', 'GoodCompress', 'NoCompress', 'PagesStored'],
      ...['PagesUsed', 'OrigDataSize', 'ComprDataSize', 'MemUsedTotal'],
    ]);
    expect(Object.fromEntries(lines)).toMatchObject({
      DiskSize: '65536 kB',
      NumReads: '1',
      NumWrites: '3',
      ZeroPages: '1',
      SamePages: '1',
      // The page of noise and the swap header, both kept as they are.
      PagesStored: '2',
      NoCompress: '100 %',
      MemUsedTotal: '8 kB',
    });
  });

  it('shows them as JSON with the names and units of the protocol', async () => {
    const daemon = await daemonWith();
    const args = ['ramzswap0', '--stats', '--json', '--control-path', daemon.controlPath];
    const statistics = JSON.parse((await run(RZSCONTROL, args)).stdout);
    const { bdev_read_latency, bdev_write_latency, ...figures } = statistics;
    expect([bdev_read_latency, bdev_write_latency]).toEqual([1, 2].map(() => Array(24).fill(0)));
    expect(figures).toMatchObject({
      ...{ backing_swap_name: null, memlimit: 0, disksize: 64 << 20, num_reads: 0, num_writes: 0 },
      ...{ failed_reads: 0, failed_writes: 0, invalid_io: 0, notify_free: 0, pages_zero: 0 },
      ...{ pages_same: 0, good_compress_pct: 0, pages_expand_pct: 100, pages_stored: 1 },
      ...{ pages_used: 1, orig_data_size: 4096, compr_data_size: 4096, mem_used_total: 4096 },
      ...{ bdev_num_reads: 0, bdev_num_writes: 0, requests_read: 0, requests_write: 0 },
      ...{ requests_discard: 0, requests_other: 0 },
      ...{ pages_on_backing: 0, pages_lost: 0, pages_moved_out: 0, pool_limit: 0 },
    });
    expect(Object.keys(statistics).sort()).toEqual(Object.keys(FIGURES).sort());
  });

  it('grows a disk, in whole pages, as far as it was told at start', async () => {
    const daemon = await daemonWith(['--max-disksize', '128M']);
    const args = ['ramzswap0', '--control-path', daemon.controlPath];
    const grown = await run(RZSCONTROL, [...args, '--grow_kb', '131071', '--stats']);
    expect(grown.stdout).toMatch(/^DiskSize: 131068 kB$/m);
    expect((await run(RZSCONTROL, [...args, '--grow_kb=131072'])).exitCode).toBe(0);
    expect((await run(RZSCONTROL, [...args, '-g', '131068'])).exitCode).toBe(1);
    const more = await run(RZSCONTROL, [...args, '--grow_kb=131076']);
    expect(more.stderr).toMatch(/expected 131072 kB \(max-disksize\) at most/);
  });

  it('lists devices and whether a front end is there', async () => {
    const daemon = await daemonWith();
    const args = ['--json', '--control-path', daemon.controlPath];
    expect(JSON.parse((await run(RZSCONTROL, args)).stdout)).toMatchObject([
      { device: 'ramzswap0', connected: false },
    ]);
    attach(daemon);
    expect(JSON.parse((await run(RZSCONTROL, args)).stdout)).toMatchObject([
      { device: 'ramzswap0', connected: true },
    ]);
    const table = await run(RZSCONTROL, ['--control-path', daemon.controlPath]);
    expect(table.stdout).toMatch(/ramzswap0.*connected.*64 MiB/);
  });

  it.each([
    [['ramzswap9', '--stats'], 1, /no device 'ramzswap9': this daemon has ramzswap0/],
    [['ramzswap0'], 2, /expected --stats, --reset, --memlimit_kb or --grow_kb/],
    [['--grow_kb', '64'], 2, /--grow_kb: expected a device name/],
    [
      ['ramzswap0', '-g', '1'],
      1,
      /ramzswap0: disksize: expected 65536 kB, what it is, or more, got 1 kB/,
    ],
    [['ramzswap0', '-g', '65540'], 1, /expected 65536 kB \(max-disksize\) at most, got 65540 kB/],
    [['--memlimit_kb', '64'], 2, /expected a device name/],
    [['ramzswap0', '-m', '64M'], 2, /expected a number of kB from 1 to \d+, got '64M'/],
    [['ramzswap0', '-m', '64'], 1, /ramzswap0: a memory limit needs a backing swap/],
    [['--nonsense'], 2, /unknown option/],
  ])('%j ends with status %i', async (args, status, message) => {
    const daemon = await daemonWith();
    const result = await run(RZSCONTROL, [...args, '--control-path', daemon.controlPath]);
    expect(result.exitCode).toBe(status);
    expect(result.stderr).toMatch(message);
  });

  it('without a daemon ends with status 1 and the path', async () => {
    const path = join(folder(), 'nobody');
    const result = await run(RZSCONTROL, ['--control-path', path]);
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toMatch(/nobody: no such socket; is ramzswapd running\?/);
  });
});
