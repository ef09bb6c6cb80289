/** The clock: monotonic, in microseconds, wrapping at 32 bits. */

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import {
  bootSeconds,
  involuntarySwitches,
  monotonicMicros,
  sleepMillis,
  threadCpuMicros,
  turnClock,
} from '../../src/native/clock.ts';
import { threadId } from '../../src/native/process.ts';

it('counts the microseconds that pass', () => {
  const before = process.hrtime.bigint();
  const start = monotonicMicros();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
  const passed = (monotonicMicros() - start) | 0;
  const around = Number(process.hrtime.bigint() - before) / 1000;
  expect(passed).toBeGreaterThanOrEqual(49_000);
  expect(passed).toBeLessThanOrEqual(Math.ceil(around) + 1);
});

it('is the monotonic clock of the system modulo 2^32, as a signed integer', () => {
  const system = () => Number(BigInt.asIntN(32, process.hrtime.bigint() / 1000n));
  const before = system();
  const value = monotonicMicros();
  expect(value).toBe(value | 0);
  expect((value - before) | 0).toBeGreaterThanOrEqual(0);
  expect((system() - value) | 0).toBeGreaterThanOrEqual(0);
});

it('never goes back', () => {
  let last = monotonicMicros();
  for (let i = 0; i < 10_000; i++) {
    const now = monotonicMicros();
    expect((now - last) | 0).toBeGreaterThanOrEqual(0);
    last = now;
  }
});

it('counts preemptions of this thread, which never become fewer', () => {
  const first = involuntarySwitches();
  expect(Number.isInteger(first)).toBe(true);
  expect((involuntarySwitches() - first) | 0).toBeGreaterThanOrEqual(0);
});

it('shows what was read last until it is read again', () => {
  const before = monotonicMicros();
  const read = turnClock.read();
  expect((read - before) | 0).toBeGreaterThanOrEqual(0);
  sleepMillis(5);
  expect(turnClock.micros).toBe(read);
  expect((turnClock.read() - read) | 0).toBeGreaterThanOrEqual(5000);
  expect(turnClock.micros).not.toBe(read);
});

it('counts the seconds since boot', () => {
  const system = () => Math.floor(Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]));
  const before = system();
  const seconds = bootSeconds();
  expect(seconds).toBeGreaterThanOrEqual(before);
  expect(seconds).toBeLessThanOrEqual(system());
});

it('knows the processor time of a thread: what it has worked, not what it has slept', () => {
  const thread = threadId()!;
  const first = threadCpuMicros(thread);
  const [start, all] = [performance.now(), process.cpuUsage()];
  while (threadCpuMicros(thread) - first < 20_000);
  const { user, system } = process.cpuUsage(all);
  expect(user + system).toBeGreaterThan(15_000);
  expect(performance.now() - start).toBeGreaterThan(19);
  const worked = threadCpuMicros(thread);
  sleepMillis(50);
  expect(threadCpuMicros(thread) - worked).toBeLessThan(20_000);
  // No thread of this process has that number.
  if (process.pid !== 1) expect(threadCpuMicros(1)).toBe(0);
});
