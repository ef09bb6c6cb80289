/**
 * The page store: what every slot of one swap disk holds, compressed. It sees page numbers and
 * pages in windows, never sectors, descriptors or guest addresses. It knows memory only: with a
 * backing swap, backed-store.ts decides what goes where, and uses this one for what stays.
 *
 * A slot's word says what it holds (slot-word.ts); a slot changes hands in one aligned store, the
 * commit point of a write.
 *
 * Life of a slot: write (new object secured → word published → old object released), any number →
 * read, any number → free.
 */

import { randomBytes } from 'node:crypto';
import { assert } from '../base/assert.ts';
import { PAGE_DONE, PAGE_FAILED, type PageResult } from '../base/page-operation.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { sooner } from '../base/wait.ts';
import { codecModule, lzo1xWorstCase } from '../lzo-wasm/lzo1x.ts';
import type { SpinLock } from '../memory/spin-lock.ts';
import { copyWords } from '../memory/window.ts';
import type { Arena } from '../xvmalloc/arena.ts';
import {
  OBJECT_BYTES_MAX,
  pageOfPosition,
  positionOfPage,
  SEGMENT_SHIFT,
  SEGMENT_WORD_MASK,
  type Xvmalloc,
} from '../xvmalloc/xvmalloc.ts';
import { AgeEpochs } from './age-epochs.ts';
import { Compaction } from './compaction.ts';
import { Emptying } from './emptying.ts';
import { SLOT_LOCKS, STORE_UUID_BYTES } from './layout.ts';
import { joinStore, type MappedStore, makeStore, type SharedStore } from './mapped-store.ts';
import type { PageAges } from './page-ages.ts';
import {
  type PageWindow,
  WORK_IN,
  WORK_OUT,
  WORK_PAGE,
  WORK_WHOLE,
  wordAligned,
} from './page-window.ts';
import { type Recovered, recoverStore } from './recovery.ts';
import {
  accountWord,
  FILL_OBJECT_BYTES_MAX,
  SLOT_EMPTY,
  SLOT_FILLED,
  SLOT_LOST,
  SLOT_POSITION_MIN,
  takesRoom,
} from './slot-word.ts';
import { COUNTER, sumCounter } from './statistics.ts';
import { identityOf, type PageStoreOptions, storeShape } from './store-options.ts';

const WORDS_PER_PAGE = PAGE_BYTES / 4;
/** What a size field is taken for that no object can have. */
const DAMAGED_BYTES = PAGE_BYTES + 1;
/** SPEC: without a backing swap, a result above three quarters of a page is kept as it was. */
export const INCOMPRESSIBLE_BYTES = (PAGE_BYTES / 4) * 3;
/** The most that can be asked for: a larger result does not fit the allocator. */
export const INCOMPRESSIBLE_BYTES_MAX = OBJECT_BYTES_MAX;

/** How a page may be kept in memory: as a repeated pattern, compressed as well, or in any way. */
export const KEEP_FILLED = 0;
export const KEEP_COMPRESSED = 1;
export const KEEP_ANY = 2;

assert(INCOMPRESSIBLE_BYTES <= INCOMPRESSIBLE_BYTES_MAX, 'compressed pages fit the allocator');
assert(lzo1xWorstCase(PAGE_BYTES) > PAGE_BYTES, 'a result may be larger than its page');

/** How much trimming waits: what nobody needed for this long goes back to the system. */
const TRIM_INTERVAL_MICROS = 400_000;
/** How often thread 0, which does the upkeep, looks what others have done: threads, devices. */
const SHARED_LOOK_MILLIS = 500;

/** Slots of the disk of a store found again: a guest may know it as large as it has grown. */
function slotsOf({ slots }: PageStoreOptions, { row, table }: MappedStore): number {
  const grown = row[COUNTER.disksize]! / PAGE_BYTES;
  const isPossible = Number.isInteger(grown) && grown <= table.length;
  return isPossible ? Math.max(slots, grown) : slots;
}

/** What another thread needs to join a store: plain data. */
export interface StoreShare {
  readonly shared: SharedStore;
  readonly slots: number;
  readonly incompressibleBytes: number;
}

function limitPool({ arena, row }: MappedStore, bytes: number | undefined): void {
  arena.limitTo(bytes);
  row[COUNTER.poolLimit] = bytes ?? 0;
}

