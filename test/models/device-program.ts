/**
 * A random program for a block device and its model: batches of requests on several queues, 32 deep,
 * laid out in any way. Whoever runs it carries the requests out (through a socket, or in process)
 * and reads the statistics; here the requests are made, and what comes back is compared.
 */

import { deepStrictEqual } from 'node:assert/strict';
import type { Statistics } from '../../src/store/statistics.ts';
import {
  type BlockRequest,
  type Completion,
  GuestDriver,
  ringDescriptors,
} from '../driver/guest-driver.ts';
import { indirect, type Layout, randomLayout } from '../driver/layouts.ts';
import { Random } from '../driver/random.ts';
import { clear } from '../driver/requests.ts';
import {
  DeviceModel,
  type Expected,
  type KnownPage,
  type Operation,
  type Segment,
  TYPE,
} from './device-model.ts';
import { checkLatencies, type KnownStatistics, knownFigures } from './known-figures.ts';
import { keepingOf } from './page-store-model.ts';
import { somePage } from './pages.ts';
import { seededRandom } from './random.ts';

const PAGE_BYTES = 4096;
const SECTORS_PER_PAGE = 8;
export const DEPTH = 32;
/** Slots are dealt out to queues by the stripe, anew for every batch. */
export const STRIPE_SLOTS = 128;
const TRANSFER_PAGES_MAX = 64;
const KNOWN_PAGES = 600;
const SEGMENTS_MAX = 24;
const TABLE_ENTRIES_MAX = 1024;
/** The driver fills with it what the device may write. */
const UNTOUCHED = 0xa5;
const TWO_64 = 2n ** 64n;
const FAR_SECTORS = [2n ** 32n, 2n ** 53n - 8n, 2n ** 53n, 2n ** 63n, TWO_64 - 8n];

export interface ProgramOptions {
  readonly seed: number;
  readonly slots: number;
  readonly name: string;
  /** What page 0 of the new device holds. */
  readonly header: Uint8Array;
  /**
   * There is a backing swap. Which pages are there depends on how the queues' requests meet; that every
   * page is somewhere, and counted once, does not.
   */
  readonly hasBacking?: boolean;
  /** First slots of the stripes in use; default: the whole disk. */
  readonly stripes?: readonly number[];
  /**
   * Requests may be done twice, and returned in any order: no two of a batch touch the same pages, as
   * no guest's do. Counters of what was done say little then.
   */
  readonly isRepeated?: boolean;
}

interface Waiting {
  readonly ticket: number;
  readonly operation: Operation;
  readonly expected: Expected;
}

export class DeviceProgram {
  readonly model: DeviceModel;
  readonly random: Random;
  readonly #known: readonly KnownPage[];
  readonly #stripes: readonly number[];
  readonly #stripeSlots: number;
  readonly #hasBacking: boolean;
  readonly #isRepeated: boolean;
  /** By queue, in the order of submission: how a queue completes, unless requests are repeated. */
  readonly #waiting: Waiting[][] = [];
  operations = 0;

