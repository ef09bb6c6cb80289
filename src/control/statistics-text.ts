/**
 * Figures for people: a device's statistics with the ancestor's labels, the daemon's own the same way,
 * and a table of all devices. Plain text whose columns stay where they are from one look to the next
 * (`watch rzscontrol`).
 */

import Table from 'cli-table3';
import { formatBytes } from '../base/units.ts';
import type { Statistics } from '../store/statistics.ts';
import { quantileMicros } from './latency.ts';
import type { DaemonStatus, DeviceStatus } from './protocol.ts';

const KB = 1024;

type Rows = [string, string | number][];

/** `Label: value unit`, one line each, as the ancestor's tool printed them. */
export function statisticsText(s: Statistics): string {
  const isBacked = s.backing_swap_name !== null;
  return linesOf([
    ...(isBacked ? ([['BackingSwap', s.backing_swap_name]] as Rows) : []),
    ['DiskSize', kB(s.disksize)],
    ...(isBacked ? ([['MemLimit', kB(s.memlimit)]] as Rows) : []),
    ['NumReads', s.num_reads],
    ['NumWrites', s.num_writes],
    ['FailedReads', s.failed_reads],
    ['FailedWrites', s.failed_writes],
    ['InvalidIO', s.invalid_io],
    ['NotifyFree', s.notify_free],
    ['ZeroPages', s.pages_zero],
    ['SamePages', s.pages_same],
    ['GoodCompress', `${s.good_compress_pct} %`],
    ['NoCompress', `${s.pages_expand_pct} %`],
    ['PagesStored', s.pages_stored],
    ['PagesUsed', s.pages_used],
    ['OrigDataSize', kB(s.orig_data_size)],
    ['ComprDataSize', kB(s.compr_data_size)],
    ['MemUsedTotal', kB(s.mem_used_total)],
    ...(isBacked ? backingRows(s) : []),
  ]);
}

function backingRows(s: Statistics): Rows {
  return [
    ['BDevNumReads', s.bdev_num_reads],
    ['BDevNumWrites', s.bdev_num_writes],
    ['PagesOnBacking', s.pages_on_backing],
    ['PagesLost', s.pages_lost],
    ['PagesMovedOut', s.pages_moved_out],
    ['BDevReadLatency', latencyText(s.bdev_read_latency)],
    ['BDevWriteLatency', latencyText(s.bdev_write_latency)],
  ];
}

/** The daemon itself, the same way. */
export function daemonText({
  version,
  process: pid,
  uptime_seconds,
  threads,
  budget,
}: DaemonStatus): string {
  const budgetRows: Rows =
    budget === null
      ? []
      : [
          ['Budget', kB(budget.limit)],
          ['BudgetCommitted', kB(budget.committed)],
        ];
  return linesOf([
    ['Version', version],
    ['Process', pid],
    ['Uptime', `${Math.floor(uptime_seconds)} s`],
    ['Threads', threads],
    ...budgetRows,
  ]);
}

function linesOf(rows: Rows): string {
  return rows.map(([label, value]) => `${label}: ${value}`).join('\n');
}

function kB(bytes: number): string {
  return `${Math.floor(bytes / KB)} kB`;
}

/** Where half of the I/Os and where 99% of them lie: upper ends of their buckets. */
function latencyText(counts: readonly number[]): string {
  const [half, most] = [quantileMicros(counts, 0.5), quantileMicros(counts, 0.99)];
  return half === undefined ? '-' : `50% below ${half} us, 99% below ${most} us`;
}

/** Sizes are as wide as `1023.9 MiB` whatever they are, names as any can be, with longer ones making room. */
const COLUMNS = [
  { title: 'device', width: 9, align: 'left' },
  { title: 'state', width: 13, align: 'left' },
  { title: 'front end', width: 9, align: 'left' },
  { title: 'disk', width: 10, align: 'right' },
  { title: 'stored', width: 10, align: 'right' },
  { title: 'compressed', width: 10, align: 'right' },
  { title: 'memory', width: 10, align: 'right' },
  { title: 'ratio', width: 6, align: 'right' },
  { title: 'failed', width: 6, align: 'right' },
] as const;

/** Two spaces between columns and no lines: for eyes, and for awk. */
const NO_LINES = {
  ...{ top: '', 'top-mid': '', 'top-left': '', 'top-right': '' },
  ...{ bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '' },
  ...{ mid: '', 'mid-mid': '', left: '', 'left-mid': '', right: '', 'right-mid': '' },
  middle: '  ',
};

/** One row a device, what is stored and what it costs, and beneath them the budget if there is one. */
export function devicesText(
  devices: readonly DeviceStatus[],
  budget: DaemonStatus['budget'],
): string {
  const table = devices.length === 0 ? 'no devices' : devicesTable(devices);
  if (budget === null) return table;
  const { committed, limit } = budget;
  return `${table}\n\nbudget: ${formatBytes(committed)} of ${formatBytes(limit)} committed`;
}

function devicesTable(devices: readonly DeviceStatus[]): string {
  const table = new Table({
    chars: NO_LINES,
    colAligns: COLUMNS.map(({ align }) => align),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0, compact: true },
  });
  for (const row of [COLUMNS.map(({ title }) => title), ...devices.map(deviceRow)]) {
    table.push(
      row.map((cell, i) => {
        const { align, width } = COLUMNS[i]!;
        return align === 'left' ? cell.padEnd(width) : cell.padStart(width);
      }),
    );
  }
  return table.toString();
}

function deviceRow({ device, state, connected, statistics: s }: DeviceStatus): string[] {
  const begun = [device, state, connected ? 'connected' : '-'];
  if (s === null) return [...begun, '-', '-', '-', '-', '-', '-'];
  return [
    ...begun,
    formatBytes(s.disksize),
    formatBytes(s.orig_data_size),
    formatBytes(s.compr_data_size),
    formatBytes(s.mem_used_total),
    s.mem_used_total === 0 ? '-' : (s.orig_data_size / s.mem_used_total).toFixed(2),
    `${s.failed_reads + s.failed_writes}`,
  ];
}
