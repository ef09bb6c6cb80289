/**
 * One epoll instance and its event buffer. Tokens are small integers of the caller's; each event
 * carries the token back.
 */

import { assert } from '../base/assert.ts';
import { closeFd } from './fd.ts';
import { checked, lastErrno, libcFunction } from './libc.ts';

export const EPOLLIN = 0x001;
export const EPOLLERR = 0x008;
export const EPOLLHUP = 0x010;
export const EPOLLRDHUP = 0x2000;
/** Told once for each time that something comes, whether or not it is taken. */
export const EPOLLET = 2 ** 31;

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CLOEXEC = 0o2000000;
const EINTR = 4;
const EVENTS_MAX = 64;

/** struct epoll_event is packed on x86-64 only (linux/eventpoll.h). */
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;
const EVENT_DATA = process.arch === 'x64' ? 4 : 8;

const c = {
  epoll_create1: libcFunction('int epoll_create1(int flags)'),
  epoll_ctl: libcFunction('int epoll_ctl(int epfd, int op, int fd, void *event)'),
  epoll_wait: libcFunction('int epoll_wait(int epfd, void *events, int maxevents, int timeout)'),
};

export class Epoll {
  readonly #fd = checked('epoll_create1', () => c.epoll_create1(EPOLL_CLOEXEC));
  readonly #bytes = new Uint8Array(new ArrayBuffer(EVENTS_MAX * EVENT_BYTES));
  readonly #events = new DataView(this.#bytes.buffer);
  readonly #control = new Uint8Array(new ArrayBuffer(16));

  /** Watches `fd`, level triggered without EPOLLET. The kernel refuses what cannot be polled, such as plain files. */
  add(fd: number, events: number, token: number): void {
    const event = new DataView(this.#control.buffer);
    event.setUint32(0, events, true);
    event.setUint32(EVENT_DATA, token, true);
    checked('epoll_ctl', () => c.epoll_ctl(this.#fd, EPOLL_CTL_ADD, fd, this.#control));
  }

  /** Stops watching `fd`, which must still be open: a closed fd may linger in a shared description. */
  remove(fd: number): void {
    checked('epoll_ctl', () => c.epoll_ctl(this.#fd, EPOLL_CTL_DEL, fd, this.#control));
  }

  /**
   * HOT PATH: no allocation. Waits up to `timeoutMillis` (-1: for ever, 0: not at all) and returns
   * the number of events; an interrupting signal counts as none.
   */
  wait(timeoutMillis: number): number {
    const count = c.epoll_wait(this.#fd, this.#bytes, EVENTS_MAX, timeoutMillis);
    if (count >= 0) return count;
    assert(lastErrno() === EINTR, 'epoll_wait fails only by a signal');
    return 0;
  }

  /** Token of event `index` of the last wait. */
  token(index: number): number {
    return this.#events.getInt32(index * EVENT_BYTES + EVENT_DATA, true);
  }

  close(): void {
    closeFd(this.#fd);
  }
}
