/**
 * The kernel's interface for Linux AIO (linux/aio_abi.h): numbers of its calls, the layouts of its
 * structures in words of 32 bits, and the calls.
 */

import { libcFunction } from './libc.ts';

/** By process.arch: these numbers are older than the common table. */
export const AIO_SYSCALLS: Record<
  string,
  { setup: number; destroy: number; getevents: number; submit: number } | undefined
> = {
  x64: { setup: 206, destroy: 207, getevents: 208, submit: 209 },
  arm64: { setup: 0, destroy: 1, getevents: 4, submit: 2 },
};

export const IOCB_CMD = { PREAD: 0, PWRITE: 1, PREADV: 7, PWRITEV: 8 } as const;
export const IOCB_FLAG_RESFD = 1;
/** struct iocb: data, key, rw_flags, opcode, fd, buffer, bytes, offset, …, flags, resfd. */
export const IOCB = {
  data: 0,
  opcode: 4,
  fildes: 5,
  buf: 6,
  nbytes: 8,
  offset: 10,
  flags: 14,
  resfd: 15,
  WORDS: 16,
} as const;
/** struct io_event: data, obj, res, res2. */
export const IO_EVENT = { data: 0, res: 4, WORDS: 8 } as const;
/** struct aio_ring, which user space may read: magic and indices. */
export const AIO_RING = { head: 2, tail: 3, magic: 4, BYTES: 32 } as const;
export const AIO_RING_MAGIC = 0xa10a10a1 | 0;

export const aioCalls = {
  setup: libcFunction('long syscall(long number, unsigned int events, void *context)'),
  destroy: libcFunction('long syscall(long number, uint64_t context)'),
  submit: libcFunction('long syscall(long number, uint64_t context, long count, void *iocbs)'),
  getevents: libcFunction(
    'long syscall(long number, uint64_t context, long min, long max, void *events, void *timeout)',
  ),
};
