/**
 * The random program of device-program.ts while connections end at any moment, also in the middle of
 * a handshake, and the daemon is killed, with requests in flight on all queues: each must come back
 * once, with the right result, and every page must be what the model says. Tests run a short one,
 * scripts/stress.ts a long one.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { Daemon } from '../driver/daemon.ts';
import { ConnectionClosed, FrontEnd, sleepMillis } from '../driver/front-end.ts';
import type { Completion } from '../driver/guest-driver.ts';
import { MultiQueueGuest, type QueueDriver } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { DeviceProgram } from './device-program.ts';
import { MODEL_DISK_BYTES, MODEL_NAME, MODEL_RING_SIZES } from './model-run.ts';

const PAGE_BYTES = 4096;
const SLOTS = MODEL_DISK_BYTES / PAGE_BYTES;
/** A handshake has some fifty messages. */
const HANDSHAKE_MESSAGES = 60;
const CONNECT_MILLIS_MAX = 20_000;
const ANSWER_MILLIS_MAX = 5_000;
/** Of a batch, which takes some milliseconds. */
const RUNNING_MICROS_MAX = 3_000;
const SWEEP_PAGES = 64;

/** A daemon that can be killed, and is there again at once; its store is in files. */
export class MortalDaemon {
  readonly #start: () => Promise<Daemon>;
  readonly #folder: { path: string; remove: () => void };
  readonly #storeDirectory: string;
  #daemon: Daemon;

  private constructor(
    daemon: Daemon,
    start: () => Promise<Daemon>,
    folder: { path: string; remove: () => void },
    storeDirectory: string,
  ) {
    this.#daemon = daemon;
    this.#start = start;
    this.#folder = folder;
    this.#storeDirectory = storeDirectory;
  }

  static async start(args: readonly string[], env = {}): Promise<MortalDaemon> {
    const folder = makeFolder();
    const storeDirectory = mkdtempSync('/dev/shm/rz-test-');
    const all = [...args, '--store-dir', storeDirectory];
    const start = () => Daemon.start(all, env, { path: folder.path, remove: () => {} });
    try {
      return new MortalDaemon(await start(), start, folder, storeDirectory);
    } catch (error) {
      rmSync(storeDirectory, { recursive: true });
      folder.remove();
      throw error;
    }
  }

  get current(): Daemon {
    return this.#daemon;
  }

  /** Killed at this moment; resolves when the next one listens. */
  async kill(): Promise<void> {
    this.#daemon.child.kill('SIGKILL');
    await this.#daemon.child;
    this.#daemon = await this.#start();
  }

  async stop(): Promise<void> {
    await this.#daemon.stop();
    this.#folder.remove();
    rmSync(this.#storeDirectory, { recursive: true });
  }
}

export interface ReconnectRunOptions {
  readonly seed: number;
  readonly operations: number;
  /** Requests are tracked in an in-flight area; without, they are returned in order. */
  readonly hasInflight: boolean;
  /** The daemon has a backing swap as large as MODEL_DISK_BYTES. */
  readonly hasBacking?: boolean;
  /** Of so many batches one is interrupted; default 4. */
  readonly batchesPerCut?: number;
  /** Of so many interruptions one is a kill; default: none. */
  readonly cutsPerKill?: number;
  readonly onProgress?: (operations: number) => void;
}

export interface ReconnectFigures {
  operations: number;
  /** Connections that ended with requests in flight, handshakes that did not come to their end. */
  cuts: number;
  brokenHandshakes: number;
  kills: number;
  /** Requests in flight at all cuts and kills. */
  interrupted: number;
}

/** Runs the program on a fresh daemon; throws at the first difference. */
export async function runReconnects(
  daemon: { readonly current: Daemon; kill?: () => Promise<void> },
  options: ReconnectRunOptions,
): Promise<ReconnectFigures> {
  const run = new ReconnectRun(daemon, options);
  try {
    return await run.run();
  } finally {
    run.close();
  }
}

class ReconnectRun {
  readonly figures: ReconnectFigures = {
    ...{ operations: 0, cuts: 0, brokenHandshakes: 0, kills: 0, interrupted: 0 },
  };
  readonly #daemon: { readonly current: Daemon; kill?: () => Promise<void> };
  readonly #options: ReconnectRunOptions;
  /** What is done when; the program's own is for the requests. */
  readonly #random: Random;
  readonly #guest: MultiQueueGuest;
  readonly #program: DeviceProgram;

