/**
 * File descriptors: duplicate, close, flags, memfd, fallocate. An fd has one owner and one close.
 */

import { readlinkSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { checked, lastErrno, libcFunction } from './libc.ts';

const F_GETFD = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const O_NONBLOCK = 0o4000;
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_SHRINK = 2;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const EINTR = 4;
const EBADF = 9;

const c = {
  close: libcFunction('int close(int fd)'),
  fcntl: libcFunction('int fcntl(int fd, int cmd, long arg)'),
  memfd_create: libcFunction('int memfd_create(const char *name, unsigned int flags)'),
  ftruncate: libcFunction('int ftruncate(int fd, int64_t length)'),
  fallocate: libcFunction('int fallocate(int fd, int mode, int64_t offset, int64_t length)'),
};

/**
 * Closes an fd that this program owns. Closing what is not open is our bug; what else close reports
 * (a peer's file on a network file system may say EIO) changes nothing: the fd is gone.
 */
export function closeFd(fd: number): void {
  if (c.close(fd) === -1) assert(lastErrno() !== EBADF, 'a descriptor is closed once');
}

type Closer = (fds: readonly number[]) => void;

const closeHere: Closer = (fds) => {
  for (const fd of fds) closeFd(fd);
};
/** Of this thread: each has its modules to itself. */
let closer = closeHere;

/**
 * Closes fds that this program owns, perhaps later and in another thread. For those whose last close
 * may free much memory, 0.2 s a GiB: a peer's files, a store's. Unmap what is mapped of them first, for
 * a mapping's end would free it as well.
 */
export function discardFds(...fds: readonly number[]): void {
  if (fds.length > 0) closer(fds);
}

/** What this thread discards is `taker`'s to close from now on; its own without one. */
export function discardTo(taker: Closer = closeHere): void {
  closer = taker;
}

/**
 * What a descriptor stands for, as /proc names it: `anon_inode:[eventfd]`, `pipe:[1234]`, a path.
 * Undefined: not open, or there is no /proc.
 */
export function fdName(fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined;
  }
}

/** A second fd for the same open file, close-on-exec. */
export function duplicateFd(fd: number): number {
  return checked('fcntl(F_DUPFD_CLOEXEC)', () => c.fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

/** No program that this one might start gets it. Not open: SystemError. */
export function setCloseOnExec(fd: number): void {
  const flags = checked('fcntl(F_GETFD)', () => c.fcntl(fd, F_GETFD, 0), `fd ${fd}`);
  checked('fcntl(F_SETFD)', () => c.fcntl(fd, F_SETFD, flags | FD_CLOEXEC), `fd ${fd}`);
}

/** Reads and writes of this open file no longer wait; affects every holder of the description. */
export function setNonBlocking(fd: number): void {
  const flags = checked('fcntl(F_GETFL)', () => c.fcntl(fd, F_GETFL, 0));
  if ((flags & O_NONBLOCK) !== 0) return;
  checked('fcntl(F_SETFL)', () => c.fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

/** Anonymous memory as a file of `bytes`, sparse, that can no longer shrink. */
export function createMemfd(name: string, bytes: number): number {
  assert(Number.isSafeInteger(bytes) && bytes >= 0, 'a memfd has a size');
  const fd = checked('memfd_create', () => c.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  try {
    checked('ftruncate', () => c.ftruncate(fd, bytes), name);
    checked('fcntl(F_ADD_SEALS)', () => c.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), name);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** Whether the file can never be truncated below its mappings; false also where seals are unknown. */
export function isShrinkSealed(fd: number): boolean {
  const seals = c.fcntl(fd, F_GET_SEALS, 0);
  return seals !== -1 && (seals & F_SEAL_SHRINK) !== 0;
}

/**
 * Reserves memory or blocks for a range of a file, so that touching it cannot fail later.
 * Returns 0 or the negated errno (-ENOSPC when a tmpfs is full).
 */
export function reserveRange(fd: number, offset: number, length: number): number {
  return fallocateRetrying(fd, 0, offset, length);
}

/** Gives the memory of a range back to the system; it reads as zeros. 0 or the negated errno. */
export function punchRange(fd: number, offset: number, length: number): number {
  return fallocateRetrying(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

function fallocateRetrying(fd: number, mode: number, offset: number, length: number): number {
  for (;;) {
    if (c.fallocate(fd, mode, offset, length) === 0) return 0;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}
