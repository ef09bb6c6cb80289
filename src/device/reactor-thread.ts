/**
 * A reactor thread, with the queue threads that help it, as the control thread sees it: start, order,
 * stop, and its devices' figures. The control thread makes them all, for a thread that never returns
 * to its event loop cannot; orders go to the reactor alone, which calls the others.
 */

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { makeFileWindow, mapInFileWindow, releaseWindow } from '../memory/memory-file.ts';
import type { Window } from '../memory/window.ts';
import { bootSeconds, threadCpuMicros } from '../native/clock.ts';
import { createEventFd, signalEventFd } from '../native/eventfd.ts';
import { abortWith } from '../native/process.ts';
import { FIGURES_BYTES, type HeaderFigures, headerFigures } from '../store/layout.ts';
import { readStatistics, type Statistics } from '../store/statistics.ts';
import type { DeviceTerms } from './device-terms.ts';
import { DiscardedFds } from './discarding.ts';
import type { DiskOptions } from './disk.ts';
import type { Order, QueueWorkerOptions, ReactorOptions, ReactorReport } from './orders.ts';
import { type LineEnd, makeLine } from './thread-call.ts';

/** How long somebody who closes a disk waits for its I/O, and between two tries. */
const SETTLE_MILLIS_MAX = 5000;
const SETTLE_LOOK_MILLIS = 50;

export type LogReport = Extract<ReactorReport, { kind: 'log' }>;

export interface ReactorThreadEvents {
  log(report: LogReport): void;
  connection(device: string, isConnected: boolean): void;
  /** A front end has started its first queue, or stopped its last. */
  running(device: string, isRunning: boolean): void;
}

interface MappedDisk {
  readonly options: DiskOptions;
  /** Over the beginning of its bookkeeping. */
  readonly window: Window;
  readonly figures: HeaderFigures;
}

export class ReactorThread {
  readonly #worker: Worker;
  readonly #events: ReactorThreadEvents;
  readonly #wakeFd: number;
  /** Of the devices that have a disk. */
  readonly #disks = new Map<string, MappedDisk>();
  readonly #ended: Promise<unknown>;
  /** Who waits for an answer to an order, such as a device to be made; answers come in that order. */
  readonly #waiting: ((report: ReactorReport) => void)[] = [];
  /** Orders given, and obeyed: the thread counts these. */
  #ordered = 0;
  readonly #obeyed = new Int32Array(new SharedArrayBuffer(4));
  #isStopping = false;
  /** Of the reactor and its queue threads: what the kernel calls them. */
  readonly #threadIds: number[] = [];
  readonly #released = new Set<string>();
  readonly #discarded = new DiscardedFds();

  /**
   * With so many queue threads to help it; devices are opened in it. `isAlone`: one, and there will be
   * no other in the daemon.
   */
  constructor(helpers: number, events: ReactorThreadEvents, isAlone = false) {
    this.#wakeFd = createEventFd();
    this.#events = events;
    const lines = Array.from({ length: helpers }, () => makeLine());
    const queueWorkers = lines.map(({ answerer }) => this.#startQueueThread(answerer, isAlone));
    const callers = lines.map(({ caller }) => caller);
    const workerData: ReactorOptions = {
      wakeFd: this.#wakeFd,
      obeyed: this.#obeyed,
      discarded: this.#discarded.discarded,
      isAlone,
      lines: callers,
    };
    this.#worker = this.#startWorker('reactor-worker', workerData, callers);
    this.#worker.on('error', (error) => abortWith('a reactor', error));
    this.#worker.on('exit', (code) => {
      if (!this.#isStopping) abortWith('a reactor', new Error(`ended early, code ${code}`));
    });
    const exits = [this.#worker, ...queueWorkers].map((worker) => once(worker, 'exit'));
    this.#ended = Promise.all(exits);
  }

  /** Resolves when the thread is up, and all that a device needs is loaded and compiled. */
  async warmUp(): Promise<void> {
    await this.#answerTo({ kind: 'warmUp' });
  }

  /** Makes a device, uninitialised. */
  open(terms: DeviceTerms): void {
    this.order({ kind: 'open', terms });
  }

  /** Makes its disk; resolves when it exists, rejects with the reason when there is none. */
  async init(device: string, options: DiskOptions): Promise<void> {
    // Before the order: where there is no room for its figures, nothing has been done.
    const window = makeFileWindow(FIGURES_BYTES);
    const report = await this.#carriedOut({ kind: 'init', device, options });
    assert(report.kind === 'ready', 'a disk that is not refused is there');
    try {
      mapInFileWindow(window, report.figuresFd, 0, FIGURES_BYTES);
    } catch (error) {
      await this.#giveUp(device, error as Error);
      return;
    }
    this.#disks.set(device, { options, window, figures: headerFigures(window) });
  }

  /** The thread has a disk that cannot be read here. It goes, unless a guest is using it already. */
  async #giveUp(device: string, error: Error): Promise<void> {
    const isGone = await this.reset(device).then(
      () => true,
      () => false,
    );
    if (isGone) throw error;
    const message = `it has no statistics: ${error.message}`;
    this.#events.log({ kind: 'log', device, level: 'warn', message });
  }

