/**
 * Upkeep of the devices that a thread serves, in rounds: a step of each, as many at a time as there is
 * time for between two turns. Who comes behind them is the next time's first, so that no device waits
 * for longer than a round, and no turn for longer than a few steps.
 *
 * How long the thread may sleep is known when a round is over in which nothing else has happened.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { sooner } from '../base/wait.ts';
import { turnClock } from '../native/clock.ts';

/** Of all devices together: about as long as one device's turn. */
const STEP_MICROS = 300;
/** The clock costs as much as a device that has nothing to do: between two looks at it. */
const DEVICES_PER_CLOCK = 16;
/** Sleep no longer than this when a ring cannot be kicked. */
const POLLED_RING_MILLIS = 1;

/** A device's queues, as far as upkeep goes. */
export interface Maintained {
  /** Milliseconds until there is more to do: 0 now, -1 nothing to wait for. */
  maintain(now: number): number;
  mustPoll(): boolean;
}

export class Upkeep {
  /** Whose comes next, and what those of this round that had theirs wait for. */
  #next = 0;
  #millis = -1;
  #isStale = false;

  /** Something was served, or ordered: what a device waits for may be another thing now. */
  note(): void {
    this.#isStale = true;
  }

  /** The clock was read just before, as `now`. Milliseconds until there is more to do, as above. */
  step(served: readonly Maintained[], now: number): number {
    if (this.#next >= served.length) {
      this.#next = 0;
      this.#millis = -1;
      this.#isStale = false;
    }
    for (let steps = 1; this.#next < served.length; steps++) {
      const device = served[this.#next]!;
      this.#next++;
      const millis = device.maintain(now);
      this.#millis = sooner(this.#millis, millis);
      if (device.mustPoll()) this.#millis = sooner(this.#millis, POLLED_RING_MILLIS);
      // Who has more to do has done some.
      const mustLook = millis === 0 || steps % DEVICES_PER_CLOCK === 0;
      if (!mustLook || this.#next >= served.length) continue;
      if (((turnClock.read() - now) | 0) >= STEP_MICROS) return 0;
    }
    return this.#isStale ? 0 : this.#millis;
  }
}
