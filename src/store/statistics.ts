/**
 * The store's statistics: event counters and gauges kept as doubles (exact below 2^53) in the
 * store's first pages, and the record that users see, with the names of the ancestor. Counters of pages
 * read and written count pages; `invalid_io` counts requests.
 */

import { LATENCY, LATENCY_BUCKETS } from '../base/latency.ts';
import { PAGE_BYTES, roundUp } from '../base/units.ts';
import { ARENA_GAUGE } from '../xvmalloc/arena.ts';
import type { HeaderFigures } from './layout.ts';
import { oldestBeginning } from './page-ages.ts';

/** Index of each counter in a thread's row. */
export const COUNTER = {
  numReads: 0,
  numWrites: 1,
  failedReads: 2,
  failedWrites: 3,
  notifyFree: 4,
  pagesZero: 5,
  pagesSame: 6,
  pagesStored: 7,
  goodCompress: 8,
  pagesExpand: 9,
  comprDataSize: 10,
  bdevNumReads: 11,
  bdevNumWrites: 12,
  /** Requests by kind, which the queues count, in the order of virtio-blk's REQUESTS. */
  requestsRead: 13,
  requestsWrite: 14,
  requestsDiscard: 15,
  requestsOther: 16,
  invalidIo: 17,
  /** Slots whose page is on the backing swap, or was and is lost. */
  pagesOnBacking: 18,
  pagesLost: 19,
  /** Pages moved from memory to the backing swap: the limit was lowered, or others lack memory. */
  pagesMovedOut: 20,
  /** No counter: the limit on comprDataSize, in bytes, as it is now. In thread 0's row alone. */
  memlimit: 21,
  /** Nor this: the size of the disk in bytes, as it is now. In thread 0's row alone. */
  disksize: 22,
  /** Objects and raw pages let go of, for whatever reason: compaction's measure of what may be wasted. */
  releases: 23,
  /** Microseconds in which rings were served, and in which they were polled on the device's behalf. */
  serveMicros: 24,
  pollMicros: 25,
  /** No counter: the limit of memory for pages, in bytes; 0: none. In thread 0's row alone. */
  poolLimit: 26,
} as const;
export const COUNTER_COUNT = Object.keys(COUNTER).length;
/** Doubles from one thread's row of counters to the next: whole cache lines. */
export const COUNTER_ROW = 32;

/** Kinds of requests whose latencies are kept, in the order of COUNTER. */
const REQUEST_KIND = { read: 0, write: 1, discard: 2, COUNT: 3 } as const;
/** Doubles that one thread's latencies of requests take, and to the next one's: cache lines again. */
export const REQUEST_LATENCY_DOUBLES = REQUEST_KIND.COUNT * LATENCY.DOUBLES;
export const REQUEST_LATENCY_ROW = roundUp(REQUEST_LATENCY_DOUBLES, 8);

/** Those that say what the slots hold now, which the table says as well. */
export const HELD_COUNTERS: ReadonlySet<number> = new Set([
  COUNTER.pagesZero,
  COUNTER.pagesSame,
  COUNTER.pagesStored,
  COUNTER.goodCompress,
  COUNTER.pagesExpand,
  COUNTER.comprDataSize,
  COUNTER.pagesOnBacking,
  COUNTER.pagesLost,
]);

/** A counter's value: the sum over all threads' rows. */
export function sumCounter(rows: Float64Array, index: number): number {
  let sum = 0;
  for (let at = index; at < rows.length; at += COUNTER_ROW) sum += rows[at]!;
  return sum;
}

/** What `rzscontrol --json` prints; sizes are bytes. */
export interface Statistics {
  readonly backing_swap_name: string | null;
  readonly memlimit: number;
  readonly disksize: number;
  /** 0: none. */
  readonly pool_limit: number;
  readonly num_reads: number;
  readonly num_writes: number;
  readonly failed_reads: number;
  readonly failed_writes: number;
  readonly invalid_io: number;
  readonly notify_free: number;
  readonly pages_zero: number;
  readonly pages_same: number;
  readonly good_compress_pct: number;
  readonly pages_expand_pct: number;
  readonly pages_stored: number;
  readonly pages_used: number;
  readonly orig_data_size: number;
  readonly compr_data_size: number;
  readonly mem_used_total: number;
  /** What the host has set aside for pages: that, and what is kept for the next ones. */
  readonly mem_reserved: number;
  readonly bdev_num_reads: number;
  readonly bdev_num_writes: number;
  readonly pages_on_backing: number;
  readonly pages_lost: number;
  readonly pages_moved_out: number;
  /** I/Os on the backing swap by latency: entry i counts those of [2^i, 2^(i+1)) microseconds. */
  readonly bdev_read_latency: readonly number[];
  readonly bdev_write_latency: readonly number[];
  /** The sums of these latencies. */
  readonly bdev_read_latency_micros: number;
  readonly bdev_write_latency_micros: number;
  readonly requests_read: number;
  readonly requests_write: number;
  readonly requests_discard: number;
  readonly requests_other: number;
  /** Requests that were returned, likewise: from the queue's finding them to the driver's being told. */
  readonly read_latency: readonly number[];
  readonly write_latency: readonly number[];
  readonly discard_latency: readonly number[];
  readonly read_latency_micros: number;
  readonly write_latency_micros: number;
  readonly discard_latency_micros: number;
  /** Time in which its rings were served, by all its threads. */
  readonly serve_micros: number;
  /** Time in which threads polled after this device's requests, until others came or none did. */
  readonly poll_micros: number;
  /** Processor time of the threads that serve it, since they began; other devices' share is in it. */
  readonly cpu_micros: number;
  /**
   * How long ago the page that is held longest was written, in memory or on the backing; at most: it
   * may be a minute younger, or a fifth (age-epochs.ts). 0: none is held, or it is new.
   */
  readonly oldest_page_seconds: number;
}

