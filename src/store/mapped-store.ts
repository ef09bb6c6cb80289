/**
 * The store's memory, mapped: one file for bookkeeping, one for the arena (store-files.ts). A store is
 * made once, or found; further threads of the process join it, each with mappings and objects of its
 * own over the same files.
 */

import { closeSync } from 'node:fs';
import { lockBuffers, mapFileWindow, releaseWindow } from '../memory/memory-file.ts';
import { LOCK_WORDS, SpinLock } from '../memory/spin-lock.ts';
import type { Window } from '../memory/window.ts';
import { Arena } from '../xvmalloc/arena.ts';
import { MappedArenaFile } from '../xvmalloc/arena-file.ts';
import { BudgetShare } from '../xvmalloc/budget-share.ts';
import { Xvmalloc } from '../xvmalloc/xvmalloc.ts';
import {
  arenaState,
  type HeaderFigures,
  headerFigures,
  SLOT_LOCKS,
  type StoreShape,
  storeLayout,
} from './layout.ts';
import { PageAges } from './page-ages.ts';
import { COUNTER_ROW, REQUEST_LATENCY_ROW } from './statistics.ts';
import { type StoreFiles, volatileFiles } from './store-files.ts';
import { StoreHeader } from './store-header.ts';

/** What another thread needs to join: plain data, descriptors are the process's. */
export interface SharedStore extends StoreShape {
  /** The bookkeeping file: other threads map its beginning for the figures. */
  readonly fd: number;
  readonly arenaFd: number;
}

export interface MappedStore extends HeaderFigures {
  readonly shared: SharedStore;
  readonly header: StoreHeader;
  /** This thread's own row of the counters. */
  readonly row: Float64Array;
  /** And of the latencies of requests. */
  readonly requestLatencyRow: Float64Array;
  readonly table: Int32Array;
  readonly ages: PageAges;
  /** By slot: of the page on the backing swap. Empty without one. */
  readonly checksums: Int32Array;
  /** By slot modulo their number; undefined where one thread alone uses the store. */
  readonly slotLocks: readonly SpinLock[] | undefined;
  readonly arena: Arena;
  readonly objects: Xvmalloc;
  /** Unmaps all of it, in this thread; nothing of it may be used any more. */
  release(): void;
}

/** A new, empty store, as its thread 0 has it; it has no identity yet. */
export function makeStore(shape: StoreShape, files?: StoreFiles): MappedStore {
  const store = files === undefined ? mapVolatile(shape) : mapStore(shape, files);
  store.arena.begin();
  store.ages.current = 1;
  return store;
}

function mapVolatile(shape: StoreShape): MappedStore {
  const files = volatileFiles(shape);
  try {
    return mapStore(shape, files);
  } catch (error) {
    closeSync(files.fd);
    closeSync(files.arenaFd);
    throw error;
  }
}

/** Maps what is in the files for thread 0, whatever state it is in. */
export function mapStore(shape: StoreShape, { fd, arenaFd }: StoreFiles): MappedStore {
  return joinStore({ ...shape, fd, arenaFd }, 0);
}

/** A store that exists, as thread `thread` has it. What throws leaves nothing mapped. */
export function joinStore(shared: SharedStore, thread: number): MappedStore {
  const { bytes, arenaPages } = storeLayout(shared);
  const file = mapFileWindow(shared.fd, 0, bytes);
  let arenaFile: MappedArenaFile | undefined;
  try {
    arenaFile = new MappedArenaFile(shared.arenaFd, arenaPages);
    return storeOver(file, arenaFile, shared, thread);
  } catch (error) {
    arenaFile?.close();
    releaseWindow(file);
    throw error;
  }
}

function storeOver(
  file: Window,
  arenaFile: MappedArenaFile,
  shared: SharedStore,
  thread: number,
): MappedStore {
  const { slots, hasBacking = false, threads = 1, isLocked = false } = shared;
  const { wipesOnFree = false, headerSlots = 0, budget: terms } = shared;
  const layout = storeLayout(shared);
  const { buffer } = file.memory;
  const isShared = threads > 1;
  const { arenaPages } = layout;
  const state = arenaState(file, layout);
  const budget = terms && new BudgetShare(terms);
  const arena = new Arena(arenaFile, arenaPages, state, { isShared, wipesOnFree, budget });
  if (isLocked) lockStore(buffer, arena, threads);
  const stateWords = Xvmalloc.stateWords(arena.blocks, threads);
  const lists = new Int32Array(buffer, layout.lists, stateWords);
  const figures = headerFigures(file);
  const locks = new Int32Array(buffer, layout.locks, SLOT_LOCKS * LOCK_WORDS);
  const ageNumbers = new Uint8Array(buffer, layout.ages, slots);
  const rowOf = (rows: Float64Array, doubles: number) =>
    rows.subarray(thread * doubles, (thread + 1) * doubles);
  const lock = (_: unknown, i: number) => new SpinLock(locks, i * LOCK_WORDS);
  return {
    shared,
    header: new StoreHeader(file.u8),
    ...figures,
    row: rowOf(figures.counters, COUNTER_ROW),
    requestLatencyRow: rowOf(figures.requestLatencies, REQUEST_LATENCY_ROW),
    table: new Int32Array(buffer, layout.table, slots),
    ages: new PageAges(ageNumbers, figures.ageWords, thread, threads, headerSlots),
    checksums: new Int32Array(buffer, layout.checksums, hasBacking ? slots : 0),
    slotLocks: isShared ? Array.from({ length: SLOT_LOCKS }, lock) : undefined,
    arena,
    objects: new Xvmalloc(arena, lists, thread, threads),
    release: () => {
      try {
        arenaFile.close();
      } finally {
        releaseWindow(file);
      }
    },
  };
}

/**
 * Pages are locked by the mapping through which they are touched, so each thread locks its own; what
 * counts is address space, once for each of them.
 */
function lockStore(bookkeeping: ArrayBuffer, arena: Arena, threads: number): void {
  const buffers = [bookkeeping, ...arena.segments.map(({ buffer }) => buffer as ArrayBuffer)];
  const bytes = buffers.reduce((sum, { byteLength }) => sum + byteLength, 0);
  lockBuffers(buffers, bytes * threads);
}
