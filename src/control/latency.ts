/**
 * What counts by power-of-two microseconds say: entry i counts what took [2^i, 2^(i+1)). For the
 * statistics in text and for top.
 */

/** The upper end of the bucket in which `share` of all is reached; undefined: nothing was counted. */
export function quantileMicros(counts: readonly number[], share: number): number | undefined {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return undefined;
  let sum = 0;
  const bucket = counts.findIndex((count) => {
    sum += count;
    return sum >= total * share;
  });
  return 2 ** (bucket + 1);
}
