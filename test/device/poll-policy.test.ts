/** How long to look at the rings before sleeping: grows, shrinks, and gives way. */

import { describe, expect, it } from 'vitest';
import { POLL_MICROS_MAX, PollPolicy } from '../../src/device/poll-policy.ts';

const PERIOD = 20_000;

function grown(): PollPolicy {
  const policy = new PollPolicy();
  policy.renew(0, 0);
  for (let i = 0; i < 10; i++) policy.slept(10);
  return policy;
}

describe('PollPolicy', () => {
  it('does not poll before it has seen a short sleep', () => {
    const policy = new PollPolicy();
    expect(policy.pollMicros).toBe(0);
    policy.slept(POLL_MICROS_MAX + 1);
    expect(policy.pollMicros).toBe(0);
  });

  it('polls longer with each short sleep, up to its limit', () => {
    const policy = new PollPolicy();
    const seen: number[] = [];
    for (let i = 0; i < 7; i++) {
      policy.slept(POLL_MICROS_MAX);
      seen.push(policy.pollMicros);
    }
    expect(seen).toEqual([4, 8, 16, 32, 64, 64, 64]);
    expect(POLL_MICROS_MAX).toBe(64);
  });

  it('comes down to no polling at all with long sleeps', () => {
    const policy = grown();
    const seen: number[] = [];
    for (let i = 0; i < 6; i++) {
      policy.slept(5000);
      seen.push(policy.pollMicros);
    }
    expect(seen).toEqual([32, 16, 8, 4, 0, 0]);
  });

  it('stops for the rest of the period when a fifth of it was polled away', () => {
    const policy = grown();
    policy.polled(PERIOD / 5, false);
    expect(policy.pollMicros).toBe(64);
    policy.polled(1, false);
    expect(policy.pollMicros).toBe(0);
    policy.renew(PERIOD, 0);
    expect(policy.pollMicros).toBe(64);
    policy.polled(PERIOD / 5, false);
    expect(policy.pollMicros, 'the account begins anew').toBe(64);
  });

  it('takes polling that found something soon for no cost, and longer ones for the rest', () => {
    const policy = grown();
    for (let i = 0; i < 2000; i++) policy.polled(10, true);
    expect(policy.pollMicros).toBe(64);
    for (let i = 0; i < 80; i++) policy.polled(60, true);
    expect(policy.pollMicros).toBe(64);
    policy.polled(11, true);
    expect(policy.pollMicros).toBe(0);
  });

  it('stops for a period when the thread was preempted more than four times', () => {
    const policy = grown();
    policy.renew(PERIOD, 4);
    expect(policy.pollMicros).toBe(64);
    policy.renew(2 * PERIOD, 9);
    expect(policy.pollMicros).toBe(0);
    policy.renew(3 * PERIOD, 9);
    expect(policy.pollMicros).toBe(64);
  });

  it('a period lasts 20 ms, also across the wrap of the clock', () => {
    const policy = new PollPolicy();
    for (const start of [1000, 0x7fffffff - 5000, -5000]) {
      policy.renew(start | 0, 0);
      expect(policy.isPeriodOver((start + PERIOD - 1) | 0)).toBe(false);
      expect(policy.isPeriodOver((start + PERIOD) | 0)).toBe(true);
      expect(policy.isPeriodOver((start - 1) | 0), 'a clock that stood still for long').toBe(true);
    }
  });
});
