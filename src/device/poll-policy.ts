/**
 * How long the reactor looks at the rings before it sleeps. Polling answers the next request in a
 * microsecond instead of a wake-up's ten to twenty, and costs a core while it lasts; so it lasts about
 * as long as the guest's own pauses, and gives way when someone else needs the core. Polling that
 * finds something soon costs nothing: to sleep and be woken would have taken the core as long.
 *
 * HOT PATH: no allocation. Times are wrapping microseconds.
 */

/** Longer pauses are cheaper slept through: a wake-up costs about 20–50 µs. */
export const POLL_MICROS_MAX = 64;
const POLL_MICROS_MIN = 4;
/** What going to sleep and waking up cost this thread: polling that is as short has saved it. */
const WAKE_MICROS = 10;
/** Of each period, polling that was in vain, or longer, may take a fifth. */
const PERIOD_MICROS = 20_000;
const POLLED_MICROS_MAX = PERIOD_MICROS / 5;
/** More preemptions than this in a period: the core is wanted by others. */
const PREEMPTIONS_MAX = 4;

export class PollPolicy {
  #pollMicros = 0;
  #periodStart = 0;
  #polledMicros = 0;
  #preemptions = 0;
  #isSuspended = false;

  /** How long to poll now, in microseconds; 0: sleep at once. */
  get pollMicros(): number {
    return this.#isSuspended ? 0 : this.#pollMicros;
  }

  /** A poll of `micros` has ended, and has found something to do or not. */
  polled(micros: number, hasFound: boolean): void {
    const cost = hasFound ? micros - WAKE_MICROS : micros;
    if (cost > 0) this.#polledMicros += cost;
    if (this.#polledMicros > POLLED_MICROS_MAX) this.#isSuspended = true;
  }

  /**
   * A sleep of `micros` was ended by a request. A short one would better have been polled through,
   * a long one shows that polling before it was in vain.
   */
  slept(micros: number): void {
    if (micros <= POLL_MICROS_MAX) {
      const grown = this.#pollMicros === 0 ? POLL_MICROS_MIN : this.#pollMicros * 2;
      this.#pollMicros = Math.min(grown, POLL_MICROS_MAX);
    } else {
      this.#pollMicros = this.#pollMicros > POLL_MICROS_MIN ? this.#pollMicros >> 1 : 0;
    }
  }

  /** Whether the accounting period is over and `renew` wants to be called. */
  isPeriodOver(now: number): boolean {
    const elapsed = (now - this.#periodStart) | 0;
    return elapsed < 0 || elapsed >= PERIOD_MICROS;
  }

  /** Begins a period. `preemptions`: involuntary context switches of this thread so far. */
  renew(now: number, preemptions: number): void {
    this.#isSuspended = ((preemptions - this.#preemptions) | 0) > PREEMPTIONS_MAX;
    this.#preemptions = preemptions;
    this.#periodStart = now;
    this.#polledMicros = 0;
  }
}
