/**
 * A random program for a device whose logical block is 512 bytes, and the simplest model of it: one
 * array of bytes. Every batch cuts the sectors in use into ranges and deals these out to the queues,
 * so that queues in flight together share pages and never sectors.
 */

import type { BlockRequest, Completion } from '../driver/guest-driver.ts';
import { GuestDriver, ringDescriptors } from '../driver/guest-driver.ts';
import { indirect, type Layout, randomLayout } from '../driver/layouts.ts';
import { Random } from '../driver/random.ts';
import { clear } from '../driver/requests.ts';
import { TYPE } from './device-model.ts';

const SECTOR = 512;
const SECTORS_PER_PAGE = 8;
const SEGMENTS_MAX = 40;
/** Ranges of a batch: few enough that most are longer than a page. */
const RANGE_SECTORS_MAX = 60;
const SEGMENT_COUNT_MAX = 3;

export interface SectorProgramOptions {
  readonly seed: number;
  /** Sectors in use: from `first`, so many. */
  readonly first: number;
  readonly sectors: number;
}

/** Sectors [from, to). */
interface Range {
  readonly from: number;
  readonly to: number;
}

interface Waiting {
  readonly ticket: number;
  readonly what: string;
  /** What a read must find. */
  readonly data: Uint8Array | undefined;
}

export class SectorProgram {
  readonly random: Random;
  readonly #first: number;
  readonly #bytes: Uint8Array;
  readonly #waiting: Waiting[][] = [];
  operations = 0;
  /** Pages, wholly or in part, that were read and written. */
  reads = 0;
  writes = 0;

  constructor({ seed, first, sectors }: SectorProgramOptions) {
    this.random = new Random(seed);
    this.#first = first;
    this.#bytes = new Uint8Array(sectors * SECTOR);
  }

  /**
   * Submits a batch to every queue and applies it to the model; the caller flushes and waits. `isOnce`:
   * every sector is one request's, for when requests may be given up and carried out again.
   */
  submit(drivers: readonly GuestDriver[], depth: number, isOnce = false): void {
    const dealt: Range[][] = drivers.map(() => []);
    const end = this.#bytes.length / SECTOR;
    for (let from = 0; from < end; ) {
      const to = Math.min(end, from + this.random.between(1, RANGE_SECTORS_MAX));
      this.random.pick(dealt).push({ from, to });
      from = to;
    }
    drivers.forEach((driver, queue) => {
      this.#waiting[queue] = [];
      const ranges = dealt[queue]!;
      const count = isOnce ? Math.min(depth, ranges.length) : depth;
      for (let left = ranges.length === 0 ? 0 : count; left > 0; left--) {
        const range = isOnce ? ranges.pop()! : this.random.pick(ranges);
        this.#submitOne(driver, this.#waiting[queue], range, left);
      }
    });
  }

  /** Compares what a queue gave back with what must come next. */
  take(queue: number, { ticket, status, data }: Completion): void {
    const next = this.#waiting[queue]!.shift();
    if (next?.ticket !== ticket.number) throw new Error(`queue ${queue}: out of order`);
    if (status !== 0) throw new Error(`queue ${queue}, ${next.what}: status ${status}`);
    if (next.data === undefined) return;
    const at = next.data.findIndex((byte, i) => byte !== data[i]);
    if (at >= 0) throw new Error(`queue ${queue}, ${next.what}: differs at byte ${at}`);
  }

  /** A read of all sectors in use, with nothing in flight. */
  readAll(): { request: BlockRequest; expected: Uint8Array } {
    const inBytes = this.#bytes.length;
    return {
      request: { type: TYPE.in, sector: this.#first, inBytes },
      expected: this.#bytes,
    };
  }

  #submitOne(driver: GuestDriver, waiting: Waiting[], range: Range, left: number): void {
    const { random } = this;
    const dice = random.below(10);
    let request: BlockRequest;
    let data: Uint8Array | undefined;
    if (dice < 4) request = this.#write(this.#within(range));
    else if (dice < 7) {
      const { from, to } = this.#within(range);
      data = this.#bytes.slice(from * SECTOR, to * SECTOR);
      request = { type: TYPE.in, sector: this.#first + from, inBytes: data.length };
      this.reads += this.#pagesOf(from, to);
    } else request = this.#clear(dice === 7 ? TYPE.discard : TYPE.writeZeroes, range);
    const layout = this.#layout(request, driver, left);
    const what = `type ${request.type} at sector ${request.sector}`;
    waiting.push({ ticket: driver.submit(request, layout).number, what, data });
    this.operations++;
    if (random.oneIn(12)) driver.flush();
  }

  #within({ from, to }: Range): Range {
    const start = from + this.random.below(to - from);
    return { from: start, to: this.random.between(start + 1, to) };
  }

  #write({ from, to }: Range): BlockRequest {
    const { random } = this;
    const page = random.page();
    const data = random.oneIn(2) ? random.bytes((to - from) * SECTOR) : undefined;
    const bytes =
      data ?? Uint8Array.from({ length: (to - from) * SECTOR }, (_, i) => page[i & 4095]!);
    this.#bytes.set(bytes, from * SECTOR);
    this.writes += this.#pagesOf(from, to);
    return { type: TYPE.out, sector: this.#first + from, data: bytes };
  }

  #clear(type: number, range: Range): BlockRequest {
    const { random } = this;
    const ranges = Array.from({ length: random.between(1, SEGMENT_COUNT_MAX) }, () => {
      const { from, to } = this.#within(range);
      const flags = type === TYPE.writeZeroes ? random.below(2) : 0;
      const first = this.#first + from;
      const end = this.#first + to;
      for (let sector = first; sector < end; ) {
        const next = Math.min(end, sector - (sector % SECTORS_PER_PAGE) + SECTORS_PER_PAGE);
        this.#clearPart(type, sector, next);
        sector = next;
      }
      return { sector: first, sectors: to - from, flags };
    });
    return clear(type, ranges);
  }

  /** Sectors of one page: a discard passes over those that are not all of it. */
  #clearPart(type: number, first: number, end: number): void {
    const isWhole = end - first === SECTORS_PER_PAGE;
    if (!isWhole && type === TYPE.discard) return;
    if (!isWhole) this.writes++;
    this.#bytes.fill(0, (first - this.#first) * SECTOR, (end - this.#first) * SECTOR);
  }

  #pagesOf(from: number, to: number): number {
    const firstPage = Math.floor((this.#first + from) / SECTORS_PER_PAGE);
    return Math.ceil((this.#first + to) / SECTORS_PER_PAGE) - firstPage;
  }

  /** Any layout; in a table where the descriptors would not suffice for those still to come. */
  #layout(request: BlockRequest, driver: GuestDriver, left: number): Layout {
    const { random } = this;
    const layout = randomLayout(random, GuestDriver.sizes(request), SEGMENTS_MAX, true);
    const isRoom = ringDescriptors(layout) <= driver.freeDescriptors - left + 1;
    return isRoom ? layout : indirect(layout, random.below(4096), 0);
  }
}
