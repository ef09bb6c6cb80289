/** Quantiles of counts by power-of-two microseconds. */

import { describe, expect, it } from 'vitest';
import { quantileMicros } from '../../src/control/latency.ts';

describe('quantileMicros', () => {
  // 90 of 64 to 127 µs, 10 of 1024 to 2047.
  const counts = [0, 0, 0, 0, 0, 0, 90, 0, 0, 0, 10];

  it.each([
    [0.5, 128],
    [0.9, 128],
    [0.91, 2048],
    [1, 2048],
  ])('says below what %d of all lie: %i', (share, micros) => {
    expect(quantileMicros(counts, share)).toBe(micros);
  });

  it('says nothing of nothing', () => {
    expect(quantileMicros([], 0.5)).toBeUndefined();
    expect(quantileMicros([0, 0], 0.99)).toBeUndefined();
  });
});
