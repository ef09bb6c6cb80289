/**
 * A small seeded generator (mulberry32): the same seed gives the same operations, so that a failure
 * can be run again. Not for anything that must be hard to guess.
 */

export class Random {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed >>> 0;
    this.#state = this.seed;
  }

  /** An unsigned 32-bit integer. */
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    return Math.floor((this.u32() / 2 ** 32) * limit);
  }

  /** An integer in [from, to]. */
  between(from: number, to: number): number {
    return from + this.below(to - from + 1);
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  bytes(count: number): Uint8Array {
    const result = new Uint8Array(count);
    for (let i = 0; i < count; i++) result[i] = this.u32();
    return result;
  }

  /**
   * A page such as a guest swaps out, by kind: zeros, one byte throughout, a short pattern, text-like
   * (compresses well), or noise.
   */
  page(): Uint8Array {
    const page = new Uint8Array(4096);
    const kind = this.below(8);
    if (kind === 0) return page;
    if (kind === 1) return page.fill(this.below(256));
    if (kind === 2) {
      const pattern = this.bytes(8);
      for (let i = 0; i < 4096; i++) page[i] = pattern[i & 7]!;
      return page;
    }
    if (kind === 3) {
      for (let i = 0; i < 4096; i++) page[i] = this.u32();
      return page;
    }
    const words = Array.from({ length: 12 }, () => this.bytes(this.between(4, 24)));
    for (let at = 0; at < 4096; ) {
      const word = this.pick(words);
      page.set(word.subarray(0, 4096 - at), at);
      at += word.length;
    }
    return page;
  }
}
