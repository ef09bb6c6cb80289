/**
 * One of several threads at a few pages of one store: of each page a sector is this thread's alone.
 * What it wrote there last is what it reads there, whatever the others do to the rest meanwhile.
 */

import { parentPort, workerData } from 'node:worker_threads';
import { PAGE_DONE } from '../../src/base/page-operation.ts';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { PageStore, type StoreShare } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { seededRandom } from './random.ts';

export interface PartOrders {
  readonly share: StoreShare;
  readonly thread: number;
  readonly seed: number;
  readonly slots: number;
  readonly operations: number;
  /** Word 0: threads that are ready. */
  readonly ready: SharedArrayBuffer;
}

function run({ share, thread, seed, slots, operations, ready }: PartOrders): void {
  const store = PageStore.join(share, thread);
  const window = new PageWindow(WINDOW_WORK_BYTES * 2);
  const random = seededRandom(seed + thread);
  const at = WINDOW_WORK_BYTES;
  const from = thread * SECTOR_BYTES;
  const own = Array.from({ length: slots }, (): Uint8Array => new Uint8Array(SECTOR_BYTES));
  const count = new Int32Array(ready);
  Atomics.add(count, 0, 1);
  while (Atomics.load(count, 0) < (share.shared.threads ?? 1));
  for (let i = 0; i < operations; i++) {
    const slot = random.below(slots);
    if (random.rarely(2)) {
      const part = random.rarely(3) ? random.bytes(SECTOR_BYTES) : own[slot]!.fill(i);
      own[slot] = part;
      window.u8.set(part, at);
      const result = store.writePart(slot, from, from + SECTOR_BYTES, window, at);
      if (result !== PAGE_DONE) throw new Error(`slot ${slot}: a write has failed`);
      continue;
    }
    if (store.readPage(slot, window, at) !== PAGE_DONE) throw new Error(`slot ${slot}: no page`);
    const found = window.u8.subarray(at + from, at + from + SECTOR_BYTES);
    if (Buffer.compare(found, own[slot]!) === 0) continue;
    throw new Error(`thread ${thread}, operation ${i}, slot ${slot}: its sector has changed`);
  }
}

if (parentPort !== null) {
  run(workerData as PartOrders);
  parentPort.postMessage('done');
}
