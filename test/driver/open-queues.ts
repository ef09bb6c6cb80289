/**
 * Queues for the tests of one file, over devices in which every page differs. What is opened here is
 * closed after the test, whatever became of it.
 */

import { afterEach } from 'vitest';
import type { PageWindow } from '../../src/store/page-window.ts';
import type { PageDevice } from '../../src/virtio-blk/page-device.ts';
import { ArrayPageDevice } from './array-page-device.ts';
import { LocalQueue, type LocalQueueOptions } from './local-queue.ts';
import { PendingPageDevice } from './pending-page-device.ts';
import { Random } from './random.ts';

/** Of openArray, where nothing else is said. */
export const SLOTS = 2000;

const open: LocalQueue[] = [];

afterEach(() => {
  for (const queue of open.splice(0)) queue.close();
});

export function openQueue(
  device: PageDevice<PageWindow>,
  options: LocalQueueOptions = {},
): LocalQueue {
  const local = new LocalQueue(device, options);
  open.push(local);
  return local;
}

/** Over an array of pages: everything is done at once. */
export function openArray(options: LocalQueueOptions = {}, slots = SLOTS) {
  const device = new ArrayPageDevice<PageWindow>(slots);
  makeAllDiffer(device);
  return { device, local: openQueue(device, options) };
}

/** Over pages whose operations end when the test says. */
export function openPending(slots: number, options: LocalQueueOptions = {}) {
  const device = new PendingPageDevice(slots);
  makeAllDiffer(device.pages);
  return { device, local: openQueue(device, options) };
}

function makeAllDiffer({ bytes }: ArrayPageDevice<PageWindow>): void {
  const random = new Random(7);
  for (let i = 0; i < bytes.length; i += 97) bytes[i] = random.u32();
}
