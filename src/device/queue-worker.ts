/**
 * A queue thread's entry: serves some of the queues of a reactor's devices, with a reactor of its own
 * that has no sessions. All it does it is called for by the reactor thread (remote-queues.ts); what
 * it has to tell it posts to the control thread.
 */

import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { signalDirectly } from '../native/peer-eventfd.ts';
import { abortWith, threadId } from '../native/process.ts';
import { PageStore } from '../store/page-store.ts';
import type { QueueCall, QueueWorkerOptions, ReactorReport } from './orders.ts';
import { type DeviceQueues, QueueSet, type QueueSetOptions } from './queue-set.ts';
import { Reactor } from './reactor.ts';
import { Reports } from './reports.ts';
import { ThreadAnswerer } from './thread-call.ts';
import { warmUp } from './warm-up.ts';

class QueueThread {
  readonly #reactor: Reactor;
  readonly #sets = new Map<string, QueueSet>();
  readonly #post: (report: ReactorReport) => void;
  readonly #reports: Reports;

  constructor({ line, isAlone }: QueueWorkerOptions, post: (report: ReactorReport) => void) {
    if (isAlone === true) signalDirectly();
    this.#post = post;
    this.#reports = new Reports((device, level, message) => {
      post({ kind: 'log', device, level, message });
    });
    const answerer = new ThreadAnswerer<QueueCall>(line);
    const carryOut = (call: QueueCall) => this.#carryOut(call);
    this.#reactor = new Reactor(line.wakeFd, {
      takeOrders: () => answerer.answer(carryOut),
      urgent: line.word,
      report: (...said) => this.#reports.report(...said),
      maintain: () => this.#reports.maintain(),
    });
  }

  run(): void {
    this.#post({ kind: 'thread', id: threadId() });
    this.#reactor.run();
    this.#reports.endAll();
    this.#reactor.close();
  }

  #carryOut(call: QueueCall): unknown {
    switch (call.kind) {
      case 'warmUp':
        warmUp();
        return undefined;
      case 'open':
        this.#open(call.options);
        return undefined;
      case 'openDisk':
        this.#openDisk(call);
        return undefined;
      case 'remove':
        this.#reactor.drop(this.#named(call.device));
        this.#sets.delete(call.device);
        this.#reports.end(call.device);
        return undefined;
      case 'queues': {
        const queues = this.#named(call.device) as Record<
          keyof DeviceQueues,
          (...args: unknown[]) => unknown
        >;
        return queues[call.method](...call.args);
      }
      case 'stop':
        this.#reactor.stop();
        return undefined;
      case 'fail':
        return assert(false, 'fault injected into a queue thread');
    }
  }

  #open(options: QueueSetOptions): void {
    const set = new QueueSet(options, this.#reactor, this.#reports.of(options.name));
    this.#sets.set(options.name, set);
    this.#reactor.add(set);
  }

  #openDisk({ device, share, thread }: Extract<QueueCall, { kind: 'openDisk' }>): void {
    const store = PageStore.join(share, thread);
    const report = this.#reports.of(device);
    store.onTrouble = (what) => report('error', what);
    this.#named(device).openDisk({ store });
  }

  #named(device: string): QueueSet {
    const set = this.#sets.get(device);
    assert(set !== undefined, 'calls name devices of this thread');
    return set;
  }
}

try {
  const port = parentPort;
  assert(port !== null, 'this file is a worker thread');
  new QueueThread(workerData as QueueWorkerOptions, (report) => port.postMessage(report)).run();
} catch (error) {
  abortWith('a queue thread', error);
}
