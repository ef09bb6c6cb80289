/** Memory files and the windows that map them. */

import { fstatSync, readSync } from 'node:fs';
import { expect, it } from 'vitest';
import { createMemoryFile, mapFileWindow } from '../../src/memory/memory-file.ts';
import { closeFd, isShrinkSealed } from '../../src/native/fd.ts';
import { pagesHeldBy } from '../models/descriptors.ts';

it('is sparse and cannot shrink', () => {
  const fd = createMemoryFile('test', 2 ** 34);
  expect(fstatSync(fd).size).toBe(2 ** 34);
  expect(pagesHeldBy(fd)).toBe(0);
  expect(isShrinkSealed(fd)).toBe(true);
  closeFd(fd);
});

it('is shown by two windows at once, each from its own place', () => {
  const fd = createMemoryFile('test', 2 ** 33);
  const low = mapFileWindow(fd, 2 ** 32, 8192);
  const high = mapFileWindow(fd, 2 ** 32 + 4096, 4096);
  closeFd(fd);
  low.u8[4096 + 17] = 0x99;
  expect(high.u8[17]).toBe(0x99);
  high.i32[1023] = 7;
  expect(low.i32[2047]).toBe(7);
});

it('holds only the pages that were touched', () => {
  const fd = createMemoryFile('test', 2 ** 20);
  const window = mapFileWindow(fd, 0, 2 ** 20);
  window.u8[5 * 4096] = 1;
  window.u8[9 * 4096 + 4095] = 1;
  expect(pagesHeldBy(fd)).toBe(2);
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, 9 * 4096 + 4095);
  expect(byte[0]).toBe(1);
  closeFd(fd);
});

it('is mapped in whole pages: the last one whole, nothing beyond it', () => {
  const fd = createMemoryFile('test', 4096 + 100);
  const window = mapFileWindow(fd, 0, 4096 + 100);
  window.u8[8192] = 5;
  window.u8[4096 + 99] = 6;
  expect(pagesHeldBy(fd)).toBe(1);
  expect(window.u8[8192]).toBe(5);
  closeFd(fd);
});