  constructor(options: ProgramOptions) {
    const { seed, slots, name, header, stripes } = options;
    const { hasBacking = false, isRepeated = false } = options;
    this.#hasBacking = hasBacking;
    this.#isRepeated = isRepeated;
    this.#stripeSlots = isRepeated ? TRANSFER_PAGES_MAX : STRIPE_SLOTS;
    this.random = new Random(seed);
    const pageRandom = seededRandom(seed);
    this.#known = Array.from({ length: KNOWN_PAGES }, () => {
      const bytes = somePage(pageRandom);
      return { bytes, keeping: keepingOf(bytes) };
    });
    this.model = new DeviceModel(slots, name, header);
    const each = this.#stripeSlots;
    const whole = Array.from({ length: slots / each }, (_, i) => i * each);
    this.#stripes = stripes ?? whole;
  }

  /** Submits a batch to every queue and applies it to the model; the caller flushes and waits. */
  submit(drivers: readonly GuestDriver[], depth = DEPTH): void {
    const dealt: number[][] = drivers.map(() => []);
    for (const stripe of this.#stripes) this.random.pick(dealt).push(stripe);
    drivers.forEach((driver, queue) => {
      const stripes = dealt[queue]!;
      this.#waiting[queue] = [];
      for (let left = depth; left > 0; left--) {
        const own = this.#isRepeated ? stripes.splice(-1) : stripes;
        const operation =
          own.length === 0 ? ({ kind: 'flush' } as const) : this.#someOperation(own);
        const request = requestOf(operation);
        const layout = this.#layout(operation, request, driver, left);
        const expected = this.model.apply(operation);
        const ticket = driver.submit(request, layout).number;
        this.#waiting[queue].push({ ticket, operation, expected });
        this.operations++;
        // Now and then the device may begin before the batch is complete.
        if (this.random.oneIn(12)) driver.flush();
      }
    });
  }

  /** Compares what a queue gave back with what the model says comes next. */
  take(queue: number, done: Completion): void {
    const waiting = this.#waiting[queue]!;
    const isIt = ({ ticket }: Waiting) => ticket === done.ticket.number;
    const [next] = waiting.splice(this.#isRepeated ? waiting.findIndex(isIt) : 0, 1);
    const what = () => `queue ${queue}, ${describe(next!.operation)}`;
    if (next?.ticket !== done.ticket.number) throw new Error(`queue ${queue}: out of order`);
    const { status, len, pieces } = next.expected;
    if (done.status !== status) throw new Error(`${what()}: status ${done.status}, not ${status}`);
    if (done.len !== len) throw new Error(`${what()}: length ${done.len}, not ${len}`);
    let at = 0;
    for (const piece of pieces ?? []) {
      const got = done.data.subarray(at, at + piece.length);
      if (Buffer.compare(got, piece) !== 0) throw new Error(`${what()}: differs at byte ${at}`);
      at += piece.length;
    }
    const isClean = done.data.subarray(at).every((byte) => byte === UNTOUCHED);
    if (!isClean) throw new Error(`${what()}: bytes were written behind the data`);
  }

  /** With nothing in flight: every figure, exactly. */
  compareStatistics(got: Statistics): void {
    const { store } = this.model;
    if (this.#hasBacking) {
      this.#compareBacked(got);
      return;
    }
    deepStrictEqual(knownFigures(got), this.model.statistics(got.pages_used));
    checkLatencies(got);
    const pool = (got.pages_used - store.rawPages) * PAGE_BYTES;
    if (pool < store.objectBytes) throw new Error(`${pool} bytes of pool: less than it holds`);
  }

  /** With nothing in flight: what is held, exactly, whatever was done twice on the way there. */
  compareHeld(got: Statistics): void {
    const wanted = this.model.statistics(got.pages_used);
    if (this.#hasBacking) {
      const [held, all] = [knownFigures(got), wanted].map(heldSomewhere);
      deepStrictEqual(held, all);
      return;
    }
    const [held, all] = [knownFigures(got), wanted].map((figures) => ({
      ...heldSomewhere(figures),
      compr_data_size: figures.compr_data_size,
      good_compress_pct: figures.good_compress_pct,
      pages_expand_pct: figures.pages_expand_pct,
    }));
    deepStrictEqual(held, all);
  }

  #compareBacked(got: Statistics): void {
    const wanted = this.model.statistics(got.pages_used);
    const [kept, all] = [knownFigures(got), wanted].map((figures) => ({
      ...{ num_writes: figures.num_writes, notify_free: figures.notify_free },
      ...heldSomewhere(figures),
      ...{ failed_reads: figures.failed_reads, failed_writes: figures.failed_writes },
      ...{ invalid_io: figures.invalid_io, requests_other: figures.requests_other },
      ...{ requests_read: figures.requests_read, requests_write: figures.requests_write },
      requests_discard: figures.requests_discard,
    }));
    deepStrictEqual(kept, all);
    checkLatencies(got);
    // What zeroes a part of a page on the swap reads it there, and is nobody's read.
    if (got.num_reads + got.bdev_num_reads < wanted.num_reads) throw new Error('reads are missing');
    if (got.pages_lost > 0) throw new Error(`${got.pages_lost} pages lost`);
  }

  #someOperation(stripes: readonly number[]): Operation {
    const { random } = this;
    const dice = random.below(100);
    if (dice < 40) return this.#transfer(stripes, 'write');
    if (dice < 70) return this.#transfer(stripes, 'read');
    if (dice < 78) return this.#clear(stripes, TYPE.discard);
    if (dice < 88) return this.#clear(stripes, TYPE.writeZeroes);
    if (dice < 91) return { kind: 'flush' };
    if (dice < 93) return { kind: 'getId', inBytes: random.pick([20, 20, 0, 1, 19, 21, 512]) };
    return this.#wrong(stripes, dice);
  }

  /** Mostly short, as a guest that swaps; up to 64 pages. */
  #pageCount(): number {
    const { random } = this;
    if (random.oneIn(16)) return random.between(1, TRANSFER_PAGES_MAX);
    return random.oneIn(40) ? 0 : random.between(1, 8);
  }

  #transfer(stripes: readonly number[], kind: 'read' | 'write'): Operation {
    const { random } = this;
    const count = this.#pageCount();
    const slot = random.pick(stripes) + random.below(this.#stripeSlots - count + 1);
    const sector = BigInt(slot * SECTORS_PER_PAGE);
    return kind === 'read'
      ? { kind, sector, pages: count }
      : { kind, sector, pages: this.#somePages(count) };
  }

  #somePages(count: number): KnownPage[] {
    return Array.from({ length: count }, () => this.random.pick(this.#known));
  }

  #clear(stripes: readonly number[], type: number): Operation {
    const { random } = this;
    const count = random.oneIn(3) ? random.between(1, 16) : 1;
    const segments = Array.from({ length: count }, (): Segment => {
      const isWhole = random.oneIn(2);
      const sectors = this.#stripeSlots * SECTORS_PER_PAGE;
      const unit = isWhole ? SECTORS_PER_PAGE : 1;
      const length = random.oneIn(20) ? random.below(sectors / 2) : random.below(64);
      const from = random.below((sectors - length) / unit) * unit;
      const flags = type === TYPE.writeZeroes ? random.below(2) : 0;
      const whole = Math.floor(length / unit) * unit;
      return {
        sector: BigInt(random.pick(stripes) * SECTORS_PER_PAGE + from),
        sectors: whole,
        flags,
      };
    });
    return { kind: 'clear', type, segments };
  }

  #wrong(stripes: readonly number[], dice: number): Operation {
    const { random } = this;
    const type = random.pick([TYPE.in, TYPE.out]);
    const clearType = random.pick([TYPE.discard, TYPE.writeZeroes]);
    switch (dice) {
      case 93:
        return this.#transferAt(type, this.#sectorBehind());
      case 94:
        return this.#transferAt(type, BigInt(random.pick(stripes) * 8 + random.between(1, 7)));
      case 95:
        return {
          kind: 'ragged',
          type,
          sector: BigInt(random.pick(stripes) * 8),
          bytes: random.pick([1, 511, 512, 4095, 4097, 20000]),
        };
      case 96:
        return {
          kind: 'unknown',
          type: random.pick([2, 3, 5, 7, 9, 10, 12, 14, 16, 0x100, 0xffffffff]),
          inBytes: random.pick([0, 20, 4096]),
        };
      case 97:
        return { kind: 'shortHeader', headerBytes: random.below(16) };
      case 98:
        return { kind: 'badSegments', type: clearType, bytes: random.pick([0, 1, 15, 17, 272]) };
      default:
        return this.#wrongClear(stripes, clearType);
    }
  }

  #sectorBehind(): bigint {
    const end = BigInt(this.model.slots * SECTORS_PER_PAGE);
    return this.random.oneIn(2) ? this.random.pick(FAR_SECTORS) : end - 8n;
  }

  /** Two pages, so that the last page of the disk is one too few. */
  #transferAt(type: number, sector: bigint): Operation {
    return type === TYPE.in
      ? { kind: 'read', sector, pages: 2 }
      : { kind: 'write', sector, pages: this.#somePages(2) };
  }

  /** Good segments around a bad one: nothing of them may be carried out. */
  #wrongClear(stripes: readonly number[], type: number): Operation {
    const { random } = this;
    const good = (this.#clear(stripes, type) as { segments: readonly Segment[] }).segments;
    const end = BigInt(this.model.slots * SECTORS_PER_PAGE);
    const bad = random.pick<Segment>([
      { sector: 0n, sectors: 8, flags: type === TYPE.discard ? 1 : 2 },
      { sector: 0n, sectors: 8, flags: 0x80000000 },
      { sector: end - 8n, sectors: 9, flags: 0 },
      { sector: random.pick(FAR_SECTORS), sectors: 8, flags: 0 },
      { sector: 0n, sectors: 8193, flags: 0 },
      { sector: 0n, sectors: 0xffffffff, flags: 0 },
    ]);
    const segments = [...good.slice(0, 15)];
    segments.splice(random.below(segments.length + 1), 0, bad);
    return { kind: 'clear', type, segments };
  }

  /** Any layout; in a table where the descriptors would not suffice for those still to come. */
  #layout(operation: Operation, request: BlockRequest, driver: GuestDriver, left: number): Layout {
    const { random } = this;
    const layout =
      operation.kind === 'shortHeader'
        ? { readable: [{ bytes: operation.headerBytes }], writable: [{ bytes: 1 }] }
        : randomLayout(random, GuestDriver.sizes(request), SEGMENTS_MAX * 3, true);
    const isRoom = ringDescriptors(layout) <= driver.freeDescriptors - left + 1;
    const entries = layout.readable.length + layout.writable.length;
    if (isRoom && entries <= TABLE_ENTRIES_MAX) return layout;
    return indirect(layout, random.below(PAGE_BYTES), 0);
  }
}

