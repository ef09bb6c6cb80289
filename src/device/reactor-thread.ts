/**
 * A reactor thread, with the queue threads that help it, as the control thread sees it: start, order,
 * stop, and its devices' figures. The control thread makes them all, for a thread that never returns
 * to its event loop cannot; orders go to the reactor alone, which calls the others.
 */

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { RefusedError } from '../base/errors.ts';
import { mapFileWindow } from '../memory/memory-file.ts';
import { createEventFd, signalEventFd } from '../native/eventfd.ts';
import { abortWith } from '../native/process.ts';
import { FIGURES_BYTES, type HeaderFigures, headerFigures } from '../store/layout.ts';
import { readStatistics, type Statistics } from '../store/statistics.ts';
import type { BlockDeviceOptions } from './block-device.ts';
import type { Order, QueueWorkerOptions, ReactorOptions, ReactorReport } from './orders.ts';
import { type LineEnd, makeLine } from './thread-call.ts';

export type LogReport = Extract<ReactorReport, { kind: 'log' }>;

export interface ReactorThreadEvents {
  log(report: LogReport): void;
  connection(device: string, isConnected: boolean): void;
}

export class ReactorThread {
  readonly #worker: Worker;
  readonly #events: ReactorThreadEvents;
  readonly #wakeFd: number;
  readonly #devices: readonly BlockDeviceOptions[];
  readonly #figures = new Map<string, HeaderFigures>();
  readonly #ended: Promise<unknown>;
  #isStopping = false;

  private constructor(devices: readonly BlockDeviceOptions[], events: ReactorThreadEvents) {
    this.#devices = devices;
    this.#wakeFd = createEventFd();
    this.#events = events;
    const helpers = Math.max(0, ...devices.map(({ queueThreads = 1 }) => queueThreads - 1));
    const lines = Array.from({ length: helpers }, () => makeLine());
    const queueWorkers = lines.map(({ answerer }) => this.#startQueueThread(answerer));
    const callers = lines.map(({ caller }) => caller);
    const workerData: ReactorOptions = { wakeFd: this.#wakeFd, devices, lines: callers };
    this.#worker = this.#startWorker('reactor-worker', workerData, callers);
    const exits = [this.#worker, ...queueWorkers].map((worker) => once(worker, 'exit'));
    this.#ended = Promise.all(exits);
  }

  /** Starts a thread with these devices; resolves when they exist, rejects with the reason. */
  static async start(
    devices: readonly BlockDeviceOptions[],
    events: ReactorThreadEvents,
  ): Promise<ReactorThread> {
    const thread = new ReactorThread(devices, events);
    await thread.#untilReady();
    return thread;
  }

  order(order: Order): void {
    this.#worker.postMessage(order);
    signalEventFd(this.#wakeFd);
  }

  statistics(device: string): Statistics {
    const { backing } = this.#devices.find((each) => each.name === device)!;
    return readStatistics(backing?.path ?? null, this.#figures.get(device)!);
  }

  /** Orders the threads to end and waits for them, at most `millis`. */
  async stop(millis: number): Promise<void> {
    this.#isStopping = true;
    this.order({ kind: 'stop' });
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, millis).unref());
    await Promise.race([this.#ended, timeout]);
  }

  #startQueueThread(line: LineEnd): Worker {
    const workerData: QueueWorkerOptions = { line };
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
      if (report.kind === 'connection') {
        this.#events.connection(report.device, report.isConnected);
      }
    });
    return worker;
  }

  #untilReady(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#worker.on('message', (report: ReactorReport) => {
        if (report.kind === 'refused') reject(new RefusedError(report.reason));
        if (report.kind !== 'ready') return;
        const header = mapFileWindow(report.figuresFd, 0, FIGURES_BYTES);
        this.#figures.set(report.device, headerFigures(header));
        if (this.#figures.size === this.#devices.length) resolve();
      });
      this.#worker.on('error', (error) => abortWith('a reactor', error));
      this.#worker.on('exit', (code) => {
        if (!this.#isStopping) reject(new Error(`a reactor thread ended early, code ${code}`));
      });
    });
  }
}
