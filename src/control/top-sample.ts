/**
 * What `rzscontrol top` shows of devices: two samples of the daemon's figures, some time apart, become
 * rows with rates and latencies of the time between. Reads no clock and no socket.
 */

import { PAGE_BYTES } from '../base/units.ts';
import type { Statistics } from '../store/statistics.ts';
import type { SortKey } from './control-options.ts';
import { quantileMicros } from './latency.ts';
import type { DaemonStatus, DeviceState, DeviceStatus, ShareStatus } from './protocol.ts';

/** All figures of one moment. */
export interface Sample {
  /** Of a clock that only goes forward. */
  readonly millis: number;
  readonly daemon: DaemonStatus;
  readonly devices: readonly DeviceStatus[];
}

/** Undefined: not known, or there was nothing to measure. */
export interface TopRow {
  readonly device: string;
  readonly state: DeviceState;
  readonly connected: boolean;
  readonly diskBytes: number | undefined;
  readonly storedBytes: number | undefined;
  readonly compressedBytes: number | undefined;
  readonly memoryBytes: number | undefined;
  /** What is stored to what it costs. */
  readonly ratio: number | undefined;
  /** Pages a second, those of the backing swap included. */
  readonly readsPerSecond: number | undefined;
  readonly writesPerSecond: number | undefined;
  readonly freesPerSecond: number | undefined;
  readonly bytesPerSecond: number | undefined;
  /** Where half of the requests and where 99% of them lie. */
  readonly readHalfMicros: number | undefined;
  readonly readMostMicros: number | undefined;
  readonly writeHalfMicros: number | undefined;
  readonly writeMostMicros: number | undefined;
  /** Since the disk was made. */
  readonly failed: number | undefined;
  readonly share: ShareStatus | null;
}

/** The daemon counts how long requests take since a later version than the first with these figures. */
export type TimedStatistics = Statistics & {
  readonly read_latency?: readonly number[];
  readonly write_latency?: readonly number[];
};

/** One row a device. `before`: undefined, or of another process, means that no rate is known. */
export function topRows(before: Sample | undefined, now: Sample): TopRow[] {
  const isSame = before?.daemon.process === now.daemon.process;
  const seconds = isSame ? (now.millis - before.millis) / 1000 : 0;
  const last = new Map(
    isSame ? before.devices.map(({ device, statistics }) => [device, statistics]) : [],
  );
  return now.devices.map((status) => ({
    device: status.device,
    state: status.state,
    connected: status.connected,
    share: status.share,
    ...gauges(status.statistics),
    ...rates(last.get(status.device) ?? null, status.statistics, seconds),
  }));
}

type Gauges = Pick<
  TopRow,
  'diskBytes' | 'storedBytes' | 'compressedBytes' | 'memoryBytes' | 'ratio' | 'failed'
>;
type Rates = Omit<TopRow, keyof Gauges | 'device' | 'state' | 'connected' | 'share'>;

function gauges(s: Statistics | null): Gauges {
  return {
    diskBytes: s?.disksize,
    storedBytes: s?.orig_data_size,
    compressedBytes: s?.compr_data_size,
    memoryBytes: s?.mem_used_total,
    ratio: s === null || s.mem_used_total === 0 ? undefined : s.orig_data_size / s.mem_used_total,
    failed: s === null ? undefined : s.failed_reads + s.failed_writes,
  };
}

function rates(
  before: TimedStatistics | null,
  now: TimedStatistics | null,
  seconds: number,
): Rates {
  const isKnown = before !== null && now !== null && seconds > 0;
  const rate = (count: (s: Statistics) => number) =>
    isKnown ? grown(count(before), count(now)) / seconds : undefined;
  const reads = rate((s) => s.num_reads + s.bdev_num_reads);
  const writes = rate((s) => s.num_writes);
  const between = (name: 'read_latency' | 'write_latency') =>
    isKnown ? (now[name] ?? []).map((count, i) => grown(before[name]?.[i] ?? 0, count)) : [];
  const [readTimes, writeTimes] = [between('read_latency'), between('write_latency')];
  return {
    readsPerSecond: reads,
    writesPerSecond: writes,
    freesPerSecond: rate((s) => s.notify_free),
    bytesPerSecond:
      reads === undefined || writes === undefined ? undefined : (reads + writes) * PAGE_BYTES,
    readHalfMicros: quantileMicros(readTimes, 0.5),
    readMostMicros: quantileMicros(readTimes, 0.99),
    writeHalfMicros: quantileMicros(writeTimes, 0.5),
    writeMostMicros: quantileMicros(writeTimes, 0.99),
  };
}

/** A counter that is less than it was has begun anew: a reset. */
function grown(before: number, now: number): number {
  return now < before ? now : now - before;
}

/** Of all rows; what no row knows is nothing. */
export interface Totals {
  readonly storedBytes: number;
  readonly memoryBytes: number;
  readonly readsPerSecond: number;
  readonly writesPerSecond: number;
  readonly bytesPerSecond: number;
  readonly failed: number;
}

export function totalsOf(rows: readonly TopRow[]): Totals {
  const sum = (name: keyof Totals) => rows.reduce((total, row) => total + (row[name] ?? 0), 0);
  return {
    storedBytes: sum('storedBytes'),
    memoryBytes: sum('memoryBytes'),
    readsPerSecond: sum('readsPerSecond'),
    writesPerSecond: sum('writesPerSecond'),
    bytesPerSecond: sum('bytesPerSecond'),
    failed: sum('failed'),
  };
}

const SORTED_BY: Readonly<Record<Exclude<SortKey, 'name'>, keyof Totals>> = {
  memory: 'memoryBytes',
  reads: 'readsPerSecond',
  writes: 'writesPerSecond',
  failed: 'failed',
};

/** By name as people count, ramzswap2 before ramzswap10; by figures the largest first. */
export function sortRows(rows: readonly TopRow[], key: SortKey): TopRow[] {
  const byName = (a: TopRow, b: TopRow) =>
    a.device.localeCompare(b.device, 'en', { numeric: true });
  if (key === 'name') return [...rows].sort(byName);
  const figure = SORTED_BY[key];
  return [...rows].sort((a, b) => (b[figure] ?? -1) - (a[figure] ?? -1) || byName(a, b));
}

/** For programs: one object a sample, with names like those of the statistics. */
export function topObject({ daemon }: Sample, rows: readonly TopRow[]): object {
  return {
    daemon,
    devices: rows.map((row) => ({
      device: row.device,
      state: row.state,
      connected: row.connected,
      disksize: row.diskBytes ?? null,
      orig_data_size: row.storedBytes ?? null,
      compr_data_size: row.compressedBytes ?? null,
      mem_used_total: row.memoryBytes ?? null,
      ratio: row.ratio ?? null,
      pages_read_per_second: row.readsPerSecond ?? null,
      pages_written_per_second: row.writesPerSecond ?? null,
      pages_freed_per_second: row.freesPerSecond ?? null,
      bytes_per_second: row.bytesPerSecond ?? null,
      read_latency_50_us: row.readHalfMicros ?? null,
      read_latency_99_us: row.readMostMicros ?? null,
      write_latency_50_us: row.writeHalfMicros ?? null,
      write_latency_99_us: row.writeMostMicros ?? null,
      failed: row.failed ?? null,
      share: row.share,
    })),
  };
}
