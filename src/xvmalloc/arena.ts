/**
 * The arena: a sparse memory file of 4 KiB pages in blocks of 16 (64 KiB). A block is the
 * allocator's (a pool block, all of it), or hands out raw pages one at a time, or is free. Pages are
 * reserved (fallocate) before they are touched, so a full tmpfs is "no memory" and never a SIGBUS,
 * and are given back (punched) when they stay unused.
 *
 * One word of state a block, and one byte of the block map that says whose it is:
 *
 *    31            16 15             0
 *   ┌────────────────┬────────────────┐   reserved ⊇ used; spare = reserved and not used
 *   │ reserved, 1 bit│ used, 1 bit    │
 *   │ a page         │ a page         │
 *   └────────────────┴────────────────┘
 *
 * Every block is in the sets that its word and its owner say, lowest first:
 *
 *   kept    free, with spare pages: taken first      bare    free, without
 *   slack   raw, with spare pages                    holey   raw, with unused pages, spare or not
 *
 * Page 0 is never handed out (position 0 means "none"), so block 0 is a raw block for ever. Giving
 * back starts at the highest block: the arena stays dense at its low end.
 *
 * Several threads may use it, each by an object of its own over the same words: a lock is around
 * everything. What is in use may be limited by itself, and by a budget that it shares with the arenas
 * of other devices.
 */

import { assert } from '../base/assert.ts';
import { errnoText } from '../base/errors.ts';
import { bytesToPages, PAGE_BYTES } from '../base/units.ts';
import { SpinLock } from '../memory/spin-lock.ts';
import { type ArenaFile, SEGMENT_PAGES_SHIFT } from './arena-file.ts';
import { BitTree } from './bit-tree.ts';
import type { BudgetShare } from './budget-share.ts';

export const PAGES_PER_BLOCK = 16;
export const BLOCK_BYTES = PAGES_PER_BLOCK * PAGE_BYTES;
const BLOCK_FULL = 0xffff;

/** Owners of a block, as the block map has them; 1 to SHARDS_MAX: a pool block of shard n − 1. */
export const BLOCK_FREE = 0;
export const BLOCK_RAW = 0x20;
/** A flag beside a pool block's owner: its objects are being moved out, nothing new goes there. */
export const BLOCK_EVACUATED = 0x40;
/** Shards of the allocator, one a thread. */
export const SHARDS_MAX = 16;

const PAGE_WORDS = PAGE_BYTES / 4;
const SEGMENT_PAGES = 1 << SEGMENT_PAGES_SHIFT;

/** Positions are 32-bit counts of 4-byte words: 16 GiB. */
export const ARENA_PAGES_MAX = 2 ** 22;

/** What punchFrom() gives back at once: 2 MiB. */
const PUNCHED_BLOCKS = 32;
/** At most 4 MiB is kept for reuse. */
const SPARE_PAGES_MAX = 1024;

/** Gauges, doubles in shared memory, read by other threads. */
export const ARENA_GAUGE = { poolPages: 0, rawPages: 1, reservedPages: 2, COUNT: 3 } as const;

/** Words before those of the blocks: what all threads know of the whole. */
const SHARED = {
  lock: 0,
  usedPages: 1,
  sparePages: 2,
  /** Least number of spare pages since the last trim: those were needed by nobody. */
  spareLow: 3,
  limitPages: 4,
  /** errno of the last refused reservation. */
  lastErrno: 5,
  /** Not 0: a block or page was wanted and there was none. */
  shortage: 6,
  COUNT: 16,
} as const;

export interface ArenaState {
  /** One byte a block: its owner. */
  readonly blockMap: Uint8Array;
  /** `Arena.stateWords(pages)` words. */
  readonly words: Int32Array;
  readonly gauges: Float64Array;
}

export interface ArenaOptions {
  /** Several threads use it. */
  readonly isShared?: boolean;
  readonly wipesOnFree?: boolean;
  /** This thread's object of the device's share. */
  readonly budget?: BudgetShare | undefined;
}

/** What refused memory: the limit, the budget, or the system; or no block is free. */
export type Refuser = 'limit' | 'budget' | 'memory';

