/**
 * Files that outlive the process: in a directory of its own on a tmpfs, so that they are memory, and
 * locked, so that one process at a time has them.
 */

import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  rmdirSync,
  statfsSync,
  statSync,
} from 'node:fs';
import { RefusedError } from '../base/errors.ts';
import { formatMode } from '../base/units.ts';
import { lockFileUntil } from '../native/file-extents.ts';

/** linux/magic.h: what loses its files with the machine's memory, and only then. */
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;
/** A process that was killed ends when the kernel has taken its memory apart: 1 GiB takes 100 ms. */
const LOCK_MILLIS_MAX = 5000;
/** What open(2) says of a symbolic link, a directory, a socket. */
const NO_FILE_CODES: readonly unknown[] = ['ELOOP', 'EISDIR', 'ENXIO'];

/**
 * Makes sure that `directory` is one, on a tmpfs, and nobody else's. Throws RefusedError, and then
 * there is no directory that was not there before.
 */
export function makePrivateDirectory(directory: string): void {
  const isNew = makeDirectory(directory);
  try {
    checkDirectory(directory);
  } catch (error) {
    if (isNew) rmdirSync(directory);
    throw error;
  }
}

/** False: something of the name is there. */
function makeDirectory(directory: string): boolean {
  try {
    mkdirSync(directory, { mode: 0o700 });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function checkDirectory(directory: string): void {
  const status = statSync(directory);
  const refuse = (expected: string, got: string) => {
    throw new RefusedError(`directory ${directory}: expected ${expected}, got ${got}`);
  };
  if (!status.isDirectory()) refuse('a directory', 'something else');
  if (status.uid !== process.geteuid!()) {
    refuse(`an owner of user id ${process.geteuid!()}`, `${status.uid}`);
  }
  if ((status.mode & 0o077) !== 0) refuse('mode 0700', formatMode(status.mode & 0o7777));
  const { type } = statfsSync(directory);
  if (type !== TMPFS_MAGIC && type !== RAMFS_MAGIC) {
    refuse('a tmpfs, such as /run or /dev/shm', `a file system of type 0x${type.toString(16)}`);
  }
}

/** Opens or makes a file and locks it (flock). Throws RefusedError when another process keeps it. */
export function openLockedFile(path: string): number {
  const deadline = performance.now() + LOCK_MILLIS_MAX;
  for (;;) {
    const fd = openPrivateFile(path);
    let isOurs = false;
    try {
      mustLock(fd, path, deadline);
      // Its last owner may have removed it while we waited.
      isOurs = isFileAt(path, fd);
      if (isOurs) return fd;
    } finally {
      if (!isOurs) closeSync(fd);
    }
  }
}

/** Whether what is to be found at `path` is the file that is open as `fd`. */
export function isFileAt(path: string, fd: number): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  const own = fstatSync(fd);
  return found?.ino === own.ino && found.dev === own.dev;
}

/** A descriptor of the same file with an open file of its own, whose lock is nobody else's. */
export function openAgain(fd: number): number {
  return openSync(`/proc/self/fd/${fd}`, constants.O_RDWR);
}

/**
 * The same, locked: `fd` may be an open file that others have as well. Throws RefusedError when another
 * process keeps the lock.
 */
export function openLockedAgain(fd: number, what: string): number {
  const own = openAgain(fd);
  try {
    mustLock(own, what, performance.now() + LOCK_MILLIS_MAX);
    return own;
  } catch (error) {
    closeSync(own);
    throw error;
  }
}

function mustLock(fd: number, what: string, deadline: number): void {
  if (lockFileUntil(fd, deadline)) return;
  throw new RefusedError(`${what}: in use by another process, which has it locked`);
}

/**
 * Opens a regular file, or makes one of mode 0600 unless it `mustExist`. Throws RefusedError for
 * anything else.
 */
export function openPrivateFile(path: string, mustExist = false): number {
  const create = mustExist ? 0 : constants.O_CREAT;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | create | constants.O_NOFOLLOW, 0o600);
  } catch (error) {
    if (NO_FILE_CODES.includes((error as NodeJS.ErrnoException).code)) throw notPlain(path);
    throw error;
  }
  const status = fstatSync(fd);
  if (status.isFile() && status.nlink <= 1) return fd;
  closeSync(fd);
  throw notPlain(path);
}

function notPlain(path: string): RefusedError {
  return new RefusedError(`${path}: expected a regular file without further names`);
}
