/**
 * A set of small integers that finds its first or last member in O(levels): bitmaps of 32-bit
 * words, each bit of an upper level saying that the word below it is not empty. Two levels reach
 * 1024 members, three 32,768, four a million. It lives in words given to it.
 */

import { assert } from '../base/assert.ts';

const LEVELS_MAX = 4;

export class BitTree {
  readonly #words: Int32Array;
  /** Index of each level's first word; level 0 is the members' own. */
  readonly #starts: Int32Array;
  readonly #levels: number;
  readonly size: number;

  constructor(words: Int32Array, size: number) {
    const counts = levelCounts(size);
    assert(counts.length <= LEVELS_MAX, 'a bit tree has at most a million members');
    assert(words.length >= BitTree.wordsFor(size), 'a bit tree has its words');
    this.#words = words;
    this.#levels = counts.length;
    this.#starts = new Int32Array(counts.length);
    for (let i = 1, at = 0; i < counts.length; i++) {
      at += counts[i - 1]!;
      this.#starts[i] = at;
    }
    this.size = size;
  }

  /** 32-bit words that a set of `size` members needs. */
  static wordsFor(size: number): number {
    return levelCounts(size).reduce((sum, count) => sum + count, 0);
  }

  /** Makes it empty. */
  clear(): void {
    this.#words.fill(0, 0, BitTree.wordsFor(this.size));
  }

  has(member: number): boolean {
    return (this.#words[member >> 5]! & (1 << (member & 31))) !== 0;
  }

  /** HOT PATH: no allocation. */
  add(member: number): void {
    let bit = member;
    for (let level = 0; level < this.#levels; level++) {
      const word = this.#starts[level]! + (bit >> 5);
      const before = this.#words[word]!;
      this.#words[word] = before | (1 << (bit & 31));
      if (before !== 0) return;
      bit >>= 5;
    }
  }

  /** HOT PATH: no allocation. */
  remove(member: number): void {
    let bit = member;
    for (let level = 0; level < this.#levels; level++) {
      const word = this.#starts[level]! + (bit >> 5);
      const after = this.#words[word]! & ~(1 << (bit & 31));
      this.#words[word] = after;
      if (after !== 0) return;
      bit >>= 5;
    }
  }

  /** HOT PATH: no allocation. The smallest member, or -1. */
  first(): number {
    return this.#descend(this.#levels - 1, 0);
  }

  /** HOT PATH: no allocation. The smallest member that is at least `from`, or -1. */
  firstFrom(from: number): number {
    let bit = from;
    for (let level = 0; level < this.#levels; level++) {
      const index = bit >> 5;
      if (this.#starts[level]! + index < this.#end(level)) {
        const word = this.#words[this.#starts[level]! + index]! & (-1 << (bit & 31));
        if (word !== 0) return this.#below(level, (index << 5) | lowestBit(word));
      }
      // Nothing in the rest of this word: go on after it, one level up.
      bit = index + 1;
    }
    return -1;
  }

  /** The largest member, or -1. */
  last(): number {
    let index = 0;
    for (let level = this.#levels - 1; level >= 0; level--) {
      const word = this.#words[this.#starts[level]! + index]!;
      if (word === 0) return -1;
      index = (index << 5) | (31 - Math.clz32(word));
    }
    return index;
  }

  #end(level: number): number {
    return level + 1 < this.#levels ? this.#starts[level + 1]! : this.#starts[level]! + 1;
  }

  #descend(level: number, index: number): number {
    const word = this.#words[this.#starts[level]! + index]!;
    return word === 0 ? -1 : this.#below(level, (index << 5) | lowestBit(word));
  }

  /** The first member under bit `bit` of `level`, which is set. */
  #below(level: number, bit: number): number {
    let index = bit;
    for (let i = level - 1; i >= 0; i--) {
      index = (index << 5) | lowestBit(this.#words[this.#starts[i]! + index]!);
    }
    return index;
  }
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

function levelCounts(size: number): number[] {
  const counts: number[] = [];
  let count = size;
  do {
    count = Math.ceil(count / 32);
    counts.push(count);
  } while (count > 1);
  return counts;
}
