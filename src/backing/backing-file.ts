/**
 * Opens a backing swap, a block device or a regular file, and checks everything that must be true of
 * it before a page is entrusted to it. Whatever is refused is left as it was.
 *
 *   kind → listed as swap? → opened for writing, past the page cache → claimed → size → swap header
 *   → extents
 */

import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  type Stats,
  statSync,
} from 'node:fs';
import { errnoText, RefusedError, SystemError } from '../base/errors.ts';
import { formatMode, PAGE_BYTES } from '../base/units.ts';
import {
  blockDeviceFacts,
  type FileExtent,
  fileExtents,
  isSwapFileInUse,
  lockFile,
} from '../native/file-extents.ts';
import { ExtentMap } from './extent-map.ts';
import { checkSwapHeader } from './swap-header.ts';

/**
 * I/O of a process that was killed goes on, and keeps its claim and lock: what overtakes it would be
 * overwritten. So a file that somebody has is waited for a while.
 */
const CLAIM_MILLIS_MAX = 5000;
const CLAIM_LOOK_MILLIS = 20;

/** The largest page of a guest: what is read of the area to look for its header. */
const HEADER_BYTES_MAX = 65536;

export interface BackingFile {
  readonly path: string;
  /** Opened with O_DIRECT; the owner of this record closes it. */
  readonly fd: number;
  readonly map: ExtentMap;
  /** The beginning of the area, 64 KiB or all of it: its swap header. */
  readonly start: Uint8Array;
  /** SHA-256 of device, inode, size and extents: whatever was written lies where it lay. */
  readonly identity: Uint8Array;
}

/** Somebody else has it, perhaps not for long. */
class ClaimedError extends RefusedError {}

/**
 * The same as openBackingFile(), tried again for a while where another process has it. Others are
 * served by this thread meanwhile.
 */
export async function openFreeBackingFile(
  path: string,
  guestPageBytes: number,
  claimMillis = CLAIM_MILLIS_MAX,
): Promise<BackingFile> {
  const deadline = performance.now() + claimMillis;
  for (;;) {
    try {
      return openBackingFile(path, guestPageBytes);
    } catch (error) {
      if (!(error instanceof ClaimedError) || performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, CLAIM_LOOK_MILLIS));
    }
  }
}

/** Opens and checks; throws RefusedError with the path and the reason. */
export function openBackingFile(path: string, guestPageBytes: number): BackingFile {
  let fd: number | undefined;
  try {
    const before = statSync(path);
    checkKind(before);
    checkUnusedAsSwap(before, readFileSync('/proc/swaps', 'utf8'));
    fd = openForWriting(path, before);
    const after = fstatSync(fd);
    if (after.dev !== before.dev || after.ino !== before.ino) {
      throw new RefusedError('was replaced while it was opened');
    }
    const bytes = claim(fd, after);
    const start = readStart(fd, Math.min(bytes, HEADER_BYTES_MAX));
    const areaBytes = checkSwapHeader(start, guestPageBytes, bytes);
    const map = after.isFile()
      ? ExtentMap.ofFile(placesOf(fd, areaBytes), areaBytes)
      : ExtentMap.ofDevice(areaBytes);
    return { path, fd, map, start, identity: identityOf(after, areaBytes, map) };
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    throw refusal(path, error);
  }
}

function identityOf(status: Stats, bytes: number, { extents }: ExtentMap): Uint8Array {
  const { dev, ino, rdev } = status;
  // A device's own inode may be made anew; a file's is the file.
  const what = status.isFile() ? { dev, ino } : { rdev };
  const text = JSON.stringify({ ...what, bytes, extents });
  return new Uint8Array(createHash('sha256').update(text).digest());
}

