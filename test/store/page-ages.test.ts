/** Numbers of slots, their counts by thread, and which beginning is the oldest. */

import { describe, expect, it } from 'vitest';
import { AGE_WORDS, EPOCHS, oldestBeginning, PageAges } from '../../src/store/page-ages.ts';
import { replayable } from '../models/random.ts';

const SLOTS = 40;

function setUp(threads = 1, firstSlot = 0) {
  const numbers = new Uint8Array(SLOTS);
  const words = new Int32Array(AGE_WORDS);
  const ages = Array.from(
    { length: threads },
    (_, thread) => new PageAges(numbers, words, thread, threads, firstSlot),
  );
  ages[0]!.current = 1;
  return { numbers, words, ages };
}

describe('a slot', () => {
  it('has the number of the epoch in which its page was written last', () => {
    const { ages, numbers } = setUp();
    const [mine] = ages as [PageAges];
    mine.note(3, true);
    mine.note(4, true);
    mine.current = 7;
    mine.note(4, true);
    mine.note(5, false);
    expect([3, 4, 5].map((slot) => numbers[slot])).toEqual([1, 7, 0]);
    expect([1, 7].map((number) => mine.countOf(number))).toEqual([1, 1]);
    mine.note(3, false);
    expect([numbers[3], mine.countOf(1)]).toEqual([0, 0]);
  });

  it('has none where the swap header lies', () => {
    const { ages, numbers } = setUp(1, 4);
    for (const slot of [0, 3, 4]) ages[0]!.note(slot, true);
    expect([...numbers.subarray(0, 5)]).toEqual([0, 0, 0, 0, 1]);
    expect(ages[0]!.countOf(1)).toBe(1);
  });
});

it('counts what one thread has written and another has freed', () => {
  const { ages, words } = setUp(16);
  for (let slot = 0; slot < SLOTS; slot++) ages[slot % 16]!.note(slot, true);
  for (let slot = 0; slot < SLOTS - 1; slot++) ages[(slot * 7) % 16]!.note(slot, false);
  for (const one of ages) expect(one.countOf(1)).toBe(1);
  expect(words.subarray(EPOCHS).some((count) => count < 0)).toBe(true);
  ages[3]!.note(SLOTS - 1, false);
  expect(ages[9]!.countOf(1)).toBe(0);
});

it('counts on when what a thread has counted wraps', () => {
  const { ages, words } = setUp(2);
  // As after 2^31 pages written by one and freed by the other.
  words[EPOCHS + 1] = 2 ** 31 - 1;
  words[2 * EPOCHS + 1] = -(2 ** 31) + 1;
  ages[0]!.note(0, true);
  ages[0]!.note(1, true);
  expect(ages[1]!.countOf(1)).toBe(2);
});

describe('the oldest beginning', () => {
  it('is that of an epoch which has pages and has begun', () => {
    const { ages, words } = setUp();
    const [mine] = ages as [PageAges];
    expect(oldestBeginning(words)).toBeUndefined();
    mine.note(0, true);
    expect(oldestBeginning(words)).toBeUndefined();
    mine.setBeginning(1, 500);
    mine.setBeginning(2, 100);
    expect(oldestBeginning(words)).toBe(500);
    mine.current = 255;
    mine.setBeginning(255, 400);
    mine.note(1, true);
    expect(oldestBeginning(words)).toBe(400);
    mine.note(1, false);
    expect(oldestBeginning(words)).toBe(500);
  });
});

describe('counting anew', () => {
  it('gives each page a number and takes it from all else, whatever was there', () => {
    replayable((random) => {
      for (let round = 0; round < 20; round++) {
        const firstSlot = random.below(3);
        const { ages, numbers, words } = setUp(3, firstSlot);
        for (let i = 0; i < SLOTS; i++) numbers[i] = random.below(EPOCHS);
        for (let i = 0; i < words.length; i++) words[i] = random.uint32();
        if (random.rarely(2)) words[0] = random.below(EPOCHS);
        const before = numbers.slice();
        const held = new Set(Array.from({ length: 20 }, () => random.below(SLOTS)));
        ages[0]!.recount((slot) => held.has(slot));
        const { current } = ages[0]!;
        expect(current).toBeGreaterThan(0);
        expect(current).toBeLessThan(EPOCHS);
        for (let slot = 0; slot < SLOTS; slot++) {
          const counts = held.has(slot) && slot >= firstSlot;
          expect(numbers[slot]).toBe(counts ? before[slot] || current : 0);
        }
        for (let number = 0; number < EPOCHS; number++) {
          const slots = numbers.filter((one) => one === number).length;
          expect(ages[2]!.countOf(number)).toBe(slots);
        }
        const words0 = words.slice();
        ages[0]!.recount(() => false);
        const [numbersWithout, wordsWithout] = [numbers.slice(), words.slice()];
        numbers.set(before);
        words.set(words0);
        ages[0]!.clear();
        expect([numbers, words]).toEqual([numbersWithout, wordsWithout]);
      }
    });
  });
});
