/** Which device may have been meant. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { editDistance, nearName } from '../../src/control/near-name.ts';

describe('editDistance', () => {
  it.each([
    ['ramzswap0', 'ramzswap0', 0],
    ['ramzwap0', 'ramzswap0', 1],
    ['ramzswap00', 'ramzswap0', 1],
    ['ramxswap0', 'ramzswap0', 1],
    ['rmazswap0', 'ramzswap0', 1],
    ['', 'abc', 3],
    ['kitten', 'sitting', 3],
  ])('from %s to %s is %i', (a, b, distance) => {
    expect(editDistance(a, b)).toBe(distance);
  });

  it('is the same both ways, 0 for the same alone, and never more than the longer word', () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 8 });
    fc.assert(
      fc.property(word, word, (a, b) => {
        const distance = editDistance(a, b);
        expect(distance).toBe(editDistance(b, a));
        expect(distance === 0).toBe(a === b);
        expect(distance).toBeLessThanOrEqual(Math.max(a.length, b.length));
        expect(distance).toBeGreaterThanOrEqual(Math.abs(a.length - b.length));
      }),
    );
  });
});

describe('nearName', () => {
  const names = ['ramzswap0', 'ramzswap1', 'swap'];

  it.each([
    ['ramzwap1', 'ramzswap1'],
    ['RAMZSWAP0', 'ramzswap0'],
    // As near to either: the first.
    ['ramzswap', 'ramzswap0'],
    ['swpa', 'swap'],
  ])('takes %s for %s', (wanted, near) => {
    expect(nearName(wanted, names)).toBe(near);
  });

  it.each(['other', 'ramz', 'x', ''])('takes %s for none', (wanted) => {
    expect(nearName(wanted, names)).toBeUndefined();
  });
});
