/**
 * What the sessions fuzzer works with: the attacked process, a guest that behaves on a device of its
 * own there, a control client, and the memory of hostile guests with canaries around its regions.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { sleepMillis } from '../driver/front-end.ts';
import { GuestRam, type RamRegion, USER_BASE } from '../driver/guest-ram.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { makeSwapFile, type SwapFile } from '../driver/swap-file.ts';
import { memoryOf, openFdsOf } from '../models/race-run.ts';
import { check } from './budget.ts';
import type { HostDevice, HostOptions } from './session-host.ts';

export const QUEUES = 4;
export const DISK_PAGES = 256;
/** No request of anybody waits longer, and no descriptor is kept longer. */
export const ANSWER_MILLIS_MAX = 5000;
/** Hostile devices: by name, one queue thread, three, and one with a backing swap. */
export const HOSTILE_DEVICES = ['one', 'three', 'backed'] as const;
export type HostileDevice = (typeof HOSTILE_DEVICES)[number];

const PAGE = 4096;
const GOOD_SLOTS = 200;
const GOOD_IN_FLIGHT_MAX = 6;
/** Windows that wait for the collector, and one V8 heap a thread; a session maps 2 MiB. */
const GROWTH_BYTES_MAX = 160 << 20;
const STDERR_TAIL = 3000;

/** Eight bytes that no page of ours holds: random pages have them once in 2^64. */
const MAGIC = Buffer.from('c0ffee91a5d3b7e9', 'hex');
const GUARD_BYTES = 65536;

/**
 * A guest's memory file: three regions, each an inner part of it with guards before and behind. The
 * first is for rings; sizes and places of the others are no whole pages.
 */
const REGIONS: readonly RamRegion[] = [
  { guestAddress: 2 ** 38, userAddress: USER_BASE, bytes: 65536, mmapOffset: GUARD_BYTES },
  {
    guestAddress: 2 ** 32 - 2 ** 19,
    userAddress: USER_BASE + 2 ** 34,
    bytes: 2 ** 19,
    mmapOffset: 3 * GUARD_BYTES,
  },
  {
    guestAddress: 2 ** 32,
    userAddress: USER_BASE + 2 ** 35,
    bytes: 2 ** 19 + 1000,
    mmapOffset: 2 ** 20 + 512,
  },
];
const FILE_BYTES = 2 ** 21;

export class GuardedRam {
  readonly ram = new GuestRam(FILE_BYTES, REGIONS);
  readonly #guards: readonly Uint8Array[];
  readonly #expected: readonly Buffer[];

  constructor() {
    const { u8 } = this.ram.window;
    const ends = [0, ...REGIONS.map(({ mmapOffset, bytes }) => mmapOffset + bytes)];
    const starts = [...REGIONS.map(({ mmapOffset }) => mmapOffset), FILE_BYTES];
    this.#guards = ends.map((end, i) => u8.subarray(end, starts[i]!));
    this.#expected = this.#guards.map((guard) => Buffer.alloc(guard.length, MAGIC));
    this.#guards.forEach((guard, i) => void guard.set(this.#expected[i]!));
  }

  check(): void {
    this.#guards.forEach((guard, i) => {
      const expected = this.#expected[i]!;
      if (Buffer.compare(guard, expected) === 0) return;
      const at = guard.findIndex((byte, n) => byte !== expected[n]);
      guard.set(expected);
      throw new Error(`guard ${i} of guest memory: byte ${at} was overwritten`);
    });
  }

  /** What was stored must not be what lies around the regions. */
  static checkStored(data: Uint8Array, where: string): void {
    const at = Buffer.from(data.buffer, data.byteOffset, data.length).indexOf(MAGIC);
    check(at < 0, `${where}: byte ${at} is from outside the guest's memory`);
  }
}

