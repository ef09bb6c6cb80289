/** The bit tree against a Set: every question asked after every change. */

import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { BitTree } from '../../src/xvmalloc/bit-tree.ts';
import { type Random, replayable } from '../models/random.ts';

const SIZES = [1, 31, 32, 33, 508, 1023, 1024, 1025, 32768, 32769, 40000, 262144];

function treeOf(size: number): BitTree {
  return new BitTree(new Int32Array(BitTree.wordsFor(size)), size);
}

/** A set of members, with the same questions answered by trying all candidates. */
class SetModel {
  readonly #has: Uint8Array;

  constructor(size: number) {
    this.#has = new Uint8Array(size);
  }

  set(member: number, isIn: boolean): void {
    this.#has[member] = isIn ? 1 : 0;
  }

  has(member: number): boolean {
    return this.#has[member] === 1;
  }

  firstFrom(from: number): number {
    return this.#has.indexOf(1, from);
  }

  last(): number {
    return this.#has.lastIndexOf(1);
  }
}

/** Members around the edges of words of every level, more often than chance would have it. */
function someMember(random: Random, size: number): number {
  const around = random.pick([0, 32, 1024, 32768, size]) * random.between(1, 3);
  const near = around + random.between(-2, 2);
  return random.rarely(2) || near < 0 || near >= size ? random.below(size) : near;
}

function compareAfterEveryChange(size: number, changes: number): void {
  replayable((random) => {
    const tree = treeOf(size);
    const model = new SetModel(size);
    const known: number[] = [];
    for (let i = 0; i < changes; i++) {
      const isAdded = random.below(100) < (i < changes / 2 ? 60 : 30);
      // Removing is worth more where there is something to remove.
      const known1 = known.length > 0 && !isAdded ? random.pick(known) : undefined;
      const member = known1 ?? someMember(random, size);
      if (isAdded) {
        tree.add(member);
        known.push(member);
      } else {
        tree.remove(member);
      }
      model.set(member, isAdded);
      const from = random.rarely(20) ? size - 1 : someMember(random, size);
      const got = [tree.first(), tree.last(), tree.firstFrom(from), tree.firstFrom(member)];
      const expected = [0, from, member].map((start) => model.firstFrom(start));
      expect(got).toEqual([expected[0], model.last(), expected[1], expected[2]]);
      expect([tree.has(member), tree.has(from)]).toEqual([isAdded, model.has(from)]);
    }
  });
}

describe('random changes', () => {
  it.each(SIZES)('leave a tree of %i members equal to a set', (size) => {
    compareAfterEveryChange(size, 1500);
  });
});

describe('every member', () => {
  it.each(SIZES.filter((size) => size <= 1025))('of %i is found when alone', (size) => {
    const tree = treeOf(size);
    for (let member = 0; member < size; member++) {
      tree.add(member);
      expect([tree.first(), tree.last(), tree.firstFrom(0)]).toEqual([member, member, member]);
      expect(tree.firstFrom(member)).toBe(member);
      if (member + 1 < size) expect(tree.firstFrom(member + 1)).toBe(-1);
      tree.remove(member);
      expect([tree.first(), tree.last(), tree.firstFrom(0)]).toEqual([-1, -1, -1]);
    }
  });
});

it('finds nothing from just beyond its last member', () => {
  for (const size of SIZES) {
    const tree = treeOf(size);
    for (let member = Math.max(0, size - 40); member < size; member++) tree.add(member);
    expect(tree.firstFrom(size - 1)).toBe(size - 1);
    expect(tree.firstFrom(size)).toBe(-1);
  }
});

it('is not changed by adding a member again, nor by removing one that is not there', () => {
  const tree = treeOf(2000);
  tree.add(1500);
  tree.add(1500);
  tree.remove(1499);
  expect([tree.first(), tree.last()]).toEqual([1500, 1500]);
  tree.remove(1500);
  tree.remove(1500);
  expect([tree.first(), tree.last()]).toEqual([-1, -1]);
});

describe('its words', () => {
  it.each([
    [1, 1],
    [32, 1],
    [33, 3],
    [1024, 33],
    [1025, 36],
    [32768, 1057],
    [262144, 8192 + 256 + 8 + 1],
  ])('for %i members are %i', (size, words) => {
    expect(BitTree.wordsFor(size)).toBe(words);
  });

  it('must suffice, and no other word is touched', () => {
    expect(() => new BitTree(new Int32Array(2), 33)).toThrow(AssertionError);
    const words = new Int32Array(5).fill(-1, 3);
    const tree = new BitTree(words, 33);
    for (let member = 0; member < 33; member++) tree.add(member);
    for (let member = 0; member < 33; member++) tree.remove(member);
    expect([...words]).toEqual([0, 0, 0, -1, -1]);
  });

  it('do not reach beyond a million members', () => {
    expect(treeOf(2 ** 20).last()).toBe(-1);
    expect(() => treeOf(2 ** 20 + 1)).toThrow(AssertionError);
  });

  it('carry the set: a second tree over them has the same members', () => {
    const words = new Int32Array(BitTree.wordsFor(5000));
    const tree = new BitTree(words, 5000);
    for (const member of [4999, 77, 2048]) tree.add(member);
    const second = new BitTree(words, 5000);
    expect([second.first(), second.firstFrom(78), second.last()]).toEqual([77, 2048, 4999]);
  });
});
