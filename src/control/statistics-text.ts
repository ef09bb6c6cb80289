/**
 * Figures for people: a device's statistics with the ancestor's labels, the daemon's own the same way,
 * and a table of all devices. Plain text whose columns stay where they are from one look to the next
 * (`watch rzscontrol`).
 */

import Table from 'cli-table3';
import { formatBytes } from '../base/units.ts';
import type { Statistics } from '../store/statistics.ts';
import { quantileMicros } from './latency.ts';
import type { DaemonStatus, DeviceStatus, ShareStatus } from './protocol.ts';

const KB = 1024;

type Rows = [string, string | number][];

/**
 * `Label: value unit`, one line each, as the ancestor's tool printed them; behind those what it had not:
 * limits, where there are some.
 */
export function statisticsText(s: Statistics, share: ShareStatus | null = null): string {
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
    ...(s.pool_limit === 0 ? [] : ([['PoolLimit', kB(s.pool_limit)]] as Rows)),
    ...(share === null ? [] : shareRows(share)),
  ]);
}

function shareRows({ guarantee, used, share, refused }: ShareStatus): Rows {
  return [
    ['Guarantee', kB(guarantee)],
    ['BudgetUsed', kB(used)],
    ['BudgetShare', kB(share)],
    ['BudgetRefused', refused],
  ];
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

interface Column {
  readonly title: string;
  readonly width: number;
  readonly isLeft?: boolean;
  readonly cell: (device: DeviceStatus) => string;
}

/** Sizes are as wide as `1023.9 MiB` whatever they are, names as any can be, with longer ones making room. */
const COLUMNS: readonly Column[] = [
  { title: 'device', width: 9, isLeft: true, cell: ({ device }) => device },
  { title: 'state', width: 13, isLeft: true, cell: ({ state }) => state },
  {
    title: 'front end',
    width: 9,
    isLeft: true,
    cell: ({ connected }) => (connected ? 'connected' : '-'),
  },
  figureColumn('disk', 10, (s) => formatBytes(s.disksize)),
  figureColumn('stored', 10, (s) => formatBytes(s.orig_data_size)),
  figureColumn('compressed', 10, (s) => formatBytes(s.compr_data_size)),
  figureColumn('memory', 10, (s) => formatBytes(s.mem_used_total)),
  figureColumn('ratio', 6, ratioText),
  figureColumn('failed', 6, (s) => `${s.failed_reads + s.failed_writes}`),
];

/** Where the daemon has a budget: a device's part of it. */
const SHARE_COLUMNS: readonly Column[] = [
  shareColumn('guarantee', ({ guarantee }) => guarantee),
  shareColumn('share', ({ share }) => share),
];

function figureColumn(title: string, width: number, text: (s: Statistics) => string): Column {
  const cell = ({ statistics }: DeviceStatus) => (statistics === null ? '-' : text(statistics));
  return { title, width, cell };
}

function shareColumn(title: string, bytes: (share: ShareStatus) => number): Column {
  const cell = ({ share }: DeviceStatus) => (share === null ? '-' : formatBytes(bytes(share)));
  return { title, width: 10, cell };
}

function ratioText({ orig_data_size, mem_used_total }: Statistics): string {
  return mem_used_total === 0 ? '-' : (orig_data_size / mem_used_total).toFixed(2);
}

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
  const columns = budget === null ? COLUMNS : [...COLUMNS, ...SHARE_COLUMNS];
  const table = devices.length === 0 ? 'no devices' : devicesTable(devices, columns);
  if (budget === null) return table;
  const { committed, limit } = budget;
  return `${table}\n\nbudget: ${formatBytes(committed)} of ${formatBytes(limit)} committed`;
}

function devicesTable(devices: readonly DeviceStatus[], columns: readonly Column[]): string {
  const table = new Table({
    chars: NO_LINES,
    colAligns: columns.map(({ isLeft }) => (isLeft === true ? 'left' : 'right')),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0, compact: true },
  });
  const titles = columns.map(({ title }) => title);
  for (const row of [titles, ...devices.map((device) => columns.map(({ cell }) => cell(device)))]) {
    table.push(
      row.map((cell, i) => {
        const { isLeft, width } = columns[i]!;
        return isLeft === true ? cell.padEnd(width) : cell.padStart(width);
      }),
    );
  }
  return table.toString();
}
