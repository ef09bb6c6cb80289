/** Rows of top: two samples, and what happened in between. */

import { describe, expect, it } from 'vitest';
import {
  type Sample,
  sortRows,
  type TimedStatistics,
  topObject,
  topRows,
  totalsOf,
} from '../../src/control/top-sample.ts';
import { daemonStatus, deviceStatus, figures } from '../driver/control-stand-in.ts';

function sample(
  seconds: number,
  devices: Record<string, Partial<TimedStatistics> | null>,
  process = 1,
): Sample {
  return {
    millis: 5000 + seconds * 1000,
    daemon: daemonStatus({ process }),
    devices: Object.entries(devices).map(([device, given]) =>
      deviceStatus(device, { statistics: given === null ? null : figures(given) }),
    ),
  };
}

/** Counts by power-of-two microseconds. */
function times(counts: Record<number, number>): number[] {
  return Array.from({ length: 24 }, (_, i) => counts[i] ?? 0);
}

describe('topRows', () => {
  it('has rates of the time between, whatever counters stood at before', () => {
    const before = sample(0, { a: { num_reads: 1000, num_writes: 50, notify_free: 7 } });
    const now = sample(2, {
      a: { num_reads: 1400, bdev_num_reads: 100, num_writes: 60, notify_free: 27 },
    });
    expect(topRows(before, now)).toMatchObject([
      { readsPerSecond: 250, writesPerSecond: 5, freesPerSecond: 10, bytesPerSecond: 255 * 4096 },
    ]);
  });

  it('has latencies of the requests in between alone', () => {
    const before = sample(0, { a: { read_latency: times({ 3: 1000 }) } });
    const now = sample(1, {
      a: { read_latency: times({ 3: 1000, 5: 97, 9: 3 }), write_latency: times({ 0: 1 }) },
    });
    expect(topRows(before, now)).toMatchObject([
      { readHalfMicros: 64, readMostMicros: 1024, writeHalfMicros: 2, writeMostMicros: 2 },
    ]);
    expect(topRows(now, { ...now, millis: now.millis + 1000 })[0]!.readHalfMicros).toBeUndefined();
  });

  it('knows no rate of a first sample, a new device, a new daemon, one that is no disk', () => {
    const before = sample(0, { a: { num_reads: 5 }, c: null });
    const now = sample(1, {
      a: { num_reads: 9 },
      b: { num_reads: 9 },
      c: { num_reads: 3 },
      d: null,
    });
    const reads = (from: Sample | undefined, to = now) =>
      topRows(from, to).map(({ readsPerSecond }) => readsPerSecond);
    expect(reads(before)).toEqual([4, undefined, undefined, undefined]);
    expect(reads(undefined)).toEqual([undefined, undefined, undefined, undefined]);
    expect(reads(before, sample(1, { a: { num_reads: 9 } }, 2))).toEqual([undefined]);
    // The clock stood still.
    expect(reads({ ...before, millis: now.millis })[0]).toBeUndefined();
  });

  it('takes a counter that fell for one that began anew', () => {
    const [before, now] = [{ num_reads: 1000 }, { num_reads: 30 }].map((a, i) => sample(i, { a }));
    expect(topRows(before, now!)[0]!.readsPerSecond).toBe(30);
  });

  it('shows what is held: sizes, what is gained, failures; nothing of one that is no disk', () => {
    const held = {
      ...{ disksize: 2 ** 26, orig_data_size: 30_000, compr_data_size: 9000 },
      ...{ mem_used_total: 10_000, failed_reads: 1, failed_writes: 2 },
    };
    const now = sample(0, { a: held, b: { ...held, mem_used_total: 0 }, c: null });
    expect(topRows(undefined, now)).toMatchObject([
      {
        ...{ diskBytes: 2 ** 26, storedBytes: 30_000, compressedBytes: 9000 },
        ...{ memoryBytes: 10_000, ratio: 3, failed: 3 },
      },
      { ratio: undefined },
      { diskBytes: undefined, storedBytes: undefined, failed: undefined },
    ]);
  });
});

describe('sortRows', () => {
  const rows = topRows(
    sample(0, { swap10: {}, swap2: {}, swap1: {} }),
    sample(1, {
      swap10: { mem_used_total: 5, num_reads: 3 },
      swap2: { mem_used_total: 9, num_writes: 2, failed_reads: 1 },
      swap1: { mem_used_total: 9, num_reads: 4 },
      idle: null,
    }),
  );
  const sorted = (key: Parameters<typeof sortRows>[1]) =>
    sortRows(rows, key).map(({ device }) => device);

  it('has numbers in names in their order', () => {
    expect(sorted('name')).toEqual(['idle', 'swap1', 'swap2', 'swap10']);
  });

  it('has the largest first, equals by name, and what is no disk last', () => {
    expect(sorted('memory')).toEqual(['swap1', 'swap2', 'swap10', 'idle']);
    expect(sorted('reads')).toEqual(['swap1', 'swap10', 'swap2', 'idle']);
    expect(sorted('writes')).toEqual(['swap2', 'swap1', 'swap10', 'idle']);
    expect(sorted('failed')).toEqual(['swap2', 'swap1', 'swap10', 'idle']);
  });

  it('and totals take what no row knows for nothing', () => {
    expect(totalsOf(rows)).toMatchObject({ memoryBytes: 23, readsPerSecond: 7, failed: 1 });
  });
});

describe('topObject', () => {
  it('is JSON all through: what is not known is null', () => {
    const a = { num_reads: 1, orig_data_size: 8192, mem_used_total: 4096 };
    const now = sample(0, { a, b: null });
    const object = topObject(now, topRows(undefined, now));
    expect(JSON.parse(JSON.stringify(object))).toEqual(object);
    expect(object).toMatchObject({
      daemon: { version: '0.1.0' },
      devices: [
        {
          ...{ device: 'a', disksize: 0, ratio: 2, pages_read_per_second: null },
          read_latency_99_us: null,
        },
        { device: 'b', disksize: null, ratio: null },
      ],
    });
  });
});
