/** Comparing megabytes: `toEqual` walks typed arrays element by element, far too slowly. */

import { expect } from 'vitest';

export function expectBytes(got: Uint8Array, expected: Uint8Array, what = 'bytes'): void {
  if (Buffer.compare(got, expected) === 0) return;
  expect(got.length, `${what}: length`).toBe(expected.length);
  const at = got.findIndex((byte, i) => byte !== expected[i]);
  expect.fail(`${what}: byte ${at} is ${got[at]}, expected ${expected[at]}`);
}
