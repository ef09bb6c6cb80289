/**
 * eventfd: create, signal, drain, tell from others. Those made here never wait. A peer's may, whatever
 * its flags were a moment ago: peer-eventfd.ts signals them, and nobody reads them.
 */

import { fdName } from './fd.ts';
import { checked, libcFunction } from './libc.ts';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
/** No path: those begin with a slash. */
const EVENTFD_NAME = 'anon_inode:[eventfd]';

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

/** HOT PATH: no allocation. Resets the counter; one that is 0 stays so. */
export function drainEventFd(fd: number): void {
  c.read(fd, drained, 8);
}

/** What a descriptor is, for people, if it is no eventfd; undefined: it is one. */
export function notAnEventFd(fd: number): string | undefined {
  const name = fdName(fd);
  return name === EVENTFD_NAME ? undefined : (name ?? 'what /proc does not name');
}
