/**
 * Where the store's parts lie in its one memory file. Everything the store and the allocator know
 * is there, in typed arrays over mappable memory: other threads read the counters, and a later
 * process can rebuild itself from table and page map.
 *
 *   ┌────────┬──────────────┬─────────────┬──────────────────┬──────────────┬─ ─ ─ ─ ─ ─ ─ ┐
 *   │ header │ allocator's  │ arena's     │ page map, 1 byte │ table, 1     │ checksums, 1
 *   │ page   │ lists        │ block words │ an arena page    │ word a slot  │ word a slot  │
 *   └────────┴──────────────┴─────────────┴──────────────────┴──────────────┴─ ─ ─ ─ ─ ─ ─ ┘
 *
 * Checksums, of the pages on the backing swap, are there only with one.
 */

import { LATENCY_BUCKETS } from '../backing/page-io.ts';
import { assert } from '../base/assert.ts';
import { PAGE_BYTES, roundUp } from '../base/units.ts';
import { WINDOW_BYTES_MAX, type Window } from '../memory/window.ts';
import {
  ARENA_GAUGE,
  ARENA_PAGES_MAX,
  Arena,
  type ArenaState,
  PAGES_PER_BLOCK,
} from '../xvmalloc/arena.ts';
import { Xvmalloc } from '../xvmalloc/xvmalloc.ts';
import { COUNTER_COUNT } from './statistics.ts';

/** Counts of backing I/Os by latency: LATENCY_BUCKETS of reads, then as many of writes. */
export const LATENCY_COUNT = 2 * LATENCY_BUCKETS;

/** Header page: identity words, then doubles. */
export const HEADER = {
  /** "rzs1", little-endian. */
  magic: 0,
  /** Of the table; the disk may be smaller. */
  slotCount: 4,
  arenaPages: 8,
  counters: 1024,
  gauges: 2048,
  latencies: 3072,
} as const;
export const HEADER_MAGIC = 0x31737a72;

assert(HEADER.counters + COUNTER_COUNT * 8 <= HEADER.gauges, 'counters end before the gauges');
assert(HEADER.gauges + ARENA_GAUGE.COUNT * 8 <= HEADER.latencies, 'and those before latencies');
assert(HEADER.latencies + LATENCY_COUNT * 8 <= PAGE_BYTES, 'the header is one page');

/**
 * Arena pages for a disk of `slots` pages. Every slot may need a raw page of its own, an overwrite
 * needs the new page before the old one is let go, and page 0 is never used.
 */
export function arenaPagesFor(slots: number): number {
  return Math.min(roundUp(slots + 2, PAGES_PER_BLOCK), ARENA_PAGES_MAX);
}

export interface StoreLayout {
  readonly bytes: number;
  readonly arenaPages: number;
  readonly lists: number;
  readonly blocks: number;
  readonly pageMap: number;
  readonly table: number;
  /** The end of the file where there are none. */
  readonly checksums: number;
}

/** Byte offsets of each part for a disk of `slots` pages, with or without a backing swap. */
export function storeLayout(slots: number, hasBacking = false): StoreLayout {
  const arenaPages = arenaPagesFor(slots);
  const lists = PAGE_BYTES;
  const blocks = lists + roundUp(Xvmalloc.STATE_WORDS * 4, PAGE_BYTES);
  const pageMap = blocks + roundUp(Arena.stateWords(arenaPages) * 4, PAGE_BYTES);
  const table = pageMap + roundUp(arenaPages, PAGE_BYTES);
  const checksums = table + roundUp(slots * 4, PAGE_BYTES);
  return {
    bytes: checksums + (hasBacking ? roundUp(slots * 4, PAGE_BYTES) : 0),
    arenaPages,
    lists,
    blocks,
    pageMap,
    table,
    checksums,
  };
}

/** The largest disk in pages: its table and the rest fit one window. About 2 TiB. */
export const SLOTS_MAX =
  Math.floor((WINDOW_BYTES_MAX - storeLayout(ARENA_PAGES_MAX).table) / PAGE_BYTES) *
  (PAGE_BYTES / 4);
/** With a backing swap, for the checksums beside the table: half. */
export const BACKED_SLOTS_MAX = Math.floor(SLOTS_MAX / 2 / PAGE_BYTES) * PAGE_BYTES;

assert(storeLayout(SLOTS_MAX).bytes <= WINDOW_BYTES_MAX, 'the largest disk fits its window');
assert(storeLayout(BACKED_SLOTS_MAX, true).bytes <= WINDOW_BYTES_MAX, 'and with a backing swap');

/** What other threads read in the header page. */
export interface HeaderFigures {
  readonly counters: Float64Array;
  readonly gauges: Float64Array;
  readonly latencies: Float64Array;
}

/** Views of the figures in a mapped header page, for any thread. */
export function headerFigures(header: Window): HeaderFigures {
  const { buffer } = header.memory;
  return {
    counters: new Float64Array(buffer, HEADER.counters, COUNTER_COUNT),
    gauges: new Float64Array(buffer, HEADER.gauges, ARENA_GAUGE.COUNT),
    latencies: new Float64Array(buffer, HEADER.latencies, LATENCY_COUNT),
  };
}

export function arenaState(file: Window, layout: StoreLayout): ArenaState {
  const { buffer } = file.memory;
  return {
    pageMap: new Uint8Array(buffer, layout.pageMap, layout.arenaPages),
    words: new Int32Array(buffer, layout.blocks, Arena.stateWords(layout.arenaPages)),
    gauges: headerFigures(file).gauges,
  };
}
