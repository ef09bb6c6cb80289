/**
 * A reactor thread as the control thread sees it: start, order, stop, and its devices' figures.
 */

import { Worker } from 'node:worker_threads';
import { RefusedError } from '../base/errors.ts';
import { mapFileWindow } from '../memory/memory-file.ts';
import { createEventFd, signalEventFd } from '../native/eventfd.ts';
import { abortWith } from '../native/process.ts';
import { FIGURES_BYTES, type HeaderFigures, headerFigures } from '../store/layout.ts';
import { readStatistics, type Statistics } from '../store/statistics.ts';
import type { BlockDeviceOptions } from './block-device.ts';
import type { Order, ReactorOptions, ReactorReport } from './orders.ts';

export type LogReport = Extract<ReactorReport, { kind: 'log' }>;

export interface ReactorThreadEvents {
  log(report: LogReport): void;
  connection(device: string, isConnected: boolean): void;
}

export class ReactorThread {
  readonly #worker: Worker;
  readonly #wakeFd: number;
  readonly #devices: readonly BlockDeviceOptions[];
  readonly #figures = new Map<string, HeaderFigures>();
  readonly #ended: Promise<void>;
  #isStopping = false;

  private constructor(devices: readonly BlockDeviceOptions[], events: ReactorThreadEvents) {
    this.#devices = devices;
    this.#wakeFd = createEventFd();
    const workerData: ReactorOptions = { wakeFd: this.#wakeFd, devices };
    this.#worker = new Worker(new URL('./reactor-worker.js', import.meta.url), {
      workerData,
      // Descriptors are counted by their owners here; the thread's end must close none.
      trackUnmanagedFds: false,
    });
    this.#worker.on('message', (report: ReactorReport) => {
      if (report.kind === 'log') events.log(report);
      if (report.kind === 'connection') events.connection(report.device, report.isConnected);
    });
    this.#ended = new Promise((resolve) => {
      this.#worker.once('exit', () => resolve());
    });
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
    const identity = { backingSwapName: backing?.path ?? null };
    return readStatistics(identity, this.#figures.get(device)!);
  }

  /** Orders the thread to end and waits for it, at most `millis`. */
  async stop(millis: number): Promise<void> {
    this.#isStopping = true;
    this.order({ kind: 'stop' });
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, millis).unref());
    await Promise.race([this.#ended, timeout]);
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