export class PageStore {
  readonly isFull = false;
  readonly mapped: MappedStore;
  /** Told once per change of state, never per request. */
  onTrouble: (what: string) => void = () => {};

  readonly #table: Int32Array;
  /** This thread's row of the event counters. */
  readonly #counters: Float64Array;
  readonly #ages: PageAges;
  readonly #arena: Arena;
  readonly #objects: Xvmalloc;
  /** Held while a slot changes hands, and while what it holds is copied out. */
  readonly #locks: readonly SpinLock[] | undefined;
  readonly #incompressibleBytes: number;
  /** Thread 0's alone. */
  readonly #compaction: Compaction | undefined;
  readonly #epochs: AgeEpochs | undefined;
  readonly #emptying: Emptying;
  #slots: number;
  #trimDue = 0;
  /** Objects let go of when others lacked memory the last time. */
  #askedReleases = -1;
  #isOutOfMemory = false;
  #isDamageReported = false;

  private constructor(
    share: Omit<StoreShare, 'shared'>,
    mapped: MappedStore,
    thread: number,
    ageClock?: () => number,
  ) {
    // Now, not at the first guest's page: a file that is missing must be a refusal at start.
    codecModule();
    const { incompressibleBytes } = share;
    assert(incompressibleBytes <= INCOMPRESSIBLE_BYTES_MAX, 'a kept page fits the allocator');
    this.#slots = share.slots;
    this.#incompressibleBytes = incompressibleBytes;
    this.mapped = mapped;
    this.#table = mapped.table;
    this.#counters = mapped.row;
    this.#ages = mapped.ages;
    this.#arena = mapped.arena;
    this.#objects = mapped.objects;
    this.#locks = mapped.slotLocks;
    this.#emptying = new Emptying(mapped);
    if (thread === 0) this.#compaction = new Compaction(this, mapped.objects, mapped.arena.blocks);
    if (ageClock !== undefined) {
      this.#epochs = new AgeEpochs(mapped.ages, mapped.slotLocks, ageClock);
    }
  }

  /** Makes a new, empty store of what was mapped for it; this object is thread 0's. */
  static make(options: PageStoreOptions, mapped = makeStore(storeShape(options))): PageStore {
    mapped.header.begin(identityOf(options), randomBytes(STORE_UUID_BYTES));
    return PageStore.#begin(options, mapped, options.slots);
  }

  /**
   * Makes whole what another process has left of a store, and takes it over. Throws SystemError where
   * memory is refused for what it holds.
   */
  static recover(options: PageStoreOptions, mapped: MappedStore): [PageStore, Recovered] {
    const slots = slotsOf(options, mapped);
    // What is counted depends on it.
    mapped.row[COUNTER.disksize] = slots * PAGE_BYTES;
    const recovered = recoverStore(mapped);
    return [PageStore.#begin(options, mapped, slots), recovered];
  }

  /**
   * A store whose process has paused and may yet go on: nothing of it is changed before goOn(), and
   * nothing may be asked of it.
   */
  static takeOver(options: PageStoreOptions, mapped: MappedStore): PageStore {
    const { incompressibleBytes = INCOMPRESSIBLE_BYTES } = options;
    const slots = mapped.row[COUNTER.disksize]! / PAGE_BYTES;
    return new PageStore({ slots, incompressibleBytes }, mapped, 0, options.ageClock);
  }

  /**
   * The process that paused is gone. What it left is whole, if it had as many threads, and wiped what
   * it freed if that is wanted; else it is made so. `options` are those of takeOver().
   */
  goOn(options: PageStoreOptions, hasWiped: boolean): Recovered {
    const { threads = 1, wipesOnFree = false, poolLimitBytes } = options;
    const { header, arena, objects } = this.mapped;
    const isWhole = header.threads === threads && (hasWiped || !wipesOnFree);
    const recovered = isWhole ? { damaged: 0 } : recoverStore(this.mapped);
    // Nobody goes on with a compaction that was under way.
    for (let block = 0; block < arena.blocks; block++) objects.readmit(block);
    limitPool(this.mapped, poolLimitBytes);
    arena.countInBudget();
    header.open(threads);
    return recovered;
  }

  static #begin(options: PageStoreOptions, mapped: MappedStore, slots: number): PageStore {
    const { poolLimitBytes, incompressibleBytes = INCOMPRESSIBLE_BYTES, threads = 1 } = options;
    limitPool(mapped, poolLimitBytes);
    mapped.row[COUNTER.disksize] = slots * PAGE_BYTES;
    mapped.header.open(threads);
    return new PageStore({ slots, incompressibleBytes }, mapped, 0, options.ageClock);
  }

