/**
 * io_uring (linux/io_uring.h): one ring for one file. Submissions cost one system call a batch,
 * completions none: they are read from memory shared with the kernel.
 *
 * JUSTIFICATION: Node's own asynchronous file I/O runs on its event loop and thread pool; a reactor
 * has no event loop, and a pool of threads costs two switches a page.
 * SAFETY: the ring's memory is the kernel's, mapped once and left mapped: views over it cannot be
 * taken back, so it must never go away under them. Indices are published and read with Atomics.
 */

import { SystemError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { type AsyncIo, type IoPages, IoVectors } from './async-io.ts';
import { closeFd } from './fd.ts';
import { lastErrno, libcFunction } from './libc.ts';
import { mapShared, unmapShared } from './mapping.ts';

const SYS_io_uring_setup = 425;
const SYS_io_uring_enter = 426;
const IORING_OFF_SQ_RING = 0;
const IORING_OFF_SQES = 0x10000000;
const IORING_FEAT_SINGLE_MMAP = 1;
const IORING_SETUP_COOP_TASKRUN = 1 << 8;
const IORING_SETUP_TASKRUN_FLAG = 1 << 9;
const IORING_SQ_TASKRUN = 1 << 2;
const IORING_ENTER_GETEVENTS = 1;
const EINVAL = 22;
const IORING_OP = { READV: 1, WRITEV: 2, READ: 22, WRITE: 23 } as const;
const EINTR = 4;
const EAGAIN = 11;
const EBUSY = 16;
const EOPNOTSUPP = 95;

/** struct io_uring_params: 32-bit fields, then the offsets of the rings' parts. */
const PARAMS = {
  sq_entries: 0,
  cq_entries: 4,
  flags: 8,
  features: 20,
  sq_off: 40,
  cq_off: 80,
  SIZE: 120,
} as const;
const SQ_OFF = { tail: 4, ring_mask: 8, flags: 16, array: 24 } as const;
const CQ_OFF = { head: 0, tail: 4, ring_mask: 8, cqes: 20 } as const;
/** struct io_uring_sqe in words: opcode and flags, fd, offset, address, length, …, user_data. */
const SQE = { opcode: 0, fd: 1, off: 2, addr: 4, len: 6, rw_flags: 7, user_data: 8, WORDS: 16 };
/** struct io_uring_cqe in words: user_data, res, flags. */
const CQE = { user_data: 0, res: 2, WORDS: 4 };

const c = {
  setup: libcFunction('long syscall(long number, unsigned int entries, void *params)'),
  enter: libcFunction(
    'long syscall(long number, unsigned int fd, unsigned int to_submit, ' +
      'unsigned int min_complete, unsigned int flags, void *sig, size_t sigsz)',
  ),
};

export class IoUring implements AsyncIo {
  readonly name = 'io_uring';
  readonly depth: number;
  result = 0;

  readonly #ringFd: number;
  readonly #fileFd: number;
  readonly #vectors: IoVectors;
  readonly #ring: Int32Array;
  readonly #sqes: Int32Array;
  readonly #sqMask: number;
  readonly #cqMask: number;
  /** Word indices into the ring. */
  readonly #sqTail: number;
  readonly #sqFlags: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqes: number;
  #tail = 0;
  #head = 0;
  #unsubmitted = 0;

  /** `fileFd` stays the caller's. Throws SystemError where io_uring is forbidden or too old. */
  constructor(fileFd: number, pages: IoPages, depth: number) {
    const params = new Uint8Array(new ArrayBuffer(PARAMS.SIZE));
    const view = new DataView(params.buffer);
    const fd = setUp(depth, params);
    const u32 = (offset: number) => view.getUint32(offset, true);
    if ((u32(PARAMS.features) & IORING_FEAT_SINGLE_MMAP) === 0) {
      closeFd(fd);
      throw new SystemError('io_uring_setup', EOPNOTSUPP, 'kernel before 5.4');
    }
    const sqEntries = u32(PARAMS.sq_entries);
    const cqBytes = u32(PARAMS.cq_off + CQ_OFF.cqes) + u32(PARAMS.cq_entries) * CQE.WORDS * 4;
    const sqArray = u32(PARAMS.sq_off + SQ_OFF.array);
    const ringBytes = Math.max(sqArray + sqEntries * 4, cqBytes);
    this.#ringFd = fd;
    this.#fileFd = fileFd;
    this.depth = depth;
    this.#vectors = new IoVectors(pages, depth);
    try {
      this.#ring = mapShared(fd, IORING_OFF_SQ_RING, ringBytes);
      this.#sqes = mapShared(fd, IORING_OFF_SQES, sqEntries * SQE.WORDS * 4);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
    this.#sqMask = this.#ring[u32(PARAMS.sq_off + SQ_OFF.ring_mask) >> 2]!;
    this.#cqMask = this.#ring[u32(PARAMS.cq_off + CQ_OFF.ring_mask) >> 2]!;
    this.#sqTail = u32(PARAMS.sq_off + SQ_OFF.tail) >> 2;
    this.#sqFlags = u32(PARAMS.sq_off + SQ_OFF.flags) >> 2;
    this.#cqHead = u32(PARAMS.cq_off + CQ_OFF.head) >> 2;
    this.#cqTail = u32(PARAMS.cq_off + CQ_OFF.tail) >> 2;
    this.#cqes = u32(PARAMS.cq_off + CQ_OFF.cqes) >> 2;
    // Entries are used in order: the array of indices between them and the ring never changes.
    for (let i = 0; i < sqEntries; i++) this.#ring[(sqArray >> 2) + i] = i;
  }

  /** The ring itself can be polled: readable while completions are there. */
  get wakeFd(): number {
    return this.#ringFd;
  }

  // HOT PATH from here to close(): no allocation, no BigInt, no closures, no await.

  setPage(io: number, index: number, page: number): void {
    this.#vectors.setPage(io, index, page);
  }

  start(io: number, isWrite: boolean, offsetLow: number, offsetHigh: number, count: number): void {
    const sqes = this.#sqes;
    const at = (this.#tail & this.#sqMask) * SQE.WORDS;
    const single = isWrite ? IORING_OP.WRITE : IORING_OP.READ;
    const vectored = isWrite ? IORING_OP.WRITEV : IORING_OP.READV;
    for (let i = 0; i < SQE.WORDS; i++) sqes[at + i] = 0;
    sqes[at + SQE.opcode] = count === 1 ? single : vectored;
    sqes[at + SQE.fd] = this.#fileFd;
    sqes[at + SQE.off] = offsetLow;
    sqes[at + SQE.off + 1] = offsetHigh;
    this.#vectors.putAddress(sqes, at + SQE.addr, io, count);
    sqes[at + SQE.len] = count === 1 ? PAGE_BYTES : count;
    sqes[at + SQE.user_data] = io;
    this.#tail = (this.#tail + 1) | 0;
    this.#unsubmitted++;
  }

  submit(): boolean {
    if (this.#unsubmitted === 0) return true;
    Atomics.store(this.#ring, this.#sqTail, this.#tail);
    while (this.#unsubmitted > 0) {
      const count = c.enter(SYS_io_uring_enter, this.#ringFd, this.#unsubmitted, 0, 0, null, 0);
      if (count > 0) {
        this.#unsubmitted -= count;
        continue;
      }
      if (count === 0) return false;
      const errno = lastErrno();
      if (errno === EINTR) continue;
      if (errno === EAGAIN || errno === EBUSY) return false;
      throw new SystemError('io_uring_enter', errno);
    }
    return true;
  }

  hasEnded(): boolean {
    const ring = this.#ring;
    if (Atomics.load(ring, this.#cqTail) !== this.#head) return true;
    return (Atomics.load(ring, this.#sqFlags) & IORING_SQ_TASKRUN) !== 0;
  }

  next(): number {
    if (Atomics.load(this.#ring, this.#cqTail) === this.#head) {
      if (!this.hasEnded()) return -1;
      // Ended, and the kernel waits for this thread to come by and write it down.
      c.enter(SYS_io_uring_enter, this.#ringFd, 0, 0, IORING_ENTER_GETEVENTS, null, 0);
      if (Atomics.load(this.#ring, this.#cqTail) === this.#head) return -1;
    }
    const at = this.#cqes + (this.#head & this.#cqMask) * CQE.WORDS;
    const io = this.#ring[at + CQE.user_data]!;
    this.result = this.#ring[at + CQE.res]!;
    this.#head = (this.#head + 1) | 0;
    Atomics.store(this.#ring, this.#cqHead, this.#head);
    return io;
  }

  /** The descriptor falls silent when the completions have been taken. */
  woken(): void {}

  waitMillis(): number {
    return -1;
  }

  close(): void {
    closeFd(this.#ringFd);
    // While they are mapped the ring lives on.
    try {
      unmapShared(this.#ring);
    } finally {
      unmapShared(this.#sqes);
    }
  }
}

/**
 * A ring whose completions do not interrupt this thread but wait until it enters the kernel or looks
 * (5.19, a third more random writes); without that on older kernels.
 */
function setUp(depth: number, params: Uint8Array): number {
  const view = new DataView(params.buffer);
  view.setUint32(PARAMS.flags, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, true);
  let fd = c.setup(SYS_io_uring_setup, depth, params);
  if (fd < 0 && lastErrno() === EINVAL) {
    params.fill(0);
    fd = c.setup(SYS_io_uring_setup, depth, params);
  }
  if (fd < 0) throw new SystemError('io_uring_setup', lastErrno());
  return fd;
}
