/**
 * How long requests take: from the batch in which a queue has popped them to the moment at which the
 * driver can see that they are done. Kept by kind in an array that the owner gives; what is neither
 * read, write nor discard is passed over.
 *
 * The clock is read once a batch, not once a request: a request begins when the clock was read last
 * before it was popped, and ends when its batch has been shown to the driver, who was told. So a time
 * may be too long by what its own batch took until then, never too short.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { assert } from '../base/assert.ts';
import { countLatency, LATENCY } from '../base/latency.ts';
import type { TurnClock } from '../base/turn-clock.ts';
import { REQUESTS } from './page-device.ts';

/** Kinds whose times are kept: the first of REQUESTS. */
const TIMED_REQUESTS = 3;
/** Doubles that they take, one LATENCY behind the other. */
export const REQUEST_LATENCIES = TIMED_REQUESTS * LATENCY.DOUBLES;

assert(
  REQUESTS.read < TIMED_REQUESTS &&
    REQUESTS.write < TIMED_REQUESTS &&
    REQUESTS.discard < TIMED_REQUESTS &&
    REQUESTS.other === TIMED_REQUESTS,
  'reads, writes and discards come first',
);

/** What a queue counts in, and with which clock; where it lies is the owner's to decide. */
export interface RequestFigures {
  /** REQUESTS.COUNT counters. */
  readonly counts: Float64Array;
  /** REQUEST_LATENCIES doubles. */
  readonly latencies: Float64Array;
  readonly clock: TurnClock;
}

export class RequestTimes {
  #latencies: Float64Array;
  readonly #clock: TurnClock;
  /** Of those that are pushed and not yet published: the kind, and when it began. */
  #kinds = new Uint8Array(0);
  #begins = new Int32Array(0);
  #count = 0;

  constructor({ latencies, clock }: RequestFigures) {
    this.#latencies = latencies;
    this.#clock = clock;
  }

  /** From now on. */
  countIn(latencies: Float64Array): void {
    this.#latencies = latencies;
  }

  /** Nothing is pushed; at most `most` requests will be before they are published. Cold path. */
  reset(most: number): void {
    this.#count = 0;
    if (this.#kinds.length === most) return;
    this.#kinds = new Uint8Array(most);
    this.#begins = new Int32Array(most);
  }

  /** A request that began then is among those to be published next. */
  pushed(kind: number, beganAt: number): void {
    if (kind >= TIMED_REQUESTS) return;
    this.#kinds[this.#count] = kind;
    this.#begins[this.#count] = beganAt;
    this.#count++;
  }

  /** All that was pushed is published. */
  published(): void {
    const now = this.#clock.read();
    for (let i = 0; i < this.#count; i++) {
      const micros = (now - this.#begins[i]!) | 0;
      countLatency(this.#latencies, this.#kinds[i]! * LATENCY.DOUBLES, micros);
    }
    this.#count = 0;
  }
}
