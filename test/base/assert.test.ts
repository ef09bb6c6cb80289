/** Assertions: our own bugs, never anybody else's mistake. */

import { expect, it } from 'vitest';
import { AssertionError, assert } from '../../src/base/assert.ts';
import { RefusedError, SystemError, UsageError } from '../../src/base/errors.ts';

it('lets a true claim pass', () => {
  expect(() => assert(true, 'one is one')).not.toThrow();
});

it('throws the claim that does not hold', () => {
  expect(() => assert(false, 'one is two')).toThrow(AssertionError);
  expect(() => assert(false, 'one is two')).toThrow('one is two');
});

it('is no kind of error that somebody catches', () => {
  const error = new AssertionError('x');
  for (const other of [RefusedError, SystemError, UsageError]) {
    expect(error).not.toBeInstanceOf(other);
  }
});
