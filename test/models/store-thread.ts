/**
 * One of several threads at one store: random writes, reads and frees of a few slots, every page
 * saying whose it is. What it did, and when, is logged for the parent to judge (page-store.threads.test.ts).
 */

import { parentPort, workerData } from 'node:worker_threads';
import { PAGE_DONE } from '../../src/base/page-operation.ts';
import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { PageStore, type StoreShare } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { EMPTY, fillVersion, versionOf } from './named-pages.ts';
import { seededRandom } from './random.ts';

export const KIND = { write: 0, read: 1, free: 2 } as const;
/** Words of a logged operation: kind, slot, version, start, end. */
export const LOG_WORDS = 5;

export interface ThreadOrders {
  readonly share: StoreShare;
  readonly thread: number;
  readonly seed: number;
  readonly slots: number;
  readonly operations: number;
  /** Word 0: the clock; word 1: threads that are ready. */
  readonly clock: SharedArrayBuffer;
  readonly log: SharedArrayBuffer;
}

function run({ share, thread, seed, slots, operations, clock, log }: ThreadOrders): void {
  const store = PageStore.join(share, thread);
  const window = new PageWindow(WINDOW_WORK_BYTES * 2);
  const random = seededRandom(seed + thread);
  const [ticks, entries] = [new Int32Array(clock), new Int32Array(log)];
  const at = WINDOW_WORK_BYTES / 4;
  const threads = share.shared.threads ?? 1;
  Atomics.add(ticks, 1, 1);
  while (Atomics.load(ticks, 1) < threads);
  for (let i = 0; i < operations; i++) {
    const slot = random.below(slots);
    const action = random.below(10);
    const kind = action < 5 ? KIND.write : action < 9 ? KIND.read : KIND.free;
    let version = EMPTY;
    if (kind === KIND.write) {
      version = (thread << 24) | (i + 1);
      fillVersion(window.i32, at, slot, version);
    }
    const start = Atomics.add(ticks, 0, 1);
    let result: number = PAGE_DONE;
    if (kind === KIND.write) result = store.writePage(slot, window, WINDOW_WORK_BYTES);
    else if (kind === KIND.read) result = store.readPage(slot, window, WINDOW_WORK_BYTES);
    else store.freePage(slot);
    const end = Atomics.add(ticks, 0, 1);
    if (result !== PAGE_DONE) throw new Error(`slot ${slot}: operation ${kind} has failed`);
    if (kind === KIND.read) version = versionOf(window.i32, at, slot);
    entries.set([kind, slot, version, start, end], i * LOG_WORDS);
    store.maintain((i * 3000) | 0);
  }
}

if (parentPort !== null) {
  run(workerData as ThreadOrders);
  parentPort.postMessage('done');
}
