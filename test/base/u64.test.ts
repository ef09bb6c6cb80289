/** Halves of 64-bit numbers: the edges at 2^31, 2^32 and 2^53, given signed and unsigned. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { highHalf, joinU64, lowHalf, readHalf } from '../../src/base/u64.ts';

describe('joinU64', () => {
  it.each([
    [0, 0, 0],
    [0x7fffffff, 0, 2 ** 31 - 1],
    [0x80000000, 0, 2 ** 31],
    [0x80000000 | 0, 0, 2 ** 31],
    [0xffffffff, 0, 2 ** 32 - 1],
    [-1, 0, 2 ** 32 - 1],
    [0, 1, 2 ** 32],
    [-1, 1, 2 ** 33 - 1],
    [-1, 0x1fffff, Number.MAX_SAFE_INTEGER],
    [0xffffffff, 0x1fffff, Number.MAX_SAFE_INTEGER],
  ])('joins %i and %i to %i', (lo, hi, joined) => {
    expect(joinU64(lo, hi)).toBe(joined);
  });

  it.each([
    [0, 0x200000],
    [-1, 0x200000],
    [0, 0x7fffffff],
    [0, 0x80000000],
    [0, 0x80000000 | 0],
    [0, -1],
    [0xffffffff, 0xffffffff],
  ])('says -1 for %i and %i, which make 2^53 or more', (lo, hi) => {
    expect(joinU64(lo, hi)).toBe(-1);
  });
});

describe('halves', () => {
  it.each([
    [2 ** 31 - 1, 0x7fffffff, 0],
    [2 ** 31, -(2 ** 31), 0],
    [2 ** 32 - 1, -1, 0],
    [2 ** 32, 0, 1],
    [2 ** 52, 0, 0x100000],
    [Number.MAX_SAFE_INTEGER, -1, 0x1fffff],
  ])('cuts %i into %i and %i', (value, lo, hi) => {
    expect(lowHalf(value)).toBe(lo);
    expect(highHalf(value)).toBe(hi);
  });

  it('cuts what BigInt cuts, and joins it again', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        expect(lowHalf(value)).toBe(Number(BigInt.asIntN(32, BigInt(value))));
        expect(highHalf(value)).toBe(Number(BigInt(value) >> 32n));
        expect(joinU64(lowHalf(value), highHalf(value))).toBe(value);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('readHalf', () => {
  it('reads four bytes at any address, little-endian and signed, as a DataView does', () => {
    const bytes = Uint8Array.from({ length: 64 }, (_, i) => (i * 197 + 131) & 0xff);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at <= 60; at++) expect(readHalf(bytes, at)).toBe(view.getInt32(at, true));
  });
});
