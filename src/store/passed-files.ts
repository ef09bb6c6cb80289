/**
 * The two files of a store as descriptors that somebody else has too, and passes to the next process:
 * then they outlive this one without a name anywhere. Locked as files with names are; the lock is on an
 * open file of this process's own, for those that were passed stay open where they came from.
 */

import { closeSync, fstatSync } from 'node:fs';
import { RefusedError } from '../base/errors.ts';
import { openAgain, openLockedAgain } from '../memory/kept-file.ts';
import { checkFiles, completeHeader, type StoreFiles, volatileFiles } from './store-files.ts';
import type { StoreIdentity } from './store-header.ts';

/** Descriptors, and what to call them. */
export interface PassedFiles {
  readonly table: { readonly fd: number; readonly name: string };
  readonly arena: { readonly fd: number; readonly name: string };
}

/**
 * The store that was passed, whose descriptors stay the caller's; undefined: none was completed there.
 * Throws RefusedError for one that is not the one that is wanted.
 */
export function takeUpPassedFiles(
  { table, arena }: PassedFiles,
  identity: StoreIdentity,
): StoreFiles | undefined {
  for (const { fd, name } of [table, arena]) {
    if (!fstatSync(fd).isFile()) throw new RefusedError(`store ${name}: expected a memory file`);
  }
  const fd = openLockedAgain(table.fd, `store ${table.name}`);
  const arenaFd = openAgain(arena.fd);
  try {
    const header = completeHeader(fd);
    header?.check(identity, `store ${table.name}`);
    if (header !== undefined) {
      checkFiles({ fd, arenaFd }, table.name, arena.name, identity);
      return { fd, arenaFd, isKept: true, isInFdStore: true };
    }
  } catch (error) {
    closeSync(fd);
    closeSync(arenaFd);
    throw error;
  }
  closeSync(fd);
  closeSync(arenaFd);
  return undefined;
}

/** New ones, to be passed on. Throws SystemError. */
export function makePassedFiles({ name, slots, backing }: StoreIdentity): StoreFiles {
  const { fd, arenaFd } = volatileFiles({ slots, hasBacking: backing !== undefined });
  try {
    return { fd: openLockedAgain(fd, `store ${name}`), arenaFd, isKept: false, isInFdStore: true };
  } finally {
    closeSync(fd);
  }
}

/** Calls `pass` with descriptors for others to keep, first the arena's: a table is never alone. */
export function passOn(
  { fd, arenaFd }: StoreFiles,
  pass: (which: keyof PassedFiles, fd: number) => void,
): void {
  // Not ours, with whose open file the lock would go.
  const table = openAgain(fd);
  try {
    pass('arena', arenaFd);
    pass('table', table);
  } finally {
    closeSync(table);
  }
}
