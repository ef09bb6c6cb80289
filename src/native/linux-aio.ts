/**
 * Linux AIO (linux/aio_abi.h): what is left where io_uring is forbidden, as in many containers. Only
 * files opened with O_DIRECT are asynchronous here; ours are. Ends are announced on an eventfd.
 *
 * JUSTIFICATION and SAFETY: as io-uring.ts. The context's memory, mapped by the kernel, is read for
 * its two indices only, and never after close(), which unmaps it.
 */

import { SystemError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import {
  AIO_RING,
  AIO_RING_MAGIC,
  AIO_SYSCALLS,
  aioCalls as c,
  IO_EVENT,
  IOCB,
  IOCB_CMD,
  IOCB_FLAG_RESFD,
} from './aio-abi.ts';
import { type AsyncIo, addressHalves, type IoPages, IoVectors } from './async-io.ts';
import { createEventFd, drainEventFd, signalEventFd } from './eventfd.ts';
import { closeFd } from './fd.ts';
import { addressOf, lastErrno, viewAt } from './libc.ts';

const EINTR = 4;
const EAGAIN = 11;
const ENOSYS = 38;

export class LinuxAio implements AsyncIo {
  readonly name = 'Linux AIO';
  readonly depth: number;
  readonly wakeFd: number;
  result = 0;

  readonly #fileFd: number;
  readonly #vectors: IoVectors;
  readonly #syscalls: NonNullable<(typeof AIO_SYSCALLS)[string]>;
  /** An address below 2^47, so exact as a number. */
  readonly #context: number;
  readonly #ring: Int32Array;
  readonly #iocbs: Int32Array;
  readonly #iocbLow: Int32Array;
  readonly #iocbHigh: Int32Array;
  /** Addresses of started iocbs, first to last, as io_submit wants them. */
  readonly #started: Uint8Array;
  readonly #startedWords: Int32Array;
  readonly #startedIos: Int32Array;
  #startedCount = 0;
  readonly #events: Uint8Array;
  readonly #eventWords: Int32Array;
  #eventCount = 0;
  #nextEvent = 0;
  /** I/Os that the kernel refused at once, and why. */
  readonly #refused: Int32Array;
  #refusedCount = 0;

  /** `fileFd` stays the caller's. Throws SystemError where the kernel has no more contexts. */
  constructor(fileFd: number, pages: IoPages, depth: number) {
    const syscalls = AIO_SYSCALLS[process.arch];
    if (syscalls === undefined) throw new SystemError('io_setup', ENOSYS, process.arch);
    const context = new BigUint64Array(new ArrayBuffer(8));
    this.wakeFd = createEventFd();
    if (c.setup(syscalls.setup, depth, context) < 0) {
      const errno = lastErrno();
      closeFd(this.wakeFd);
      throw new SystemError('io_setup', errno);
    }
    this.#syscalls = syscalls;
    this.#context = Number(context[0]);
    this.#ring = new Int32Array(viewAt(context[0]!, AIO_RING.BYTES));
    this.#fileFd = fileFd;
    this.depth = depth;
    this.#vectors = new IoVectors(pages, depth);
    const iocbs = new Uint8Array(new ArrayBuffer(depth * IOCB.WORDS * 4));
    this.#iocbs = new Int32Array(iocbs.buffer);
    const first = Number(addressOf(iocbs));
    [this.#iocbLow, this.#iocbHigh] = addressHalves(first, IOCB.WORDS * 4, depth);
    this.#started = new Uint8Array(new ArrayBuffer(depth * 8));
    this.#startedWords = new Int32Array(this.#started.buffer);
    this.#startedIos = new Int32Array(depth);
    this.#events = new Uint8Array(new ArrayBuffer(depth * IO_EVENT.WORDS * 4));
    this.#eventWords = new Int32Array(this.#events.buffer);
    this.#refused = new Int32Array(2 * depth);
  }

  // HOT PATH from here to close(): no allocation, no BigInt, no closures, no await.

  setPage(io: number, index: number, page: number): void {
    this.#vectors.setPage(io, index, page);
  }

  start(io: number, isWrite: boolean, offsetLow: number, offsetHigh: number, count: number): void {
    const iocbs = this.#iocbs;
    const at = io * IOCB.WORDS;
    const single = isWrite ? IOCB_CMD.PWRITE : IOCB_CMD.PREAD;
    const vectored = isWrite ? IOCB_CMD.PWRITEV : IOCB_CMD.PREADV;
    for (let i = 0; i < IOCB.WORDS; i++) iocbs[at + i] = 0;
    iocbs[at + IOCB.data] = io;
    iocbs[at + IOCB.opcode] = count === 1 ? single : vectored;
    iocbs[at + IOCB.fildes] = this.#fileFd;
    this.#vectors.putAddress(iocbs, at + IOCB.buf, io, count);
    iocbs[at + IOCB.nbytes] = count === 1 ? PAGE_BYTES : count;
    iocbs[at + IOCB.offset] = offsetLow;
    iocbs[at + IOCB.offset + 1] = offsetHigh;
    iocbs[at + IOCB.flags] = IOCB_FLAG_RESFD;
    iocbs[at + IOCB.resfd] = this.wakeFd;
    this.#putStarted(this.#startedCount, io);
    this.#startedCount++;
  }

  submit(): boolean {
    while (this.#startedCount > 0) {
      const { submit } = this.#syscalls;
      const count = c.submit(submit, this.#context, this.#startedCount, this.#started);
      if (count > 0) {
        this.#dropStarted(count);
        continue;
      }
      const errno = lastErrno();
      if (errno === EINTR) continue;
      if (errno === EAGAIN) return false;
      // The first one is what the kernel does not like.
      this.#refused[2 * this.#refusedCount] = this.#startedIos[0]!;
      this.#refused[2 * this.#refusedCount + 1] = -errno;
      this.#refusedCount++;
      this.#dropStarted(1);
      signalEventFd(this.wakeFd);
    }
    return true;
  }

  hasEnded(): boolean {
    if (this.#refusedCount > 0 || this.#nextEvent < this.#eventCount) return true;
    const ring = this.#ring;
    if (ring[AIO_RING.magic] !== AIO_RING_MAGIC) return true;
    return Atomics.load(ring, AIO_RING.head) !== Atomics.load(ring, AIO_RING.tail);
  }

  next(): number {
    if (this.#refusedCount > 0) {
      this.#refusedCount--;
      this.result = this.#refused[2 * this.#refusedCount + 1]!;
      return this.#refused[2 * this.#refusedCount]!;
    }
    if (this.#nextEvent === this.#eventCount && !this.#takeEvents()) return -1;
    const at = this.#nextEvent * IO_EVENT.WORDS;
    this.#nextEvent++;
    this.result = this.#eventWords[at + IO_EVENT.res]!;
    return this.#eventWords[at + IO_EVENT.data]!;
  }

  woken(): void {
    drainEventFd(this.wakeFd);
  }

  waitMillis(): number {
    return -1;
  }

  close(): void {
    c.destroy(this.#syscalls.destroy, this.#context);
    closeFd(this.wakeFd);
  }

  #takeEvents(): boolean {
    if (!this.hasEnded()) return false;
    const { getevents } = this.#syscalls;
    const count = c.getevents(getevents, this.#context, 0, this.depth, this.#events, null);
    this.#nextEvent = 0;
    this.#eventCount = Math.max(0, count);
    return count > 0;
  }

  #putStarted(index: number, io: number): void {
    this.#startedIos[index] = io;
    this.#startedWords[2 * index] = this.#iocbLow[io]!;
    this.#startedWords[2 * index + 1] = this.#iocbHigh[io]!;
  }

  #dropStarted(count: number): void {
    this.#startedCount -= count;
    for (let i = 0; i < this.#startedCount; i++) this.#putStarted(i, this.#startedIos[i + count]!);
  }
}
