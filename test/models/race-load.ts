/**
 * Load for races: every queue owns slots of its own and overwrites them again and again, reading
 * some back. A page's bytes follow from its slot and version, so what a slot holds can be told from
 * outside, also after the front end that wrote it was killed: an acknowledged write must be there,
 * one in flight may be, and nothing may be in between.
 */

import { type Completion, GuestDriver } from '../driver/guest-driver.ts';
import { joined } from '../driver/layouts.ts';
import type { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { seededRandom } from './random.ts';

const PAGE_BYTES = 4096;
const REQUEST_PAGES_MAX = 4;
export const SLOTS_PER_QUEUE = 64;

const NOISE = seededRandom(1).bytes(2 * PAGE_BYTES);

/** Version 0 is a slot that was never written. Kinds: one byte, four bytes, compressible, noise. */
function versionedPage(slot: number, version: number): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  if (version === 0) return page;
  const words = new Uint32Array(page.buffer);
  const mark = Math.imul(slot + 1, 0x9e3779b1) ^ Math.imul(version, 0x85ebca6b) || 1;
  const kind = version % 4;
  if (kind === 0) return page.fill(mark);
  if (kind === 1) words.fill(mark);
  else {
    const from = kind === 2 ? 0 : mark & 4095;
    page.set(NOISE.subarray(from, from + (kind === 2 ? 512 : PAGE_BYTES)));
    // At both ends and in the middle, so that half a page of another version is seen.
    for (let i = 0; i < words.length; i += 64) words[i] = mark + i;
    words[words.length - 1] = mark;
  }
  return page;
}

/** The last page asked for, by slot: reads are compared many times with the same. */
const lastPages = new Map<number, { version: number; page: Uint8Array }>();

function knownPage(slot: number, version: number): Uint8Array {
  const last = lastPages.get(slot);
  if (last?.version === version) return last.page;
  const page = versionedPage(slot, version);
  lastPages.set(slot, { version, page });
  return page;
}

interface SlotState {
  acknowledged: number;
  submitted: number;
}

export interface RaceLoadOptions {
  readonly seed: number;
  readonly queues: number;
  readonly depth: number;
  /** Of the first queue's slots; page 0 is the swap header. Default 8. */
  readonly firstSlot?: number;
  /** Told before a write of `version` is shown to the device, and after it has come back. */
  readonly onWrite?: (what: 'submit' | 'done', slot: number, version: number) => void;
}

export class RaceLoad {
  readonly random: Random;
  readonly slots = new Map<number, SlotState>();
  readonly #options: RaceLoadOptions;
  /** What each request in flight is about: versions that come into force, or are expected. */
  readonly #flights = new Map<string, { slot: number; versions: number[]; isWrite: boolean }>();
  completed = 0;

  constructor(options: RaceLoadOptions) {
    this.#options = options;
    this.random = new Random(options.seed);
  }

  /** Fills every queue up to the depth. */
  fill(guest: MultiQueueGuest): void {
    for (const { index, driver } of guest.queues) {
      while (driver.inFlight < this.#options.depth && driver.freeDescriptors > 8) {
        const { slot, versions, isWrite } = this.#next(index);
        const pages = versions.map((version, i) => knownPage(slot + i, version));
        const request = isWrite ? write(slot, Buffer.concat(pages)) : read(slot, versions.length);
        const { number } = driver.submit(request);
        this.#flights.set(`${index}:${number}`, { slot, versions, isWrite });
      }
      driver.flush();
    }
  }