  /** The same store for another thread of this process, number `thread` of those it is made for. */
  static join(share: StoreShare, thread: number): PageStore {
    return new PageStore(share, joinStore(share.shared, thread), thread);
  }

  get share(): StoreShare {
    const { shared } = this.mapped;
    return { shared, slots: this.#slots, incompressibleBytes: this.#incompressibleBytes };
  }

  /**
   * Forgets all pages, at once: from slot `from` on they are empty, or with `isLost` read as an error
   * until they are written; those before it are empty. It is another store from then on. No thread
   * serves anything meanwhile, and no I/O is under way.
   */
  reset(from: number, isLost: boolean): void {
    this.#emptying.finish(from, isLost, this.#slots);
  }

  /**
   * Begins or goes on with what makes reset() short, which is to follow: nothing else may be asked of
   * the store from then on. A bounded step; whether there is more to do.
   */
  drain(): boolean {
    return this.#emptying.drain();
  }

  /** drain() was called since it was whole. */
  get isDrained(): boolean {
    return this.#emptying.isBegun;
  }

  /** Pages of the disk. */
  get slots(): number {
    return this.#slots;
  }

  /** Pages of memory that this object has given back to the system; wraps at 32 bits. */
  get punchedPages(): number {
    return this.#arena.punchedPages;
  }

  /** Makes the disk larger: `slots` pages, at most what the table was made for. In every thread. */
  grow(slots: number): void {
    assert(slots >= this.#slots && slots <= this.#table.length, 'a disk grows within its table');
    const before = this.#slots;
    this.#slots = slots;
    // Thread 0 counts what is the disk's.
    if (this.#compaction === undefined) return;
    this.#counters[COUNTER.disksize] = slots * PAGE_BYTES;
    for (let slot = before; slot < slots; slot++) {
      if (this.#table[slot] === SLOT_LOST) this.#counters[COUNTER.pagesLost]!++;
    }
  }

  /** Sets PageStoreOptions.poolLimitBytes, for all threads; what is there already stays. */
  set poolLimitBytes(bytes: number | undefined) {
    limitPool(this.mapped, bytes);
  }

  /** This thread's event counters, for the layers above to count requests in. */
  get counters(): Float64Array {
    return this.#counters;
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * Stores the page at `offset` of `window` (any alignment; the guest may change it meanwhile).
   * Failed: no memory; the slot keeps what it held.
   */
  writePage(slot: number, window: PageWindow, offset: number): PageResult {
    this.#counters[COUNTER.numWrites]!++;
    const word = this.secure(window, offset, KEEP_ANY);
    if (word === SLOT_EMPTY) {
      this.#counters[COUNTER.failedWrites]!++;
      this.reportMemory();
      return PAGE_FAILED;
    }
    // A page that takes no memory is no news about memory.
    if (word >>> 0 >= SLOT_POSITION_MIN) this.#isOutOfMemory = false;
    this.publish(slot, word);
    return PAGE_DONE;
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * Fills the page at `offset` of `window` (any alignment). Failed: the stored data is damaged; the
   * page is left untouched.
   */
  readPage(slot: number, window: PageWindow, offset: number): PageResult {
    this.#counters[COUNTER.numReads]!++;
    if (this.load(slot, window, offset)) return PAGE_DONE;
    this.#counters[COUNTER.failedReads]!++;
    this.reportDamage(slot, 'failed_reads');
    return PAGE_FAILED;
  }

  /** HOT PATH: no allocation. The guest needs the slot no longer; it reads as zeros. */
  freePage(slot: number): PageResult {
    if (this.#table[slot] === SLOT_EMPTY) return PAGE_DONE;
    if (this.publish(slot, SLOT_EMPTY) !== SLOT_EMPTY) this.#counters[COUNTER.notifyFree]!++;
    return PAGE_DONE;
  }

  /** HOT PATH: no allocation. The slot becomes a zero page. */
  zeroPage(slot: number): PageResult {
    this.publish(slot, SLOT_FILLED);
    return PAGE_DONE;
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * Replaces bytes [from, to) of a page by those at `offset` of `window`; counted as a page written.
   * Failed: no memory, or the page cannot be read; the slot keeps what it held.
   */
  writePart(
    slot: number,
    from: number,
    to: number,
    window: PageWindow,
    offset: number,
  ): PageResult {
    this.#counters[COUNTER.numWrites]!++;
    // All of it under the lock: what another thread writes meanwhile must not be undone.
    const lock = this.#lockOf(slot);
    lock?.acquire();
    let old = this.#table[slot]!;
    let word = SLOT_EMPTY;
    const isThere = this.#expand(old, this.#copyOut(old, window), window, WORK_WHOLE);
    if (isThere) {
      window.u8.copyWithin(WORK_WHOLE + from, offset, offset + to - from);
      word = this.secure(window, WORK_WHOLE, KEEP_ANY);
    }
    if (word !== SLOT_EMPTY) {
      accountWord(this.#counters, this.#objects, word, 1);
      old = this.#exchange(slot, word, false);
    }
    lock?.release();
    if (word === SLOT_EMPTY) {
      this.#counters[COUNTER.failedWrites]!++;
      if (isThere) this.reportMemory();
      else this.reportDamage(slot, 'failed_writes');
      return PAGE_FAILED;
    }
    if (word >>> 0 >= SLOT_POSITION_MIN) this.#isOutOfMemory = false;
    this.#letGo(old);
    return PAGE_DONE;
  }

  /** Nothing here is ever pending. */
  abandon(): void {}

  /** Keeps `page` (4096 bytes) as it is, uncompressed: the swap header. False: no memory. */
  writeRaw(slot: number, page: Uint8Array): boolean {
    const arenaPage = this.#arena.allocatePage();
    if (arenaPage === 0) return false;
    const position = positionOfPage(arenaPage);
    const words = new Int32Array(page.buffer, page.byteOffset, WORDS_PER_PAGE);
    this.#arena.segments[position >>> SEGMENT_SHIFT]!.set(words, position & SEGMENT_WORD_MASK);
    this.publish(slot, position);
    return true;
  }

  // ── What backed-store.ts is made of ───────────────────────────────────────────────────────────
  // HOT PATH: no allocation, no BigInt, no closures, no await.

  /** The slot's table word, signed. */
  wordOf(slot: number): number {
    return this.#table[slot]!;
  }

  /** What the slot's page adds to `compr_data_size`: 0 unless it is one of `pages_stored`. */
  storedBytes(slot: number): number {
    const word = this.#table[slot]!;
    if (word >>> 0 < SLOT_POSITION_MIN) return 0;
    if (this.#objects.isPage(word)) return PAGE_BYTES;
    const bytes = this.#objects.sizeOf(word);
    return bytes > FILL_OBJECT_BYTES_MAX ? bytes : 0;
  }

  /**
   * Upkeep, a bounded step at a time, well below 100 µs: objects are moved together, unneeded memory
   * goes back to the system. `now` is in wrapping microseconds. Returns milliseconds until there is
   * more to do: 0 now, -1 nothing to wait for.
   */
  maintain(now: number): number {
    if (this.#compaction === undefined) return -1;
    if (this.isDrained) return this.drain() ? 0 : -1;
    const { counters } = this.mapped;
    const activity =
      sumCounter(counters, COUNTER.numReads) +
      sumCounter(counters, COUNTER.numWrites) +
      sumCounter(counters, COUNTER.notifyFree);
    const releases = sumCounter(counters, COUNTER.releases);
    if (this.#arena.takeShortage() || this.#isAskedFor(releases)) this.#compaction.hurry();
    const memoryWait = sooner(this.#compaction.step(now, activity, releases), this.#trim(now));
    const wait = sooner(memoryWait, this.#epochs?.step(now) ?? -1);
    const mustLook = this.#locks !== undefined || this.#arena.budget?.isOver === true;
    return mustLook ? sooner(wait, SHARED_LOOK_MILLIS) : wait;
  }

  /** Others lack memory that this store has, and something was let go of since they last did. */
  #isAskedFor(releases: number): boolean {
    const { budget } = this.#arena;
    if (budget === undefined || budget.excessPages === 0) return false;
    const isNews = releases !== this.#askedReleases;
    this.#askedReleases = releases;
    return isNews;
  }

  #trim(now: number): number {
    const arena = this.#arena;
    if (arena.sparePages === 0) return -1;
    const wait = (this.#trimDue - now) | 0;
    if (wait > 0 && wait <= TRIM_INTERVAL_MICROS) return Math.ceil(wait / 1000);
    if (arena.trim()) return 0;
    arena.markTrimInterval();
    this.#trimDue = (now + TRIM_INTERVAL_MICROS) | 0;
    return arena.sparePages === 0 ? -1 : TRIM_INTERVAL_MICROS / 1000;
  }

  /**
   * Makes a slot's new content exist, in one of the ways that `keep` allows: the word to publish, or
   * SLOT_EMPTY when it cannot be kept so, or there is no memory.
   */
  secure(window: PageWindow, offset: number, keep: number): number {
    const { codec } = window;
    const period = codec.fillPeriod(offset);
    if (period === 1) return SLOT_FILLED + window.u8[offset]!;
    if (period !== 0) return this.#secureObject(window, offset, period);
    if (keep === KEEP_FILLED) return SLOT_EMPTY;
    const bytes = codec.compress(offset, PAGE_BYTES, WORK_OUT);
    if (bytes > this.#incompressibleBytes) {
      return keep === KEEP_ANY ? this.#secureRaw(window, offset) : SLOT_EMPTY;
    }
    assert(bytes > FILL_OBJECT_BYTES_MAX, 'a compressed page is longer than a fill pattern');
    // Whole words are kept: the last one would have bytes of an earlier page behind this one's.
    if (this.#arena.wipesOnFree) window.u8.fill(0, WORK_OUT + bytes, WORK_OUT + bytes + 3);
    return this.#secureObject(window, WORK_OUT, bytes);
  }

  #secureObject(window: PageWindow, offset: number, bytes: number): number {
    const position = this.#objects.allocate(bytes);
    if (position === 0) return SLOT_EMPTY;
    const from = wordAligned(window, offset, bytes, WORK_IN);
    const words = (bytes + 3) >> 2;
    const segment = this.#arena.segments[position >>> SEGMENT_SHIFT]!;
    copyWords(window.i32, from >> 2, segment, position & SEGMENT_WORD_MASK, words);
    return position;
  }

  #secureRaw(window: PageWindow, offset: number): number {
    const page = this.#arena.allocatePage();
    if (page === 0) return SLOT_EMPTY;
    const from = wordAligned(window, offset, PAGE_BYTES, WORK_PAGE);
    const position = positionOfPage(page);
    const segment = this.#arena.segments[position >>> SEGMENT_SHIFT]!;
    copyWords(window.i32, from >> 2, segment, position & SEGMENT_WORD_MASK, WORDS_PER_PAGE);
    return position;
  }

  /**
   * Publishes `word` as the slot's content, then lets go of what it held; that word. `isMoved`: it is
   * the page that the slot had, in another place.
   */
  publish(slot: number, word: number, isMoved = false): number {
    // Before others can let go of it.
    accountWord(this.#counters, this.#objects, word, 1);
    const lock = this.#lockOf(slot);
    lock?.acquire();
    const old = this.#exchange(slot, word, isMoved);
    lock?.release();
    this.#letGo(old);
    return old;
  }

  #exchange(slot: number, word: number, isMoved: boolean): number {
    const old = this.#table[slot]!;
    Atomics.store(this.#table, slot, word);
    if (!isMoved) this.#ages.note(slot, takesRoom(word));
    return old;
  }

  /** Of what a slot held: nobody copies it out any more, and nobody will find it. */
  #letGo(old: number): void {
    accountWord(this.#counters, this.#objects, old, -1);
    if (old >>> 0 < SLOT_POSITION_MIN) return;
    this.#counters[COUNTER.releases]!++;
    if (this.#objects.isPage(old)) this.#arena.freePage(pageOfPosition(old));
    else this.#objects.free(old);
  }

  /** Undefined where this thread is the only one. */
  #lockOf(slot: number): SpinLock | undefined {
    return this.#locks === undefined ? undefined : this.#locks[slot % SLOT_LOCKS];
  }

  // ── ObjectMover ───────────────────────────────────────────────────────────────────────────────

  isToMove(slot: number): boolean {
    const word = this.#table[slot]!;
    return word >>> 0 >= SLOT_POSITION_MIN && this.#objects.isEvacuated(word);
  }

  moveObject(slot: number): boolean {
    const lock = this.#lockOf(slot);
    lock?.acquire();
    const word = this.#table[slot]!;
    // It may have changed hands since it was looked at.
    const isDone = !this.isToMove(slot) || this.#moveFrom(word, slot);
    lock?.release();
    return isDone;
  }

  #moveFrom(position: number, slot: number): boolean {
    const bytes = this.#objects.sizeOf(position);
    // Damaged: it stays where it is, and reads of it fail.
    if (bytes === 0 || bytes > OBJECT_BYTES_MAX) return true;
    const to = this.#objects.allocate(bytes);
    if (to === 0) return false;
    const { segments } = this.#arena;
    const source = segments[position >>> SEGMENT_SHIFT]!;
    const target = segments[to >>> SEGMENT_SHIFT]!;
    const from = position & SEGMENT_WORD_MASK;
    copyWords(source, from, target, to & SEGMENT_WORD_MASK, (bytes + 3) >> 2);
    Atomics.store(this.#table, slot, to);
    this.#objects.free(position);
    return true;
  }

  /** Puts the slot's page at `offset` of `window`. False: it is damaged, lost, or not in memory. */
  load(slot: number, window: PageWindow, offset: number): boolean {
    const lock = this.#lockOf(slot);
    lock?.acquire();
    const word = this.#table[slot]!;
    const bytes = this.#copyOut(word, window);
    lock?.release();
    return this.#expand(word, bytes, window, offset);
  }

  /** Makes a page of what was copied out, at `offset`. */
  #expand(word: number, bytes: number, window: PageWindow, offset: number): boolean {
    if (bytes === 0) {
      if (word !== SLOT_EMPTY && word < SLOT_FILLED) return false;
      const byte = word === SLOT_EMPTY ? 0 : word - SLOT_FILLED;
      window.u8.fill(byte, offset, offset + PAGE_BYTES);
      return true;
    }
    if (bytes <= FILL_OBJECT_BYTES_MAX) {
      const { i32 } = window;
      window.codec.fill(offset, i32[WORK_IN >> 2]!, i32[(WORK_IN >> 2) + (bytes >> 3)]!);
      return true;
    }
    if (bytes < PAGE_BYTES) {
      const found = window.codec.decompress(WORK_IN, bytes, WORK_PAGE, PAGE_BYTES);
      if (found !== PAGE_BYTES) return false;
    } else if (bytes > PAGE_BYTES) return false;
    window.u8.copyWithin(offset, WORK_PAGE, WORK_PAGE + PAGE_BYTES);
    return true;
  }

  /**
   * Copies what a slot's word stands for into the work area, an object to WORK_IN, a raw page to
   * WORK_PAGE; its length, 0 where the word says all. A damaged size is larger than a page, and
   * nothing is copied.
   */
  #copyOut(position: number, window: PageWindow): number {
    if (position >>> 0 < SLOT_POSITION_MIN) return 0;
    const segment = this.#arena.segments[position >>> SEGMENT_SHIFT]!;
    const at = position & SEGMENT_WORD_MASK;
    if (this.#objects.isPage(position)) {
      copyWords(segment, at, window.i32, WORK_PAGE >> 2, WORDS_PER_PAGE);
      return PAGE_BYTES;
    }
    const bytes = this.#objects.sizeOf(position);
    if (bytes > OBJECT_BYTES_MAX || bytes === 0) return DAMAGED_BYTES;
    copyWords(segment, at, window.i32, WORK_IN >> 2, (bytes + 3) >> 2);
    return bytes;
  }

  /** Once: the counters say how often. What is lost was told of when it was lost. */
  reportDamage(slot: number, counter: string): void {
    if (this.#table[slot] === SLOT_LOST || this.#isDamageReported) return;
    this.#isDamageReported = true;
    this.onTrouble(`page ${slot}: stored data is damaged; ${counter} counts this and any more`);
  }

  reportMemory(): void {
    if (this.#isOutOfMemory) return;
    this.#isOutOfMemory = true;
    this.onTrouble(`${this.#arena.refusal}; writes fail until pages are freed`);
  }
}
