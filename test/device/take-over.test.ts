/**
 * Daemons that take over from one another while a guest is at work: nothing of it is lost, doubled or
 * wrong, and whatever fails on the way, one of the two serves.
 */

import { existsSync, readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import { serveControl } from '../../src/control/server.ts';
import {
  awaitWord,
  HANDOVER_VERSION,
  KEPT,
  receiveState,
  sendState,
  sendWord,
  TAKEN,
  YOURS,
} from '../../src/device/handover.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  acceptConnection,
  connectUnix,
  listenUnix,
  receiveWithFds,
} from '../../src/native/socket.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { Daemon, isBuilt, sleep, until } from '../driver/daemon.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { DeviceProgram } from '../models/device-program.ts';
import { MixedLoad } from '../models/mixed-load.ts';
import { MODEL_DAEMON_ARGS, MODEL_DISK_BYTES } from '../models/model-run.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20261125);
const PAGE = 4096;
const NAME = 'ramzswap0';
const O_CLOEXEC = 0o2000000;
const RING_SIZES = [1024, 256, 128, 32];
/** The guest waits no longer, however busy this machine is. */
const PAUSE_MILLIS_MAX = 5000;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function start(args: readonly string[] = []): Promise<Daemon> {
  const daemon = await Daemon.start(args);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

/** Resolves when one has taken over; the old one has ended by itself. */
async function upgraded(old: Daemon, args: readonly string[] = []): Promise<Daemon> {
  const next = await old.successor(args);
  cleanUps.push(() => next.stop());
  expect(next.child.exitCode, next.stderr).toBeNull();
  expect((await old.child).exitCode, old.stderr).toBe(0);
  return next;
}

/** One that has given up: what it said. */
async function refused(old: Daemon, args: readonly string[] = []): Promise<string> {
  const next = await old.successor(args);
  cleanUps.push(() => next.child.kill('SIGKILL'));
  expect((await next.child).exitCode, next.stderr).toBe(1);
  expect(old.child.exitCode).toBeNull();
  return next.stderr;
}

function connect(daemon: Daemon, queues = RING_SIZES.length): MultiQueueGuest {
  const setups = RING_SIZES.slice(0, queues).map((size, i) => ({ size, startIndex: 65530 + i }));
  const guest = MultiQueueGuest.connect(daemon.socketPath, { queues: setups });
  cleanUps.push(() => guest.close());
  return guest;
}

/** Requests on one queue, all at once: what was read. */
function run(guest: MultiQueueGuest, requests: ReturnType<typeof read>[], queue = 0): Uint8Array[] {
  const { driver } = guest.queues[queue]!;
  for (const request of requests) driver.submit(request);
  driver.flush();
  const found: Uint8Array[] = [];
  guest.completeAll((_, { status, data }) => {
    expect(status).toBe(0);
    found.push(data);
  });
  return found;
}

async function call<T>(daemon: Daemon, method: string, params: object = {}): Promise<T> {
  const client = await ControlClient.connect(daemon.controlPath);
  try {
    return await client.call<T>(method, params);
  } finally {
    client.close();
  }
}

const statistics = (daemon: Daemon) => call<Statistics>(daemon, 'statistics', { device: NAME });

/** How many descriptors a process has, and which of them a program that it started would get. */
function descriptors({ pid }: Daemon): { count: number; leaking: string[] } {
  const all = readdirSync(`/proc/${pid}/fd`);
  const isLeaking = (fd: string) => {
    const path = `/proc/${pid}/fdinfo/${fd}`;
    // It may have been closed meanwhile.
    if (Number(fd) <= 2 || !existsSync(path)) return false;
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(path, 'utf8'))![1]!;
    return (Number.parseInt(flags, 8) & O_CLOEXEC) === 0;
  };
  return { count: all.length, leaking: all.filter(isLeaking) };
}

