/**
 * eventfd: create, signal, drain. Signalling never blocks: a peer's fd is set non-blocking when it
 * arrives, and a counter that is full already says what we wanted to say.
 */

import { checked, lastErrno, libcFunction } from './libc.ts';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
const EINTR = 4;
const EAGAIN = 11;

const c = {
  eventfd: libcFunction('int eventfd(unsigned int initval, int flags)'),
  read: libcFunction('long read(int fd, void *buffer, size_t count)'),
  write: libcFunction('long write(int fd, const void *buffer, size_t count)'),
};

const one = new Uint8Array(new ArrayBuffer(8));
one[0] = 1;
const drained = new Uint8Array(new ArrayBuffer(8));

export function createEventFd(): number {
  return checked('eventfd', () => c.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

/** HOT PATH: no allocation. Adds one to the counter; EAGAIN means it is signalled already. */
export function signalEventFd(fd: number): void {
  c.write(fd, one, 8);
}

/**
 * HOT PATH: no allocation. Resets the counter. Returns whether the descriptor can still bring
 * anything: nothing to read now is no error, but a peer may have sent what is no eventfd at all, a
 * pipe whose other end is gone, say, which would wake us for ever.
 */
export function drainEventFd(fd: number): boolean {
  const count = c.read(fd, drained, 8);
  if (count > 0) return true;
  const errno = count === 0 ? 0 : lastErrno();
  return errno === EAGAIN || errno === EINTR;
}