/** What the process knows and the store does not. */
export interface ProcessFigures {
  readonly cpuMicros: number;
  /** Since boot, now. */
  readonly bootSeconds: number;
}

const NO_PROCESS: ProcessFigures = { cpuMicros: 0, bootSeconds: 0 };

/** Latencies that begin at `first` of each row: the sum over the rows. */
function sumLatencies(rows: Float64Array, first: number, row = rows.length) {
  const sums = new Array<number>(LATENCY.DOUBLES).fill(0);
  for (let at = first; at < rows.length; at += row) {
    for (let i = 0; i < LATENCY.DOUBLES; i++) sums[i]! += rows[at + i]!;
  }
  return { buckets: sums.slice(0, LATENCY_BUCKETS), micros: sums[LATENCY.sum]! };
}

function percent(part: number, whole: number): number {
  return whole === 0 ? 0 : Math.floor((100 * part) / whole);
}

function requestFigures({ counters, requestLatencies }: HeaderFigures) {
  const latencyOf = (kind: number) =>
    sumLatencies(requestLatencies, kind * LATENCY.DOUBLES, REQUEST_LATENCY_ROW);
  const [read, write] = [latencyOf(REQUEST_KIND.read), latencyOf(REQUEST_KIND.write)];
  const discard = latencyOf(REQUEST_KIND.discard);
  return {
    requests_read: sumCounter(counters, COUNTER.requestsRead),
    requests_write: sumCounter(counters, COUNTER.requestsWrite),
    requests_discard: sumCounter(counters, COUNTER.requestsDiscard),
    requests_other: sumCounter(counters, COUNTER.requestsOther),
    read_latency: read.buckets,
    write_latency: write.buckets,
    discard_latency: discard.buckets,
    read_latency_micros: read.micros,
    write_latency_micros: write.micros,
    discard_latency_micros: discard.micros,
    serve_micros: sumCounter(counters, COUNTER.serveMicros),
    poll_micros: sumCounter(counters, COUNTER.pollMicros),
  };
}

/**
 * Reads the figures at one moment. Counters of another thread may be a few requests apart. Without
 * what the process knows it has used no processor time, and pages have no age.
 */
export function readStatistics(
  backingSwapName: string | null,
  figures: HeaderFigures,
  { cpuMicros, bootSeconds } = NO_PROCESS,
): Statistics {
  const { counters, gauges, latencies, ageWords } = figures;
  const count = (index: number) => sumCounter(counters, index);
  const bdevRead = sumLatencies(latencies, 0);
  const bdevWrite = sumLatencies(latencies, LATENCY.DOUBLES);
  const oldest = oldestBeginning(ageWords) ?? bootSeconds;
  const pagesUsed = gauges[ARENA_GAUGE.poolPages]! + gauges[ARENA_GAUGE.rawPages]!;
  const pagesStored = count(COUNTER.pagesStored);
  return {
    backing_swap_name: backingSwapName,
    memlimit: count(COUNTER.memlimit),
    disksize: count(COUNTER.disksize),
    pool_limit: count(COUNTER.poolLimit),
    num_reads: count(COUNTER.numReads),
    num_writes: count(COUNTER.numWrites),
    failed_reads: count(COUNTER.failedReads),
    failed_writes: count(COUNTER.failedWrites),
    invalid_io: count(COUNTER.invalidIo),
    notify_free: count(COUNTER.notifyFree),
    pages_zero: count(COUNTER.pagesZero),
    pages_same: count(COUNTER.pagesSame),
    good_compress_pct: percent(count(COUNTER.goodCompress), pagesStored),
    pages_expand_pct: percent(count(COUNTER.pagesExpand), pagesStored),
    pages_stored: pagesStored,
    pages_used: pagesUsed,
    orig_data_size: pagesStored * PAGE_BYTES,
    compr_data_size: count(COUNTER.comprDataSize),
    mem_used_total: pagesUsed * PAGE_BYTES,
    mem_reserved: gauges[ARENA_GAUGE.reservedPages]! * PAGE_BYTES,
    bdev_num_reads: count(COUNTER.bdevNumReads),
    bdev_num_writes: count(COUNTER.bdevNumWrites),
    pages_on_backing: count(COUNTER.pagesOnBacking),
    pages_lost: count(COUNTER.pagesLost),
    pages_moved_out: count(COUNTER.pagesMovedOut),
    bdev_read_latency: bdevRead.buckets,
    bdev_write_latency: bdevWrite.buckets,
    bdev_read_latency_micros: bdevRead.micros,
    bdev_write_latency_micros: bdevWrite.micros,
    ...requestFigures(figures),
    cpu_micros: cpuMicros,
    oldest_page_seconds: Math.max(0, bootSeconds - oldest),
  };
}