describe.skipIf(!isBuilt)('a guest at work', () => {
  it.each([
    ['one thread', ['1', '1', '1', '1']],
    ['four threads', ['4', '4', '4']],
    ['another number of threads each time', ['1', '3', '2', '1']],
  ])('sees nothing of take-overs: %s', async (_, threads) => {
    const args = (n: number) => [...MODEL_DAEMON_ARGS.slice(2), '--queue-threads', threads[n]!];
    const info = ['--log-level', 'info'];
    let daemon = await start([...MODEL_DAEMON_ARGS, '--queue-threads', threads[0]!]);
    const guest = connect(daemon);
    const [header] = run(guest, [read(0, 1)]);
    const slots = MODEL_DISK_BYTES / PAGE;
    const program = new DeviceProgram({ seed: SEED, slots, name: NAME, header: header! });
    program.model.apply({ kind: 'read', sector: 0n, pages: 1 });
    for (let n = 1; n < threads.length; n++) {
      const next = daemon.beginSuccessor([...args(n), ...info]);
      cleanUps.push(() => next.stop());
      // The requests of many batches are under way at whatever moment it takes over.
      for (let isOver = false; !isOver; ) {
        isOver = / ready"/.test(next.stderr);
        expect(next.child.exitCode, next.stderr).toBeNull();
        program.submit(guest.queues.map(({ driver }) => driver));
        for (const { driver } of guest.queues) driver.flush();
        guest.completeAll(({ index }, done) => program.take(index, done));
        await sleep(0);
      }
      expect((await daemon.child).exitCode).toBe(0);
      daemon = next;
      const { statistics, connected } = (await call<[DeviceStatus]>(daemon, 'devices'))[0];
      expect(connected).toBe(true);
      program.compareStatistics(statistics!);
    }
    expect(program.operations).toBeGreaterThan(1000);
  });

  it('waits for no time to be up: the longest pause is reported', async () => {
    const args = ['--num-queues', '4', '--queue-threads', '2'];
    let daemon = await start(args);
    const queues = RING_SIZES.map(() => ({ size: 512 }));
    const guest = MultiQueueGuest.connect(daemon.socketPath, { queues });
    cleanUps.push(() => guest.close());
    const load = new MixedLoad(SEED, 8192);
    const quiet = await longestGap(guest, load, () => false, 3000);
    const gaps: number[] = [];
    const waits: string[] = [];
    for (let n = 0; n < 4; n++) {
      const next = daemon.beginSuccessor(args);
      cleanUps.push(() => next.stop());
      const isOver = () => /guest waited/.test(next.stderr) || next.child.exitCode !== null;
      gaps.push(await longestGap(guest, load, isOver, 20_000));
      expect(next.child.exitCode, next.stderr).toBeNull();
      await daemon.child;
      daemon = next;
      waits.push(/the guest waited ([\d.]+) ms/.exec(next.stderr)![1]!);
    }
    const text = gaps.map((gap) => gap.toFixed(0)).join(', ');
    const alone = `without one ${quiet.toFixed(0)} ms`;
    const own = `by the daemon's own account ${waits.join(', ')} ms`;
    process.stderr.write(`\nlongest wait with a take-over ${text} ms, ${alone}; ${own}\n`);
    expect(Math.max(...gaps)).toBeLessThan(PAUSE_MILLIS_MAX);
  });
});

/** Runs load until `isOver`: the longest time in which nothing was completed. */
async function longestGap(
  guest: MultiQueueGuest,
  load: MixedLoad,
  isOver: () => boolean,
  millisMax: number,
): Promise<number> {
  const end = performance.now() + millisMax;
  let longest = 0;
  while (!isOver() && performance.now() < end) {
    // A few milliseconds at a time: this thread hears of the processes in between.
    const before = performance.now();
    load.run(guest, 32, 8);
    longest = Math.max(longest, performance.now() - before);
    await sleep(0);
  }
  return longest;
}

/** What came from the old process: a socket to it, the state, and its descriptors. */
interface Taken {
  readonly socket: number;
  readonly text: string;
  readonly fds: number[];
  /** Settled when the old process has answered the call, or has ended. */
  readonly answer: Promise<string>;
}

const soon = () => performance.now() + 5000;

/** Plays the new process as far as its socket: the old one has paused, and sends, or waits. */
async function askFor(daemon: Daemon, version = HANDOVER_VERSION) {
  const folder = makeFolder();
  cleanUps.push(folder.remove);
  const path = join(folder.path, 'new');
  const listening = listenUnix(path);
  const client = await ControlClient.connect(daemon.controlPath);
  const called = client.call('handOver', { device: NAME, path, version });
  const answer = called.then(
    () => 'handed over',
    (error: Error) => error.message,
  );
  void answer.finally(() => client.close());
  const isAnswered = answer.then(() => -1);
  let socket = acceptConnection(listening);
  for (; socket < 0; socket = acceptConnection(listening)) {
    const first = await Promise.race([isAnswered, sleep(1)]);
    if (first === -1) break;
  }
  closeFd(listening);
  return { socket, answer };
}

async function take(daemon: Daemon): Promise<Taken> {
  const { socket, answer } = await askFor(daemon);
  return { socket, answer, ...receiveState(socket, soon()) };
}

function drop({ socket, fds }: Pick<Taken, 'socket' | 'fds'>): void {
  for (const fd of [socket, ...fds]) closeFd(fd);
}