  constructor(
    daemon: { readonly current: Daemon; kill?: () => Promise<void> },
    options: ReconnectRunOptions,
  ) {
    const { seed, hasInflight, hasBacking = false } = options;
    this.#daemon = daemon;
    this.#options = options;
    this.#random = new Random(seed + 1);
    // Their indices wrap around early.
    const queues = MODEL_RING_SIZES.map((size, i) => ({
      size,
      startIndex: 65_536 - 500 * (i + 1),
    }));
    const { socketPath } = daemon.current;
    this.#guest = MultiQueueGuest.connect(socketPath, { queues, hasInflight });
    const header = this.#readAll(0, 1)[0]!;
    const shape = { seed, slots: SLOTS, name: MODEL_NAME, header, hasBacking };
    this.#program = new DeviceProgram({ ...shape, isRepeated: true });
  }

  async run(): Promise<ReconnectFigures> {
    const { figures } = this;
    const { operations, batchesPerCut = 4, onProgress = () => {} } = this.#options;
    const guest = this.#guest;
    const program = this.#program;
    while (figures.operations < operations) {
      program.submit(guest.queues.map(({ driver }) => driver));
      for (const { driver } of guest.queues) driver.flush();
      if (this.#random.oneIn(batchesPerCut)) await this.#interrupt();
      guest.completeAll(this.#take, ANSWER_MILLIS_MAX);
      figures.operations = program.operations;
      onProgress(figures.operations);
      // Statistics take a turn of the event loop, which the runner of tests wants now and then too.
      if (this.#random.oneIn(16)) program.compareHeld(await this.#statistics());
    }
    program.compareHeld(await this.#statistics());
    this.#sweep();
    return figures;
  }

  close(): void {
    this.#guest.close();
  }

  readonly #take = ({ index }: QueueDriver, done: Completion) => this.#program.take(index, done);

  /** Once or more often in a row: what is done again is interrupted too. */
  async #interrupt(): Promise<void> {
    const guest = this.#guest;
    const { cutsPerKill = Number.POSITIVE_INFINITY } = this.#options;
    do {
      this.#letRun(this.#random.below(RUNNING_MICROS_MAX));
      this.figures.interrupted += guest.inFlight;
      if (cutsPerKill < Number.POSITIVE_INFINITY && this.#random.oneIn(cutsPerKill)) {
        await this.#daemon.kill!();
        this.figures.kills++;
      } else {
        this.figures.cuts++;
      }
      if (this.#random.oneIn(8)) this.#breakHandshake();
      this.#reconnect();
    } while (this.#random.oneIn(3));
  }

  /** Takes back what comes meanwhile, or leaves it for the next connection. */
  #letRun(micros: number): void {
    const end = performance.now() + micros / 1000;
    const takes = this.#random.oneIn(2);
    while (performance.now() < end) if (takes) this.#guest.takeCompleted(this.#take);
  }

  #breakHandshake(): void {
    const messages = this.#random.below(HANDSHAKE_MESSAGES);
    if (!this.#tryToConnect(messages)) this.figures.brokenHandshakes++;
  }

  #reconnect(): void {
    const deadline = Date.now() + CONNECT_MILLIS_MAX;
    while (!this.#tryToConnect(Number.POSITIVE_INFINITY)) {
      if (Date.now() > deadline) throw new Error('the daemon takes no connection any more');
      // It has not noticed yet that the last one has ended.
      sleepMillis(1);
    }
  }

  #tryToConnect(messages: number): boolean {
    const frontEnd = FrontEnd.connect(this.#daemon.current.socketPath);
    frontEnd.messagesLeft = messages;
    try {
      this.#guest.reconnect(frontEnd);
      return true;
    } catch (error) {
      if (error instanceof ConnectionClosed) return false;
      throw error;
    }
  }

  async #statistics(): Promise<Statistics> {
    const control = await ControlClient.connect(this.#daemon.current.controlPath);
    try {
      return await control.call<Statistics>('statistics', { device: MODEL_NAME });
    } finally {
      control.close();
    }
  }

  /** Every page, once. */
  #sweep(): void {
    for (let first = 0; first < SLOTS; first += SWEEP_PAGES) {
      this.#readAll(first, SWEEP_PAGES).forEach((page, i) => {
        const isRight = Buffer.compare(page, this.#program.model.store.page(first + i)) === 0;
        if (!isRight) throw new Error(`page ${first + i} is not what the model says`);
      });
    }
  }

  #readAll(first: number, count: number): Uint8Array[] {
    const { driver } = this.#guest.queues[0]!;
    const pages: Uint8Array[] = [];
    driver.submit(read(first, count));
    driver.flush();
    this.#guest.completeAll((_, { status, data }) => {
      if (status !== 0) throw new Error(`pages from ${first}: status ${status}`);
      for (let at = 0; at < data.length; at += PAGE_BYTES) {
        pages.push(data.subarray(at, at + PAGE_BYTES));
      }
    });
    return pages;
  }
}
