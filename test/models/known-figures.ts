/**
 * Statistics as models know them: without times, and without memory that is kept for later. What is
 * left out is checked here for what must hold of it.
 */

import type { Statistics } from '../../src/store/statistics.ts';

const UNFORESEEN = [
  'mem_reserved',
  'pool_limit',
  ...(['bdev_read_latency_micros', 'bdev_write_latency_micros'] as const),
  ...(['read_latency', 'write_latency', 'discard_latency'] as const),
  ...(['read_latency_micros', 'write_latency_micros', 'discard_latency_micros'] as const),
  ...(['serve_micros', 'poll_micros', 'cpu_micros', 'oldest_page_seconds'] as const),
] as const;

export type KnownStatistics = Omit<Statistics, (typeof UNFORESEEN)[number]>;

export function knownFigures(statistics: Statistics): KnownStatistics {
  const known: Partial<Statistics> = { ...statistics };
  for (const name of UNFORESEEN) delete known[name];
  if (statistics.mem_reserved < statistics.mem_used_total) throw new Error('memory out of nowhere');
  return known as KnownStatistics;
}

const KINDS = ['read', 'write', 'discard'] as const;

function uncounted(statistics: Statistics, kind: (typeof KINDS)[number]): number {
  const counted = statistics[`${kind}_latency`].reduce((sum, count) => sum + count, 0);
  return statistics[`requests_${kind}`] - counted;
}

/** All have been counted: that comes after the driver was told, so another process may be faster. */
export function areLatenciesCounted(statistics: Statistics): boolean {
  return KINDS.every((kind) => uncounted(statistics, kind) === 0);
}

/** With nothing in flight, and every request popped once: each has its latency. */
export function checkLatencies(statistics: Statistics): void {
  for (const kind of KINDS) {
    const buckets = statistics[`${kind}_latency`];
    const micros = statistics[`${kind}_latency_micros`];
    const missing = uncounted(statistics, kind);
    if (missing !== 0) throw new Error(`${missing} requests (${kind}) have no latency`);
    const least = buckets.reduce((sum, count, i) => sum + count * (i === 0 ? 0 : 2 ** i), 0);
    const most = buckets.reduce((sum, count, i) => sum + count * 2 ** (i + 1), 0);
    if (buckets.at(-1) === 0 && micros >= least && micros <= most) continue;
    throw new Error(`${kind}: ${micros} µs in all, ${buckets}`);
  }
}
