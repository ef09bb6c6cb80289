/**
 * Memory files (memfd) mapped into windows of their own: the store's bookkeeping and each segment
 * of an arena. Sparse: only touched or reserved pages hold memory.
 */

import { PAGE_BYTES, roundUp } from '../base/units.ts';
import { createMemfd } from '../native/fd.ts';
import { mapFileOver } from '../native/mapping.ts';
import { Window } from './window.ts';

/** A memory file of `bytes`, all holes; it lives as long as its fd and its mappings. */
export function createMemoryFile(name: string, bytes: number): number {
  return createMemfd(name, bytes);
}

/** Maps `bytes` of `fd` from `fileOffset` at offset 0 of a window of its own (no work area). */
export function mapFileWindow(fd: number, fileOffset: number, bytes: number): Window {
  const length = roundUp(bytes, PAGE_BYTES);
  const window = new Window(length);
  mapFileOver(window.u8, 0, length, fd, fileOffset);
  return window;
}
