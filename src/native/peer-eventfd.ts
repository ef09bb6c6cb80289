/**
 * Signalling eventfds that a peer has made. The peer shares the open file: it may clear O_NONBLOCK and
 * fill the counter at any moment, and then a write() of ours would wait for as long as the peer likes,
 * and with it all that its thread serves. What the kernel itself signals never waits, and a full
 * counter stays full: so a read of /dev/null is submitted by Linux AIO, which is over before the call
 * returns and whose end the kernel tells on that eventfd.
 *
 * A thread whose peers are all one, and which has nobody else to keep waiting, writes instead: that
 * takes a third of the time. The counter of a peer that wants its signals is never full.
 *
 * Where AIO cannot be had (forbidden, or no context left), poll() looks for room before each write().
 * There a peer that fills the counter between the two still makes the write wait.
 *
 * JUSTIFICATION and SAFETY: as linux-aio.ts. The control block and the list that names it live as long
 * as the thread, and nothing is read into memory; the context's ring is read and written for its two
 * indices only, as its ABI allows.
 */

import { openSync } from 'node:fs';
import {
  AIO_RING,
  AIO_RING_MAGIC,
  AIO_SYSCALLS,
  aioCalls,
  IOCB,
  IOCB_CMD,
  IOCB_FLAG_RESFD,
} from './aio-abi.ts';
import { closeFd } from './fd.ts';
import { addressOf, libcFunction, viewAt } from './libc.ts';

const POLLOUT = 0x004;

const c = {
  poll: libcFunction('int poll(void *fds, unsigned long count, int timeout)'),
  write: libcFunction('long write(int fd, const void *buffer, size_t count)'),
};

const one = new Uint8Array(new ArrayBuffer(8));
one[0] = 1;
/** struct pollfd: i32 fd, i16 events, i16 revents. */
const pollFd = new Uint8Array(new ArrayBuffer(8));
const pollFdWords = new Int32Array(pollFd.buffer);
const pollFdHalves = new Int16Array(pollFd.buffer);
pollFdHalves[2] = POLLOUT;

class KernelSignals {
  readonly #submit: number;
  readonly #context: number;
  readonly #ring: Int32Array;
  readonly #iocb = new Int32Array(new ArrayBuffer(IOCB.WORDS * 4));
  /** The address of that, as io_submit wants it. */
  readonly #list = new Uint8Array(new ArrayBuffer(8));

  constructor(submit: number, context: bigint, nullFd: number) {
    this.#submit = submit;
    this.#context = Number(context);
    this.#ring = new Int32Array(viewAt(context, AIO_RING.BYTES));
    this.#iocb[IOCB.opcode] = IOCB_CMD.PREAD;
    this.#iocb[IOCB.fildes] = nullFd;
    this.#iocb[IOCB.flags] = IOCB_FLAG_RESFD;
    const address = addressOf(new Uint8Array(this.#iocb.buffer));
    new BigUint64Array(this.#list.buffer)[0] = address;
  }

  get isKnown(): boolean {
    return this.#ring[AIO_RING.magic] === AIO_RING_MAGIC;
  }

  /** HOT PATH: no allocation. Whether the kernel has taken it. */
  signal(fd: number): boolean {
    this.#iocb[IOCB.resfd] = fd;
    const count = aioCalls.submit(this.#submit, this.#context, 1, this.#list);
    // What has ended is taken note of here, so that there is always room for the next.
    const ring = this.#ring;
    Atomics.store(ring, AIO_RING.head, Atomics.load(ring, AIO_RING.tail));
    return count === 1;
  }
}

/** This thread's; undefined: it has none, or not yet. */
let kernelSignals: KernelSignals | undefined;
let isPrepared = false;
let isDirect = false;

/** Makes what this thread signals with: one descriptor and a context of AIO, once. */
export function preparePeerSignals(): void {
  if (isPrepared) return;
  isPrepared = true;
  kernelSignals = makeKernelSignals();
}

/** From now on this thread writes: one peer is all that it serves. */
export function signalDirectly(isSo = true): void {
  isDirect = isSo;
}

function makeKernelSignals(): KernelSignals | undefined {
  const syscalls = AIO_SYSCALLS[process.arch];
  if (syscalls === undefined) return undefined;
  const context = new BigUint64Array(new ArrayBuffer(8));
  const nullFd = openNull();
  if (nullFd === undefined) return undefined;
  if (aioCalls.setup(syscalls.setup, 1, context) === 0) {
    const made = new KernelSignals(syscalls.submit, context[0]!, nullFd);
    if (made.isKnown) return made;
    aioCalls.destroy(syscalls.destroy, context[0]!);
  }
  closeFd(nullFd);
  return undefined;
}

function openNull(): number | undefined {
  try {
    return openSync('/dev/null', 'r');
  } catch {
    return undefined;
  }
}

/**
 * HOT PATH: no allocation. Adds one to the counter of a peer's eventfd; one that is full says already
 * what we wanted to say. Never waits, but for the peer of a thread that signals directly.
 */
export function signalPeerEventFd(fd: number): void {
  if (isDirect) {
    c.write(fd, one, 8);
    return;
  }
  if (!isPrepared) preparePeerSignals();
  if (kernelSignals === undefined || !kernelSignals.signal(fd)) signalWithRoom(fd);
}

/** HOT PATH: no allocation. */
export function signalWithRoom(fd: number): void {
  pollFdWords[0] = fd;
  if (c.poll(pollFd, 1, 0) === 1 && (pollFdHalves[3]! & POLLOUT) !== 0) c.write(fd, one, 8);
}