export class Arena {
  /** Word views of the segments, by segment number. */
  readonly segments: readonly Int32Array[];
  readonly blockMap: Uint8Array;
  readonly blocks: number;
  /** What is freed, a page or an object, is zeroed at once. */
  readonly wipesOnFree: boolean;
  /** Undefined where it has none. */
  readonly budget: BudgetShare | undefined;

  readonly #file: ArenaFile;
  readonly #pages: number;
  readonly #shared: Int32Array;
  readonly #states: Int32Array;
  readonly #kept: BitTree;
  readonly #bare: BitTree;
  readonly #slack: BitTree;
  readonly #holey: BitTree;
  readonly #gauges: Float64Array;
  /** Undefined where one thread alone uses the arena. */
  readonly #lock: SpinLock | undefined;
  #refusedBy: Refuser = 'memory';
  /** Pages that this object has given back to the system; wraps at 32 bits. */
  punchedPages = 0;

  /**
   * `file`: of `pages` × 4096 bytes, all holes; `state`: zeroed, or that of an arena which another
   * thread has made (then call no begin()).
   */
  constructor(
    file: ArenaFile,
    pages: number,
    state: ArenaState,
    { isShared = false, wipesOnFree = false, budget }: ArenaOptions = {},
  ) {
    assert(pages % PAGES_PER_BLOCK === 0 && pages <= ARENA_PAGES_MAX, 'an arena is whole blocks');
    this.blocks = pages / PAGES_PER_BLOCK;
    this.blockMap = state.blockMap;
    this.wipesOnFree = wipesOnFree;
    this.budget = budget;
    this.#file = file;
    this.segments = file.segments;
    this.#pages = pages;
    this.#shared = state.words.subarray(0, SHARED.COUNT);
    this.#lock = isShared ? new SpinLock(this.#shared, SHARED.lock) : undefined;
    const trees = SHARED.COUNT + this.blocks;
    const treeWords = BitTree.wordsFor(this.blocks);
    const tree = (i: number) =>
      new BitTree(state.words.subarray(trees + i * treeWords), this.blocks);
    this.#states = state.words.subarray(SHARED.COUNT, trees);
    [this.#kept, this.#bare, this.#slack, this.#holey] = [tree(0), tree(1), tree(2), tree(3)];
    this.#gauges = state.gauges;
  }

  static stateWords(pages: number): number {
    const blocks = pages / PAGES_PER_BLOCK;
    return SHARED.COUNT + blocks + 4 * BitTree.wordsFor(blocks);
  }

  /** Makes zeroed state that of an empty arena. */
  begin(limitPages = this.#pages - 1): void {
    this.budget?.hold(0);
    this.#beginState(limitPages);
  }

  #beginState(limitPages: number): void {
    this.limitPages = limitPages;
    for (let block = 1; block < this.blocks; block++) this.#bare.add(block);
    // Page 0 counts as used for ever, and is reserved when its block is.
    this.blockMap[0] = BLOCK_RAW;
    this.#states[0] = 1;
    this.#classify(0);
  }

