/** An arena with everything it lives in, for the tests of the arena and of the allocator. */

import { createMemoryFile } from '../../src/memory/memory-file.ts';
import { closeFd } from '../../src/native/fd.ts';
import { ARENA_GAUGE, Arena, type ArenaState, PAGES_PER_BLOCK } from '../../src/xvmalloc/arena.ts';
import { BitTree } from '../../src/xvmalloc/bit-tree.ts';
import { Xvmalloc } from '../../src/xvmalloc/xvmalloc.ts';

export interface ArenaHarness {
  readonly arena: Arena;
  readonly fd: number;
  readonly state: ArenaState;
}

export interface XvmallocHarness extends ArenaHarness {
  readonly objects: Xvmalloc;
  /** The allocator's words: list heads, then the bitmap of lists that are not empty. */
  readonly lists: Int32Array;
}

export function emptyState(pages: number): ArenaState {
  return {
    pageMap: new Uint8Array(pages),
    words: new Int32Array(Arena.stateWords(pages)),
    gauges: new Float64Array(ARENA_GAUGE.COUNT),
  };
}

export function withArena(pages: number, use: (harness: ArenaHarness) => void): void {
  const state = emptyState(pages);
  const fd = createMemoryFile('test-arena', pages * 4096);
  try {
    use({ arena: new Arena(fd, pages, state), fd, state });
  } finally {
    closeFd(fd);
  }
}

export function withXvmalloc(pages: number, use: (harness: XvmallocHarness) => void): void {
  withArena(pages, (harness) => {
    const lists = new Int32Array(Xvmalloc.STATE_WORDS);
    use({ ...harness, lists, objects: new Xvmalloc(harness.arena, lists) });
  });
}

/**
 * Makes the arena's pages below `page` unavailable: takes their blocks out of the set of blocks
 * with room, which is the last part of its state words (block words, spare tree, room tree).
 */
export function withdrawPagesBelow(harness: ArenaHarness, page: number): void {
  const blocks = harness.state.pageMap.length / PAGES_PER_BLOCK;
  const room = new BitTree(harness.state.words.subarray(blocks + BitTree.wordsFor(blocks)), blocks);
  for (let block = 0; block < page / PAGES_PER_BLOCK; block++) room.remove(block);
}
