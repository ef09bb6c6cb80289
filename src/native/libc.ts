/**
 * The C library through koffi: the one place where it is loaded and where errno is read.
 *
 * JUSTIFICATION (whole folder): Node has no API to receive file descriptors over a socket, to map
 * a file at a chosen place, for eventfd and epoll, or to punch holes; those are what vhost-user and
 * a store that gives memory back are made of.
 * SAFETY (whole folder): no address leaves `src/native/`. A buffer given to a call is a typed array
 * whose length was checked against the length passed, and lives until the call returns; nothing
 * here keeps a pointer across calls except the message buffers of socket.ts, which own theirs.
 */

import koffi from 'koffi';
import { SystemError } from '../base/errors.ts';

const EINTR = 4;

const libc = koffi.load('libc.so.6');

/** A libc function by its C prototype. Only for files of this folder. */
export function libcFunction(prototype: string): (...args: unknown[]) => number {
  return libc.func(prototype) as unknown as (...args: unknown[]) => number;
}

/** The address of a buffer's first byte. It must never be stored outside this folder. */
export function addressOf(view: Uint8Array): bigint {
  return koffi.address(view) as bigint;
}

/**
 * A view of `bytes` of memory that this program mapped and keeps mapped. Small ones only, made once:
 * each costs a collection in proportion to its size, and none can be taken back.
 */
export function viewAt(address: bigint, bytes: number): ArrayBuffer {
  return koffi.view(address, bytes);
}

/** errno of the call just made on this thread. */
export function lastErrno(): number {
  return koffi.errno();
}

/** `result` of a call that says -1 on error, as a value or the negated errno (kernel fashion). */
export function orErrno(result: number): number {
  return result === -1 ? -lastErrno() : result;
}

/**
 * Runs a call that says -1 on error until a signal no longer interrupts it; throws SystemError
 * with the call's name. For the control plane: the data path uses errno results.
 */
export function checked(call: string, run: () => number, context?: string): number {
  for (;;) {
    const result = run();
    if (result !== -1) return result;
    const errno = lastErrno();
    if (errno !== EINTR) throw new SystemError(call, errno, context);
  }
}
