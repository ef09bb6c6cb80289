/**
 * Which pages leave memory for the backing swap when the memory limit was lowered, or other devices
 * lack memory, and when: the hand of a clock goes round the slots, a few steps at a time, until memory
 * holds no more than the limit. It moves nothing itself: backed-store.ts does.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

/** Moves under way at once: a sixteenth of the staging pages. */
export const MOVES_MAX = 32;
/** Of a step: slots looked at, and pages moved, some 50 µs. */
const SLOTS_PER_STEP = 4096;
const MOVES_PER_STEP = 8;
/** After a failure this long nothing is tried. */
const PAUSE_MICROS = 1_000_000;

export interface Mover {
  /** Compressed bytes in memory above the limit. */
  readonly bytesAboveLimit: number;
  /** Whether guests leave room for moving at all. */
  readonly mayMove: boolean;
  /** Begins to move the slot's page out: the bytes that it will free, 0 when it is not to be moved. */
  startMove(slot: number): number;
}

export class MoveOut {
  readonly #mover: Mover;
  readonly #firstSlot: number;
  readonly #slots: number;
  /** Moves under way, and the bytes that they will free. */
  #moves = 0;
  #movingBytes = 0;
  /** The next slot to look at, and how many were looked at since one was moved. */
  #hand: number;
  #passed = 0;
  #hasFailed = false;
  /** Bytes above the limit when nothing was found to move: until they change, nothing will be. */
  #stuckBytes = 0;
  #pausedAt: number | undefined;

  /** Slots [firstSlot, slots) may be moved. */
  constructor(mover: Mover, firstSlot: number, slots: number) {
    this.#mover = mover;
    this.#firstSlot = firstSlot;
    this.#slots = slots;
    this.#hand = firstSlot;
  }

  /** A move that was to free `bytes` has ended. */
  ended(bytes: number, isDone: boolean): void {
    this.#moves--;
    this.#movingBytes -= bytes;
    if (!isDone) this.#hasFailed = true;
  }

  /** A step. Milliseconds until there is more to do: 0 now, -1 when moves end or the limit changes. */
  step(now: number): number {
    if (!this.#isAboveLimit || this.#mover.bytesAboveLimit === this.#stuckBytes) return -1;
    this.#stuckBytes = 0;
    if (this.#hasFailed) this.#pause(now);
    if (this.#pausedAt !== undefined) {
      const passed = (now - this.#pausedAt) | 0;
      if (passed >= 0 && passed < PAUSE_MICROS) return Math.ceil((PAUSE_MICROS - passed) / 1000);
      this.#pausedAt = undefined;
    }
    let started = 0;
    for (let i = 0; i < SLOTS_PER_STEP; i++) {
      if (!this.#isAboveLimit || this.#moves >= MOVES_MAX || !this.#mover.mayMove) return -1;
      if (started === MOVES_PER_STEP) return 0;
      if (this.#moveNext()) {
        started++;
      } else if (this.#passed > this.#slots) {
        // Once round and nothing to move: what is above the limit cannot be helped.
        this.#passed = 0;
        this.#stuckBytes = this.#mover.bytesAboveLimit;
        return -1;
      }
    }
    return 0;
  }

  /** Above the limit even when the moves under way are done. */
  get #isAboveLimit(): boolean {
    return this.#mover.bytesAboveLimit > this.#movingBytes;
  }

  #moveNext(): boolean {
    const slot = this.#hand;
    this.#hand = slot + 1 < this.#slots ? slot + 1 : this.#firstSlot;
    this.#passed++;
    const bytes = this.#mover.startMove(slot);
    if (bytes === 0) return false;
    this.#passed = 0;
    this.#moves++;
    this.#movingBytes += bytes;
    return true;
  }

  #pause(now: number): void {
    this.#hasFailed = false;
    this.#passed = 0;
    this.#pausedAt = now;
  }
}
