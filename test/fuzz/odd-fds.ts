/**
 * File descriptors that a hostile front end may send in place of what was asked for: memory of the
 * wrong size, pipes without another end, sockets, folders, devices, descriptors that only name a
 * path, its own socket. Made for one session, closed after it.
 */

import { constants, openSync } from 'node:fs';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd, duplicateFd } from '../../src/native/fd.ts';
import { libcFunction } from '../../src/native/libc.ts';
import { socketPair } from '../../src/native/socket.ts';
import type { Random } from '../driver/random.ts';

const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const pipe2 = libcFunction('int pipe2(void *fds, int flags)');

export class OddFds {
  readonly #open: number[] = [];
  readonly #self: number;
  /** Its own socket was among them: as a call or kick descriptor it garbles what both sides say. */
  hasGivenSelf = false;

  /** `self`: the front end's own socket. */
  constructor(self: number) {
    this.#self = self;
  }

  get count(): number {
    return this.#open.length;
  }

  eventFd(): number {
    return this.#own(createEventFd());
  }

  /** A memory file of its own. */
  memory(bytes: number): number {
    return this.#own(createMemfd('odd', bytes));
  }

  /** Anything at all. */
  any(random: Random): number {
    switch (random.below(14)) {
      case 0:
        return this.eventFd();
      case 1:
        return this.#own(createMemfd('odd', random.pick([0, 1, 4095, 4096, 65536, 2 ** 34])));
      case 2:
        return this.#half(random, this.#pipe(), 0);
      case 3:
        return this.#half(random, this.#pipe(), 1);
      case 4:
        return this.#half(random, socketPair(), 0);
      case 5:
        return this.#path('/dev/null', constants.O_RDWR);
      case 6:
        return this.#path('/dev/zero', constants.O_RDWR);
      case 7:
        return this.#path('/dev/full', constants.O_RDWR);
      case 8:
        return this.#path('/tmp', constants.O_RDONLY);
      case 9:
        return this.#path('/tmp', O_PATH);
      case 10:
        return this.#path('/proc/self/exe', constants.O_RDONLY);
      case 11:
        return this.#path('/dev/null', O_PATH);
      case 12:
        this.hasGivenSelf = true;
        return this.#own(duplicateFd(this.#self));
      default:
        return this.#path('/proc/self/status', constants.O_RDONLY);
    }
  }

  /** Closes this one too, when the session is over. */
  adopt(fd: number): number {
    return this.#own(fd);
  }

  closeAll(): void {
    for (const fd of this.#open.splice(0)) closeFd(fd);
  }

  #pipe(): [number, number] {
    const fds = new Int32Array(new ArrayBuffer(8));
    if (pipe2(fds, O_CLOEXEC) !== 0) throw new Error('pipe2 failed');
    return [fds[0]!, fds[1]!];
  }

  /** One end of a pair; the other is closed at once, or with the session. */
  #half(random: Random, pair: readonly [number, number], end: 0 | 1): number {
    const other = pair[1 - end]!;
    if (random.oneIn(2)) closeFd(other);
    else this.#own(other);
    return this.#own(pair[end]);
  }

  #path(path: string, flags: number): number {
    return this.#own(openSync(path, flags));
  }

  #own(fd: number): number {
    this.#open.push(fd);
    return fd;
  }
}
