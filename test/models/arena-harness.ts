/** An arena with everything it lives in, for the tests of the arena and of the allocator. */

import { createMemoryFile } from '../../src/memory/memory-file.ts';
import { closeFd } from '../../src/native/fd.ts';
import { ARENA_GAUGE, Arena, type ArenaState, PAGES_PER_BLOCK } from '../../src/xvmalloc/arena.ts';
import { MappedArenaFile } from '../../src/xvmalloc/arena-file.ts';
import { BitTree } from '../../src/xvmalloc/bit-tree.ts';
import { Xvmalloc } from '../../src/xvmalloc/xvmalloc.ts';

/** Before the blocks' words. */
const SHARED_WORDS = 16;

export interface ArenaHarness {
  readonly arena: Arena;
  readonly fd: number;
  readonly state: ArenaState;
}

export interface XvmallocHarness extends ArenaHarness {
  readonly objects: Xvmalloc;
  /** The allocator's words: of the first shard at the beginning. */
  readonly lists: Int32Array;
}

export function emptyState(pages: number): ArenaState {
  return {
    blockMap: new Uint8Array(pages / PAGES_PER_BLOCK),
    words: new Int32Array(Arena.stateWords(pages)),
    gauges: new Float64Array(ARENA_GAUGE.COUNT),
  };
}

export function withArena(pages: number, use: (harness: ArenaHarness) => void): void {
  const state = emptyState(pages);
  const fd = createMemoryFile('test-arena', pages * 4096);
  try {
    const arena = new Arena(new MappedArenaFile(fd, pages), pages, state);
    arena.begin();
    use({ arena, fd, state });
  } finally {
    closeFd(fd);
  }
}

export function withXvmalloc(pages: number, use: (harness: XvmallocHarness) => void): void {
  withArena(pages, (harness) => {
    const lists = new Int32Array(Xvmalloc.stateWords(harness.arena.blocks));
    use({ ...harness, lists, objects: new Xvmalloc(harness.arena, lists) });
  });
}

/**
 * Makes the arena's blocks below `block` unavailable, but for the first, whose pages are raw: takes
 * them out of the set of bare blocks (after the shared words, the blocks' and the kept set).
 */
export function withdrawBlocksBelow(harness: ArenaHarness, block: number): void {
  const { blocks } = harness.arena;
  const start = SHARED_WORDS + blocks + BitTree.wordsFor(blocks);
  const bare = new BitTree(harness.state.words.subarray(start), blocks);
  for (let i = 1; i < block; i++) bare.remove(i);
}
