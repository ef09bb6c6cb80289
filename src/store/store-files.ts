/**
 * The two files that a store lies in, bookkeeping and arena. Volatile (memfds, gone with the process
 * and its mappings, unless somebody else has them too: passed-files.ts), or kept in a directory on a
 * tmpfs, where the next process finds them:
 *
 *   DIR/NAME.table   locked (flock) by the process that has the store
 *   DIR/NAME.arena
 *
 * The table's file is the first to exist and the last to go. Its header says what the store is
 * (store-header.ts); without its magic the store was never complete, and is made anew.
 */

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { errnoText, RefusedError, SystemError } from '../base/errors.ts';
import { formatBytes, PAGE_BYTES } from '../base/units.ts';
import {
  isFileAt,
  makePrivateDirectory,
  openLockedFile,
  openPrivateFile,
} from '../memory/kept-file.ts';
import {
  createMemoryFile,
  createReservedMemoryFile,
  reserveMemoryFile,
} from '../memory/memory-file.ts';
import { arenaPagesFor, type StoreShape, storeLayout } from './layout.ts';
import { StoreHeader, type StoreIdentity } from './store-header.ts';

const TABLE_SUFFIX = '.table';

/** Plain data: descriptors are the process's. */
export interface StoreFiles {
  readonly fd: number;
  readonly arenaFd: number;
  /** There is a store in them. */
  readonly isKept: boolean;
  /** Where they are; undefined: in memory only. */
  readonly directory?: string;
  /** The service manager has descriptors of them, or is to have. */
  readonly isInFdStore?: boolean;
}

/** Gone with this process. Throws SystemError. */
export function volatileFiles({ slots, hasBacking = false }: StoreShape): StoreFiles {
  const { bytes, arenaPages } = storeLayout({ slots, hasBacking });
  const fd = createReservedMemoryFile('ramzswap-table', bytes);
  return {
    fd,
    arenaFd: createMemoryFile('ramzswap-arena', arenaPages * PAGE_BYTES),
    isKept: false,
  };
}

/**
 * The files of a device's store in `directory`, made if there are none, locked in any case. Throws
 * RefusedError with the path and the reason; what is refused is left as it was.
 */
export function openStoreFiles(directory: string, identity: StoreIdentity): StoreFiles {
  const { table, arena } = pathsOf(directory, identity.name);
  try {
    makePrivateDirectory(directory);
    const fd = openLockedFile(table);
    try {
      return { ...takeUp(fd, table, arena, identity), directory };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  } catch (error) {
    if (error instanceof RefusedError || error instanceof SystemError) throw error;
    const { errno, path = directory } = error as NodeJS.ErrnoException;
    if (errno === undefined) throw error;
    throw new RefusedError(`store directory: ${path}: ${errnoText(-errno)}`);
  }
}

/** The store is not wanted any more: its memory is free when the process ends, at the latest. */
export function removeStoreFiles({ fd, arenaFd, directory }: StoreFiles, name: string): void {
  if (directory === undefined) return;
  const { table, arena } = pathsOf(directory, name);
  // Somebody may have moved ours away and put others there.
  if (isFileAt(arena, arenaFd)) unlinkSync(arena);
  if (isFileAt(table, fd)) unlinkSync(table);
}

/** Settings of the devices whose stores are in `directory`, by name; whoever has them. */
export function keptSettings(directory: string): Map<string, string> {
  const kept = new Map<string, string>();
  for (const name of existsSync(directory) ? readdirSync(directory) : []) {
    if (!name.endsWith(TABLE_SUFFIX)) continue;
    const fd = openToLook(join(directory, name));
    if (fd === undefined) continue;
    try {
      const header = completeHeader(fd);
      if (header !== undefined) kept.set(header.name, header.settings);
    } finally {
      closeSync(fd);
    }
  }
  return kept;
}

/** Undefined: gone, or none of ours. */
function openToLook(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}

function pathsOf(directory: string, name: string): { table: string; arena: string } {
  const arena = join(directory, `${name}.arena`);
  return { table: join(directory, `${name}${TABLE_SUFFIX}`), arena };
}

function takeUp(
  fd: number,
  table: string,
  arena: string,
  identity: StoreIdentity,
): Omit<StoreFiles, 'directory'> {
  const header = completeHeader(fd);
  if (header === undefined) return makeFiles(fd, table, arena, identity);
  header.check(identity, `store ${table}`);
  const arenaFd = openPrivateFile(arena, true);
  try {
    checkFiles({ fd, arenaFd }, table, arena, identity);
  } catch (error) {
    closeSync(arenaFd);
    throw error;
  }
  return { fd, arenaFd, isKept: true };
}

/** A copy of the header in the table's file; undefined: no store was ever completed there. */
export function completeHeader(fd: number): StoreHeader | undefined {
  const page = new Uint8Array(PAGE_BYTES);
  const isWhole = readSync(fd, page, 0, PAGE_BYTES, 0) === PAGE_BYTES;
  const header = new StoreHeader(page);
  return isWhole && header.isComplete ? header : undefined;
}

/** Throws RefusedError where the files are not as large as they should be, SystemError without memory. */
export function checkFiles(
  { fd, arenaFd }: Pick<StoreFiles, 'fd' | 'arenaFd'>,
  table: string,
  arena: string,
  identity: StoreIdentity,
): void {
  const { bytes, arenaBytes } = sizesOf(identity);
  checkSize(table, fd, bytes);
  checkSize(arena, arenaFd, arenaBytes);
  // Reserved when it was made; a touch that finds no memory would be SIGBUS.
  reserveMemoryFile(fd, bytes, table);
}

function sizesOf({ slots, backing }: StoreIdentity): { bytes: number; arenaBytes: number } {
  const { bytes } = storeLayout({ slots, hasBacking: backing !== undefined });
  return { bytes, arenaBytes: arenaPagesFor(slots) * PAGE_BYTES };
}

function makeFiles(
  fd: number,
  table: string,
  arena: string,
  identity: StoreIdentity,
): Omit<StoreFiles, 'directory'> {
  const { bytes, arenaBytes } = sizesOf(identity);
  let arenaFd: number | undefined;
  try {
    arenaFd = openPrivateFile(arena);
    for (const [file, size] of [
      [fd, bytes],
      [arenaFd, arenaBytes],
    ] as const) {
      // What an unfinished beginning has left goes first.
      ftruncateSync(file, 0);
      ftruncateSync(file, size);
    }
    reserveMemoryFile(fd, bytes, table);
    return { fd, arenaFd, isKept: false };
  } catch (error) {
    if (arenaFd !== undefined) {
      closeSync(arenaFd);
      unlinkSync(arena);
    }
    unlinkSync(table);
    throw error;
  }
}

function checkSize(path: string, fd: number, expected: number): void {
  const { size } = fstatSync(fd);
  if (size === expected) return;
  throw new RefusedError(
    `store ${path}: expected ${expected} bytes (${formatBytes(expected)}), got ${size}`,
  );
}
