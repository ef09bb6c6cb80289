/**
 * A page store with a backing swap: pages that do not compress, or for which the memory limit leaves
 * no room, lie on the swap, each at its own place there. It decides and keeps order; what is kept in
 * memory is page-store.ts, what moves pages is backing/page-io.ts.
 *
 * Life of a slot's content:
 *   in memory or nothing → write goes to the swap (old content stays until that is done) → backed
 *   backed → overwritten in place: lost while under way → backed, or lost for good if it failed
 *   backed or lost → write stays in memory → in memory
 *   in memory → moved out, when the memory limit was lowered or others lack memory → backed
 *
 * An operation on a slot with I/O under way waits for it, in order (page-operations.ts); but a page
 * that is being moved out is still in memory, and reads find it there. I/O goes through staging pages
 * of a window of its own; an operation that finds none free is starved until one is given back. One I/O
 * may be waited for by thousands of operations, each as much work as any other: they are carried out
 * within the budget of a turn, and the first of a slot that is left is ready until the next.
 *
 * Each page that is written has its checksum kept in memory: what comes back from the swap is that
 * page or an error, whatever happened to the file meanwhile.
 */

import type { PageIo, PageIoOwner } from '../backing/page-io.ts';
import { assert } from '../base/assert.ts';
import { errnoText } from '../base/errors.ts';
import {
  PAGE_DONE,
  PAGE_FAILED,
  PAGE_PENDING,
  type PageClient,
  type PageResult,
} from '../base/page-operation.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { sooner } from '../base/wait.ts';
import { copyBetween, WINDOW_BOUNCE_OFFSET, WINDOW_WORK_BYTES } from '../memory/window.ts';
import { MOVES_MAX, MoveOut, type Mover } from './move-out.ts';
import { OperationFifo } from './operation-fifo.ts';
import { PageOperations } from './page-operations.ts';
import { KEEP_ANY, KEEP_COMPRESSED, KEEP_FILLED, type PageStore } from './page-store.ts';
import { copyPage, type PageWindow } from './page-window.ts';
import { SLOT_BACKED, SLOT_EMPTY, SLOT_LOST } from './slot-word.ts';
import { COUNTER } from './statistics.ts';

/** SPEC: with a backing swap, a result above half a page goes there. */
export const BACKED_INCOMPRESSIBLE_BYTES = PAGE_BYTES / 2;
/**
 * Compressed bytes that a page of the arena holds when compaction has done its best, with some to
 * spare: so that a store which is to do without pages moves enough out, and not more again and again.
 */
const USEFUL_PAGE_BYTES = (PAGE_BYTES / 16) * 15;
/** Every page of every request that a ring of 128 can hold: then a full table is a rare guest's. */
const OPERATIONS_MAX = 16384;
/** Carried out between two looks at the clock, where the end of all is waited for. */
const AWAITED_OPERATIONS = 64;
/** Pages in I/O at once: 2 MiB. */
export const STAGING_PAGES = 512;
/** In the staging window: for a page that comes from memory, on its way to a client. */
const SCRATCH = WINDOW_BOUNCE_OFFSET;
const NONE = -1;

/** A part is a write from when its page is whole. */
const OP = { read: 0, write: 1, free: 2, zero: 3, part: 4, move: 5 } as const;

export interface BackedStoreOptions {
  readonly memory: PageStore;
  readonly pages: PageIo;
  /** Its staging pages lie from WINDOW_WORK_BYTES on, STAGING_PAGES of them. */
  readonly window: PageWindow;
  /** First slots that always stay in memory: the swap header, which the swap has of its own. */
  readonly headerSlots: number;
  readonly memlimitBytes: number;
}

/** The bytes of the window that BackedStoreOptions wants. */
export const STAGING_WINDOW_BYTES = WINDOW_WORK_BYTES + STAGING_PAGES * PAGE_BYTES;

export class BackedStore implements PageIoOwner, Mover {
  readonly slots: number;

  readonly #memory: PageStore;
  readonly #counters: Float64Array;
  readonly #checksums: Int32Array;
  readonly #pages: PageIo;
  readonly #window: PageWindow;
  readonly #headerSlots: number;
  readonly #moveOut: MoveOut;
  readonly #operations = new PageOperations(OPERATIONS_MAX);
  readonly #operationOf = new Int32Array(STAGING_PAGES);
  /** Operations that want a staging page. */
  readonly #starved = new OperationFifo(OPERATIONS_MAX);
  /** Operations that nothing keeps from being carried out: each the first of its slot. */
  readonly #ready = new OperationFifo(OPERATIONS_MAX);
  /** How many operations that have waited may still be carried out in this turn. */
  #left = 0;
  readonly #reported = { read: false, write: false, damage: false };

