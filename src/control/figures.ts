/**
 * What each figure of a device means: for the control protocol's schema, and for metrics. Sizes are
 * bytes; a histogram counts by power-of-two microseconds (store/statistics.ts).
 */

import type { Statistics } from '../store/statistics.ts';

export interface Figure {
  /** counter: only grows while the device stays initialised; gauge: goes both ways. */
  readonly kind: 'counter' | 'gauge' | 'histogram' | 'text';
  readonly help: string;
}

/** In the order of `rzscontrol --json`. */
export const FIGURES: { readonly [Name in keyof Statistics]: Figure } = {
  backing_swap_name: { kind: 'text', help: 'path of the backing swap; null: none' },
  memlimit: { kind: 'gauge', help: 'limit on compressed bytes in memory (with a backing swap)' },
  disksize: { kind: 'gauge', help: 'uncompressed capacity' },
  num_reads: { kind: 'counter', help: 'pages read, failed ones included' },
  num_writes: { kind: 'counter', help: 'pages written, failed ones included' },
  failed_reads: { kind: 'counter', help: 'pages that could not be read' },
  failed_writes: { kind: 'counter', help: 'pages that could not be written; the guest keeps them' },
  invalid_io: { kind: 'counter', help: 'requests beyond the end or not aligned' },
  notify_free: { kind: 'counter', help: 'pages freed by the guest (discard)' },
  pages_zero: { kind: 'gauge', help: 'zero pages, which cost no memory' },
  pages_same: { kind: 'gauge', help: 'pages of one repeated byte, which cost no memory' },
  good_compress_pct: { kind: 'gauge', help: 'percent of stored pages at half their size or less' },
  pages_expand_pct: { kind: 'gauge', help: 'percent of stored pages kept as they are' },
  pages_stored: { kind: 'gauge', help: 'pages in memory, zero and same ones not counted' },
  pages_used: { kind: 'gauge', help: 'host pages in use for them' },
  orig_data_size: { kind: 'gauge', help: 'uncompressed size of stored pages' },
  compr_data_size: { kind: 'gauge', help: 'compressed size of stored pages' },
  mem_used_total: { kind: 'gauge', help: 'host memory in use for stored pages' },
  bdev_num_reads: { kind: 'counter', help: 'pages read from the backing swap' },
  bdev_num_writes: { kind: 'counter', help: 'pages written to the backing swap' },
  pages_on_backing: { kind: 'gauge', help: 'pages on the backing swap' },
  pages_lost: { kind: 'gauge', help: 'pages that read as errors until they are written again' },
  pages_moved_out: { kind: 'counter', help: 'pages moved from memory to the backing swap' },
  bdev_read_latency: { kind: 'histogram', help: 'reads of the backing swap by duration' },
  bdev_write_latency: { kind: 'histogram', help: 'writes of the backing swap by duration' },
  requests_read: { kind: 'counter', help: 'read requests' },
  requests_write: { kind: 'counter', help: 'write requests' },
  requests_discard: { kind: 'counter', help: 'discard and write-zeroes requests' },
  requests_other: { kind: 'counter', help: 'flushes, identity and unknown requests' },
};
