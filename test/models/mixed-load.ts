/**
 * Requests for their own sake: reads, writes, discards, write-zeroes, flushes on every queue of a
 * guest, scattered or not, made beforehand so that little is left to do while they run. Only
 * statuses are checked; device-program.ts compares what was read.
 */

import type { BlockRequest } from '../driver/guest-driver.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { type Layout, randomLayout, separate } from '../driver/layouts.ts';
import type { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';
import { TYPE } from './device-model.ts';
import { somePage } from './pages.ts';
import { seededRandom } from './random.ts';

const PREPARED = 512;
const SEGMENTS_MAX = 20;

interface Prepared {
  readonly request: BlockRequest;
  readonly layout: Layout;
}

export class MixedLoad {
  readonly #random: Random;
  readonly #prepared: readonly Prepared[];

  /** `isOfSectors`: reads and writes begin and end inside pages. */
  constructor(seed: number, slots: number, isOfSectors = false) {
    this.#random = new Random(seed);
    const pageRandom = seededRandom(seed);
    this.#prepared = Array.from({ length: PREPARED }, () => {
      const whole = this.#someRequest(slots, () => somePage(pageRandom));
      const request = isOfSectors ? this.#trimmed(whole) : whole;
      const sizes = GuestDriver.sizes(request);
      const isPlain = this.#random.oneIn(2);
      const layout = isPlain ? separate(sizes) : randomLayout(this.#random, sizes, 20, true);
      return { request, layout };
    });
  }

  /** Runs `count` requests, `depth` at a time on each queue. */
  run(guest: MultiQueueGuest, count: number, depth: number): void {
    for (let left = count; left > 0; ) {
      for (const { driver } of guest.queues) {
        for (let i = 0; i < depth && left > 0; i++, left--) {
          const { request, layout } = this.#random.pick(this.#prepared);
          driver.submit(request, layout);
        }
        driver.flush();
      }
      guest.completeAll((_, { status, ticket }) => {
        if (status !== 0) throw new Error(`status ${status}, type ${ticket.request.type}`);
      });
    }
  }

  #someRequest(slots: number, page: () => Uint8Array): BlockRequest {
    const random = this.#random;
    const count = random.oneIn(8) ? random.between(1, SEGMENTS_MAX) : random.between(1, 3);
    const slot = random.below(slots - count + 1);
    const dice = random.below(20);
    if (dice < 8) return write(slot, Buffer.concat(Array.from({ length: count }, page)));
    if (dice < 15) return read(slot, count);
    const range = { sector: slot * 8 + random.below(2) * 3, sectors: count * 8 - 3 };
    if (dice < 17) return clear(TYPE.discard, [range, range]);
    if (dice < 18) return clear(TYPE.writeZeroes, [{ ...range, flags: random.below(2) }]);
    if (dice < 19) return { type: TYPE.getId, sector: 0, inBytes: 20 };
    return { type: TYPE.flush, sector: 0 };
  }

  /** A read or write less some sectors at its beginning and its end. */
  #trimmed(request: BlockRequest): BlockRequest {
    if (request.type !== TYPE.in && request.type !== TYPE.out) return request;
    const [before, behind] = [this.#random.below(5), this.#random.below(4)];
    const sector = Number(request.sector) + before;
    const { data, inBytes } = request;
    const trim = (before + behind) * 512;
    return data === undefined
      ? { ...request, sector, inBytes: inBytes! - trim }
      : { ...request, sector, data: data.subarray(0, data.length - trim) };
  }
}