  constructor({ memory, pages, window, headerSlots, memlimitBytes }: BackedStoreOptions) {
    assert(window.bytes >= STAGING_WINDOW_BYTES, 'the window holds the staging pages');
    this.slots = memory.slots;
    this.#memory = memory;
    this.#counters = memory.counters;
    this.#checksums = memory.mapped.checksums;
    this.#pages = pages;
    this.#window = window;
    this.#headerSlots = headerSlots;
    this.#moveOut = new MoveOut(this, headerSlots, memory.slots);
    this.memlimitBytes = memlimitBytes;
  }

  /** The limit on compressed bytes in memory; what is above a lowered one is moved out. */
  get memlimitBytes(): number {
    return this.#counters[COUNTER.memlimit]!;
  }

  set memlimitBytes(bytes: number) {
    this.#counters[COUNTER.memlimit] = bytes;
  }

  // HOT PATH from here on: no allocation, no BigInt, no closures, no await.

  /** For epoll: readable when reap() has something to do. */
  get wakeFd(): number {
    return this.#pages.wakeFd;
  }

  /** wakeFd was readable. */
  woken(): void {
    this.#pages.woken();
  }

  /** Whether reap() has something to do: I/O has ended, or what waited for some is left. */
  hasEnded(): boolean {
    return this.#ready.count > 0 || this.#mayFeed || this.#pages.hasEnded();
  }

