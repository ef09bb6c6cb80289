/**
 * Where a regular file's bytes lie on its disk: FIEMAP (linux/fiemap.h), or FIBMAP, block by block,
 * on file systems that lack it. Cold path: asked once, when a file becomes a backing swap.
 */

import { fsyncSync } from 'node:fs';
import { SystemError } from '../base/errors.ts';
import { sleepMillis } from './clock.ts';
import { checked, lastErrno, libcFunction } from './libc.ts';

const FS_IOC_FIEMAP = 0xc020660b;
const FIBMAP = 1;
const FIGETBSZ = 2;
const FIEMAP_FLAG_SYNC = 1;
export const FIEMAP_EXTENT = {
  LAST: 0x1,
  UNKNOWN: 0x2,
  DELALLOC: 0x4,
  ENCODED: 0x8,
  DATA_ENCRYPTED: 0x80,
  NOT_ALIGNED: 0x100,
  DATA_INLINE: 0x200,
  DATA_TAIL: 0x400,
  UNWRITTEN: 0x800,
  SHARED: 0x2000,
} as const;

/** struct fiemap without its extents, and struct fiemap_extent. */
const FIEMAP = {
  start: 0,
  length: 8,
  flags: 16,
  mapped_extents: 20,
  extent_count: 24,
  extents: 32,
} as const;
const EXTENT = { logical: 0, physical: 8, length: 16, flags: 40, SIZE: 56 } as const;
const EXTENTS_PER_CALL = 512;
const ENOTTY = 25;
const EOPNOTSUPP = 95;

const c = {
  ioctl: libcFunction('int ioctl(int fd, unsigned long request, void *argument)'),
};

/** A run of a file's bytes that is contiguous on disk; all in bytes. */
export interface FileExtent {
  readonly fileOffset: number;
  readonly physical: number;
  readonly bytes: number;
  /** FIEMAP_EXTENT bits. */
  readonly flags: number;
}

/**
 * The extents of the first `bytes` of a file, in the file's order; what is missing between them are
 * holes. The file is written out first, so that every byte has its place. SystemError where the file
 * system can tell neither way.
 */
export function fileExtents(fd: number, bytes: number): FileExtent[] {
  fsyncSync(fd);
  try {
    return byFiemap(fd, bytes);
  } catch (error) {
    const hasNone = error instanceof SystemError && [ENOTTY, EOPNOTSUPP].includes(error.errno);
    if (!hasNone) throw error;
    return byFibmap(fd, bytes);
  }
}

export function byFiemap(fd: number, bytes: number): FileExtent[] {
  const buffer = new Uint8Array(new ArrayBuffer(FIEMAP.extents + EXTENTS_PER_CALL * EXTENT.SIZE));
  const view = new DataView(buffer.buffer);
  const found: FileExtent[] = [];
  for (let start = 0; start < bytes; ) {
    buffer.fill(0);
    view.setBigUint64(FIEMAP.start, BigInt(start), true);
    view.setBigUint64(FIEMAP.length, BigInt(bytes - start), true);
    view.setUint32(FIEMAP.flags, FIEMAP_FLAG_SYNC, true);
    view.setUint32(FIEMAP.extent_count, EXTENTS_PER_CALL, true);
    checked('ioctl(FS_IOC_FIEMAP)', () => c.ioctl(fd, FS_IOC_FIEMAP, buffer));
    const count = view.getUint32(FIEMAP.mapped_extents, true);
    if (count === 0) break;
    for (let i = 0; i < count; i++)
      found.push(decodeExtent(view, FIEMAP.extents + i * EXTENT.SIZE));
    const last = found.at(-1)!;
    if ((last.flags & FIEMAP_EXTENT.LAST) !== 0) break;
    start = last.fileOffset + last.bytes;
  }
  return found;
}