  /**
   * Fills every queue with reads of all its pages: work for long enough that whatever the front end
   * says meanwhile is heard in the middle of a request.
   */
  fillWithLongReads(guest: MultiQueueGuest): void {
    for (const { index, driver } of guest.queues) {
      const slot = (this.#options.firstSlot ?? 8) + index * SLOTS_PER_QUEUE;
      const request = read(slot, SLOTS_PER_QUEUE);
      const layout = joined(GuestDriver.sizes(request));
      while (driver.inFlight < this.#options.depth && driver.hasRoom(layout)) {
        const versions = Array.from(
          { length: SLOTS_PER_QUEUE },
          (_, i) => this.#state(slot + i).submitted,
        );
        const { number } = driver.submit(request, layout);
        this.#flights.set(`${index}:${number}`, { slot, versions, isWrite: false });
      }
      driver.flush();
    }
  }

  /** Takes back what is there; the count. Reads must be what the queue wrote last before them. */
  take(guest: MultiQueueGuest): number {
    return guest.takeCompleted(({ index }, done) => this.#takeOne(index, done));
  }

  /** Runs until nothing is in flight. */
  drain(guest: MultiQueueGuest, millis = 5000): void {
    guest.completeAll(({ index }, done) => this.#takeOne(index, done), millis);
  }

  /** The connection is gone with what was in flight: either version may be in the store. */
  abandon(): void {
    this.#flights.clear();
  }

  /** Reads every slot written so far; throws unless each holds a whole version that it may. */
  settle(guest: MultiQueueGuest): void {
    const { driver } = guest.queues[0]!;
    const left = [...this.slots.keys()];
    while (left.length > 0) {
      for (const slot of left.splice(0, 16)) driver.submit(read(slot, 1));
      driver.flush();
      guest.completeAll((_, { ticket, data, status }) => {
        const slot = Number(ticket.request.sector) / 8;
        const state = this.slots.get(slot)!;
        const version = status === 0 ? versionOf(slot, data, state) : undefined;
        if (version === undefined) {
          const range = `${state.acknowledged} to ${state.submitted}`;
          throw new Error(`slot ${slot}, status ${status}: none of versions ${range}`);
        }
        state.acknowledged = version;
        state.submitted = version;
      });
    }
  }

  #next(queue: number): { slot: number; versions: number[]; isWrite: boolean } {
    const { random } = this;
    const count = random.between(1, REQUEST_PAGES_MAX);
    const inQueue = random.below(SLOTS_PER_QUEUE - count + 1);
    const slot = (this.#options.firstSlot ?? 8) + queue * SLOTS_PER_QUEUE + inQueue;
    const isWrite = random.below(3) > 0;
    const versions = Array.from({ length: count }, (_, i) => {
      const state = this.#state(slot + i);
      if (!isWrite) return state.submitted;
      state.submitted++;
      this.#options.onWrite?.('submit', slot + i, state.submitted);
      return state.submitted;
    });
    return { slot, versions, isWrite };
  }

  #state(slot: number): SlotState {
    let state = this.slots.get(slot);
    if (state === undefined) {
      state = { acknowledged: 0, submitted: 0 };
      this.slots.set(slot, state);
    }
    return state;
  }

  #takeOne(queue: number, { ticket, status, data }: Completion): void {
    const key = `${queue}:${ticket.number}`;
    const flight = this.#flights.get(key);
    if (flight === undefined) throw new Error(`request ${key} is not in flight`);
    this.#flights.delete(key);
    this.completed++;
    const { slot, versions, isWrite } = flight;
    if (status !== 0) throw new Error(`slot ${slot}: status ${status}`);
    versions.forEach((version, i) => {
      const at = i * PAGE_BYTES;
      if (isWrite) {
        this.#state(slot + i).acknowledged = version;
        this.#options.onWrite?.('done', slot + i, version);
      } else if (Buffer.compare(data.subarray(at, at + PAGE_BYTES), knownPage(slot + i, version))) {
        throw new Error(`slot ${slot + i}: version ${version} was written, another was read`);
      }
    });
  }
}

/** Which version the page is, of those that the slot may hold. */
function versionOf(slot: number, page: Uint8Array, state: SlotState): number | undefined {
  for (let version = state.acknowledged; version <= state.submitted; version++) {
    if (Buffer.compare(page, knownPage(slot, version)) === 0) return version;
  }
  return undefined;
}
