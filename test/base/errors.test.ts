/** Errors: the symbolic names of errno values, and what a SystemError says. */

import { describe, expect, it } from 'vitest';
import { errnoName, RefusedError, SystemError, UsageError } from '../../src/base/errors.ts';

describe('errnoName', () => {
  it.each([
    [1, 'EPERM'],
    [2, 'ENOENT'],
    [28, 'ENOSPC'],
    [98, 'EADDRINUSE'],
    [111, 'ECONNREFUSED'],
  ])('names %i %s', (errno, name) => {
    expect(errnoName(errno)).toBe(name);
  });

  it('gives errno 11 the name that libc and Node give it', () => {
    expect(errnoName(11)).toBe('EAGAIN');
  });

  it('keeps the number of an errno that has no name', () => {
    expect(errnoName(4095)).toBe('errno 4095');
  });
});

describe('SystemError', () => {
  it('says where, which call and which errno', () => {
    const error = new SystemError('bind', 98, '/run/x.sock');
    expect(error.message).toBe('/run/x.sock: bind: EADDRINUSE (address already in use)');
    expect(error).toMatchObject({ name: 'SystemError', call: 'bind', errno: 98 });
    expect(error.code).toBe('EADDRINUSE');
  });

  it('leaves the place out when there is none', () => {
    expect(new SystemError('eventfd', 24).message).toBe('eventfd: EMFILE (too many open files)');
  });
});

it('tells the kinds of error apart by class and by name', () => {
  const usage = new UsageError('x');
  const refused = new RefusedError('x');
  expect([usage.name, refused.name]).toEqual(['UsageError', 'RefusedError']);
  expect(usage).not.toBeInstanceOf(RefusedError);
  expect(refused).not.toBeInstanceOf(UsageError);
});