/** A guest whose pages are known, and that finds them whoever serves it. */
function guestOf(daemon: Daemon) {
  const guest = connect(daemon, 2);
  const random = new Random(SEED);
  const pages: Uint8Array[] = [];
  const check = () => {
    pages.push(random.page());
    run(guest, [write(100 + pages.length, pages.at(-1)!)], pages.length % 2);
    const reads = pages.map((_, i) => read(101 + i, 1));
    expect(run(guest, reads, (pages.length + 1) % 2)).toEqual(pages);
  };
  check();
  return { guest, check };
}

describe.skipIf(!isBuilt)('the old process serves on', () => {
  /** Whatever was done to it: the same session, nothing left open, and ready for the next. */
  async function expectServing(break_: (daemon: Daemon) => Promise<string>): Promise<void> {
    const daemon = await start(['--queue-threads', '2']);
    const { check } = guestOf(daemon);
    await statistics(daemon);
    const before = descriptors(daemon);
    const answer = await break_(daemon);
    check();
    expect(answer).not.toBe('handed over');
    await until(() => descriptors(daemon).count <= before.count, 'descriptors closed', 2000);
    const next = await upgraded(daemon, ['--queue-threads', '2']);
    check();
    // What it was started with aside.
    expect(descriptors(next).leaking).toEqual(before.leaking);
  }

  it('when the new one is of another version', async () => {
    await expectServing(async (daemon) => {
      const { socket, answer } = await askFor(daemon, HANDOVER_VERSION + 1);
      expect(socket).toBeLessThan(0);
      expect(await answer).toContain(`version ${HANDOVER_VERSION}, got`);
      return answer;
    });
  });

  it('when nobody listens where the new one should', async () => {
    await expectServing(async (daemon) => {
      const params = { device: NAME, path: '/nowhere/at/all', version: HANDOVER_VERSION };
      const answer = await call(daemon, 'handOver', params).catch((error: Error) => error.message);
      expect(answer).toContain('/nowhere/at/all');
      return String(answer);
    });
  });

  it.each([0, 8, 200])('when the new one ends after %i bytes', async (bytes) => {
    await expectServing(async (daemon) => {
      const { socket, answer } = await askFor(daemon);
      const fds: number[] = [];
      const scratch = new Uint8Array(new ArrayBuffer(256));
      for (let got = 0; got < bytes; ) {
        got += Math.max(0, receiveWithFds(socket, scratch, 0, bytes - got, fds));
      }
      drop({ socket, fds });
      return answer;
    });
  });

  it.each([
    ['ends with everything in its hands', []],
    ['says something else', [KEPT]],
  ])('when the new one %s', async (_, words) => {
    await expectServing(async (daemon) => {
      const taken = await take(daemon);
      for (const word of words) sendWord(taken.socket, word, soon());
      if (words.length > 0) expect(awaitWord(taken.socket, soon())).toBe(KEPT);
      drop(taken);
      expect(await taken.answer).toContain('did not take it');
      return taken.answer;
    });
  });

  it('when the new one ends before it can be told that it is its', async () => {
    await expectServing(async (daemon) => {
      const taken = await take(daemon);
      process.kill(daemon.pid, 'SIGSTOP');
      sendWord(taken.socket, TAKEN, soon());
      drop(taken);
      process.kill(daemon.pid, 'SIGCONT');
      expect(await taken.answer).toContain('EPIPE');
      return taken.answer;
    });
  });

  it('when the new one hangs, after five seconds; meanwhile nobody else may take over', async () => {
    await expectServing(async (daemon) => {
      const taken = await take(daemon);
      const second = await askFor(daemon);
      expect(await second.answer).toContain('taking over already');
      expect(awaitWord(taken.socket, performance.now() + 9000)).toBe(KEPT);
      drop(taken);
      return taken.answer;
    });
  });

  it('to be ended by a signal that came meanwhile, with its sockets removed', async () => {
    const daemon = await start();
    const taken = await take(daemon);
    process.kill(daemon.pid, 'SIGTERM');
    await sleep(300);
    expect(existsSync(daemon.socketPath)).toBe(true);
    drop(taken);
    expect((await daemon.child).exitCode).toBe(0);
    expect(existsSync(daemon.socketPath)).toBe(false);
  });
});

/**
 * A real new process that takes over from a real old one through this test, which stands in the middle
 * and lets through what it likes.
 */
