/** Mapping files over memory that JavaScript holds: shared both ways, undone, in bounds. */

import { readFileSync, readSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { SystemError } from '../../src/base/errors.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd, punchRange } from '../../src/native/fd.ts';
import {
  bytesToAlignment,
  forgetResidentPages,
  lockableBytes,
  lockOnFault,
  mapAnonymousOver,
  mapFileOver,
} from '../../src/native/mapping.ts';
import { lockedKilobytes } from '../models/descriptors.ts';

const PAGE = 4096;
let view: Uint8Array;
let fd: number;

beforeEach(() => {
  view = new Uint8Array(new WebAssembly.Memory({ initial: 4, maximum: 4 }).buffer);
  fd = createMemfd('test', 8 * PAGE);
});

afterEach(() => closeFd(fd));

function readFile(position: number, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  readSync(fd, buffer, 0, bytes, position);
  return buffer;
}

describe('a file mapped over a view', () => {
  it('shows what is written to the file, before and after', () => {
    writeSync(fd, Buffer.from('before'), 0, 6, 2 * PAGE + 10);
    mapFileOver(view, PAGE, 3 * PAGE, fd, 2 * PAGE);
    expect(Buffer.from(view.subarray(PAGE + 10, PAGE + 16)).toString()).toBe('before');
    writeSync(fd, Buffer.from('after!'), 0, 6, 4 * PAGE + PAGE - 6);
    expect(Buffer.from(view.subarray(4 * PAGE - 6, 4 * PAGE)).toString()).toBe('after!');
  });

  it('writes to the file what is written to the view', () => {
    mapFileOver(view, PAGE, PAGE, fd, 5 * PAGE);
    view.set(Buffer.from('shared'), 2 * PAGE - 6);
    expect(readFile(6 * PAGE - 6, 6).toString()).toBe('shared');
  });

  it('leaves the memory on both sides as it was', () => {
    view.fill(0x77);
    mapFileOver(view, PAGE, PAGE, fd, 0);
    view.fill(0x11, PAGE, 2 * PAGE);
    expect([view[PAGE - 1], view[PAGE], view[2 * PAGE - 1], view[2 * PAGE]]).toEqual([
      0x77, 0x11, 0x11, 0x77,
    ]);
  });

  it('lives on when its descriptor is closed', () => {
    const other = createMemfd('test', PAGE);
    writeSync(other, Buffer.from('kept'), 0, 4, 0);
    mapFileOver(view, 0, PAGE, other, 0);
    closeFd(other);
    expect(Buffer.from(view.subarray(0, 4)).toString()).toBe('kept');
  });
});

describe('anonymous memory laid over it', () => {
  it('restores zeros and cuts the view off the file', () => {
    mapFileOver(view, PAGE, 2 * PAGE, fd, 0);
    view.fill(0x33, PAGE, 3 * PAGE);
    mapAnonymousOver(view, PAGE, 2 * PAGE);
    expect(view.subarray(PAGE, 3 * PAGE).every((byte) => byte === 0)).toBe(true);
    view.fill(0x44, PAGE, 3 * PAGE);
    expect(readFile(0, 2 * PAGE).every((byte) => byte === 0x33)).toBe(true);
  });
});

describe('bounds', () => {
  const badRanges: [string, number, number][] = [
    ['begins before the view', -PAGE, PAGE],
    ['is empty', PAGE, 0],
    ['ends one page beyond the view', 62 * PAGE, 3 * PAGE],
    ['begins beyond the view', 64 * PAGE, PAGE],
    ['begins inside a page', 512, PAGE],
    ['ends inside a page', PAGE, PAGE + 512],
    ['is no number', Number.NaN, PAGE],
  ];

  it.each(badRanges)('does not map a range that %s', (_, offset, length) => {
    expect(() => mapFileOver(view, offset, length, fd, 0)).toThrow(AssertionError);
    expect(() => mapAnonymousOver(view, offset, length)).toThrow(AssertionError);
    expect(() => forgetResidentPages(view, offset, length)).toThrow(AssertionError);
  });

  it('maps the last page of the view', () => {
    mapFileOver(view, 63 * PAGE, PAGE, fd, 0);
    view[view.length - 1] = 9;
    expect(readFile(PAGE - 1, 1)[0]).toBe(9);
  });

  it('does not map from inside a page of the file', () => {
    expect(() => mapFileOver(view, 0, PAGE, fd, 512)).toThrow(AssertionError);
  });

  it('says what could not be mapped', () => {
    const eventFd = createEventFd();
    expect(() => mapFileOver(view, 0, PAGE, eventFd, 0)).toThrow(SystemError);
    expect(() => mapFileOver(view, 0, PAGE, eventFd, 0)).toThrow(
      `mapping 4096 bytes of fd ${eventFd}: mmap: ENODEV`,
    );
    closeFd(eventFd);
  });
});

it('keeps the contents of forgotten pages in the file and shows them again', () => {
  mapFileOver(view, 0, 4 * PAGE, fd, 0);
  view.fill(0x66, 0, 4 * PAGE);
  forgetResidentPages(view, PAGE, 2 * PAGE);
  expect(view.subarray(0, 4 * PAGE).every((byte) => byte === 0x66)).toBe(true);
  forgetResidentPages(view, 8 * PAGE, PAGE);
});

it('loses private memory when it is told to forget that, and only that', () => {
  view.fill(0x66, 0, 3 * PAGE);
  forgetResidentPages(view, PAGE, PAGE);
  expect([view[PAGE - 1], view[PAGE], view[2 * PAGE - 1], view[2 * PAGE]]).toEqual([
    0x66, 0, 0, 0x66,
  ]);
});

it('counts the bytes to an alignment from the address, not from the offset', () => {
  const alignments = [PAGE, 65536, 2 ** 21];
  for (const alignment of alignments) {
    const first = bytesToAlignment(view, 0, alignment);
    expect(first).toBeGreaterThanOrEqual(0);
    expect(first).toBeLessThan(alignment);
    expect(bytesToAlignment(view, first, alignment)).toBe(0);
    expect(bytesToAlignment(view, first + 1, alignment)).toBe(alignment - 1);
    expect(bytesToAlignment(view, first + alignment - 1, alignment)).toBe(1);
  }
  expect(bytesToAlignment(view, 0, PAGE)).toBe(0);
  expect(bytesToAlignment(view.subarray(100), 0, PAGE)).toBe(PAGE - 100);
});

describe('locked memory', () => {
  const locked = () => lockedKilobytes(process.pid, 'memfd:test');

  it('is what was touched since, and no longer what was punched out of the file', () => {
    mapFileOver(view, 0, 8 * PAGE, fd, 0);
    view[0] = 1;
    expect(locked()).toBe(0);
    expect(lockOnFault(view, 0, 4 * PAGE)).toBe(0);
    view[PAGE] = 1;
    view[3 * PAGE] = 1;
    view[7 * PAGE] = 1;
    // The first page was in the page table already, and is locked at once.
    expect(locked()).toBe(12);
    expect(punchRange(fd, 3 * PAGE, PAGE)).toBe(0);
    expect(locked()).toBe(8);
    expect(view[3 * PAGE]).toBe(0);
    // It keeps the kernel from forgetting it, so nobody may rely on both.
    expect(forgetResidentPages(view, 0, PAGE)).toBe(false);
  });

  it('is counted against the limit that the kernel names', () => {
    const line = /^Max locked memory\s+(\w+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))!;
    const expected = line[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(line[1]);
    expect(lockableBytes()).toBe(expected);
  });

  it('is not what lies outside the view', () => {
    expect(() => lockOnFault(view, 0, view.length + PAGE)).toThrow(AssertionError);
  });
});
