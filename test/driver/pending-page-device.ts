/**
 * A device some of whose operations end later, in an order that a test decides: those on one slot
 * in the order of the calls, those on different slots in any. What is carried out is an
 * ArrayPageDevice's.
 */

import {
  PAGE_DONE,
  PAGE_PENDING,
  type PageClient,
  type PageResult,
} from '../../src/base/page-operation.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import type { PageDevice } from '../../src/virtio-blk/page-device.ts';
import { ArrayPageDevice } from './array-page-device.ts';
import type { Random } from './random.ts';

/** Where data passes through: a window that is no guest's. */
const PLACE = 65536;
const PAGE_BYTES = 4096;

/** One for all: making one takes longer than many an operation. */
const passing = new PageWindow(2 * PLACE);

interface Pending {
  readonly slot: number;
  readonly client: PageClient<PageWindow>;
  readonly request: number;
  readonly page: number;
  /** Carries the operation out, with PLACE for its data. */
  readonly run: () => PageResult;
}

export class PendingPageDevice implements PageDevice<PageWindow> {
  readonly slots: number;
  readonly pages: ArrayPageDevice<PageWindow>;
  /** Operations that may be pending at once. */
  capacity = Number.POSITIVE_INFINITY;
  /** Whether the next operation on a slot with nothing pending is pending. */
  isSlow: (slot: number) => boolean = () => true;
  readonly #waiting: Pending[] = [];

  constructor(slots: number) {
    this.slots = slots;
    this.pages = new ArrayPageDevice(slots);
  }

  get pending(): number {
    return this.#waiting.length;
  }

  get punchedPages(): number {
    return this.pages.punchedPages;
  }

  get isFull(): boolean {
    return this.#waiting.length >= this.capacity;
  }

  writePage(
    slot: number,
    window: PageWindow,
    offset: number,
    client: PageClient<PageWindow>,
    request: number,
    page: number,
  ): PageResult {
    if (!this.#waits(slot)) return this.pages.writePage(slot, window, offset);
    return this.#wait(slot, client, request, page, () => {
      if (!client.takePage(request, page, passing, PLACE, PAGE_BYTES)) throw new Error('no data');
      return this.pages.writePage(slot, passing, PLACE);
    });
  }

  readPage(
    slot: number,
    window: PageWindow,
    offset: number,
    client: PageClient<PageWindow>,
    request: number,
    page: number,
  ): PageResult {
    if (!this.#waits(slot)) return this.pages.readPage(slot, window, offset);
    return this.#wait(slot, client, request, page, () => this.pages.readPage(slot, passing, PLACE));
  }

  freePage(slot: number, client: PageClient<PageWindow>, request: number): PageResult {
    if (!this.#waits(slot)) return this.pages.freePage(slot);
    return this.#wait(slot, client, request, 0, () => this.pages.freePage(slot));
  }

  zeroPage(slot: number, client: PageClient<PageWindow>, request: number): PageResult {
    if (!this.#waits(slot)) return this.pages.zeroPage(slot);
    return this.#wait(slot, client, request, 0, () => this.pages.zeroPage(slot));
  }

  writePart(
    slot: number,
    from: number,
    to: number,
    window: PageWindow,
    offset: number,
    client: PageClient<PageWindow>,
    request: number,
    page: number,
  ): PageResult {
    if (!this.#waits(slot)) return this.pages.writePart(slot, from, to, window, offset);
    return this.#wait(slot, client, request, page, () => {
      const isThere = client.takePage(request, page, passing, PLACE, to - from);
      if (!isThere) throw new Error('no data');
      return this.pages.writePart(slot, from, to, passing, PLACE);
    });
  }

  abandon(client: PageClient<PageWindow>): void {
    const kept = this.#waiting.filter((each) => each.client !== client);
    this.#waiting.splice(0, this.#waiting.length, ...kept);
  }

  /** Ends one pending operation that is the first of its slot, picked at random. */
  settleOne(random: Random): void {
    const firsts = this.#waiting.filter(
      (each, i) => this.#waiting.findIndex(({ slot }) => slot === each.slot) === i,
    );
    const picked = random.pick(firsts);
    this.#waiting.splice(this.#waiting.indexOf(picked), 1);
    const { client, request, page } = picked;
    client.endPage(request, page, picked.run() === PAGE_DONE, passing, PLACE);
  }

  settleAll(random: Random): void {
    while (this.#waiting.length > 0) this.settleOne(random);
  }

  #waits(slot: number): boolean {
    if (this.isFull) throw new Error('an operation was begun on a full device');
    return this.#waiting.some((each) => each.slot === slot) || this.isSlow(slot);
  }

  #wait(
    slot: number,
    client: PageClient<PageWindow>,
    request: number,
    page: number,
    run: () => PageResult,
  ): PageResult {
    this.#waiting.push({ slot, client, request, page, run });
    return PAGE_PENDING;
  }
}
