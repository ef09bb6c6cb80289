/** A page store with a window to go through and the model of what it must hold. */

import { expect } from 'vitest';
import { PAGE_DONE } from '../../src/base/page-operation.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { EPOCHS } from '../../src/store/page-ages.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { takesRoom } from '../../src/store/slot-word.ts';
import { COUNTER, readStatistics } from '../../src/store/statistics.ts';
import type { PageStoreOptions } from '../../src/store/store-options.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';
import { knownFigures } from './known-figures.ts';
import { PageStoreModel } from './page-store-model.ts';

const CANARY = 0xc7;
/** Where pages of the guest lie in the window, aligned and not. */
export const GUEST_PAGE = WINDOW_WORK_BYTES + 4 * PAGE_BYTES;

/** Pages by the number of their epoch are as many as take room, but for the swap header. */
export function compareAges({ mapped }: PageStore): void {
  const { table, ages, shared } = mapped;
  const counts = new Array<number>(EPOCHS).fill(0);
  table.forEach((word, slot) => {
    const hasAge = takesRoom(word) && slot >= (shared.headerSlots ?? 0);
    if (hasAge !== ages.numberOf(slot) > 0) throw new Error(`slot ${slot}: word ${word}`);
    counts[ages.numberOf(slot)]!++;
  });
  for (let number = 1; number < EPOCHS; number++) {
    if (ages.countOf(number) !== counts[number]) throw new Error(`epoch ${number} is miscounted`);
  }
}

export class StoreBench {
  readonly store: PageStore;
  readonly window = new PageWindow(4 * WINDOW_WORK_BYTES);
  readonly model: PageStoreModel;
  readonly troubles: string[] = [];

  constructor(
    options: PageStoreOptions,
    store = PageStore.make(options),
    model = new PageStoreModel(),
  ) {
    this.store = store;
    this.model = model;
    this.store.onTrouble = (what) => this.troubles.push(what);
  }

  gauge(index: number): number {
    return this.store.mapped.gauges[index]!;
  }

  counter(name: keyof typeof COUNTER): number {
    return this.store.counters[COUNTER[name]]!;
  }

  /** Writes from `offset` of the window; the page there must stay as it was. */
  write(slot: number, page: Uint8Array, offset = GUEST_PAGE): boolean {
    this.window.u8.set(page, offset);
    const isWritten = this.store.writePage(slot, this.window, offset) === PAGE_DONE;
    const after = this.window.u8.subarray(offset, offset + PAGE_BYTES);
    expect(Buffer.compare(after, page)).toBe(0);
    this.model.writes++;
    if (isWritten) this.model.put(slot, page);
    else this.model.failedWrites++;
    return isWritten;
  }

  /** Reads to `offset` of the window, which must not change on either side of the page. */
  read(slot: number, offset = GUEST_PAGE): boolean {
    const { u8 } = this.window;
    u8.fill(CANARY, WINDOW_WORK_BYTES);
    const isRead = this.store.readPage(slot, this.window, offset) === PAGE_DONE;
    this.model.reads++;
    const expected = isRead ? this.model.page(slot) : new Uint8Array(PAGE_BYTES).fill(CANARY);
    const target = u8.subarray(offset, offset + PAGE_BYTES);
    if (Buffer.compare(target, expected) !== 0) throw new Error(`slot ${slot}: bytes differ`);
    for (const side of [offset - 64, offset + PAGE_BYTES]) {
      expect(u8.subarray(side, side + 64).every((byte) => byte === CANARY)).toBe(true);
    }
    if (!isRead) this.model.failedReads++;
    return isRead;
  }

  free(slot: number): void {
    this.store.freePage(slot);
    this.model.free(slot);
  }

  zero(slot: number): void {
    this.store.zeroPage(slot);
    this.model.put(slot, new Uint8Array(PAGE_BYTES));
  }

  /** Replaces [from, from + part.length); the part lies at `offset` of the window. */
  writePart(slot: number, from: number, part: Uint8Array, offset = GUEST_PAGE): boolean {
    const { store, window, model } = this;
    window.u8.set(part, offset);
    const to = from + part.length;
    const isDone = store.writePart(slot, from, to, window, offset) === PAGE_DONE;
    expect(Buffer.compare(window.u8.subarray(offset, offset + part.length), part)).toBe(0);
    model.writes++;
    if (!isDone) {
      model.failedWrites++;
      return false;
    }
    const page = model.page(slot).slice();
    page.set(part, from);
    model.put(slot, page);
    return true;
  }

  compareStatistics(): void {
    const { arena } = this.store.mapped;
    const disksize = this.store.slots * PAGE_BYTES;
    const identity = null;
    const statistics = readStatistics(identity, this.store.mapped);
    expect(knownFigures(statistics)).toEqual(this.model.statistics(disksize, arena.usedPages));
    // Page 0 is nobody's, and reserved when its block is.
    const others = statistics.mem_reserved / PAGE_BYTES - arena.usedPages - arena.sparePages;
    expect([0, 1]).toContain(others);
    compareAges(this.store);
    expect(this.gauge(ARENA_GAUGE.rawPages)).toBe(this.model.rawPages);
    const poolBytes = this.gauge(ARENA_GAUGE.poolPages) * PAGE_BYTES;
    expect(poolBytes).toBeGreaterThanOrEqual(this.model.objectBytes);
  }

  compareAllSlots(): void {
    for (let slot = 0; slot < this.store.slots; slot++) expect(this.read(slot)).toBe(true);
  }

  /** Lets `micros` of simulated time pass as the reactor would, or until nothing is left to do. */
  maintainFor(micros: number, start = 0): number {
    let steps = 0;
    for (let now = start; now - start < micros; steps++) {
      const wait = this.store.maintain(now | 0);
      if (wait < 0) break;
      expect(steps).toBeLessThan(100_000);
      now += wait * 1000;
    }
    return steps;
  }
}
