/**
 * Files that a front end shares, before anything of them is mapped: what they are and how large. Even
 * to ask may fail, as for a file of /proc whose subject is gone.
 */

import { fstatSync, type Stats } from 'node:fs';
import { RefusedError } from '../base/errors.ts';

/**
 * A regular file that reaches to `end` at least. Throws RefusedError: pages beyond the end of a file are
 * SIGBUS, which would end the process for every guest, and of a device nothing says where it ends.
 */
export function sharedFile(what: string, fd: number, end: number): Stats {
  const file = statusOf(what, fd);
  if (!file.isFile()) throw new RefusedError(`${what}: expected a regular file`);
  if (end > file.size) {
    throw new RefusedError(`${what}: expected a file of ${end} bytes, got ${file.size}`);
  }
  return file;
}

function statusOf(what: string, fd: number): Stats {
  try {
    return fstatSync(fd);
  } catch (error) {
    throw new RefusedError(`${what}: its file: ${(error as Error).message}`);
  }
}