function refusal(path: string, error: unknown): unknown {
  if (error instanceof ClaimedError) {
    return new ClaimedError(`backing swap ${path}: ${error.message}`);
  }
  if (error instanceof RefusedError || error instanceof SystemError) {
    return new RefusedError(`backing swap ${path}: ${error.message}`);
  }
  const { errno, code, message } = error as NodeJS.ErrnoException;
  if (errno !== undefined) return new RefusedError(`backing swap ${path}: ${errnoText(-errno)}`);
  // What Node does not take for a path, one with a NUL byte.
  if (code === 'ERR_INVALID_ARG_VALUE') {
    return new RefusedError(`backing swap ${JSON.stringify(path)}: ${message}`);
  }
  return error;
}

function checkKind(status: Stats): void {
  if (status.isFile() || status.isBlockDevice()) return;
  const kind = status.isDirectory()
    ? 'a directory'
    : status.isCharacterDevice()
      ? 'a character device'
      : status.isFIFO()
        ? 'a pipe'
        : 'a socket';
  throw new RefusedError(`expected a block device or a regular file, got ${kind}`);
}

/**
 * `/proc/swaps`: a line each behind the heading, its first field the path, in which blanks, tabs,
 * line ends and backslashes are octal.
 */
export function checkUnusedAsSwap(status: Stats, swaps: string): void {
  for (const line of swaps.split('\n').slice(1)) {
    const name = line.split(/[ \t]/)[0]!;
    if (name === '') continue;
    const path = name.replace(/\\([0-7]{3})/g, (_, octal) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    const used = statusOf(path);
    if (used === undefined) continue;
    const isSame = status.isBlockDevice()
      ? used.isBlockDevice() && used.rdev === status.rdev
      : used.dev === status.dev && used.ino === status.ino;
    if (isSame) throw new RefusedError('is in use as swap on this host');
  }
}

/** Undefined where nothing can be seen at `path`: it may be hidden by a mount, or from this user. */
function statusOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

function openForWriting(path: string, status: Stats): number {
  const exclusive = status.isBlockDevice() ? constants.O_EXCL : 0;
  if (status.isFile() && (status.mode & 0o222) === 0) {
    throw new RefusedError(`is read-only (mode ${formatMode(status.mode & 0o777)})`);
  }
  try {
    return openSync(path, constants.O_RDWR | constants.O_DIRECT | exclusive);
  } catch (error) {
    throw openRefusal(error);
  }
}

function openRefusal(error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'EROFS':
      return new RefusedError('is read-only (EROFS)');
    case 'EACCES':
    case 'EPERM':
      return new RefusedError(`may not be written (${code})`);
    case 'EBUSY':
      return new ClaimedError('is in use: mounted, or claimed by another program');
    case 'EINVAL':
      return new RefusedError('is on a file system without O_DIRECT');
    default:
      return error;
  }
}

/** Makes it ours alone, as far as that can be; its size in bytes. */
function claim(fd: number, status: Stats): number {
  if (!lockFile(fd)) {
    throw new ClaimedError('is in use by another process, which has it locked');
  }
  if (status.isFile()) {
    // Also where the path that /proc/swaps knows it by leads nowhere, or somewhere else.
    if (isSwapFileInUse(fd)) throw new RefusedError('is in use as swap on this host');
    return status.size;
  }
  const { bytes, isReadOnly, logicalBlockBytes } = blockDeviceFacts(fd);
  if (isReadOnly) throw new RefusedError('is read-only (the device)');
  if (logicalBlockBytes > PAGE_BYTES) {
    throw new RefusedError(
      `expected logical blocks of ${PAGE_BYTES} bytes at most, got ${logicalBlockBytes}`,
    );
  }
  return bytes;
}

function placesOf(fd: number, bytes: number): FileExtent[] {
  try {
    return fileExtents(fd, bytes);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new RefusedError(
      `is on a file system that does not say where files lie (${error.message})`,
    );
  }
}

/** Through the page cache, where mkswap may just have written it; then all of that goes to disk. */
function readStart(fd: number, bytes: number): Uint8Array {
  const start = new Uint8Array(HEADER_BYTES_MAX);
  const cached = openSync(`/proc/self/fd/${fd}`, constants.O_RDONLY);
  try {
    readSync(cached, start, 0, bytes, 0);
  } finally {
    closeSync(cached);
  }
  fsyncSync(fd);
  return start;
}
