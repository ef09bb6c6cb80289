/** Calls to libc: what -1 becomes, and which errno it carries. */

import koffi from 'koffi';
import { expect, it } from 'vitest';
import { SystemError } from '../../src/base/errors.ts';
import { checked, lastErrno, libcFunction, orErrno } from '../../src/native/libc.ts';

const EBADF = 9;
const close = libcFunction('int close(int fd)');
const getpid = libcFunction('int getpid()');

it('calls the C library', () => {
  expect(getpid()).toBe(process.pid);
});

it('turns a refused call into its negated errno, and leaves results alone', () => {
  expect(orErrno(close(-1))).toBe(-EBADF);
  expect(lastErrno()).toBe(EBADF);
  expect(orErrno(0)).toBe(0);
  expect(orErrno(42)).toBe(42);
});

it('throws a refused call of the control plane with its name, errno and place', () => {
  expect(() => checked('close', () => close(-1), 'socket')).toThrow(
    new SystemError('close', EBADF, 'socket'),
  );
  expect(checked('getpid', () => getpid())).toBe(process.pid);
});

it('calls again after a signal', () => {
  const EINTR = 4;
  let calls = 0;
  const interruptedTwice = () => {
    calls++;
    if (calls === 3) return 5;
    koffi.errno(EINTR);
    return -1;
  };
  expect(checked('call', interruptedTwice)).toBe(5);
  expect(calls).toBe(3);
});
