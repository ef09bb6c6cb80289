/**
 * Compaction: when freeing has left blocks of the pool half empty, the emptiest are evacuated and
 * their objects moved together elsewhere, so that whole blocks go back to the system. It decides
 * which blocks, and walks the table for the slots whose objects lie there (a table word is the only
 * reference to an object, so nothing has to point back). It moves nothing itself: page-store.ts does.
 *
 *   resting → (enough has changed) survey: how full are the blocks?
 *           → (worth it)           mark: evacuate the emptiest, a few at a time
 *           → move: once over the table → settle: blocks that are not empty give memory again → survey
 *
 * Few blocks at a time, because what is moved takes memory twice until its block is empty: 64 blocks
 * are 4 MiB, as much as the arena keeps for reuse anyway.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { BLOCK_BYTES } from '../xvmalloc/arena.ts';
import type { Xvmalloc } from '../xvmalloc/xvmalloc.ts';

const BLOCK_WORDS = BLOCK_BYTES / 4;
/** Of the pool's memory, this much is to be in use when nobody else wants the processor … */
const USEFUL_WHEN_IDLE = 0.955;
/** … and this much while guests are busy: then moving is only worth it where much is wasted. */
const USEFUL_WHEN_BUSY = 0.85;
/** Less waste than this is never worth a walk over the table. */
const WASTED_BLOCKS_MIN = 4;
const EVACUATED_MAX = 64;
/** Of the pool's blocks, as many are evacuated at once, where that is less. */
const EVACUATED_SHARE = 1 / 16;

/** Surveys are this far apart while there is nothing to do … */
const REST_MICROS = 400_000;
/** … and wait for so many objects to be let go of: fewer cannot have wasted much. */
const RELEASES_MIN = 256;

/** Of a step, some 20 to 50 µs each: blocks looked at, slots looked at, objects moved. */
const BLOCKS_PER_STEP = 2048;
const SLOTS_PER_STEP = 2048;
const MOVES_PER_STEP = 4;
/** Evacuating walks a block's chunks: 25 µs with objects of the smallest size. */
const MARKS_PER_STEP = 2;

/** Blocks are told apart by how full they are, in so many steps. */
const GRADE_SHIFT = 8;
const GRADES = (BLOCK_WORDS >> GRADE_SHIFT) + 1;
/** Blocks that are fuller are not worth emptying. */
const GRADE_MAX = Math.floor(USEFUL_WHEN_IDLE * (GRADES - 1)) - 1;

const PHASE = { rest: 0, survey: 1, mark: 2, move: 3, settle: 4 } as const;

export interface ObjectMover {
  /** Slots of the table. */
  readonly slots: number;
  /** Moves the slot's object if it lies in a block that is evacuated. False: there is no memory. */
  moveObject(slot: number): boolean;
  /** Whether it does. */
  isToMove(slot: number): boolean;
}

export class Compaction {
  readonly #mover: ObjectMover;
  readonly #objects: Xvmalloc;
  readonly #blocks: number;
  #phase: number = PHASE.rest;
  /** The next block, or slot, to look at. */
  #next = 0;

  /** What the survey found: blocks by grade, their number, words in use. */
  readonly #grades = new Int32Array(GRADES);
  #poolBlocks = 0;
  #liveWords = 0;
  /** Blocks of up to this grade are evacuated, so many more of them. */
  #grade = 0;
  #wanted = 0;
  readonly #evacuated = new Int32Array(EVACUATED_MAX);
  #evacuatedCount = 0;
  /** Of these, how many were given back. */
  #emptied = 0;
  #isOutOfMemory = false;
  /** Blocks of the pool at the last survey of this run; 0: this is the first. */
  #blocksBefore = 0;
  /** A survey in an idle moment has found nothing to do. */
  #isSettled = true;
  #isUrgent = false;

  /** Since when it rests, and how many objects had been let go of at the last survey. */
  #restingSince = 0;
  #restedReleases = 0;
  /** What guests had done at the last step. */
  #lastActivity = 0;

  constructor(mover: ObjectMover, objects: Xvmalloc, blocks: number) {
    this.#mover = mover;
    this.#objects = objects;
    this.#blocks = blocks;
  }

  /** Memory was wanted in vain: the next survey is as if nobody were busy. */
  hurry(): void {
    this.#isSettled = false;
    this.#isUrgent = true;
  }