/** That every page is somewhere, and counted once. */
function heldSomewhere(figures: KnownStatistics) {
  return {
    ...{ pages_zero: figures.pages_zero, pages_same: figures.pages_same },
    somewhere: figures.pages_stored + figures.pages_on_backing + figures.pages_lost,
    orig_data_size: figures.orig_data_size - figures.pages_stored * PAGE_BYTES,
  };
}

/** The request as a driver sends it. */
function requestOf(operation: Operation): BlockRequest {
  switch (operation.kind) {
    case 'write': {
      const data = new Uint8Array(operation.pages.length * PAGE_BYTES);
      operation.pages.forEach(({ bytes }, i) => {
        data.set(bytes, i * PAGE_BYTES);
      });
      return { type: TYPE.out, sector: operation.sector, data };
    }
    case 'read':
      return { type: TYPE.in, sector: operation.sector, inBytes: operation.pages * PAGE_BYTES };
    case 'clear':
      return clear(operation.type, operation.segments);
    case 'flush':
      return { type: TYPE.flush, sector: 0 };
    case 'getId':
      return { type: TYPE.getId, sector: 0, inBytes: operation.inBytes };
    case 'ragged':
      return operation.type === TYPE.in
        ? { type: TYPE.in, sector: operation.sector, inBytes: operation.bytes }
        : { type: TYPE.out, sector: operation.sector, data: new Uint8Array(operation.bytes) };
    case 'badSegments':
      return { type: operation.type, sector: 0, data: new Uint8Array(operation.bytes) };
    case 'unknown':
      return { type: operation.type, sector: 0, inBytes: operation.inBytes };
    case 'shortHeader':
      return { type: TYPE.out, sector: 0 };
  }
}

function describe(operation: Operation): string {
  if (operation.kind !== 'write') {
    return JSON.stringify(operation, (_, value) =>
      typeof value === 'bigint' ? value.toString() : value,
    );
  }
  return `write of ${operation.pages.length} pages at sector ${operation.sector}`;
}
