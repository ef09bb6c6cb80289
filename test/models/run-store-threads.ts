/** Several threads at one store, each as store-thread.ts does: their logs, when all have ended. */

import type { PageStore } from '../../src/store/page-store.ts';
import { startThread } from '../driver/threads.ts';
import type { PartOrders } from './part-thread.ts';
import { SEED } from './random.ts';
import { LOG_WORDS, type ThreadOrders } from './store-thread.ts';

interface Work {
  readonly slots: number;
  readonly threads: number;
  readonly operations: number;
}

export async function runStoreThreads(
  { share }: PageStore,
  { slots, threads, operations }: Work,
): Promise<SharedArrayBuffer[]> {
  const clock = new SharedArrayBuffer(8);
  const bytes = operations * LOG_WORDS * 4;
  const logs = Array.from({ length: threads }, () => new SharedArrayBuffer(bytes));
  await Promise.all(
    logs.map((log, thread) =>
      runStoreThread({ share, thread, slots, operations, clock, log, seed: SEED }),
    ),
  );
  return logs;
}

/** Until it has ended; rejects with the thread's error. */
export function runStoreThread(
  orders: ThreadOrders | PartOrders,
  file = 'store-thread.ts',
): Promise<void> {
  const worker = startThread(new URL(file, import.meta.url), orders);
  return new Promise((resolve, reject) => {
    worker.once('message', () => resolve());
    worker.once('error', reject);
  });
}
