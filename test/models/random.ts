/**
 * Random numbers that can be had again: mulberry32 from a seed. Tests that loop by themselves take
 * theirs from `replayable`, which puts the seed into the message of whatever fails; SEED=<seed> in
 * the environment runs the same again.
 */

export const SEED = Number(process.env.SEED ?? 20090917);

export interface Random {
  uint32(): number;
  /** 0 … limit − 1. */
  below(limit: number): number;
  /** first … last, both included. */
  between(first: number, last: number): number;
  /** True once in `count` times. */
  rarely(count: number): boolean;
  pick<T>(from: readonly T[]): T;
  bytes(count: number): Uint8Array;
}

export function seededRandom(seed: number): Random {
  let state = seed | 0;
  function uint32(): number {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }
  const below = (limit: number) => Math.floor((uint32() / 2 ** 32) * limit);
  return {
    uint32,
    below,
    between: (first, last) => first + below(last - first + 1),
    rarely: (count) => below(count) === 0,
    pick: (from) => from[below(from.length)]!,
    bytes: (count) => Uint8Array.from({ length: count }, () => uint32() & 0xff),
  };
}

/** Runs `run` with seeded numbers; a failure says how to have the same ones again. */
export function replayable(run: (random: Random) => void, seed = SEED): void {
  try {
    run(seededRandom(seed));
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`with SEED=${seed}: ${message}`, { cause });
  }
}
