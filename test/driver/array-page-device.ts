/**
 * A trivially correct block device of pages: one array. It stands in for the store under the
 * queues, and is the model that a real store's contents are compared with.
 */

import { PAGE_DONE, PAGE_FAILED, type PageResult } from '../../src/base/page-operation.ts';
import type { Window } from '../../src/memory/window.ts';
import type { PageDevice } from '../../src/virtio-blk/page-device.ts';

const PAGE_BYTES = 4096;

export class ArrayPageDevice<W extends Window = Window> implements PageDevice<W> {
  readonly slots: number;
  readonly isFull = false;
  /** What freePage() counts up by, for each. */
  punchedByFree = 0;
  punchedPages = 0;
  readonly bytes: Uint8Array;
  /** Calls in order, as `write 3`, for tests about what reaches the device. */
  readonly calls: string[] = [];
  isRecording = true;
  /** Slots whose reads and writes fail. */
  readonly bad = new Set<number>();

  constructor(slots: number) {
    this.slots = slots;
    this.bytes = new Uint8Array(slots * PAGE_BYTES);
  }

  page(slot: number): Uint8Array {
    return this.bytes.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
  }

  writePage(slot: number, window: W, offset: number): PageResult {
    this.#record('write', slot);
    if (this.bad.has(slot)) return PAGE_FAILED;
    this.page(slot).set(window.u8.subarray(offset, offset + PAGE_BYTES));
    return PAGE_DONE;
  }

  readPage(slot: number, window: W, offset: number): PageResult {
    this.#record('read', slot);
    if (this.bad.has(slot)) return PAGE_FAILED;
    window.u8.set(this.page(slot), offset);
    return PAGE_DONE;
  }

  freePage(slot: number): PageResult {
    this.#record('free', slot);
    this.punchedPages += this.punchedByFree;
    this.page(slot).fill(0);
    return PAGE_DONE;
  }

  zeroPage(slot: number): PageResult {
    this.#record('zero', slot);
    this.page(slot).fill(0);
    return PAGE_DONE;
  }

  writePart(slot: number, from: number, to: number, window: W, offset: number): PageResult {
    this.#record('part', slot);
    if (this.bad.has(slot)) return PAGE_FAILED;
    this.page(slot).set(window.u8.subarray(offset, offset + to - from), from);
    return PAGE_DONE;
  }

  abandon(): void {}

  #record(what: string, slot: number): void {
    if (!(slot >= 0 && slot < this.slots)) throw new Error(`${what}: no slot ${slot}`);
    if (this.isRecording) this.calls.push(`${what} ${slot}`);
  }
}
