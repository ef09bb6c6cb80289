/** What may be mapped of a file that somebody else made. */

import { openSync } from 'node:fs';
import { expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { sharedFile } from '../../src/memory/shared-file.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';

it('a regular file that is large enough', () => {
  const fd = createMemfd('shared', 8192);
  expect(sharedFile('log', fd, 8192).size).toBe(8192);
  const more = () => sharedFile('log', fd, 8193);
  expect(more).toThrow(RefusedError);
  expect(more).toThrow('log: expected a file of 8193 bytes, got 8192');
  closeFd(fd);
});

it('not a device', () => {
  const fd = openSync('/dev/zero', 'r');
  expect(() => sharedFile('log', fd, 0)).toThrow('log: expected a regular file');
  closeFd(fd);
});

it('not what cannot even be asked', () => {
  const fd = createMemfd('shared', 8192);
  closeFd(fd);
  const ask = () => sharedFile('log', fd, 0);
  expect(ask).toThrow(RefusedError);
  expect(ask).toThrow(/^log: its file: EBADF/);
});
