/**
 * Latencies, counted by powers of two: doubles in somebody's array, first the counts, then the sum,
 * so that a mean can be told as well. Bucket i holds [2^i, 2^(i+1)) microseconds, the first also what
 * took less, the last all above.
 */

export const LATENCY_BUCKETS = 24;
/** Where the sum is, in microseconds, and how many doubles it all takes. */
export const LATENCY = { sum: LATENCY_BUCKETS, DOUBLES: LATENCY_BUCKETS + 1 } as const;

/** Differences of the wrapping clock are negative when they are longer than this. */
const MICROS_MAX = 2 ** 31 - 1;

/** HOT PATH: no allocation. Counts one of `micros` in what begins at `first` of `latencies`. */
export function countLatency(latencies: Float64Array, first: number, micros: number): void {
  const known = micros < 0 ? MICROS_MAX : micros;
  const bucket = known < 1 ? 0 : Math.min(31 - Math.clz32(known), LATENCY_BUCKETS - 1);
  latencies[first + bucket]!++;
  latencies[first + LATENCY.sum]! += known;
}
