/**
 * What every fuzz target runs in: cases, each with a seed of its own and independent of the others
 * as far as that can be, until the budget is used up. A failure names the seed of its case, which
 * alone runs it again. Targets know nothing of processes and clocks; scripts/fuzz.ts does.
 */

import { Random } from '../driver/random.ts';

export interface Budget {
  /** At most so many cases. */
  readonly cases: number;
  /** None begins after this moment (Date.now()). */
  readonly until?: number;
  /** Called before each case: a sign of life, and what to run again should it hang. */
  readonly onCase?: (seed: number) => void;
}

/** Runs cases from `seed` on; how many. Throws FuzzFailure. */
export type FuzzTarget = (seed: number, budget: Budget) => number | Promise<number>;

/** A property did not hold. The message says how to have the same case again. */
export class FuzzFailure extends Error {
  override readonly name = 'FuzzFailure';
  readonly target: string;
  readonly seed: number;

  constructor(target: string, seed: number, cause: unknown) {
    super(`${target}: seed ${seed}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
    this.target = target;
    this.seed = seed;
  }
}

/** Case `i` has seed `seed + i`: a failing one is run again as the first of a budget of one. */
export function runCases(
  target: string,
  seed: number,
  budget: Budget,
  run: (random: Random) => void,
): number {
  let done = 0;
  for (; done < budget.cases && !isOver(budget); done++) {
    const caseSeed = (seed + done) >>> 0;
    budget.onCase?.(caseSeed);
    try {
      run(new Random(caseSeed));
    } catch (cause) {
      throw new FuzzFailure(target, caseSeed, cause);
    }
  }
  return done;
}

/** The same for cases that wait for something. */
export async function runAsyncCases(
  target: string,
  seed: number,
  budget: Budget,
  run: (random: Random) => Promise<void>,
): Promise<number> {
  let done = 0;
  for (; done < budget.cases && !isOver(budget); done++) {
    const caseSeed = (seed + done) >>> 0;
    budget.onCase?.(caseSeed);
    try {
      await run(new Random(caseSeed));
    } catch (cause) {
      throw new FuzzFailure(target, caseSeed, cause);
    }
  }
  return done;
}

function isOver(budget: Budget): boolean {
  return budget.until !== undefined && Date.now() >= budget.until;
}

/** A property that must hold; the message is the case. */
export function check(condition: boolean, what: string | (() => string)): asserts condition {
  if (!condition) throw new Error(typeof what === 'string' ? what : what());
}

/** Byte `at` of guard memory: no two neighbours are equal, none is zero. */
export function canary(at: number): number {
  return ((at * 167) & 0x7f) | 0x80;
}

/** A stretch of memory that nobody may write to. */
export class Canary {
  readonly #bytes: Uint8Array;
  readonly #expected: Uint8Array;
  readonly #what: string;

  /** Fills `bytes`, a view of live memory. */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#expected = Uint8Array.from(bytes, (_, i) => canary(i));
    this.#what = what;
    bytes.set(this.#expected);
  }

  check(): void {
    if (Buffer.compare(this.#bytes, this.#expected) === 0) return;
    const at = this.#bytes.findIndex((byte, i) => byte !== this.#expected[i]);
    const found = this.#bytes[at];
    this.#bytes.set(this.#expected);
    throw new Error(`${this.#what}: byte ${at} was overwritten with ${found}`);
  }
}