  /**
   * Makes the state of whatever was there that of an arena in which `usedOf` says which pages of a
   * block are in use (a bit a page), by its owner in the block map: BLOCK_FREE where it says none.
   * Everything else goes back to the system; there is no limit, and the budget has to take what is in
   * use. What it gets back it has when the system has it: others take it at once. 0, or the errno with
   * which memory was refused for what is in use.
   */
  restore(usedOf: (block: number) => number): number {
    this.#shared.fill(0);
    this.#states.fill(0);
    for (const tree of [this.#kept, this.#bare, this.#slack, this.#holey]) tree.clear();
    this.#gauges.fill(0);
    this.#beginState(this.#pages - 1);
    for (let block = 0; block < this.blocks; block++) {
      // Page 0 counts as used, but for nothing.
      const nobodys = block === 0 ? 1 : 0;
      const used = usedOf(block) | nobodys;
      if (used === nobodys) {
        if (block > 0) this.blockMap[block] = BLOCK_FREE;
        continue;
      }
      const count = popCount(used) - nobodys;
      this.#states[block] = used | (used << 16);
      this.#classify(block);
      const isRaw = this.blockMap[block] === BLOCK_RAW;
      this.#count(isRaw ? ARENA_GAUGE.rawPages : ARENA_GAUGE.poolPages, count);
      this.#gauges[ARENA_GAUGE.reservedPages]! += popCount(used);
    }
    this.budget?.hold(Math.max(this.budget.usedPages, this.usedPages));
    const errno = this.#settleFile();
    this.countInBudget();
    return errno;
  }

  /**
   * Gives back the memory of some blocks from `block` on, a millisecond of it, whatever is in use;
   * then the state is wrong until restore(), and the budget has nothing back before that. The block to
   * go on with: `blocks` at the end.
   */
  punchFrom(block: number): number {
    let first = block;
    while (first < this.blocks && this.#states[first]! >>> 16 === 0) first++;
    let end = first;
    const most = Math.min(this.blocks, first + PUNCHED_BLOCKS);
    while (end < most && this.#states[end]! >>> 16 !== 0) end++;
    if (end === first) return end;
    const result = this.#file.punch(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES);
    assert(result === 0, 'a memory file can be punched');
    return end;
  }

  /** The budget has to take what is in use: the state was another process's, and is this one's now. */
  countInBudget(): void {
    this.budget?.hold(this.usedPages);
  }

  /** Reserves in the file what is in use, gives back all else; in runs, many at a time. */
  #settleFile(): number {
    let from = 0;
    while (from < this.#pages) {
      const isReserved = this.#isReserved(from);
      const end = this.#endOfRun(from, isReserved);
      const [offset, bytes] = [from * PAGE_BYTES, (end - from) * PAGE_BYTES];
      const result = isReserved
        ? this.#file.reserve(offset, bytes)
        : this.#file.punch(offset, bytes);
      if (result !== 0) return -result;
      from = end;
    }
    return 0;
  }

  /** The first page after `page` that is not as `page` is: reserved, or not. */
  #endOfRun(page: number, isReserved: boolean): number {
    const whole = isReserved ? BLOCK_FULL : 0;
    let end = page + 1;
    while (end < this.#pages) {
      const block = (end / PAGES_PER_BLOCK) | 0;
      const isWhole = this.#states[block]! >>> 16 === whole;
      if (isWhole && end % PAGES_PER_BLOCK === 0) end += PAGES_PER_BLOCK;
      else if (this.#isReserved(end) === isReserved) end++;
      else break;
    }
    return end;
  }

  #isReserved(page: number): boolean {
    const reserved = this.#states[(page / PAGES_PER_BLOCK) | 0]! >>> 16;
    return ((reserved >>> (page % PAGES_PER_BLOCK)) & 1) !== 0;
  }

  /** Pages that may be in use at once (pool and raw): a hard limit, changeable. */
  get limitPages(): number {
    return this.#shared[SHARED.limitPages]!;
  }

  set limitPages(pages: number) {
    this.#shared[SHARED.limitPages] = pages;
  }

  /** The same in bytes; undefined: all pages but the first, which is nobody's. */
  limitTo(bytes: number | undefined): void {
    const all = this.#pages - 1;
    this.limitPages = bytes === undefined ? all : Math.min(all, bytesToPages(bytes));
  }

  get usedPages(): number {
    return this.#shared[SHARED.usedPages]!;
  }

  get sparePages(): number {
    return this.#shared[SHARED.sparePages]!;
  }

  /** errno of the last refused reservation, 0 when memory was never refused. */
  get lastErrno(): number {
    return this.#shared[SHARED.lastErrno]!;
  }

  /** What refused this thread memory the last time. */
  get refusedBy(): Refuser {
    return this.#refusedBy;
  }

  /** That, for people. */
  get refusal(): string {
    if (this.#refusedBy === 'limit') {
      return `memory limit of ${this.limitPages * PAGE_BYTES} bytes reached`;
    }
    if (this.#refusedBy === 'budget') {
      const share = (this.budget?.sharePages ?? 0) * PAGE_BYTES;
      return `the memory budget of all devices is used up, of which ${share} bytes are this one's`;
    }
    const why = this.lastErrno === 0 ? 'pages lie too scattered' : errnoText(this.lastErrno);
    return `no memory for more pages: ${why}`;
  }

  /** Whether anybody wanted memory in vain since the last call, in whatever thread. */
  takeShortage(): boolean {
    if (this.#shared[SHARED.shortage] === 0) return false;
    return Atomics.exchange(this.#shared, SHARED.shortage, 0) !== 0;
  }

  // HOT PATH: no allocation, no BigInt, no closures, no await.

  /** A reserved raw page, contents undefined; 0 when the limit is reached or memory was refused. */
  allocatePage(): number {
    this.#lock?.acquire();
    const page = this.#takePage();
    if (page === 0) this.#shared[SHARED.shortage] = 1;
    this.#lock?.release();
    return page;
  }

  /** The page stays reserved for reuse until a trim. */
  freePage(page: number): void {
    this.#lock?.acquire();
    const block = (page / PAGES_PER_BLOCK) | 0;
    const bit = 1 << (page % PAGES_PER_BLOCK);
    const state = this.#states[block]!;
    assert(page > 0 && this.blockMap[block] === BLOCK_RAW, 'a raw page lies in a raw block');
    assert((state & bit) !== 0, 'a page is freed once');
    if (this.wipesOnFree) this.#wipe(page);
    this.#states[block] = state & ~bit;
    if ((state & ~bit & BLOCK_FULL) === 0) this.blockMap[block] = BLOCK_FREE;
    this.#classify(block);
    this.#count(ARENA_GAUGE.rawPages, -1);
    this.budget?.give(1);
    if (this.sparePages > SPARE_PAGES_MAX) this.#punchHighestSpare();
    this.#lock?.release();
  }

  /** A reserved block for shard `owner` − 1, contents undefined; 0 when there is no memory. */
  allocateBlock(owner: number): number {
    this.#lock?.acquire();
    const block = this.#takeBlock(owner);
    if (block === 0) this.#shared[SHARED.shortage] = 1;
    this.#lock?.release();
    return block;
  }

  /** Like a page, a freed block stays reserved for reuse, as far as there are not too many. */
  freeBlock(block: number): void {
    this.#lock?.acquire();
    assert((this.#states[block]! & BLOCK_FULL) === BLOCK_FULL, 'a block is freed once');
    this.#states[block]! &= ~BLOCK_FULL;
    this.blockMap[block] = BLOCK_FREE;
    this.#classify(block);
    this.#count(ARENA_GAUGE.poolPages, -PAGES_PER_BLOCK);
    this.budget?.give(PAGES_PER_BLOCK);
    if (this.sparePages > SPARE_PAGES_MAX) this.#punchHighestSpare();
    this.#lock?.release();
  }

  /**
   * Gives back a block's worth (some 50 µs) of what was kept but not needed since the last complete
   * trim. Returns whether there is more to do now.
   */
  trim(): boolean {
    this.#lock?.acquire();
    const wanted = Math.min(this.#shared[SHARED.spareLow]!, this.sparePages);
    const given = wanted > 0 ? this.#punchHighestSpare() : 0;
    const rest = Math.max(0, wanted - given);
    this.#shared[SHARED.spareLow] = rest;
    this.#lock?.release();
    return rest > 0;
  }

  /** Begins a new interval: what stays spare until the next trim is what nobody needed. */
  markTrimInterval(): void {
    this.#lock?.acquire();
    this.#shared[SHARED.spareLow] = this.sparePages;
    this.#lock?.release();
  }

  #wipe(page: number): void {
    const start = (page % SEGMENT_PAGES) * PAGE_WORDS;
    this.segments[page >>> SEGMENT_PAGES_SHIFT]!.fill(0, start, start + PAGE_WORDS);
  }

  #takePage(): number {
    if (!this.#admit(1)) return 0;
    let block = this.#slack.first();
    if (block < 0) {
      block = this.#holey.first();
      if (block < 0) block = this.#firstFree();
      if (block < 0 || !this.#reserve(block)) return this.#forgo(1);
    }
    const state = this.#states[block]!;
    const spare = (state >>> 16) & ~state & BLOCK_FULL;
    const inBlock = 31 - Math.clz32(spare & -spare);
    this.#states[block] = state | (1 << inBlock);
    this.blockMap[block] = BLOCK_RAW;
    this.#classify(block);
    this.#count(ARENA_GAUGE.rawPages, 1);
    this.#noteLow(1);
    return block * PAGES_PER_BLOCK + inBlock;
  }

  #takeBlock(owner: number): number {
    if (!this.#admit(PAGES_PER_BLOCK)) return 0;
    const block = this.#firstFree();
    if (block < 0 || !this.#reserve(block)) return this.#forgo(PAGES_PER_BLOCK);
    this.#states[block]! |= BLOCK_FULL;
    this.blockMap[block] = owner;
    this.#classify(block);
    this.#count(ARENA_GAUGE.poolPages, PAGES_PER_BLOCK);
    this.#noteLow(PAGES_PER_BLOCK);
    return block;
  }

  /** Whether so many pages more may be in use; then the budget has them as used. */
  #admit(pages: number): boolean {
    const isWithin = this.usedPages + pages <= this.limitPages;
    if (isWithin && (this.budget === undefined || this.budget.take(pages))) return true;
    this.#refusedBy = isWithin ? 'budget' : 'limit';
    return false;
  }

  /** They may be, but there are none. */
  #forgo(pages: number): 0 {
    this.budget?.give(pages);
    this.#refusedBy = 'memory';
    return 0;
  }

  #firstFree(): number {
    const kept = this.#kept.first();
    return kept >= 0 ? kept : this.#bare.first();
  }

  /** `taken` spare pages have come into use. */
  #noteLow(taken: number): void {
    const spare = this.sparePages - taken;
    this.#shared[SHARED.sparePages] = spare;
    if (spare < this.#shared[SHARED.spareLow]!) this.#shared[SHARED.spareLow] = spare;
  }

  /** Reserves what is not reserved of a block; false: there is no memory. */
  #reserve(block: number): boolean {
    const state = this.#states[block]!;
    const missing = ~(state >>> 16) & BLOCK_FULL;
    if (missing === 0) return true;
    const result = this.#file.reserve(block * BLOCK_BYTES, BLOCK_BYTES);
    if (result !== 0) {
      this.#shared[SHARED.lastErrno] = -result;
      return false;
    }
    this.#states[block] = state | (BLOCK_FULL << 16);
    // Not all that is missing: page 0 is reserved with its block but never spare.
    this.#shared[SHARED.sparePages]! += popCount(missing & ~state);
    this.#gauges[ARENA_GAUGE.reservedPages]! += popCount(missing);
    this.#classify(block);
    return true;
  }

  /** Punches all spare pages of the highest block that has any; the count of pages. */
  #punchHighestSpare(): number {
    const block = Math.max(this.#kept.last(), this.#slack.last());
    assert(block >= 0, 'spare pages are in some block');
    const state = this.#states[block]!;
    const spare = (state >>> 16) & ~state & BLOCK_FULL;
    for (let from = 0; from < PAGES_PER_BLOCK; ) {
      if ((spare & (1 << from)) === 0) {
        from++;
        continue;
      }
      let end = from + 1;
      while (end < PAGES_PER_BLOCK && (spare & (1 << end)) !== 0) end++;
      const start = (block * PAGES_PER_BLOCK + from) * PAGE_BYTES;
      const result = this.#file.punch(start, (end - from) * PAGE_BYTES);
      assert(result === 0, 'a memory file can be punched');
      from = end;
    }
    const count = popCount(spare);
    this.punchedPages = (this.punchedPages + count) | 0;
    this.#states[block] = state & ~(spare << 16);
    this.#shared[SHARED.sparePages]! -= count;
    this.#gauges[ARENA_GAUGE.reservedPages]! -= count;
    this.#classify(block);
    return count;
  }

  /** Puts the block into the sets where its word and its owner say that it is. */
  #classify(block: number): void {
    const state = this.#states[block]!;
    const used = state & BLOCK_FULL;
    const hasSpare = ((state >>> 16) & ~state & BLOCK_FULL) !== 0;
    const isRaw = this.blockMap[block] === BLOCK_RAW;
    setMember(this.#kept, block, used === 0 && hasSpare);
    setMember(this.#bare, block, used === 0 && !hasSpare);
    setMember(this.#slack, block, isRaw && hasSpare);
    setMember(this.#holey, block, isRaw && used !== BLOCK_FULL);
  }

  /** Counts pages into use, or with a negative number out of it and into the spare ones. */
  #count(gauge: number, pages: number): void {
    this.#gauges[gauge]! += pages;
    this.#shared[SHARED.usedPages]! += pages;
    if (pages < 0) this.#shared[SHARED.sparePages]! -= pages;
  }
}

function setMember(tree: BitTree, member: number, isMember: boolean): void {
  if (isMember) tree.add(member);
  else if (tree.has(member)) tree.remove(member);
}

function popCount(bits: number): number {
  let count = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) count++;
  return count;
}
