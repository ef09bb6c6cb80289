/**
 * Memory files (memfds, files on tmpfs) mapped into windows of their own: the store's bookkeeping and each segment
 * of an arena. Sparse: only touched or reserved pages hold memory.
 */

import { errnoText, RefusedError, SystemError } from '../base/errors.ts';
import { formatBytes, PAGE_BYTES, roundUp } from '../base/units.ts';
import { closeFd, createMemfd, reserveRange } from '../native/fd.ts';
import { lockableBytes, lockOnFault, mapAnonymousOver, mapFileOver } from '../native/mapping.ts';
import { Window } from './window.ts';

/** A memory file of `bytes`, all holes; it lives as long as its fd and its mappings. */
export function createMemoryFile(name: string, bytes: number): number {
  return createMemfd(name, bytes);
}

/** The same with all its memory reserved, so that no later touch can fail. SystemError without. */
export function createReservedMemoryFile(name: string, bytes: number): number {
  const fd = createMemfd(name, bytes);
  try {
    reserveMemoryFile(fd, bytes, name);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/** Makes sure that no touch of the first `bytes` of `fd` can fail. SystemError without memory. */
export function reserveMemoryFile(fd: number, bytes: number, name: string): void {
  const result = reserveRange(fd, 0, bytes);
  if (result !== 0) throw new SystemError('fallocate', -result, `${name}: ${formatBytes(bytes)}`);
}

/**
 * Maps `bytes` of `fd` from `fileOffset` at offset 0 of a window of its own (no work area). Throws
 * RefusedError where there is no address space for it.
 */
export function mapFileWindow(fd: number, fileOffset: number, bytes: number): Window {
  const window = makeFileWindow(bytes);
  mapInFileWindow(window, fd, fileOffset, bytes);
  return window;
}

/** The window alone: mapFileWindow() for who must know that there is room before there is a file. */
export function makeFileWindow(bytes: number): Window {
  return makeWindow(roundUp(bytes, PAGE_BYTES));
}

/** The rest of it. Throws SystemError; the window is as it was then. */
export function mapInFileWindow(
  window: Window,
  fd: number,
  fileOffset: number,
  bytes: number,
): void {
  mapFileOver(window.u8, 0, roundUp(bytes, PAGE_BYTES), fd, fileOffset);
}

/** Lets go of what is mapped in a window: it reads as zeros and holds no memory. Nobody uses it any more. */
export function releaseWindow(window: Window): void {
  mapAnonymousOver(window.u8, 0, window.bytes);
}

/**
 * Keeps all memory of these buffers (windows') that is there, or ever will be, from being swapped
 * out. Throws RefusedError, which names `neededBytes`: what all that is to be locked comes to.
 */
export function lockBuffers(buffers: readonly ArrayBuffer[], neededBytes: number): void {
  for (const buffer of buffers) {
    const result = lockOnFault(new Uint8Array(buffer), 0, buffer.byteLength);
    if (result === 0) continue;
    const [needed, limit] = [neededBytes, lockableBytes()].map((bytes) => bytes / 1024);
    throw new RefusedError(
      `locking the store in memory: mlock2: ${errnoText(-result)}: expected RLIMIT_MEMLOCK of ` +
        `${needed} KiB at least, or CAP_IPC_LOCK, got ${limit} KiB`,
    );
  }
}

function makeWindow(bytes: number): Window {
  try {
    return new Window(bytes);
  } catch (error) {
    // What WebAssembly.Memory throws when address space or commit limit are used up.
    if (!(error instanceof RangeError)) throw error;
    throw new RefusedError(`no address space for ${formatBytes(bytes)} of the store`);
  }
}
