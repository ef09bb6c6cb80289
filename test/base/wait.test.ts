/** Waits: how long upkeep may sleep. */

import { expect, it } from 'vitest';
import { sooner } from '../../src/base/wait.ts';

it.each([
  [-1, -1, -1],
  [-1, 5, 5],
  [5, -1, 5],
  [0, 5, 0],
  [7, 5, 5],
  [5, 5, 5],
])('of %i and %i milliseconds the sooner is %i', (a, b, expected) => {
  expect(sooner(a, b)).toBe(expected);
});