  /**
   * Ends the operations whose I/O has ended, and carries out up to `budget` of those that have waited;
   * how many. All of the budget: there may be more.
   */
  reap(budget: number): number {
    this.#left = budget;
    // Once round: what a slot has left after its turn comes behind the others' again.
    for (let i = this.#ready.count; i > 0 && this.#left > 0; i--) {
      this.#advance(this.#ready.shift());
    }
    this.#feedStarved();
    if (this.#left > 0) this.#pages.reap(this);
    return budget - this.#left;
  }

  /** Blocks until all operations have ended, at most `millis`; whether they have. Cold path. */
  settle(millis: number): boolean {
    const deadline = performance.now() + millis;
    while (this.pending > 0 && performance.now() < deadline) this.awaitEnded(millis);
    return this.pending === 0;
  }

  /** Blocks until some I/O has ended, at most `millis`, and ends its operations. Cold path. */
  awaitEnded(millis: number): void {
    this.flush();
    if (!this.hasEnded()) this.#pages.awaitEnded(millis);
    this.reap(AWAITED_OPERATIONS);
    this.flush();
  }

  /** Starts the I/O that operations want; called once a turn. */
  flush(): void {
    this.#pages.flush();
  }

  get isFull(): boolean {
    return this.#operations.isFull;
  }

  get punchedPages(): number {
    return this.#memory.punchedPages;
  }

  /** Operations that have not ended, moves included. */
  get pending(): number {
    return this.#operations.count;
  }

  writePage(
    slot: number,
    window: PageWindow,
    offset: number,
    client: PageClient<PageWindow>,
    request: number,
    page: number,
  ): PageResult {
    if (this.#operations.find(slot) !== NONE) {
      this.#operations.add(OP.write, slot, client, request, page);
      return PAGE_PENDING;
    }
    if (this.#keep(slot, window, offset)) {
      this.#counters[COUNTER.numWrites]!++;
      return PAGE_DONE;
    }
    if (slot < this.#headerSlots) {
      this.#memory.reportMemory();
      return this.#failWrite();
    }
    const op = this.#operations.add(OP.write, slot, client, request, page);
    const staging = this.#pages.take();
    if (staging === NONE) return this.#starve(op);
    copyPage(window, offset, this.#window, stagingOffset(staging));
    return this.#writeOut(op, staging);
  }

  readPage(
    slot: number,
    window: PageWindow,
    offset: number,
    client: PageClient<PageWindow>,
    request: number,
    page: number,
  ): PageResult {
    const first = this.#operations.find(slot);
    const isBusy = first !== NONE && !this.#isOnlyMoved(first);
    if (!isBusy && this.#memory.wordOf(slot) !== SLOT_BACKED) {
      return this.#memory.readPage(slot, window, offset);
    }
    const op = this.#operations.add(OP.read, slot, client, request, page);
    return isBusy ? PAGE_PENDING : this.#readIn(op);
  }

  freePage(slot: number, client: PageClient<PageWindow>, request: number): PageResult {
    if (this.#operations.find(slot) === NONE) return this.#memory.freePage(slot);
    this.#operations.add(OP.free, slot, client, request, 0);
    return PAGE_PENDING;
  }

  zeroPage(slot: number, client: PageClient<PageWindow>, request: number): PageResult {
    if (this.#operations.find(slot) === NONE) return this.#memory.zeroPage(slot);
    this.#operations.add(OP.zero, slot, client, request, 0);
    return PAGE_PENDING;
  }

  writePart(
    slot: number,
    from: number,
    to: number,
    window: PageWindow,
    offset: number,
    client: PageClient<PageWindow>,
    request: number,
    page: number,
  ): PageResult {
    const isBusy = this.#operations.find(slot) !== NONE;
    const op = this.#operations.add(OP.part, slot, client, request, page);
    this.#operations.from[op] = from;
    this.#operations.to[op] = to;
    if (isBusy) return PAGE_PENDING;
    const result = this.#changePart(op, window, offset);
    if (result !== PAGE_PENDING) this.#operations.removeFirst(op);
    return result;
  }

  /**
   * The client waits for nothing any more. What has not begun is dropped; what is in I/O goes on.
   * Cold path.
   */
  abandon(client: PageClient<PageWindow>): void {
    const operations = this.#operations;
    operations.removeWaiting(client);
    this.#dropFirsts(this.#starved, client);
    this.#dropFirsts(this.#ready, client);
    for (let op = 0; op < operations.capacity; op++) {
      if (operations.client[op] === client) operations.client[op] = undefined;
    }
  }

  /** Of operations that are the first of their slot; the next one's turn has come. Cold path. */
  #dropFirsts(fifo: OperationFifo, client: PageClient<PageWindow>): void {
    const operations = this.#operations;
    for (let i = fifo.count; i > 0; i--) {
      const op = fifo.shift();
      if (operations.client[op] !== client) {
        fifo.push(op);
        continue;
      }
      const next = operations.removeFirst(op);
      if (next !== NONE) this.#ready.push(next);
    }
  }

  /** A step of upkeep; milliseconds until there is more to do: 0 now, -1 nothing to wait for. */
  maintain(now: number): number {
    const memoryWait = this.#memory.maintain(now);
    const moveWait = this.#moveOut.step(now);
    this.#pages.flush();
    const ioWait = this.#pages.waitMillis(now);
    return sooner(sooner(memoryWait, moveWait), ioWait);
  }

  // ── PageIoOwner ───────────────────────────────────────────────────────────────────────────────

  pageEnded(staging: number, errno: number): void {
    const op = this.#operationOf[staging]!;
    const kind = this.#operations.kind[op]!;
    if (kind === OP.part) {
      this.#endPartRead(op, staging, errno);
    } else if (kind === OP.read) {
      const isDone = this.#endRead(op, staging, errno, 'failed_reads');
      if (!isDone) this.#counters[COUNTER.failedReads]!++;
      this.#settle(op, isDone);
    } else {
      this.#settle(op, this.#endWrite(op, errno));
    }
    this.#feedStarved();
  }

  /** The rest of a page that is changed in part has come, or not. */
  #endPartRead(op: number, staging: number, errno: number): void {
    const isRead = this.#endRead(op, staging, errno, 'failed_writes');
    if (this.#operations.client[op] === undefined) {
      // Given up with its bytes, before anything was changed: it will be asked for again, or never.
      this.#settle(op, false);
      return;
    }
    const isThere = isRead && this.#fillPart(op, staging, undefined, 0);
    const result = this.#storePart(op, staging, isThere);
    if (result !== PAGE_PENDING) this.#settle(op, result === PAGE_DONE);
  }

  /** A page has come, or not. Whether it is the page that was written there. */
  #endRead(op: number, staging: number, errno: number, counter: string): boolean {
    const slot = this.#operations.slot[op]!;
    this.#counters[COUNTER.bdevNumReads]!++;
    if (errno !== 0) {
      this.#report('read', counter, slot, errno);
      return false;
    }
    const checksum = this.#window.codec.checksum(stagingOffset(staging), slot);
    if (checksum === this.#checksums[slot]) return true;
    this.#report('damage', counter, slot, 0);
    return false;
  }

  #endWrite(op: number, errno: number): boolean {
    const operations = this.#operations;
    const slot = operations.slot[op]!;
    const kind = operations.kind[op]!;
    this.#counters[COUNTER.bdevNumWrites]!++;
    if (kind === OP.move) this.#moveOut.ended(operations.request[op]!, errno === 0);
    if (kind === OP.write) this.#counters[COUNTER.numWrites]!++;
    if (errno === 0) {
      this.#checksums[slot] = operations.checksum[op]!;
      this.#memory.publish(slot, SLOT_BACKED, kind === OP.move);
      if (kind === OP.move) this.#counters[COUNTER.pagesMovedOut]!++;
      return true;
    }
    if (kind === OP.write) this.#counters[COUNTER.failedWrites]!++;
    this.#report('write', 'failed_writes', slot, errno);
    return false;
  }

  // ── Carrying out ──────────────────────────────────────────────────────────────────────────────

  /** Keeps the page in memory, if it may and can be; then it is the slot's content. */
  #keep(slot: number, window: PageWindow, offset: number): boolean {
    const isOverLimit = this.#counters[COUNTER.comprDataSize]! > this.#limitBytes - PAGE_BYTES;
    let keep: number = isOverLimit ? KEEP_FILLED : KEEP_COMPRESSED;
    if (slot < this.#headerSlots) keep = KEEP_ANY;
    const word = this.#memory.secure(window, offset, keep);
    if (word === SLOT_EMPTY) return false;
    this.#memory.publish(slot, word);
    return true;
  }

  #failWrite(): PageResult {
    this.#counters[COUNTER.numWrites]!++;
    this.#counters[COUNTER.failedWrites]!++;
    return PAGE_FAILED;
  }