async function between(old: Daemon, args: readonly string[] = []) {
  const taken = await new Promise<Taken & { next: Daemon; toNext: number }>((resolve, reject) => {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const controlPath = join(folder.path, 'control');
    const controlFd = listenUnix(controlPath);
    const next = old.beginSuccessor(['--control-path', controlPath, ...args]);
    cleanUps.push(() => next.stop());
    const server = serveControl(controlFd, {
      devices: () => [{ device: NAME } as DeviceStatus],
      handOver: async ({ path }) => {
        try {
          const toNext = connectUnix(path);
          resolve({ ...(await take(old)), next, toNext });
        } catch (error) {
          reject(error);
        }
        return new Promise(() => {});
      },
    });
    cleanUps.push(() => server.close());
  });
  const { next, toNext } = taken;
  const pass = (text = taken.text) => sendState(toNext, { text, fds: taken.fds }, soon());
  const nextTakes = async () => {
    await sleep(0);
    expect(awaitWord(toNext, soon())).toBe(TAKEN);
  };
  const oldKeeps = async () => {
    drop(taken);
    await taken.answer;
  };
  return { ...taken, next, toNext, pass, nextTakes, oldKeeps };
}

describe.skipIf(!isBuilt)('the new process', () => {
  it('serves when the old one is killed with everything sent', async () => {
    const old = await start();
    const { check } = guestOf(old);
    const { toNext, next, pass, nextTakes, socket, fds } = await between(old);
    pass();
    await nextTakes();
    old.child.kill('SIGKILL');
    await old.child;
    closeFd(toNext);
    drop({ socket, fds });
    check();
    expect(next.child.exitCode).toBeNull();
  });

  it('serves when the old one is killed before it could be told so', async () => {
    const old = await start();
    const { check } = guestOf(old);
    const { toNext, pass, socket, fds } = await between(old);
    pass();
    closeFd(toNext);
    old.child.kill('SIGKILL');
    await old.child;
    drop({ socket, fds });
    check();
  });

  it('waits for the word of an old one that is stopped, for as long as it takes', async () => {
    const old = await start();
    const { check } = guestOf(old);
    const { toNext, next, pass, nextTakes, socket, fds } = await between(old);
    pass();
    await nextTakes();
    await sleep(6000);
    expect(next.child.exitCode).toBeNull();
    old.child.kill('SIGKILL');
    await old.child;
    sendWord(toNext, YOURS, soon());
    check();
    for (const fd of [toNext, socket, ...fds]) closeFd(fd);
  });

  it('ends when the old one has gone on, which has lost nothing', async () => {
    const old = await start();
    const { check } = guestOf(old);
    const { toNext, next, pass, nextTakes, oldKeeps } = await between(old);
    pass();
    await nextTakes();
    sendWord(toNext, KEPT, soon());
    closeFd(toNext);
    await oldKeeps();
    check();
    expect((await next.child).exitCode).toBe(1);
    expect(next.stderr).toContain('the old process has gone on');
    check();
  });

  it('refuses a state of another version, and half of one, at once', async () => {
    const old = await start();
    const { check } = guestOf(old);
    const first = await between(old);
    first.pass(first.text.replace(`"version":${HANDOVER_VERSION}`, '"version":77'));
    expect((await first.next.child).stderr).toContain(
      `expected version ${HANDOVER_VERSION}, got 77`,
    );
    closeFd(first.toNext);
    await first.oldKeeps();
    const second = await between(old);
    second.pass(second.text.slice(0, -10));
    expect((await second.next.child).stderr).toContain("expected a device's state");
    closeFd(second.toNext);
    await second.oldKeeps();
    check();
  });

  it('refuses a store of another format', async () => {
    const old = await start();
    const { check } = guestOf(old);
    const { toNext, next, pass, oldKeeps, text, fds } = await between(old);
    const { files } = JSON.parse(text) as { files: { fd: number } };
    const version = Buffer.alloc(4);
    readSync(fds[files.fd]!, version, 0, 4, 4);
    writeSync(fds[files.fd]!, Buffer.from([99, 0, 0, 0]), 0, 4, 4);
    pass();
    expect((await next.child).stderr).toMatch(/format of the store: expected \d+, got 99/);
    writeSync(fds[files.fd]!, version, 0, 4, 4);
    closeFd(toNext);
    await oldKeeps();
    check();
  });

  it('is refused where it is another device', async () => {
    const old = await start(['--num-queues', '8']);
    const { check } = guestOf(old);
    for (const [args, why] of [
      [['--name', 'other', '--num-queues', '8'], 'name: expected ramzswap0, got other'],
      [['--num-queues', '4'], 'num-queues: expected 8, got 4'],
      [['--num-queues', '8', '--guest-page-size', '16384'], 'guest-page-size: expected 4096'],
    ] as const) {
      expect(await refused(old, args)).toContain(why);
      check();
    }
  });
});
