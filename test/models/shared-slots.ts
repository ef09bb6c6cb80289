/**
 * Load on a few slots from all queues of a device at once: reads, writes, discards and zeroes, many
 * in flight, every page saying whose it is. Each slot must behave like one register, whichever
 * threads serve the queues: register.ts judges what was read, from when requests were shown to the
 * device and taken back. What is asked for follows from the seed; how it interleaves does not.
 *
 * A ring may be stopped with requests in flight: they are carried out again, within their time.
 */

import {
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/virtio-blk/protocol.ts';
import type { BlockRequest, Completion } from '../driver/guest-driver.ts';
import type { MultiQueueGuest, QueueDriver } from '../driver/multi-queue.ts';
import { clear, read, write } from '../driver/requests.ts';
import { EMPTY, fillVersion, versionOf } from './named-pages.ts';
import { type Random, seededRandom } from './random.ts';
import { impossibleReads, type Timed } from './register.ts';

const PAGE_BYTES = 4096;
const SECTORS_PER_PAGE = 8;
const PAGES_MAX = 4;
/** Page 0 is the swap header. */
const FIRST_SLOT = 8;
/** Rounds of requests from one stopped ring to the next. */
const RESTART_EVERY = 20;

export interface SharedSlotsOptions {
  readonly seed: number;
  readonly slots: number;
  readonly depth: number;
}

export class SharedSlots {
  readonly #options: SharedSlotsOptions;
  readonly #random: Random;
  readonly #writes: Timed[][];
  readonly #reads: Timed[][];
  /** By queue and number of the request: when it was shown, and what it writes. */
  readonly #flights = new Map<string, { start: number; slot: number; versions: number[] }>();
  #clock = 0;
  #versions = EMPTY;
  /** Pages read, written or cleared. */
  operations = 0;
  restarts = 0;

  constructor(options: SharedSlotsOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    this.#writes = Array.from({ length: options.slots }, () => []);
    this.#reads = Array.from({ length: options.slots }, () => []);
  }

  /** Runs until so many pages were asked for, and all has come back. */
  run(guest: MultiQueueGuest, operations: number): void {
    const take = (queue: QueueDriver, done: Completion) => this.#take(queue, done);
    for (let round = 1; this.operations < operations; round++) {
      for (const queue of guest.queues) this.#fill(queue);
      // All at once: the threads have the processors to themselves while this one sleeps.
      for (const { driver } of guest.queues) driver.flush();
      if (round % RESTART_EVERY === 0) this.#restart(guest);
      if (this.#random.rarely(4)) guest.takeCompleted(take);
      else guest.completeAll(take);
    }
    guest.completeAll(take);
  }

  /** Reads that no register would have given. */
  impossible(): Timed[] {
    const first = { version: EMPTY, start: -1, end: -1 };
    return this.#reads.flatMap((reads, i) => impossibleReads(this.#writes[i]!, reads, first));
  }

  /** Share of the reads that saw a write that had not come back when they were sent. */
  get racing(): number {
    let [racing, all] = [0, 0];
    this.#reads.forEach((reads, i) => {
      const ends = new Map(this.#writes[i]!.map(({ version, end }) => [version, end]));
      all += reads.length;
      racing += reads.filter(({ version, start }) => (ends.get(version) ?? -1) > start).length;
    });
    return racing / all;
  }

  #fill({ index, driver }: QueueDriver): void {
    const { slots, depth } = this.#options;
    while (driver.inFlight < depth && driver.freeDescriptors > 8) {
      const count = this.#random.between(1, PAGES_MAX);
      const slot = this.#random.below(slots - count + 1);
      const { request, versions } = this.#request(slot, count);
      const { number } = driver.submit(request);
      this.#flights.set(`${index}:${number}`, { start: this.#clock++, slot, versions });
      this.operations += count;
    }
  }

  #request(slot: number, count: number): { request: BlockRequest; versions: number[] } {
    const kind = this.#random.below(10);
    const first = FIRST_SLOT + slot;
    if (kind < 4) return { request: read(first, count), versions: [] };
    if (kind < 9) {
      const versions = Array.from({ length: count }, () => ++this.#versions);
      const words = new Int32Array((count * PAGE_BYTES) / 4);
      versions.forEach((version, i) => {
        fillVersion(words, (i * PAGE_BYTES) / 4, slot + i, version);
      });
      return { request: write(first, new Uint8Array(words.buffer)), versions };
    }
    const type = this.#random.pick([VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES]);
    const range = { sector: first * SECTORS_PER_PAGE, sectors: count * SECTORS_PER_PAGE };
    return { request: clear(type, [range]), versions: new Array(count).fill(EMPTY) };
  }

  #take({ index }: QueueDriver, { ticket, status, data }: Completion): void {
    const key = `${index}:${ticket.number}`;
    const { start, slot, versions } = this.#flights.get(key)!;
    this.#flights.delete(key);
    if (status !== 0) throw new Error(`slot ${slot}: type ${ticket.request.type} has failed`);
    const end = this.#clock++;
    if (ticket.request.type !== VIRTIO_BLK_T_IN) {
      versions.forEach((version, i) => {
        this.#writes[slot + i]!.push({ version, start, end });
      });
      return;
    }
    const words = new Int32Array(data.slice().buffer);
    for (let i = 0; i < data.length / PAGE_BYTES; i++) {
      const version = versionOf(words, (i * PAGE_BYTES) / 4, slot + i);
      this.#reads[slot + i]!.push({ version, start, end });
    }
  }

  #restart(guest: MultiQueueGuest): void {
    guest.restart(this.#random.below(guest.queues.length));
    this.restarts++;
  }
}
