/** The built daemon as a child process, and a driver's connection to it. */

import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import { EPOLLIN, Epoll } from '../../src/native/epoll.ts';
import { createEventFd, drainEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { PROTOCOL_FEATURES } from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { FrontEnd } from './front-end.ts';
import { type Completion, GuestDriver } from './guest-driver.ts';
import { GuestRam } from './guest-ram.ts';
import { makeFolder } from './sockets.ts';

const built = (name: string) =>
  fileURLToPath(new URL(`../../dist/bin/${name}.js`, import.meta.url));
export const RAMZSWAPD = built('ramzswapd');
export const RZSCONTROL = built('rzscontrol');
export const isBuilt = existsSync(RAMZSWAPD) && existsSync(RZSCONTROL);

const START_MILLIS_MAX = 20_000;
const SLICE_MILLIS = 50;

export function sleep(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis));
}

/** Waits until `condition` holds, looking every few milliseconds; throws with `what` otherwise. */
export async function until(condition: () => boolean, what: string, millis: number): Promise<void> {
  const end = Date.now() + millis;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited ${millis} ms in vain: ${what}`);
    await sleep(2);
  }
}

type Child = ResultPromise<{ reject: false; stdin: 'ignore' }>;

export class Daemon {
  readonly folder: { path: string; remove: () => void };
  readonly socketPath: string;
  readonly child: Child;
  stderr = '';
  /** What Node itself prints: --trace-gc. */
  stdout = '';

  private constructor(folder: { path: string; remove: () => void }, child: Child, path: string) {
    this.folder = folder;
    this.child = child;
    this.socketPath = path;
    child.stderr?.on('data', (chunk: Buffer) => {
      this.stderr += chunk.toString();
    });
    child.stdout?.on('data', (chunk: Buffer) => {
      this.stdout += chunk.toString();
    });
  }

  /**
   * Starts a daemon that listens in a folder of its own, and waits for its socket. `wrapper`: a
   * program, with its arguments, that becomes what it is given to run. `fds`: it has them from 3 on.
   */
  static async start(
    args: readonly string[] = [],
    env = {},
    folder = makeFolder(),
    nodeFlags: readonly string[] = [],
    wrapper: readonly string[] = [],
    fds: readonly number[] = [],
  ): Promise<Daemon> {
    const path = join(folder.path, 'vhost.sock');
    // A killed one has left it.
    rmSync(path, { force: true });
    const disksize = args.includes('--backing-swap') ? [] : ['--disksize', '64M'];
    const all = ['--socket-path', path, ...disksize, ...args];
    const [program, ...rest] = [...wrapper, process.execPath, ...nodeFlags, RAMZSWAPD, ...all];
    const child = execa(program!, rest, {
      reject: false,
      stdio: ['ignore', 'pipe', 'pipe', ...(fds as unknown as 'pipe'[])],
      env,
    });
    const daemon = new Daemon(folder, child as Child, path);
    try {
      await until(() => existsSync(path) || child.exitCode !== null, 'socket', START_MILLIS_MAX);
      if (child.exitCode !== null) throw new Error('it ended');
      return daemon;
    } catch (error) {
      child.kill('SIGKILL');
      throw new Error(`the daemon did not start: ${daemon.stderr}`, { cause: error });
    }
  }

  /**
   * Starts another that takes over from this one; resolves when it has, or when it has given up and
   * ended. It is in this one's place then, folder and all.
   */
  async successor(args: readonly string[] = [], env = {}): Promise<Daemon> {
    const daemon = this.beginSuccessor(args, env);
    const isOver = () => / ready"/.test(daemon.stderr) || daemon.child.exitCode !== null;
    await until(isOver, 'a take-over', START_MILLIS_MAX);
    return daemon;
  }

  /** The same, not waited for. */
  beginSuccessor(args: readonly string[] = [], env = {}): Daemon {
    const all = ['--socket-path', this.socketPath, '--take-over', ...args];
    const options = { reject: false, stdin: 'ignore', env } as const;
    const child = execa(process.execPath, [RAMZSWAPD, ...all], options);
    return new Daemon(this.folder, child as Child, this.socketPath);
  }

  get pid(): number {
    return this.child.pid!;
  }

  get controlPath(): string {
    return `${this.socketPath}.control`;
  }

  async stop(): Promise<void> {
    this.child.kill('SIGTERM');
    await this.child;
    this.folder.remove();
  }
}

export interface AttachOptions {
  readonly size?: number;
  readonly eventIdx?: boolean;
  readonly ramBytes?: number;
  readonly index?: number;
  readonly startIndex?: number;
}

/** One ring of a daemon's device, running: driver, descriptors for kick, call and err. */
export class AttachedDriver {
  readonly frontEnd: FrontEnd;
  readonly ram: GuestRam;
  readonly driver: GuestDriver;
  readonly kickFd = createEventFd();
  readonly callFd = createEventFd();
  readonly errFd = createEventFd();
  readonly #epoll = new Epoll();
  kicks = 0;
  sleeps = 0;

  constructor(frontEnd: FrontEnd, options: AttachOptions = {}) {
    this.frontEnd = frontEnd;
    this.ram = new GuestRam(options.ramBytes ?? 8 << 20);
    this.driver = new GuestDriver(this.ram, options.size ?? 128, options, () => {
      this.kicks++;
      signalEventFd(this.kickFd);
    });
    this.#epoll.add(this.callFd, EPOLLIN, 0);
    const eventIdx = options.eventIdx === false ? 0n : VIRTIO_RING_F_EVENT_IDX;
    const features = BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | eventIdx;
    const index = options.index ?? 0;
    frontEnd.negotiate(features, PROTOCOL_FEATURES);
    frontEnd.setMemoryTable(this.ram);
    const fds = { kick: this.kickFd, call: this.callFd, err: this.errFd };
    frontEnd.startRing(index, this.driver.ring, fds);
    frontEnd.setEnabled(index, true);
  }

  static connect(daemon: Daemon, options: AttachOptions = {}): AttachedDriver {
    return new AttachedDriver(FrontEnd.connect(daemon.socketPath), options);
  }

  /**
   * Takes back everything in flight, sleeping on the call descriptor as a guest waits for its
   * interrupt. Throws when no interrupt comes within `millis`.
   */
  completeAll(millis = 2000): Completion[] {
    const done = this.driver.complete();
    while (this.driver.inFlight > 0) {
      if (!this.driver.ring.enableInterrupts()) this.#waitForCall(millis);
      this.driver.ring.disableInterrupts();
      done.push(...this.driver.complete());
    }
    return done;
  }

  /** Only time that passed as it should is counted: when the whole machine stands still, it waits. */
  #waitForCall(millis: number): void {
    this.sleeps++;
    for (let waited = 0; waited < millis; ) {
      const slice = Math.min(SLICE_MILLIS, millis - waited);
      if (this.#epoll.wait(slice) === 0) {
        waited += slice;
        continue;
      }
      drainEventFd(this.callFd);
      // A signal that belongs to nothing in particular is allowed: look, and wait again.
      if (this.driver.ring.usedCount > 0) return;
    }
    throw new Error(`no interrupt for ${millis} ms: ${this.#state()}`);
  }

  /** Which direction was lost: chains that the device has not returned, or an interrupt for them. */
  #state(): string {
    const { ring, inFlight } = this.driver;
    return ring.usedCount > 0
      ? `${ring.usedCount} used elements without a call`
      : `${inFlight} chains not returned, avail.idx ${ring.availIdx}, avail_event ${ring.availEvent}`;
  }

  close(): void {
    this.frontEnd.close();
    for (const fd of [this.kickFd, this.callFd, this.errFd]) closeFd(fd);
    this.#epoll.close();
    this.ram.close();
  }
}
