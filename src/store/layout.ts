/**
 * Where the store's parts lie in its one memory file. Everything the store and the allocator know
 * is there, in typed arrays over mappable memory: other threads read the counters and serve queues
 * over it, and a later process can rebuild itself from table and block map.
 *
 *   ┌────────┬──────────┬────────────┬─────────────┬─────────────┬───────────┬────────┬─ ─ ─ ─ ─ ─┐
 *   │ header │ counters,│ locks of   │ allocator's │ arena's     │ block map,│ table, │ checksums,
 *   │ page   │ by thread│ slots      │ lists       │ block words │ 1 byte a  │ 1 word │ 1 word
 *   │        │          │            │             │             │ block     │ a slot │ a slot
 *   └────────┴──────────┴────────────┴─────────────┴─────────────┴───────────┴────────┴─ ─ ─ ─ ─ ─┘
 *
 * Checksums, of the pages on the backing swap, are there only with one.
 */

import { LATENCY_BUCKETS } from '../backing/page-io.ts';
import { assert } from '../base/assert.ts';
import { PAGE_BYTES, roundUp } from '../base/units.ts';
import { LOCK_WORDS } from '../memory/spin-lock.ts';
import { WINDOW_BYTES_MAX, type Window } from '../memory/window.ts';
import {
  ARENA_GAUGE,
  ARENA_PAGES_MAX,
  Arena,
  type ArenaState,
  PAGES_PER_BLOCK,
  SHARDS_MAX,
} from '../xvmalloc/arena.ts';
import { Xvmalloc } from '../xvmalloc/xvmalloc.ts';
import { COUNTER_COUNT, COUNTER_ROW } from './statistics.ts';

/** Counts of backing I/Os by latency: LATENCY_BUCKETS of reads, then as many of writes. */
export const LATENCY_COUNT = 2 * LATENCY_BUCKETS;

/** Header page: identity words, then doubles. */
export const HEADER = {
  /** "rzs2", little-endian. */
  magic: 0,
  /** Of the table; the disk may be smaller. */
  slotCount: 4,
  arenaPages: 8,
  gauges: 2048,
  latencies: 3072,
} as const;
export const HEADER_MAGIC = 0x32737a72;

/** The second page: a row of counters for each thread, which alone counts there. */
const COUNTERS = PAGE_BYTES;
/** What other threads map to read the figures. */
export const FIGURES_BYTES = 2 * PAGE_BYTES;

assert(COUNTER_COUNT <= COUNTER_ROW, 'a thread has a counter of each kind');
assert(SHARDS_MAX * COUNTER_ROW * 8 <= PAGE_BYTES, "all threads' counters are one page");
assert(HEADER.gauges + ARENA_GAUGE.COUNT * 8 <= HEADER.latencies, 'gauges end before latencies');
assert(HEADER.latencies + LATENCY_COUNT * 8 <= PAGE_BYTES, 'the header is one page');

/** Locks of the slots: slot n has number n modulo this. */
export const SLOT_LOCKS = 64;
const LOCK_BYTES = SLOT_LOCKS * LOCK_WORDS * 4;

/**
 * Arena pages for a disk of `slots` pages: address space only. Every slot may need a raw page of its
 * own; blocks that are not full take more than their objects; and an overwrite needs the new page
 * before the old one is let go. So twice the disk, and some blocks for a small one.
 */
export function arenaPagesFor(slots: number): number {
  return Math.min(roundUp(2 * slots, PAGES_PER_BLOCK) + 4 * PAGES_PER_BLOCK, ARENA_PAGES_MAX);
}

export interface StoreShape {
  /** Pages of the disk, at most. */
  readonly slots: number;
  readonly hasBacking?: boolean;
  /** Threads that serve queues over it. Default 1. */
  readonly threads?: number;
}

export interface StoreLayout {
  readonly bytes: number;
  readonly arenaPages: number;
  readonly locks: number;
  readonly lists: number;
  readonly blocks: number;
  readonly blockMap: number;
  readonly table: number;
  /** The end of the file where there are none. */
  readonly checksums: number;
}

/** Byte offsets of each part. */
export function storeLayout({ slots, hasBacking = false, threads = 1 }: StoreShape): StoreLayout {
  const arenaPages = arenaPagesFor(slots);
  const blockCount = arenaPages / PAGES_PER_BLOCK;
  const locks = FIGURES_BYTES;
  const lists = locks + roundUp(LOCK_BYTES, PAGE_BYTES);
  const blocks = lists + roundUp(Xvmalloc.stateWords(blockCount, threads) * 4, PAGE_BYTES);
  const blockMap = blocks + roundUp(Arena.stateWords(arenaPages) * 4, PAGE_BYTES);
  const table = blockMap + roundUp(blockCount, PAGE_BYTES);
  const checksums = table + roundUp(slots * 4, PAGE_BYTES);
  const bytes = checksums + (hasBacking ? roundUp(slots * 4, PAGE_BYTES) : 0);
  return { bytes, arenaPages, locks, lists, blocks, blockMap, table, checksums };
}

/** The largest disk in pages: its table and the rest fit one window. About 2 TiB. */
export const SLOTS_MAX =
  Math.floor(
    (WINDOW_BYTES_MAX - storeLayout({ slots: ARENA_PAGES_MAX, threads: SHARDS_MAX }).table) /
      PAGE_BYTES,
  ) *
  (PAGE_BYTES / 4);
/** With a backing swap, for the checksums beside the table: half. */
export const BACKED_SLOTS_MAX = Math.floor(SLOTS_MAX / 2 / PAGE_BYTES) * PAGE_BYTES;

assert(
  storeLayout({ slots: SLOTS_MAX }).bytes <= WINDOW_BYTES_MAX,
  'the largest disk fits its window',
);
const backed = storeLayout({ slots: BACKED_SLOTS_MAX, hasBacking: true });
assert(backed.bytes <= WINDOW_BYTES_MAX, 'and with a backing swap');

/** What other threads read. */
export interface HeaderFigures {
  /** A row of COUNTER_ROW doubles for each thread; the figure is their sum. */
  readonly counters: Float64Array;
  readonly gauges: Float64Array;
  readonly latencies: Float64Array;
}

/** Views of the figures in the file's mapped beginning (FIGURES_BYTES), for any thread. */
export function headerFigures(header: Window): HeaderFigures {
  const { buffer } = header.memory;
  return {
    counters: new Float64Array(buffer, COUNTERS, SHARDS_MAX * COUNTER_ROW),
    gauges: new Float64Array(buffer, HEADER.gauges, ARENA_GAUGE.COUNT),
    latencies: new Float64Array(buffer, HEADER.latencies, LATENCY_COUNT),
  };
}

export function arenaState(file: Window, layout: StoreLayout): ArenaState {
  const { buffer } = file.memory;
  return {
    blockMap: new Uint8Array(buffer, layout.blockMap, layout.arenaPages / PAGES_PER_BLOCK),
    words: new Int32Array(buffer, layout.blocks, Arena.stateWords(layout.arenaPages)),
    gauges: headerFigures(file).gauges,
  };
}
