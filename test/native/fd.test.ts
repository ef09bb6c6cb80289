/** File descriptors: memfds that cannot shrink, memory reserved and given back, duplicates. */

import {
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { SystemError } from '../../src/base/errors.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import {
  closeFd,
  createMemfd,
  duplicateFd,
  isShrinkSealed,
  punchRange,
  reserveRange,
  setNonBlocking,
} from '../../src/native/fd.ts';
import {
  countOpenFds,
  identityOf,
  isCloseOnExec,
  isNonBlocking,
  pagesHeldBy,
  withFolder,
  withMount,
} from '../models/descriptors.ts';

const EBADF = 9;
const ENODEV = 19;
const ENOSPC = 28;

function withMemfd(bytes: number, use: (fd: number) => void): void {
  const fd = createMemfd('test', bytes);
  try {
    use(fd);
  } finally {
    closeFd(fd);
  }
}

describe('memfd', () => {
  it('has the size asked for, all holes, and close-on-exec', () => {
    withMemfd(5 * 2 ** 30 + 4096, (fd) => {
      expect(fstatSync(fd).size).toBe(5 * 2 ** 30 + 4096);
      expect(pagesHeldBy(fd)).toBe(0);
      expect(isCloseOnExec(fd)).toBe(true);
    });
  });

  it('cannot shrink any more, but can grow', () => {
    withMemfd(8192, (fd) => {
      expect(isShrinkSealed(fd)).toBe(true);
      expect(() => ftruncateSync(fd, 4096)).toThrow('EPERM');
      ftruncateSync(fd, 12288);
      expect(fstatSync(fd).size).toBe(12288);
    });
  });

  it('is not made with a size that is none', () => {
    const before = countOpenFds();
    for (const bytes of [-1, 0.5, Number.NaN, 2 ** 53]) {
      expect(() => createMemfd('test', bytes)).toThrow(AssertionError);
    }
    expect(countOpenFds()).toBe(before);
  });
});

it('does not call a plain file or a closed descriptor sealed', () => {
  withFolder((folder) => {
    const fd = openSync(join(folder, 'plain'), 'w');
    expect(isShrinkSealed(fd)).toBe(false);
    closeFd(fd);
    expect(isShrinkSealed(fd)).toBe(false);
  });
});

describe('ranges of a memory file', () => {
  it('holds memory for exactly the reserved pages', () => {
    withMemfd(2 ** 20, (fd) => {
      expect(reserveRange(fd, 8 * 4096, 16 * 4096)).toBe(0);
      expect(pagesHeldBy(fd)).toBe(16);
      expect(reserveRange(fd, 16 * 4096, 16 * 4096)).toBe(0);
      expect(pagesHeldBy(fd)).toBe(24);
    });
  });

  it('gives memory back where it is punched, reads zeros there and keeps its size', () => {
    withMemfd(2 ** 20, (fd) => {
      writeSync(fd, Buffer.alloc(4 * 4096, 0x5a), 0, 4 * 4096, 0);
      expect(punchRange(fd, 4096, 2 * 4096)).toBe(0);
      expect(pagesHeldBy(fd)).toBe(2);
      const bytes = Buffer.alloc(4 * 4096);
      readSync(fd, bytes, 0, bytes.length, 0);
      const expected = Buffer.alloc(4 * 4096, 0x5a).fill(0, 4096, 3 * 4096);
      expect(bytes.equals(expected)).toBe(true);
      expect(fstatSync(fd).size).toBe(2 ** 20);
    });
  });

  it('works beyond 4 GiB', () => {
    withMemfd(6 * 2 ** 30, (fd) => {
      expect(reserveRange(fd, 5 * 2 ** 30, 4096)).toBe(0);
      expect(pagesHeldBy(fd)).toBe(1);
      expect(punchRange(fd, 5 * 2 ** 30 - 4096, 4096)).toBe(0);
      expect(pagesHeldBy(fd)).toBe(1);
      expect(punchRange(fd, 5 * 2 ** 30, 4096)).toBe(0);
      expect(pagesHeldBy(fd)).toBe(0);
    });
  });

  it('says the negated errno instead of throwing', () => {
    expect(reserveRange(-1, 0, 4096)).toBe(-EBADF);
    const eventFd = createEventFd();
    expect(punchRange(eventFd, 0, 4096)).toBe(-ENODEV);
    closeFd(eventFd);
  });

  it('says ENOSPC when the file system is full', (context) => {
    const ran = withMount('tmpfs', 'size=256k', (folder) => {
      const fd = openSync(join(folder, 'file'), 'w+');
      expect(reserveRange(fd, 0, 64 * 4096)).toBe(0);
      expect(reserveRange(fd, 64 * 4096, 4096)).toBe(-ENOSPC);
      closeFd(fd);
    });
    if (!ran) context.skip();
  });
});

describe('duplicates', () => {
  it('refers to the same file, close-on-exec, and outlives the original', () => {
    const fd = createMemfd('test', 4096);
    const second = duplicateFd(fd);
    expect(second).not.toBe(fd);
    expect(identityOf(second)).toBe(identityOf(fd));
    expect(isCloseOnExec(second)).toBe(true);
    closeFd(fd);
    expect(writeSync(second, Buffer.from('still there'))).toBe(11);
    closeFd(second);
  });

  it('says which call was refused for a closed descriptor', () => {
    const fd = createMemfd('test', 4096);
    closeFd(fd);
    expect(() => duplicateFd(fd)).toThrow(SystemError);
    expect(() => duplicateFd(fd)).toThrow('fcntl(F_DUPFD_CLOEXEC): EBADF');
  });
});

it('throws when a descriptor is closed twice', () => {
  const fd = createMemfd('test', 4096);
  closeFd(fd);
  expect(() => closeFd(fd)).toThrow('a descriptor is closed once');
});

it('makes an open file non-blocking and leaves its other flags alone', () => {
  withFolder((folder) => {
    writeFileSync(join(folder, 'file'), 'one');
    const fd = openSync(join(folder, 'file'), 'a');
    expect(isNonBlocking(fd)).toBe(false);
    setNonBlocking(fd);
    setNonBlocking(fd);
    expect(isNonBlocking(fd)).toBe(true);
    writeSync(fd, 'two');
    expect(readFileSync(join(folder, 'file'), 'utf8')).toBe('onetwo');
    closeFd(fd);
  });
});
