/**
 * Time and scheduling figures without allocation: performance.now() and process.hrtime() allocate
 * on every call. Values wrap at 32 bits; only differences, taken with `| 0`, mean anything.
 */

import type { TurnClock } from '../base/turn-clock.ts';
import { libcFunction } from './libc.ts';

const CLOCK_MONOTONIC = 1;
const CLOCK_BOOTTIME = 7;
const RUSAGE_THREAD = 1;
/** struct rusage, LP64: two timevals, then fourteen longs of which nivcsw is the last. */
const RUSAGE = { nivcsw: 136, SIZE: 144 } as const;

const c = {
  clock_gettime: libcFunction('int clock_gettime(int clock, void *timespec)'),
  getrusage: libcFunction('int getrusage(int who, void *usage)'),
};

const neverNotified = new Int32Array(new SharedArrayBuffer(4));
const timespec = new Uint8Array(new ArrayBuffer(16));
/** Words of struct timespec, LP64: [0] low half of tv_sec, [2] tv_nsec. */
const timespecWords = new Int32Array(timespec.buffer);
const usage = new Uint8Array(new ArrayBuffer(RUSAGE.SIZE));
const usageWords = new Int32Array(usage.buffer);

/** HOT PATH: no allocation. Monotonic microseconds, modulo 2^32, as a signed integer. */
export function monotonicMicros(): number {
  c.clock_gettime(CLOCK_MONOTONIC, timespec);
  return (Math.imul(timespecWords[0]!, 1_000_000) + ((timespecWords[2]! / 1000) | 0)) | 0;
}

/** This thread's clock, for all that it does. */
export const turnClock: TurnClock & { micros: number } = {
  micros: monotonicMicros(),
  read() {
    this.micros = monotonicMicros();
    return this.micros;
  },
};

/** HOT PATH: no allocation. Seconds since boot, those of sleep too: the same in every process. */
export function bootSeconds(): number {
  c.clock_gettime(CLOCK_BOOTTIME, timespec);
  return timespecWords[0]!;
}

/**
 * Microseconds of processor time that a thread of this process (its threadId()) has used; 0 when it
 * has ended. What works for it in other threads, such as the garbage collector, is not in it.
 */
export function threadCpuMicros(thread: number): number {
  // clock_getcpuclockid(3), of a thread: the number inverted, then CPUCLOCK_PERTHREAD and _SCHED.
  const clock = (~thread << 3) | 6;
  if (c.clock_gettime(clock, timespec) !== 0) return 0;
  return (timespecWords[0]! >>> 0) * 1_000_000 + Math.floor(timespecWords[2]! / 1000);
}

/** HOT PATH: no allocation. How often this thread was preempted, modulo 2^32. */
export function involuntarySwitches(): number {
  c.getrusage(RUSAGE_THREAD, usage);
  return usageWords[RUSAGE.nivcsw >> 2]!;
}

/** Blocks this thread. For start and end, never for a thread that serves. */
export function sleepMillis(millis: number): void {
  Atomics.wait(neverNotified, 0, 0, millis);
}