function decodeExtent(view: DataView, at: number): FileExtent {
  const u64 = (field: number) => Number(view.getBigUint64(at + field, true));
  return {
    fileOffset: u64(EXTENT.logical),
    physical: u64(EXTENT.physical),
    bytes: u64(EXTENT.length),
    flags: view.getUint32(at + EXTENT.flags, true),
  };
}

/** Needs CAP_SYS_RAWIO, and block numbers are 32 bits: an old way for old file systems. */
export function byFibmap(fd: number, bytes: number): FileExtent[] {
  const word = new Int32Array(new ArrayBuffer(4));
  const ask = (name: string, request: number) =>
    checked(`ioctl(${name})`, () => c.ioctl(fd, request, word));
  ask('FIGETBSZ', FIGETBSZ);
  const blockBytes = word[0]!;
  const found: FileExtent[] = [];
  for (let block = 0; block * blockBytes < bytes; block++) {
    word[0] = block;
    ask('FIBMAP', FIBMAP);
    const physical = (word[0]! >>> 0) * blockBytes;
    if (physical === 0) continue;
    const last = found.at(-1);
    const fileOffset = block * blockBytes;
    const isNext =
      last !== undefined &&
      last.fileOffset + last.bytes === fileOffset &&
      last.physical + last.bytes === physical;
    if (isNext) found[found.length - 1] = { ...last, bytes: last.bytes + blockBytes };
    else found.push({ fileOffset, physical, bytes: blockBytes, flags: 0 });
  }
  return found;
}

const BLKROGET = 0x125e;
const BLKSSZGET = 0x1268;
const BLKGETSIZE64 = 0x80081272;

/** What the kernel says of a block device (linux/fs.h). */
export interface BlockDeviceFacts {
  readonly bytes: number;
  readonly isReadOnly: boolean;
  readonly logicalBlockBytes: number;
}

export function blockDeviceFacts(fd: number): BlockDeviceFacts {
  const size = new BigUint64Array(new ArrayBuffer(8));
  const word = new Int32Array(new ArrayBuffer(4));
  checked('ioctl(BLKGETSIZE64)', () => c.ioctl(fd, BLKGETSIZE64, size));
  checked('ioctl(BLKROGET)', () => c.ioctl(fd, BLKROGET, word));
  const isReadOnly = word[0] !== 0;
  checked('ioctl(BLKSSZGET)', () => c.ioctl(fd, BLKSSZGET, word));
  return { bytes: Number(size[0]), isReadOnly, logicalBlockBytes: word[0]! };
}

const FALLOC_FL_KEEP_SIZE = 1;
/** The last page that an offset can name: no file system has it, so nothing is ever reserved. */
const NO_PAGE = 2n ** 63n - 4096n;
const ETXTBSY = 26;

const fallocate = libcFunction('int fallocate(int fd, int mode, int64_t offset, int64_t length)');

/**
 * Whether the kernel swaps to this file. It refuses to change the blocks of one that it does, before
 * it looks at what is asked for; what is asked for here is beyond the end of any file.
 */
export function isSwapFileInUse(fd: number): boolean {
  return fallocate(fd, FALLOC_FL_KEEP_SIZE, NO_PAGE, 4096) === -1 && lastErrno() === ETXTBSY;
}

const LOCK_EX = 2;
const LOCK_NB = 4;
const EWOULDBLOCK = 11;

const lock = libcFunction('int flock(int fd, int operation)');

/** Locks the file against others who ask (flock), as long as `fd` is open. False: one has it. */
export function lockFile(fd: number): boolean {
  if (lock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = lastErrno();
  if (errno === EWOULDBLOCK) return false;
  throw new SystemError('flock', errno);
}

const LOCK_LOOK_MILLIS = 20;

/** The same, tried again until `deadline` (of performance.now()). Blocks this thread. */
export function lockFileUntil(fd: number, deadline: number): boolean {
  while (!lockFile(fd)) {
    if (performance.now() > deadline) return false;
    sleepMillis(LOCK_LOOK_MILLIS);
  }
  return true;
}
