/**
 * Where the store's parts lie in its one memory file. Everything the store and the allocator know
 * is there, in typed arrays over mappable memory: other threads read the counters and serve queues
 * over it, and a later process rebuilds the rest from table, block map and objects (recovery.ts).
 *
 *   ┌────────┬──────────┬─────────┬─────────────┬────────────┬───────────┬────────┬────────┬─ ─ ─ ─ ─ ┐
 *   │ header │ figures, │ locks of│ allocator's │ arena's    │ block map,│ table, │ ages,  │ checksums,
 *   │ page   │ by thread│ slots   │ lists       │ block words│ 1 byte a  │ 1 word │ 1 byte │ 1 word
 *   │        │          │         │             │            │ block     │ a slot │ a slot │ a slot
 *   └────────┴──────────┴─────────┴─────────────┴────────────┴───────────┴────────┴────────┴─ ─ ─ ─ ─ ┘
 *
 * Figures: counters, latencies of requests, and how many pages are of which age. Checksums, of the pages on the backing swap, are
 * there only with one.
 */

import { assert } from '../base/assert.ts';
import { LATENCY } from '../base/latency.ts';
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
import type { BudgetTerms } from '../xvmalloc/budget-share.ts';
import { Xvmalloc } from '../xvmalloc/xvmalloc.ts';
import { AGE_WORDS } from './page-ages.ts';
import { COUNTER_COUNT, COUNTER_ROW, REQUEST_LATENCY_ROW } from './statistics.ts';

/** Doubles for latencies of backing I/Os: those of reads, then those of writes. */
export const LATENCY_COUNT = 2 * LATENCY.DOUBLES;

/** Header page: who and what the store is (store-header.ts), then doubles. Byte offsets. */
export const HEADER = {
  /** "rzsw", little-endian: written last, so a store that has it is complete. */
  magic: 0,
  version: 4,
  /** Of the table; the disk may be smaller. */
  slotCount: 8,
  arenaPages: 12,
  /** STORE_DIRTY or STORE_CLEAN. */
  state: 16,
  /** How often it was opened. */
  generation: 20,
  /** Threads whose shards the allocator's lists are. */
  threads: 24,
  /** Process of the front end that it serves or served last (0: none), and its start time. */
  frontEndProcess: 28,
  frontEndStart: 32,
  /** 16 random bytes: the same content, as far as anybody else can tell. */
  uuid: 48,
  /** Device name, NUL padded. */
  name: 64,
  /** SHA-256 of what the backing swap is, zeros without one. */
  backing: 96,
  /** What the device was initialised with, for a process that is not told: text, NUL padded. */
  settings: 128,
  gauges: 2048,
  latencies: 3072,
} as const;
export const HEADER_MAGIC = 0x77737a72;
/** Of all that is laid out here, and of what the words mean. */
export const STORE_VERSION = 4;
export const STORE_UUID_BYTES = 16;
export const STORE_NAME_BYTES = 32;
export const STORE_BACKING_BYTES = 32;
export const STORE_SETTINGS_BYTES = 1920;

export const STORE_DIRTY = 1;
export const STORE_CLEAN = 2;

/** From the second page on: a row of each kind for each thread, which alone counts there. */
const COUNTERS = PAGE_BYTES;
const REQUEST_LATENCIES = COUNTERS + SHARDS_MAX * COUNTER_ROW * 8;
const AGES = REQUEST_LATENCIES + SHARDS_MAX * REQUEST_LATENCY_ROW * 8;
/** What other threads map to read the figures. */
export const FIGURES_BYTES = roundUp(AGES + AGE_WORDS * 4, PAGE_BYTES);

assert(COUNTER_COUNT <= COUNTER_ROW, 'a thread has a counter of each kind');
assert(HEADER.settings + STORE_SETTINGS_BYTES <= HEADER.gauges, 'settings end before gauges');
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
  /** First slots that hold the swap header, whose age says nothing. Default: none. */
  readonly headerSlots?: number;
  /** Threads that serve queues over it. Default 1. */
  readonly threads?: number;
  /** It stays in memory, whatever else the host would like to have there. */
  readonly isLocked?: boolean;
  /** What is freed is zeroed at once. */
  readonly wipesOnFree?: boolean;
  /** The device's share of the memory that all devices may have together. */
  readonly budget?: BudgetTerms;
}

export interface StoreLayout {
  readonly bytes: number;
  readonly arenaPages: number;
  readonly locks: number;
  readonly lists: number;
  readonly blocks: number;
  readonly blockMap: number;
  readonly table: number;
  readonly ages: number;
  /** The end of the file where there are none. */
  readonly checksums: number;
}

/** Byte offsets of each part. */
export function storeLayout({ slots, hasBacking = false }: StoreShape): StoreLayout {
  const arenaPages = arenaPagesFor(slots);
  const blockCount = arenaPages / PAGES_PER_BLOCK;
  const locks = FIGURES_BYTES;
  const lists = locks + roundUp(LOCK_BYTES, PAGE_BYTES);
  // For as many threads as there may be: the next process may have another number of them.
  const blocks = lists + roundUp(Xvmalloc.stateWords(blockCount, SHARDS_MAX) * 4, PAGE_BYTES);
  const blockMap = blocks + roundUp(Arena.stateWords(arenaPages) * 4, PAGE_BYTES);
  const table = blockMap + roundUp(blockCount, PAGE_BYTES);
  const ages = table + roundUp(slots * 4, PAGE_BYTES);
  const checksums = ages + roundUp(slots, PAGE_BYTES);
  const bytes = checksums + (hasBacking ? roundUp(slots * 4, PAGE_BYTES) : 0);
  return { bytes, arenaPages, locks, lists, blocks, blockMap, table, ages, checksums };
}

/** The largest disk in pages, of so many bytes each in the file, that fits one window. */
function slotsMax(slotBytes: number): number {
  const bytes = WINDOW_BYTES_MAX - storeLayout({ slots: ARENA_PAGES_MAX }).table;
  return Math.floor(bytes / (slotBytes * PAGE_BYTES)) * PAGE_BYTES;
}
/** A word and a byte: about 1.6 TiB. */
export const SLOTS_MAX = slotsMax(5);
/** And with a backing swap the checksum: 0.9 TiB. */
export const BACKED_SLOTS_MAX = slotsMax(9);

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
  /** Of the backing's I/Os. */
  readonly latencies: Float64Array;
  /** A row of REQUEST_LATENCY_ROW doubles for each thread. */
  readonly requestLatencies: Float64Array;
  /** As page-ages.ts draws them. */
  readonly ageWords: Int32Array;
}

/** Views of the figures in the file's mapped beginning (FIGURES_BYTES), for any thread. */
export function headerFigures(header: Window): HeaderFigures {
  const { buffer } = header.memory;
  return {
    counters: new Float64Array(buffer, COUNTERS, SHARDS_MAX * COUNTER_ROW),
    gauges: new Float64Array(buffer, HEADER.gauges, ARENA_GAUGE.COUNT),
    latencies: new Float64Array(buffer, HEADER.latencies, LATENCY_COUNT),
    requestLatencies: new Float64Array(buffer, REQUEST_LATENCIES, SHARDS_MAX * REQUEST_LATENCY_ROW),
    ageWords: new Int32Array(buffer, AGES, AGE_WORDS),
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
