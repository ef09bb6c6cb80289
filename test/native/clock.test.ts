/** The clock: monotonic, in microseconds, wrapping at 32 bits. */

import { expect, it } from 'vitest';
import { involuntarySwitches, monotonicMicros } from '../../src/native/clock.ts';

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