export class SessionBench {
  readonly folder: string;
  readonly child: ChildProcess;
  readonly #remove: () => void;
  readonly #swap: SwapFile;
  #stderr = '';
  #control: ControlClient | undefined;
  #good: GoodGuest | undefined;
  #fds = 0;
  #rss = 0;

  private constructor() {
    const { path, remove } = makeFolder();
    this.folder = path;
    this.#remove = remove;
    this.#swap = makeSwapFile(DISK_PAGES * PAGE);
    const common = { 'num-queues': QUEUES };
    const settings = { ...common, disksize: DISK_PAGES * PAGE };
    const backed = { ...common, 'backing-swap': this.#swap.path, memlimit: 32 * PAGE };
    const devices: HostDevice[] = [
      { name: 'good', settings, queueThreads: 3 },
      { name: 'one', settings },
      { name: 'three', settings, queueThreads: 3 },
      { name: 'backed', settings: backed },
    ];
    const options: HostOptions = { folder: path, devices };
    const program = fileURLToPath(new URL('./session-host.ts', import.meta.url));
    this.child = spawn(process.execPath, ['--import', 'tsx', program, JSON.stringify(options)], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    process.once('exit', () => this.#cleanUp());
    this.child.stderr!.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk).slice(-STDERR_TAIL);
    });
  }

  static async start(): Promise<SessionBench> {
    const bench = new SessionBench();
    const ready = once(bench.child.stdout!, 'data');
    const ended = once(bench.child, 'exit').then(() => {
      throw new Error(`the attacked process did not start: ${bench.#stderr}`);
    });
    ended.catch(() => {});
    await Promise.race([ready, ended]);
    bench.#control = await ControlClient.connect(join(bench.folder, 'control'));
    bench.#good = new GoodGuest(bench.pathOf('good'));
    // This process may end while the other runs.
    bench.child.unref();
    for (const stream of [bench.child.stdin, bench.child.stdout, bench.child.stderr]) {
      (stream as unknown as { unref(): void }).unref();
    }
    return bench;
  }

  get pid(): number {
    return this.child.pid!;
  }

  get good(): GoodGuest {
    return this.#good!;
  }

  pathOf(device: string): string {
    return join(this.folder, device);
  }

  /** Looks once, when all is warm: what must not grow from now on. */
  remember(): void {
    this.#fds = openFdsOf(this.pid);
    this.#rss = memoryOf(this.pid, 'VmRSS');
  }

  checkAlive(): void {
    const { exitCode, signalCode } = this.child;
    const how = () => `the attacked process ended: ${signalCode ?? exitCode}: ${this.#stderr}`;
    check(exitCode === null && signalCode === null, how);
  }

  /** No session is left: no more descriptors than before there was any. */
  checkDescriptors(): void {
    const millis = waitUntil(() => openFdsOf(this.pid) <= this.#fds);
    this.checkAlive();
    const more = () => openFdsOf(this.pid) - this.#fds;
    check(millis !== undefined, () => `${more()} descriptors leak: ${this.#openFiles()}`);
    // What was open for a moment at the first look, as a thread loaded its modules, hides no leak.
    this.#fds = Math.min(this.#fds, openFdsOf(this.pid));
  }

  /** What is open there, for people: the newest are the last. */
  #openFiles(): string {
    const folder = `/proc/${this.pid}/fd`;
    const files = readdirSync(folder).map((fd) => `${fd} ${readlinkSync(join(folder, fd))}`);
    return `${files.join(', ')}; it said ${this.#stderr}`;
  }

  checkMemory(): void {
    const growth = memoryOf(this.pid, 'VmRSS') - this.#rss;
    check(growth < GROWTH_BYTES_MAX, `${growth >> 20} MiB more than at first`);
  }

