/** Latencies by powers of two, and their sum. */

import { expect, it } from 'vitest';
import { countLatency, LATENCY, LATENCY_BUCKETS } from '../../src/base/latency.ts';

/** The bucket that one of `micros` is counted in, and the sum. */
function counted(micros: number): [bucket: number, sum: number] {
  const latencies = new Float64Array(3 + LATENCY.DOUBLES + 3);
  countLatency(latencies, 3, micros);
  const found = [...latencies.keys()].filter((at) => latencies[at] !== 0);
  const bucket = found.find((at) => latencies[at] === 1 && at !== 3 + LATENCY.sum)!;
  expect(found).toEqual(micros === 0 ? [bucket] : [bucket, 3 + LATENCY.sum]);
  return [bucket - 3, latencies[3 + LATENCY.sum]!];
}

it.each([
  [0, 0],
  [1, 0],
  [2, 1],
  [3, 1],
  [4, 2],
  [1023, 9],
  [1024, 10],
  [2 ** 23 - 1, 22],
  [2 ** 23, LATENCY_BUCKETS - 1],
  [2 ** 31 - 1, LATENCY_BUCKETS - 1],
])('%i microseconds are in bucket %i, and in the sum', (micros, bucket) => {
  expect(counted(micros)).toEqual([bucket, micros]);
});

it('what took longer than the clock can tell is as long as it can tell', () => {
  expect(counted((-(2 ** 31) + 5) | 0)).toEqual([LATENCY_BUCKETS - 1, 2 ** 31 - 1]);
});

it('adds up', () => {
  const latencies = new Float64Array(LATENCY.DOUBLES);
  for (const micros of [5, 6, 7, 100]) countLatency(latencies, 0, micros);
  expect([latencies[2], latencies[6], latencies[LATENCY.sum]]).toEqual([3, 1, 118]);
});