  /**
   * A step. `now` is in wrapping microseconds; `activity` grows with every page that guests read,
   * write or free, `releases` with every object that was let go of. Milliseconds until there is more
   * to do: 0 now, -1 when more has been let go of.
   */
  step(now: number, activity: number, releases: number): number {
    const isIdle = activity === this.#lastActivity;
    this.#lastActivity = activity;
    switch (this.#phase) {
      case PHASE.rest:
        return this.#rest(now, releases);
      case PHASE.survey:
        if (this.#survey()) this.#decide(isIdle || this.#isUrgent, now);
        break;
      case PHASE.mark:
        if (this.#mark()) this.#begin(PHASE.move);
        break;
      case PHASE.move:
        if (this.#move()) this.#begin(PHASE.settle);
        break;
      default:
        if (this.#settle()) this.#conclude(now);
    }
    return this.#phase === PHASE.rest ? REST_MICROS / 1000 : 0;
  }

  #rest(now: number, releases: number): number {
    if (this.#isSettled && releases - this.#restedReleases < RELEASES_MIN) return -1;
    const rested = (now - this.#restingSince) | 0;
    if (rested >= 0 && rested < REST_MICROS) return Math.ceil((REST_MICROS - rested) / 1000);
    this.#restedReleases = releases;
    this.#blocksBefore = 0;
    this.#beginSurvey();
    return 0;
  }

  #begin(phase: number): void {
    this.#phase = phase;
    this.#next = 0;
  }

  #beginRest(now: number): void {
    this.#begin(PHASE.rest);
    this.#restingSince = now;
  }

  #beginSurvey(): void {
    this.#begin(PHASE.survey);
    this.#grades.fill(0);
    this.#poolBlocks = 0;
    this.#liveWords = 0;
  }

  /** True: all blocks were looked at. */
  #survey(): boolean {
    const end = Math.min(this.#next + BLOCKS_PER_STEP, this.#blocks);
    for (; this.#next < end; this.#next++) {
      const live = this.#objects.liveWords(this.#next);
      if (live < 0) continue;
      this.#grades[live >> GRADE_SHIFT]!++;
      this.#poolBlocks++;
      this.#liveWords += live;
    }
    return this.#next === this.#blocks;
  }

  #decide(isIdle: boolean, now: number): void {
    const blocks = this.#poolBlocks;
    const needed = this.#liveWords / BLOCK_WORDS;
    const useful = isIdle ? USEFUL_WHEN_IDLE : USEFUL_WHEN_BUSY;
    const isWorthIt = needed < useful * blocks && blocks - needed >= WASTED_BLOCKS_MIN;
    // Objects that were moved and freed nothing will not fit better next time.
    const isInVain = this.#blocksBefore !== 0 && blocks >= this.#blocksBefore;
    if (!isWorthIt || isInVain || !this.#choose(blocks - Math.ceil(needed))) {
      this.#isSettled = isIdle;
      this.#isUrgent = false;
      this.#beginRest(now);
      return;
    }
    this.#blocksBefore = blocks;
    this.#evacuatedCount = 0;
    this.#emptied = 0;
    this.#isOutOfMemory = false;
    this.#begin(PHASE.mark);
  }

  /** Chooses how many blocks are evacuated, and up to which grade. False: none is empty enough. */
  #choose(wasted: number): boolean {
    const share = Math.ceil(this.#poolBlocks * EVACUATED_SHARE);
    this.#wanted = Math.min(EVACUATED_MAX, share, wasted);
    let found = 0;
    this.#grade = -1;
    while (this.#grade < GRADE_MAX && found < this.#wanted) {
      this.#grade++;
      found += this.#grades[this.#grade]!;
    }
    return found > 0;
  }

  /** True: as many blocks are evacuated as were wanted, or were found. */
  #mark(): boolean {
    const objects = this.#objects;
    const end = Math.min(this.#next + BLOCKS_PER_STEP, this.#blocks);
    let marks = 0;
    for (; this.#next < end && marks < MARKS_PER_STEP && this.#wanted > 0; this.#next++) {
      const live = objects.liveWords(this.#next);
      if (live < 0 || live >> GRADE_SHIFT > this.#grade) continue;
      objects.evacuate(this.#next);
      this.#evacuated[this.#evacuatedCount++] = this.#next;
      this.#wanted--;
      marks++;
    }
    return this.#wanted === 0 || this.#next === this.#blocks;
  }

  /** True: the whole table was looked at, or there is no memory for what is to be moved. */
  #move(): boolean {
    const mover = this.#mover;
    const end = Math.min(this.#next + SLOTS_PER_STEP, mover.slots);
    let moves = 0;
    for (; this.#next < end && moves < MOVES_PER_STEP; this.#next++) {
      if (!mover.isToMove(this.#next)) continue;
      moves++;
      if (mover.moveObject(this.#next)) continue;
      this.#isOutOfMemory = true;
      return true;
    }
    return this.#next >= mover.slots;
  }

  /** Ends the evacuation of some blocks. True: of all. */
  #settle(): boolean {
    const end = Math.min(this.#next + MARKS_PER_STEP, this.#evacuatedCount);
    for (; this.#next < end; this.#next++) {
      if (!this.#objects.readmit(this.#evacuated[this.#next]!)) this.#emptied++;
    }
    return this.#next === this.#evacuatedCount;
  }

  #conclude(now: number): void {
    if (this.#emptied > 0 && !this.#isOutOfMemory) {
      this.#beginSurvey();
      return;
    }
    // What was not emptied holds objects that nobody refers to yet, or there was no memory: the same
    // again would come to the same.
    this.#isSettled = true;
    this.#isUrgent = false;
    this.#beginRest(now);
  }
}
