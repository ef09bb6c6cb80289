/**
 * All rings of a device, wherever they are served: the reactor thread's set, and one for each queue
 * thread that helps it. Ring n belongs to set n modulo their number.
 */

import type { Disk } from './disk.ts';
import type { QueueCall } from './orders.ts';
import { type DeviceQueues, QueueSet, type QueueSetOptions } from './queue-set.ts';
import { releaseAll } from './releases.ts';
import { RemoteQueues } from './remote-queues.ts';
import type { Report } from './reports.ts';
import type { KickWatcher } from './ring.ts';
import type { ThreadCaller } from './thread-call.ts';

export class QueueSets {
  /** For this thread's reactor to serve. */
  readonly own: QueueSet;
  readonly all: readonly DeviceQueues[];
  readonly #remote: readonly RemoteQueues[];
  readonly #report: Report;

  constructor(
    options: QueueSetOptions,
    watcher: KickWatcher,
    report: Report,
    helpers: readonly ThreadCaller<QueueCall>[],
  ) {
    this.#report = report;
    this.own = new QueueSet(options, watcher, report);
    this.#remote = helpers.map((thread) => new RemoteQueues(thread, options));
    this.all = [this.own, ...this.#remote];
  }

  of(ring: number): DeviceQueues {
    return this.all[ring % this.all.length]!;
  }

  isServing(): boolean {
    return this.all.some((set) => set.isServing());
  }

  /** From now on they are served from it. Throws RefusedError; closeDisk() then undoes what was done. */
  openDisk(disk: Disk): void {
    this.own.openDisk(disk.ofThread);
    this.#remote.forEach((remote, i) => {
      remote.openDisk(disk.store.share, i + 1);
    });
  }

  /** There are no pages any more, in no thread. */
  closeDisk(disk: Disk): void {
    releaseAll(
      this.#report,
      this.all.map((set) => () => set.closeDisk()),
    );
    disk.close();
  }

  /** The session is over, in all threads. */
  close(): void {
    releaseAll(
      this.#report,
      this.all.map((set) => () => set.close()),
    );
  }

  /** The device is gone, in the other threads too. */
  remove(): void {
    for (const remote of this.#remote) remote.remove();
  }

  /** In all threads or in none: where one of them cannot, it is undone in the others, and throws. */
  change(make: (set: DeviceQueues) => void, undo: (set: DeviceQueues) => void): void {
    const done: DeviceQueues[] = [];
    const errors: unknown[] = [];
    for (const set of this.all) {
      try {
        make(set);
        done.push(set);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length === 0) return;
    for (const set of done) undo(set);
    throw errors[0];
  }
}
