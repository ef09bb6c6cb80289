/**
 * The store's memory, made and mapped: one file for bookkeeping, one for the arena. Volatile: both
 * are memfds, gone with the process.
 */

import { PAGE_BYTES } from '../base/units.ts';
import {
  createMemoryFile,
  createReservedMemoryFile,
  mapFileWindow,
} from '../memory/memory-file.ts';
import { Arena } from '../xvmalloc/arena.ts';
import { Xvmalloc } from '../xvmalloc/xvmalloc.ts';
import {
  arenaState,
  HEADER,
  HEADER_MAGIC,
  type HeaderFigures,
  headerFigures,
  storeLayout,
} from './layout.ts';

export interface MappedStore extends HeaderFigures {
  /** The bookkeeping file: other threads map its first page for the figures. */
  readonly fd: number;
  readonly table: Int32Array;
  /** By slot: of the page on the backing swap. Empty without one. */
  readonly checksums: Int32Array;
  /** The allocator's own words. */
  readonly lists: Int32Array;
  readonly arena: Arena;
}

/** A new, empty store of `slots` pages, with or without a backing swap. */
export function mapStore(slots: number, hasBacking = false): MappedStore {
  const layout = storeLayout(slots, hasBacking);
  const fd = createReservedMemoryFile('ramzswap-table', layout.bytes);
  const file = mapFileWindow(fd, 0, layout.bytes);
  const { buffer } = file.memory;
  file.i32[HEADER.magic >> 2] = HEADER_MAGIC;
  file.i32[HEADER.slotCount >> 2] = slots;
  file.i32[HEADER.arenaPages >> 2] = layout.arenaPages;
  const arenaFd = createMemoryFile('ramzswap-arena', layout.arenaPages * PAGE_BYTES);
  return {
    fd,
    ...headerFigures(file),
    table: new Int32Array(buffer, layout.table, slots),
    checksums: new Int32Array(buffer, layout.checksums, hasBacking ? slots : 0),
    lists: new Int32Array(buffer, layout.lists, Xvmalloc.STATE_WORDS),
    arena: new Arena(arenaFd, layout.arenaPages, arenaState(file, layout)),
  };
}