  /** Frees its disk and all memory of that; rejects with the reason. */
  async reset(device: string): Promise<void> {
    await this.#carriedOut({ kind: 'reset', device }, SETTLE_MILLIS_MAX);
    await this.#forget(device);
  }

  /** Takes the device away, with its disk; rejects with the reason. */
  async remove(device: string): Promise<void> {
    await this.#carriedOut({ kind: 'remove', device }, SETTLE_MILLIS_MAX);
    await this.#forget(device);
  }

  /** Resolves when its memory is free: others may have it from then on. */
  async #forget(device: string): Promise<void> {
    await this.#discarded.settled();
    const disk = this.#disks.get(device);
    if (disk !== undefined) releaseWindow(disk.window);
    this.#disks.delete(device);
  }

  /** Hands a device over; this process ends with that. Rejects with the reason if it goes on. */
  async handOver(order: Extract<Order, { kind: 'handOver' }>): Promise<never> {
    const report = await this.#answerTo(order);
    throw new RefusedError(report.kind === 'kept' ? report.reason : 'unexpected answer');
  }

  /** Again while it is refused for the moment, so long: the thread serves others meanwhile. */
  async #carriedOut(order: Order, millis = 0): Promise<ReactorReport> {
    const deadline = performance.now() + millis;
    for (;;) {
      const report = await this.#answerTo(order);
      if (report.kind !== 'refused') return report;
      if (!report.isPassing || performance.now() > deadline) throw new RefusedError(report.reason);
      await new Promise((resolve) => setTimeout(resolve, SETTLE_LOOK_MILLIS));
    }
  }

  #answerTo(order: Order): Promise<ReactorReport> {
    return new Promise((answer) => {
      this.#waiting.push(answer);
      this.order(order);
    });
  }

  /** Gives an order; what it returns tells, when asked, whether that has been obeyed. */
  order(order: Order): () => boolean {
    this.#ordered = (this.#ordered + 1) | 0;
    const number = this.#ordered;
    this.#worker.postMessage(order);
    signalEventFd(this.#wakeFd);
    return () => ((Atomics.load(this.#obeyed, 0) - number) | 0) >= 0;
  }

  /** Undefined: the device has no disk, or one whose figures could not be mapped. */
  statistics(device: string): Statistics | undefined {
    const disk = this.#disks.get(device);
    if (disk === undefined) return undefined;
    const process = { cpuMicros: this.#cpuMicros(), bootSeconds: bootSeconds() };
    return readStatistics(disk.options.backing?.path ?? null, disk.figures, process);
  }

  #cpuMicros(): number {
    return this.#threadIds.reduce((sum, id) => sum + threadCpuMicros(id), 0);
  }

  /** Orders the threads to end and waits for them, at most `millis`. */
  async stop(millis: number): Promise<void> {
    this.#isStopping = true;
    this.order({ kind: 'stop' });
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, millis).unref());
    await Promise.race([this.#ended, timeout]);
  }

  /** After stop(): it has ended in order, and nobody can come back for the device's pages. */
  isReleased(device: string): boolean {
    return this.#released.has(device);
  }

  #startQueueThread(line: LineEnd, isAlone: boolean): Worker {
    const workerData: QueueWorkerOptions = { line, isAlone };
    const worker = this.#startWorker('queue-worker', workerData, [line]);
    worker.on('error', (error) => abortWith('a queue thread', error));
    return worker;
  }

  #startWorker(name: string, workerData: object, lines: readonly LineEnd[]): Worker {
    const worker = new Worker(new URL(`./${name}.js`, import.meta.url), {
      workerData,
      transferList: lines.map(({ port }) => port),
      // Descriptors are counted by their owners here; the thread's end must close none.
      trackUnmanagedFds: false,
    });
    worker.on('message', (report: ReactorReport) => {
      if (report.kind === 'log') this.#events.log(report);
      else if (report.kind === 'connection') {
        this.#events.connection(report.device, report.isConnected);
      } else if (report.kind === 'running') {
        this.#events.running(report.device, report.isRunning);
      } else if (report.kind === 'thread') {
        if (report.id !== undefined) this.#threadIds.push(report.id);
      } else if (report.kind === 'released') this.#released.add(report.device);
      else if (report.kind === 'discarded') this.#discarded.take(report.fds);
      else this.#waiting.shift()?.(report);
    });
    return worker;
  }
}
