/** The record that users see, from counters and gauges. */

import { describe, expect, it } from 'vitest';
import { LATENCY_BUCKETS } from '../../src/base/latency.ts';
import { Window } from '../../src/memory/window.ts';
import { FIGURES_BYTES, headerFigures, LATENCY_COUNT } from '../../src/store/layout.ts';
import {
  COUNTER,
  COUNTER_COUNT,
  REQUEST_LATENCY_DOUBLES,
  REQUEST_LATENCY_ROW,
  readStatistics,
} from '../../src/store/statistics.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';

/** Zeros, of all threads. */
const makeFigures = () => headerFigures(new Window(FIGURES_BYTES));

function statisticsOf(
  counts: Partial<Record<keyof typeof COUNTER, number>>,
  gauges = [0, 0, 0],
  latencies = new Float64Array(LATENCY_COUNT),
) {
  const figures = makeFigures();
  for (const [name, count] of Object.entries(counts)) {
    figures.counters[COUNTER[name as keyof typeof COUNTER]] = count;
  }
  figures.gauges.set(gauges);
  return readStatistics('/swap', { ...figures, latencies });
}

it('has a place of its own for every counter', () => {
  expect(Object.values(COUNTER)).toEqual(Array.from({ length: COUNTER_COUNT }, (_, i) => i));
});

it('shows every counter under its own name', () => {
  const names = Object.keys(COUNTER) as (keyof typeof COUNTER)[];
  const shown: Record<string, string> = {
    numReads: 'num_reads',
    numWrites: 'num_writes',
    failedReads: 'failed_reads',
    failedWrites: 'failed_writes',
    notifyFree: 'notify_free',
    pagesZero: 'pages_zero',
    pagesSame: 'pages_same',
    pagesStored: 'pages_stored',
    comprDataSize: 'compr_data_size',
    bdevNumReads: 'bdev_num_reads',
    bdevNumWrites: 'bdev_num_writes',
    requestsRead: 'requests_read',
    requestsWrite: 'requests_write',
    requestsDiscard: 'requests_discard',
    requestsOther: 'requests_other',
    invalidIo: 'invalid_io',
    pagesOnBacking: 'pages_on_backing',
    pagesLost: 'pages_lost',
    pagesMovedOut: 'pages_moved_out',
    memlimit: 'memlimit',
    disksize: 'disksize',
    poolLimit: 'pool_limit',
    serveMicros: 'serve_micros',
    pollMicros: 'poll_micros',
  };
  for (const name of names.filter((one) => one in shown)) {
    const changed = Object.entries(statisticsOf({ [name]: 12345 })).filter(
      ([key, value]) => value === 12345 && key !== undefined,
    );
    expect(changed).toEqual([[shown[name], 12345]]);
  }
  // The shares, below, and what is for compaction alone.
  expect(names.filter((name) => !(name in shown))).toEqual([
    'goodCompress',
    'pagesExpand',
    'releases',
  ]);
});

it('shows the latencies of reads on the backing and their sum, then those of writes', () => {
  const latencies = Float64Array.from({ length: LATENCY_COUNT }, (_, i) => i);
  const statistics = statisticsOf({}, [0, 0, 0], latencies);
  const { bdev_read_latency, bdev_write_latency } = statistics;
  const { bdev_read_latency_micros, bdev_write_latency_micros } = statistics;
  const reads = [...bdev_read_latency, bdev_read_latency_micros];
  expect([...reads, ...bdev_write_latency, bdev_write_latency_micros]).toEqual([...latencies]);
  expect(bdev_read_latency).toHaveLength(LATENCY_BUCKETS);
});

it('shows the latencies of reads, writes and discards, summed over all threads', () => {
  const figures = makeFigures();
  const { requestLatencies } = figures;
  requestLatencies.forEach((_, at) => {
    const [thread, i] = [Math.floor(at / REQUEST_LATENCY_ROW), at % REQUEST_LATENCY_ROW];
    requestLatencies[at] = i < REQUEST_LATENCY_DOUBLES ? (thread + 1) * (i + 1) : Number.NaN;
  });
  const statistics = readStatistics(null, figures);
  const shown = (['read', 'write', 'discard'] as const).flatMap((kind) => [
    ...statistics[`${kind}_latency`],
    statistics[`${kind}_latency_micros`],
  ]);
  const threads = (16 * 17) / 2;
  const expected = Array.from({ length: REQUEST_LATENCY_DOUBLES }, (_, i) => threads * (i + 1));
  expect(shown).toEqual(expected);
});

it('shows what the process knows', () => {
  const process = { cpuMicros: 77, bootSeconds: 1000 };
  const told = readStatistics(null, makeFigures(), process);
  expect(told).toMatchObject({ cpu_micros: 77, oldest_page_seconds: 0 });
});

describe('derived figures', () => {
  it('are shares of the stored pages, rounded down', () => {
    const statistics = statisticsOf({ pagesStored: 3, goodCompress: 2, pagesExpand: 1 });
    expect([statistics.good_compress_pct, statistics.pages_expand_pct]).toEqual([66, 33]);
    expect(statistics.orig_data_size).toBe(3 * 4096);
  });

  it('are 0 where nothing is stored', () => {
    const statistics = statisticsOf({});
    expect([statistics.good_compress_pct, statistics.pages_expand_pct]).toEqual([0, 0]);
  });

  it('count pool and raw pages as used, reserved ones not', () => {
    const gauges = [0, 0, 0];
    gauges[ARENA_GAUGE.poolPages] = 5;
    gauges[ARENA_GAUGE.rawPages] = 7;
    gauges[ARENA_GAUGE.reservedPages] = 100;
    const statistics = statisticsOf({}, gauges);
    expect([statistics.pages_used, statistics.mem_used_total]).toEqual([12, 12 * 4096]);
    expect(statistics.mem_reserved).toBe(100 * 4096);
  });

  it('stay exact beyond 2^32', () => {
    const statistics = statisticsOf({ pagesStored: 2 ** 33 + 1, comprDataSize: 2 ** 45 + 1 });
    expect(statistics.orig_data_size).toBe((2 ** 33 + 1) * 4096);
    expect(statistics.compr_data_size).toBe(2 ** 45 + 1);
  });
});
