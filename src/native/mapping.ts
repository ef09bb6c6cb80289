/**
 * mmap of files *over* memory that JavaScript already holds (the linear memory of a WebAssembly
 * instance), and its undoing. No views are made and none die: the bytes under a view change.
 *
 * SAFETY: every range is checked against the view before the call. MAP_FIXED replaces pages that
 * belong to the view alone, because the range lies inside it and is page aligned; undoing lays
 * anonymous memory over the range, so the view never covers unmapped addresses.
 */

import { assert } from '../base/assert.ts';
import { SystemError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { addressOf, checked, lastErrno, libcFunction, orErrno, viewAt } from './libc.ts';

const PROT_READ_WRITE = 3;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_POPULATE = 0x8000;
const MADV_DONTNEED = 4;
const MLOCK_ONFAULT = 1;
const RLIMIT_MEMLOCK = 8;
const RLIM_INFINITY = 2n ** 64n - 1n;

const c = {
  // The result is an integer: compared with what was asked for, or the place of a view for good.
  mmap: libcFunction('intptr_t mmap(void *, size_t, int prot, int flags, int fd, int64_t offset)'),
  madvise: libcFunction('int madvise(void *, size_t, int advice)'),
  mlock2: libcFunction('int mlock2(const void *, size_t, unsigned int flags)'),
  getrlimit: libcFunction('int getrlimit(int resource, void *limit)'),
};

/** Maps `length` bytes of a file, from `fileOffset`, shared, over `view` at `offset`. */
export function mapFileOver(
  view: Uint8Array,
  offset: number,
  length: number,
  fd: number,
  fileOffset: number,
): void {
  const target = mappableRange(view, offset, length);
  assert(fileOffset % PAGE_BYTES === 0, 'file offsets are page aligned');
  const flags = MAP_SHARED | MAP_FIXED;
  if (Number(c.mmap(target, length, PROT_READ_WRITE, flags, fd, fileOffset)) === -1) {
    throw new SystemError('mmap', lastErrno(), `mapping ${length} bytes of fd ${fd}`);
  }
}

/**
 * Maps `bytes` of a kernel object's memory (the rings of io_uring, which refuse a place of ours) at a
 * place of the kernel's choice, until unmapShared().
 */
export function mapShared(fd: number, offset: number, bytes: number): Int32Array {
  const address = c.mmap(null, bytes, PROT_READ_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
  if (Number(address) === -1)
    throw new SystemError('mmap', lastErrno(), `${bytes} bytes of fd ${fd}`);
  return new Int32Array(viewAt(BigInt(address), bytes));
}

/** Lets go of what mapShared() has mapped: the view reads as zeros from now on. */
export function unmapShared(words: Int32Array): void {
  mustBeLaid(layAnonymousOver(new Uint8Array(words.buffer as ArrayBuffer)));
}

/** Replaces a mapping by fresh anonymous memory. Throws SystemError. */
export function mapAnonymousOver(view: Uint8Array, offset: number, length: number): void {
  mustBeLaid(tryMapAnonymousOver(view, offset, length));
}

/**
 * The same for who cannot go back: 0 or the negated errno. Where the system has no memory for it
 * (ENOMEM, also for too many mappings), the file stays mapped.
 */
export function tryMapAnonymousOver(view: Uint8Array, offset: number, length: number): number {
  return layAnonymousOver(mappableRange(view, offset, length));
}

/** The kernel rounds the length up to pages, as it did when it mapped them. */
function layAnonymousOver(target: Uint8Array): number {
  const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
  const address = Number(c.mmap(target, target.length, PROT_READ_WRITE, flags, -1, 0));
  return address === -1 ? -lastErrno() : 0;
}

function mustBeLaid(result: number): void {
  if (result !== 0) throw new SystemError('mmap(MAP_ANONYMOUS)', -result);
}

/**
 * Drops this process's page-table entries for a range of a shared file mapping. The file keeps its
 * contents; the next touch maps the page again. False where the kernel will not (locked memory).
 */
export function forgetResidentPages(view: Uint8Array, offset: number, length: number): boolean {
  const target = mappableRange(view, offset, length);
  return c.madvise(target, length, MADV_DONTNEED) === 0;
}

/**
 * Keeps the pages of a range in memory, each from its first touch through this range on. They can
 * still be given back: punching a hole into their file does. Returns 0 or the negated errno.
 */
export function lockOnFault(view: Uint8Array, offset: number, length: number): number {
  const target = mappableRange(view, offset, length);
  return orErrno(c.mlock2(target, length, MLOCK_ONFAULT));
}

/** How many bytes this process may lock without privilege. */
export function lockableBytes(): number {
  const limit = new BigUint64Array(2);
  checked('getrlimit', () => c.getrlimit(RLIMIT_MEMLOCK, new Uint8Array(limit.buffer)));
  return limit[0] === RLIM_INFINITY ? Number.POSITIVE_INFINITY : Number(limit[0]);
}

/** The bytes to add to `offset` so that its address becomes a multiple of `alignment`. */
export function bytesToAlignment(view: Uint8Array, offset: number, alignment: number): number {
  const misalignment = Number((addressOf(view) + BigInt(offset)) % BigInt(alignment));
  return misalignment === 0 ? 0 : alignment - misalignment;
}

function mappableRange(view: Uint8Array, offset: number, length: number): Uint8Array {
  assert(offset % PAGE_BYTES === 0 && length % PAGE_BYTES === 0, 'mappings are page aligned');
  assert(offset >= 0 && length > 0 && offset + length <= view.length, 'a mapping is in its view');
  return view.subarray(offset, offset + length);
}
