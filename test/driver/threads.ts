/**
 * Worker threads of this process that run TypeScript, and a queue thread as the control thread would
 * start it, at the other end of a line.
 */

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { QueueCall, ReactorReport } from '../../src/device/orders.ts';
import { type LineEnd, makeLine, ThreadCaller } from '../../src/device/thread-call.ts';
import { closeFd } from '../../src/native/fd.ts';
import { until } from './daemon.ts';

/** A worker cannot begin with TypeScript. */
function start(url: URL): string {
  return `
    import('tsx/esm/api').then(({ register }) => {
      register();
      return import(${JSON.stringify(url.href)});
    });
  `;
}

export function startThread(url: URL, workerData: object, ends: readonly LineEnd[] = []): Worker {
  return new Worker(start(url), {
    eval: true,
    workerData,
    transferList: ends.map(({ port }) => port),
    trackUnmanagedFds: false,
  });
}

export class QueueThread {
  readonly caller: ThreadCaller<QueueCall>;
  readonly reports: string[] = [];
  readonly #worker: Worker;
  readonly #wakeFd: number;

  constructor() {
    const { caller, answerer } = makeLine();
    this.caller = new ThreadCaller(caller);
    this.#wakeFd = caller.wakeFd;
    const url = new URL('../../src/device/queue-worker.ts', import.meta.url);
    this.#worker = startThread(url, { line: answerer }, [answerer]);
    this.#worker.on('message', (report: ReactorReport) => {
      if (report.kind === 'log') this.reports.push(`${report.level}: ${report.message}`);
    });
  }

  /** Waits for a report that `pattern` matches: it takes a turn of this thread's event loop. */
  untilReported(pattern: RegExp): Promise<void> {
    return until(() => this.reports.some((report) => pattern.test(report)), `${pattern}`, 2000);
  }

  async stop(): Promise<void> {
    const ended = once(this.#worker, 'exit');
    this.caller.call({ kind: 'stop' });
    await ended;
    closeFd(this.#wakeFd);
  }
}