  /** The control client is answered, and the other device has done what was asked of it. */
  async checkControl(): Promise<void> {
    const { num_reads, num_writes } = await this.#control!.call<Statistics>('statistics', {
      device: 'good',
    });
    const { reads, writes } = this.good;
    check(
      num_reads === reads && num_writes === writes,
      `the good device counts ${num_reads} reads, ${num_writes} writes; it did ${reads}, ${writes}`,
    );
  }

  /** Ends everything, also after a failure. */
  async close(): Promise<void> {
    this.child.ref();
    const ended = once(this.child, 'exit');
    const isOver = this.child.exitCode !== null || this.child.signalCode !== null;
    this.#control?.close();
    this.#good?.close();
    this.#cleanUp();
    if (!isOver) await ended;
  }

  #cleanUp(): void {
    this.child.kill('SIGKILL');
    this.#remove();
    this.#swap.remove();
  }
}

/** Milliseconds until `condition` held; undefined when it never did. Blocks this thread. */
export function waitUntil(
  condition: () => boolean,
  millisMax = ANSWER_MILLIS_MAX,
): number | undefined {
  const start = Date.now();
  while (!condition()) {
    if (Date.now() - start > millisMax) return undefined;
    sleepMillis(0.2);
  }
  return Date.now() - start;
}

/** A guest that means no harm, with a few requests in flight at any time, each verified. */
export class GoodGuest {
  reads = 0;
  writes = 0;
  readonly #path: string;
  readonly #random = new Random(1);
  readonly #model = new Map<number, Uint8Array>();
  /** Slots with a request in flight, and when it was sent. */
  readonly #busy = new Map<number, number>();
  #guest: MultiQueueGuest;

  constructor(path: string) {
    this.#path = path;
    this.#guest = this.#connect();
  }

  #connect(): MultiQueueGuest {
    const queues = [1, 2, 3].map(() => ({ size: 32 }));
    return MultiQueueGuest.connect(this.#path, { queues, ram: new GuestRam(2 << 20) });
  }

  /**
   * Takes back what is done and asks for more. Its choices depend on what is done by then: so they
   * are drawn from numbers of its own.
   */
  pulse(): void {
    const random = this.#random;
    this.#take();
    const oldest = Math.min(...this.#busy.values());
    const waited = this.#busy.size === 0 ? 0 : Date.now() - oldest;
    check(waited < ANSWER_MILLIS_MAX, `a request of the good guest has waited for ${waited} ms`);
    const touched = new Set<number>();
    while (this.#busy.size < GOOD_IN_FLIGHT_MAX) {
      const slot = random.between(2, GOOD_SLOTS);
      if (this.#busy.has(slot)) continue;
      const queue = this.#guest.queues[slot % 3]!;
      const data = random.page();
      const isWrite = random.oneIn(2);
      queue.driver.submit(isWrite ? write(slot, data) : read(slot, 1));
      this.#busy.set(slot, Date.now());
      touched.add(queue.index);
    }
    for (const index of touched) this.#guest.queues[index]!.driver.flush();
  }

  /** Until nothing is in flight. */
  settle(): void {
    this.#guest.completeAll((_, done) => this.#judge(done), ANSWER_MILLIS_MAX);
  }

  reconnect(): void {
    this.settle();
    this.#guest.close();
    this.#guest = this.#connect();
  }

  close(): void {
    this.#guest.close();
  }

  #take(): void {
    this.#guest.takeCompleted((_, done) => this.#judge(done));
  }

  #judge({ ticket, status, data }: Parameters<Parameters<MultiQueueGuest['completeAll']>[0]>[1]) {
    const { request } = ticket;
    const slot = Number(request.sector) / 8;
    this.#busy.delete(slot);
    check(status === 0, `the good guest: slot ${slot}: status ${status}`);
    if (request.data !== undefined) {
      this.writes++;
      this.#model.set(slot, request.data);
      return;
    }
    this.reads++;
    const expected = this.#model.get(slot) ?? new Uint8Array(PAGE);
    check(Buffer.compare(data, expected) === 0, `the good guest: slot ${slot}: other bytes`);
  }
}
