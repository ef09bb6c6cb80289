/**
 * Statistics for people: the ancestor's labels, one a line, and a table of several devices.
 */

import Table from 'cli-table3';
import { formatBytes } from '../base/units.ts';
import type { Statistics } from '../store/statistics.ts';
import type { DeviceStatus } from './protocol.ts';

const KB = 1024;

/** `Label: value unit`, one line each, as the ancestor's tool printed them. */
export function statisticsText(s: Statistics): string {
  const kB = (bytes: number) => `${Math.floor(bytes / KB)} kB`;
  const rows: [string, string | number][] = [
    ...(s.backing_swap_name === null
      ? []
      : ([['BackingSwap', s.backing_swap_name]] as [string, string][])),
    ['DiskSize', kB(s.disksize)],
    ...(s.backing_swap_name === null ? [] : ([['MemLimit', kB(s.memlimit)]] as [string, string][])),
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
    ...(s.backing_swap_name === null
      ? []
      : ([
          ['BDevNumReads', s.bdev_num_reads],
          ['BDevNumWrites', s.bdev_num_writes],
          ['PagesOnBacking', s.pages_on_backing],
          ['PagesLost', s.pages_lost],
          ['PagesMovedOut', s.pages_moved_out],
          ['BDevReadLatency', latencyText(s.bdev_read_latency)],
          ['BDevWriteLatency', latencyText(s.bdev_write_latency)],
        ] as [string, string | number][])),
  ];
  return rows.map(([label, value]) => `${label}: ${value}`).join('\n');
}

/** Where half of the I/Os and where 99% of them lie: upper ends of their buckets. */
function latencyText(counts: readonly number[]): string {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return '-';
  const below = (share: number) => {
    let sum = 0;
    const bucket = counts.findIndex((count) => {
      sum += count;
      return sum >= total * share;
    });
    return `${2 ** (bucket + 1)} us`;
  };
  return `50% below ${below(0.5)}, 99% below ${below(0.99)}`;
}

/** One row a device: what is stored, and what it costs. */
export function devicesTable(devices: readonly DeviceStatus[]): string {
  const table = new Table({
    head: ['device', 'front end', 'disk', 'stored', 'compressed', 'memory', 'ratio'],
    colAligns: ['left', 'left', 'right', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [], compact: true },
  });
  for (const { device, connected, statistics: s } of devices) {
    if (s === null) {
      table.push([device, connected ? 'connected' : '-', 'uninitialised', '-', '-', '-', '-']);
      continue;
    }
    table.push([
      device,
      connected ? 'connected' : '-',
      formatBytes(s.disksize),
      formatBytes(s.orig_data_size),
      formatBytes(s.compr_data_size),
      formatBytes(s.mem_used_total),
      s.mem_used_total === 0 ? '-' : (s.orig_data_size / s.mem_used_total).toFixed(2),
    ]);
  }
  return table.toString();
}