  /** Writes a staging page to the swap. In place, the old content is lost from now on. */
  #writeOut(op: number, staging: number): PageResult {
    const operations = this.#operations;
    const slot = operations.slot[op]!;
    operations.checksum[op] = this.#window.codec.checksum(stagingOffset(staging), slot);
    if (this.#memory.wordOf(slot) === SLOT_BACKED) this.#memory.publish(slot, SLOT_LOST);
    return this.#queue(true, op, staging);
  }

  #readIn(op: number): PageResult {
    const staging = this.#pages.take();
    return staging === NONE ? this.#starve(op) : this.#queue(false, op, staging);
  }

  #queue(isWrite: boolean, op: number, staging: number): PageResult {
    this.#operations.staging[op] = staging;
    this.#operationOf[staging] = op;
    this.#pages.queue(isWrite, this.#operations.slot[op]!, staging);
    return PAGE_PENDING;
  }

  /** Begins an operation whose turn has come, or that was starved. */
  #carryOut(op: number): PageResult {
    const { kind, slot } = this.#operations;
    const at = slot[op]!;
    switch (kind[op]) {
      case OP.read:
        if (this.#memory.wordOf(at) === SLOT_BACKED) return this.#readIn(op);
        return this.#memory.readPage(at, this.#window, SCRATCH);
      case OP.write:
        return this.#writeTaken(op);
      case OP.free:
        return this.#memory.freePage(at);
      case OP.zero:
        return this.#memory.zeroPage(at);
      default:
        return this.#changePart(op, undefined, 0);
    }
  }

  /** A write that waited: its data is fetched now. */
  #writeTaken(op: number): PageResult {
    const { client, request, page } = this.#operations;
    const staging = this.#pages.take();
    if (staging === NONE) return this.#starve(op);
    const offset = stagingOffset(staging);
    const isThere = client[op]!.takePage(request[op]!, page[op]!, this.#window, offset, PAGE_BYTES);
    const result = isThere ? this.#storeStaged(op, staging) : this.#failWrite();
    if (result !== PAGE_PENDING) this.#pages.give(staging);
    return result;
  }

  /** Stores the page in a staging page: it is kept in memory, or being written out, or neither. */
  #storeStaged(op: number, staging: number): PageResult {
    const slot = this.#operations.slot[op]!;
    if (this.#keep(slot, this.#window, stagingOffset(staging))) {
      this.#counters[COUNTER.numWrites]!++;
      return PAGE_DONE;
    }
    if (slot >= this.#headerSlots) return this.#writeOut(op, staging);
    this.#memory.reportMemory();
    return this.#failWrite();
  }

  /**
   * Changes a part of a page, by way of a staging page: fetch the page, replace the part, store it.
   * The part is at `offset` of `source`, or the client's to give.
   */
  #changePart(op: number, source: PageWindow | undefined, offset: number): PageResult {
    const slot = this.#operations.slot[op]!;
    const staging = this.#pages.take();
    if (staging === NONE) return this.#starve(op);
    if (this.#memory.wordOf(slot) === SLOT_BACKED) return this.#queue(false, op, staging);
    const isLoaded = this.#memory.load(slot, this.#window, stagingOffset(staging));
    if (!isLoaded) this.#memory.reportDamage(slot, 'failed_writes');
    const isThere = isLoaded && this.#fillPart(op, staging, source, offset);
    const result = this.#storePart(op, staging, isThere);
    if (result !== PAGE_PENDING) this.#pages.give(staging);
    return result;
  }

  /** Replaces the part in the page that a staging page holds. False: its bytes are not there. */
  #fillPart(op: number, staging: number, source: PageWindow | undefined, offset: number): boolean {
    const { client, request, page } = this.#operations;
    const from = this.#operations.from[op]!;
    const bytes = this.#operations.to[op]! - from;
    const at = stagingOffset(staging) + from;
    if (source === undefined) {
      return client[op]!.takePage(request[op]!, page[op]!, this.#window, at, bytes);
    }
    copyBetween(source, offset, this.#window, at, bytes);
    return true;
  }

  #storePart(op: number, staging: number, isWhole: boolean): PageResult {
    if (!isWhole) return this.#failWrite();
    this.#operations.kind[op] = OP.write;
    return this.#storeStaged(op, staging);
  }

  /** Ends an operation with I/O, and begins those that waited for it. */
  #settle(op: number, isDone: boolean): void {
    this.#advance(this.#end(op, isDone));
  }

  /**
   * Begins the first operation of a slot, and the next if it ends at once, and so on, as far as the
   * budget goes.
   */
  #advance(first: number): void {
    let op = first;
    while (op !== NONE) {
      if (this.#left <= 0) {
        this.#ready.push(op);
        return;
      }
      this.#left--;
      const result = this.#carryOut(op);
      if (result === PAGE_PENDING) return;
      op = this.#end(op, result === PAGE_DONE);
    }
  }

  /** Tells the operation's client of its end; the next operation of the slot, or -1. */
  #end(op: number, isDone: boolean): number {
    const operations = this.#operations;
    const staging = operations.staging[op]!;
    const offset = staging === NONE ? SCRATCH : stagingOffset(staging);
    const client = operations.client[op];
    const request = operations.request[op]!;
    const page = operations.page[op]!;
    const next = operations.removeFirst(op);
    client?.endPage(request, page, isDone, this.#window, offset);
    if (staging !== NONE) this.#pages.give(staging);
    return next;
  }

  #starve(op: number): PageResult {
    this.#starved.push(op);
    return PAGE_PENDING;
  }

  get #mayFeed(): boolean {
    return this.#starved.count > 0 && this.#pages.freeStaging > 0;
  }

  #feedStarved(): void {
    while (this.#mayFeed && this.#left > 0) this.#advance(this.#starved.shift());
  }

  // ── Mover ─────────────────────────────────────────────────────────────────────────────────────

  #isOnlyMoved(first: number): boolean {
    return this.#operations.kind[first] === OP.move && !this.#operations.isWaitedFor(first);
  }

  get bytesAboveLimit(): number {
    return this.#counters[COUNTER.comprDataSize]! - this.#limitBytes;
  }

  /** The memory limit, or less while devices that share the budget lack what this one has. */
  get #limitBytes(): number {
    const { budget } = this.#memory.mapped.arena;
    const excess = budget === undefined ? 0 : budget.excessPages;
    if (excess === 0) return this.memlimitBytes;
    const left = budget!.usedPages - excess;
    return Math.min(this.memlimitBytes, left * USEFUL_PAGE_BYTES);
  }

  /** Guests come first: moving takes neither the last staging pages nor the last records. */
  get mayMove(): boolean {
    return this.#pages.freeStaging > MOVES_MAX && this.#starved.count === 0 && !this.isFull;
  }

  startMove(slot: number): number {
    const bytes = this.#memory.storedBytes(slot);
    if (bytes === 0 || this.#operations.find(slot) !== NONE) return 0;
    const staging = this.#pages.take();
    if (!this.#memory.load(slot, this.#window, stagingOffset(staging))) {
      this.#pages.give(staging);
      return 0;
    }
    // What it frees is kept in its record: a move is nobody's request.
    this.#writeOut(this.#operations.add(OP.move, slot, undefined, bytes, 0), staging);
    return bytes;
  }

  /** Once for each kind of trouble: the counters say how often. */
  #report(what: 'read' | 'write' | 'damage', counter: string, slot: number, errno: number): void {
    if (this.#reported[what]) return;
    this.#reported[what] = true;
    const trouble =
      what === 'damage'
        ? 'other bytes than were written: the backing swap was changed while in use, or is damaged'
        : `${what} failed: ${errnoText(errno)}`;
    this.#memory.onTrouble(
      `backing swap, page ${slot}: ${trouble}; ${counter} counts this and any more`,
    );
  }
}

/** Byte offset of a staging page in its window. */
function stagingOffset(staging: number): number {
  return WINDOW_WORK_BYTES + staging * PAGE_BYTES;
}
