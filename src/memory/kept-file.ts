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
  type Stats,
  statfsSync,
  statSync,
} from 'node:fs';
import { RefusedError } from '../base/errors.ts';
import { sleepMillis } from '../native/clock.ts';
import { lockFile } from '../native/file-extents.ts';

/** linux/magic.h: what loses its files with the machine's memory, and only then. */
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;
/** A process that was killed ends when the kernel has taken its memory apart: 1 GiB takes 100 ms. */
const LOCK_MILLIS_MAX = 5000;
const LOCK_LOOK_MILLIS = 20;

/** Makes sure that `directory` is one, on a tmpfs, and nobody else's. Throws RefusedError. */
export function makePrivateDirectory(directory: string): void {
  const existed = statSync(directory, { throwIfNoEntry: false });
  if (existed === undefined) mkdirSync(directory, { mode: 0o700 });
  const status = existed ?? statSync(directory);
  const refuse = (expected: string, got: string) => {
    throw new RefusedError(`directory ${directory}: expected ${expected}, got ${got}`);
  };
  if (!status.isDirectory()) refuse('a directory', 'something else');
  if (status.uid !== process.geteuid!()) {
    refuse(`an owner of user id ${process.geteuid!()}`, `${status.uid}`);
  }
  if ((status.mode & 0o077) !== 0) refuse('mode 0700', octal(status));
  const { type } = statfsSync(directory);
  if (type !== TMPFS_MAGIC && type !== RAMFS_MAGIC) {
    refuse('a tmpfs, such as /run or /dev/shm', `a file system of type 0x${type.toString(16)}`);
  }
}

function octal(status: Stats): string {
  return (status.mode & 0o7777).toString(8).padStart(4, '0');
}

/** Opens or makes a file and locks it (flock). Throws RefusedError when another process keeps it. */
export function openLockedFile(path: string): number {
  const deadline = performance.now() + LOCK_MILLIS_MAX;
  for (;;) {
    const fd = openPrivateFile(path);
    if (lockFile(fd)) {
      // Its last owner may have removed it while we waited.
      const found = lstatSync(path, { throwIfNoEntry: false });
      if (found?.ino === fstatSync(fd).ino) return fd;
    } else if (performance.now() > deadline) {
      closeSync(fd);
      throw new RefusedError(`${path}: in use by another process, which has it locked`);
    }
    closeSync(fd);
    sleepMillis(LOCK_LOOK_MILLIS);
  }
}

/** Opens or makes a regular file, mode 0600. Throws RefusedError for anything else. */
export function openPrivateFile(path: string): number {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  const status = fstatSync(fd);
  if (status.isFile() && status.nlink <= 1) return fd;
  closeSync(fd);
  throw new RefusedError(`${path}: expected a regular file without further names`);
}
