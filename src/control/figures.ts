/**
 * What each figure of a device means: for the control protocol's schema (schema.ts), and what it is
 * called and counted in as a metric (metrics.ts). Sizes are bytes; a histogram counts by power-of-two
 * microseconds (store/statistics.ts).
 */

import type { Statistics } from '../store/statistics.ts';

export interface Figure {
  /** counter: only grows while the device stays initialised; gauge: goes both ways. */
  readonly kind: 'counter' | 'gauge' | 'histogram' | 'text';
  readonly help: string;
  /**
   * Its name for Prometheus, behind `ramzswap_`: base units, `_total` for counters, ratios instead of
   * percent. Null: it is told with another metric.
   */
  readonly metric: string | null;
  /** Of the metric, where that is in another unit than the figure. */
  readonly factor?: number;
  /** Of a histogram: the figure that is the sum of all it counts, in microseconds. */
  readonly sum?: keyof Statistics;
}

const PERCENT = 1 / 100;
const MICROS = 1e-6;

/** In the order of `rzscontrol --json`. */
export const FIGURES: { readonly [Name in keyof Statistics]: Figure } = {
  backing_swap_name: { kind: 'text', help: 'path of the backing swap; null: none', metric: null },
  memlimit: {
    kind: 'gauge',
    help: 'limit on compressed bytes in memory (with a backing swap)',
    metric: 'compressed_limit_bytes',
  },
  disksize: { kind: 'gauge', help: 'uncompressed capacity', metric: 'disk_size_bytes' },
  num_reads: {
    kind: 'counter',
    help: 'pages read, failed ones included',
    metric: 'pages_read_total',
  },
  num_writes: {
    kind: 'counter',
    help: 'pages written, failed ones included',
    metric: 'pages_written_total',
  },
  failed_reads: {
    kind: 'counter',
    help: 'pages that could not be read',
    metric: 'pages_read_failed_total',
  },
  failed_writes: {
    kind: 'counter',
    help: 'pages that could not be written; the guest keeps them',
    metric: 'pages_written_failed_total',
  },
  invalid_io: {
    kind: 'counter',
    help: 'requests beyond the end or not aligned',
    metric: 'invalid_requests_total',
  },
  notify_free: {
    kind: 'counter',
    help: 'pages freed by the guest (discard)',
    metric: 'pages_discarded_total',
  },
  pages_zero: { kind: 'gauge', help: 'zero pages, which cost no memory', metric: 'zero_pages' },
  pages_same: {
    kind: 'gauge',
    help: 'pages of one repeated byte, which cost no memory',
    metric: 'same_filled_pages',
  },
  good_compress_pct: {
    kind: 'gauge',
    help: 'how many of the stored pages are at half their size or less',
    metric: 'good_compression_ratio',
    factor: PERCENT,
  },
  pages_expand_pct: {
    kind: 'gauge',
    help: 'how many of the stored pages are kept as they are',
    metric: 'incompressible_ratio',
    factor: PERCENT,
  },
  pages_stored: {
    kind: 'gauge',
    help: 'pages in memory, zero and same ones not counted',
    metric: 'stored_pages',
  },
  pages_used: { kind: 'gauge', help: 'host pages in use for them', metric: 'memory_used_pages' },
  orig_data_size: {
    kind: 'gauge',
    help: 'uncompressed size of stored pages',
    metric: 'original_bytes',
  },
  compr_data_size: {
    kind: 'gauge',
    help: 'compressed size of stored pages',
    metric: 'compressed_bytes',
  },
  mem_used_total: {
    kind: 'gauge',
    help: 'host memory in use for stored pages',
    metric: 'memory_used_bytes',
  },
  pool_limit: {
    kind: 'gauge',
    help: 'limit of host memory for stored pages; 0: none',
    metric: 'pool_limit_bytes',
  },
  mem_reserved: {
    kind: 'gauge',
    help: 'host memory set aside for pages: that in use, and what is kept for the next ones',
    metric: 'memory_reserved_bytes',
  },
  bdev_num_reads: {
    kind: 'counter',
    help: 'pages read from the backing swap',
    metric: 'backing_pages_read_total',
  },
  bdev_num_writes: {
    kind: 'counter',
    help: 'pages written to the backing swap',
    metric: 'backing_pages_written_total',
  },
  pages_on_backing: { kind: 'gauge', help: 'pages on the backing swap', metric: 'backing_pages' },
  pages_lost: {
    kind: 'gauge',
    help: 'pages that read as errors until they are written again',
    metric: 'lost_pages',
  },
  pages_moved_out: {
    kind: 'counter',
    help: 'pages moved from memory to the backing swap',
    metric: 'pages_moved_out_total',
  },
  bdev_read_latency: {
    kind: 'histogram',
    help: 'reads of the backing swap by duration',
    metric: 'backing_read_seconds',
    sum: 'bdev_read_latency_micros',
  },
  bdev_write_latency: {
    kind: 'histogram',
    help: 'writes of the backing swap by duration',
    metric: 'backing_write_seconds',
    sum: 'bdev_write_latency_micros',
  },
  bdev_read_latency_micros: {
    kind: 'counter',
    help: 'sum of bdev_read_latency, in microseconds',
    metric: null,
  },
  bdev_write_latency_micros: {
    kind: 'counter',
    help: 'sum of bdev_write_latency, in microseconds',
    metric: null,
  },
  requests_read: { kind: 'counter', help: 'read requests', metric: 'read_requests_total' },
  requests_write: { kind: 'counter', help: 'write requests', metric: 'write_requests_total' },
  requests_discard: {
    kind: 'counter',
    help: 'discard and write-zeroes requests',
    metric: 'discard_requests_total',
  },
  requests_other: {
    kind: 'counter',
    help: 'flushes, identity and unknown requests',
    metric: 'other_requests_total',
  },
  read_latency: {
    kind: 'histogram',
    help: 'read requests by duration, from when the queue finds them to when the guest is told',
    metric: 'read_request_seconds',
    sum: 'read_latency_micros',
  },
  write_latency: {
    kind: 'histogram',
    help: 'write requests by duration, from when the queue finds them to when the guest is told',
    metric: 'write_request_seconds',
    sum: 'write_latency_micros',
  },
  discard_latency: {
    kind: 'histogram',
    help: 'discard requests by duration, from when the queue finds them to when the guest is told',
    metric: 'discard_request_seconds',
    sum: 'discard_latency_micros',
  },
  read_latency_micros: {
    kind: 'counter',
    help: 'sum of read_latency, in microseconds',
    metric: null,
  },
  write_latency_micros: {
    kind: 'counter',
    help: 'sum of write_latency, in microseconds',
    metric: null,
  },
  discard_latency_micros: {
    kind: 'counter',
    help: 'sum of discard_latency, in microseconds',
    metric: null,
  },
  serve_micros: {
    kind: 'counter',
    help: 'time in which the rings were served, all threads',
    metric: 'serve_seconds_total',
    factor: MICROS,
  },
  poll_micros: {
    kind: 'counter',
    help: 'time in which threads polled for more requests',
    metric: 'poll_seconds_total',
    factor: MICROS,
  },
  cpu_micros: {
    kind: 'counter',
    help: 'processor time of the threads that serve the device, for other devices too',
    metric: 'threads_cpu_seconds_total',
    factor: MICROS,
  },
  oldest_page_seconds: {
    kind: 'gauge',
    help: 'how long ago the page that is held longest was written, at most',
    metric: 'oldest_page_age_seconds',
  },
};
