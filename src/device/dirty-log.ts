/**
 * The dirty log of a device's session, in all threads that serve its rings: each maps it for itself
 * (memory/dirty-log.ts). Here are the descriptors, for a process that takes the session over.
 */

import { closeFd, discardFds, duplicateFd } from '../native/fd.ts';
import type { LogDescription } from '../vhost-user-ts/index.ts';
import { takeEventFd } from './event-fds.ts';
import type { DeviceQueues } from './queue-set.ts';

/** What another process needs of it; descriptors stay whose they are. */
export interface LogState {
  readonly isOn: boolean;
  readonly base: { readonly log: LogDescription; readonly fd: number } | undefined;
  /** eventfd to signal when the log is written to; the sets only use it. */
  readonly logFd: number | undefined;
}

export class SessionLog {
  readonly #sets: readonly DeviceQueues[];
  #isOn = false;
  #base: LogState['base'];
  #logFd: number | undefined;

  constructor(sets: readonly DeviceQueues[]) {
    this.#sets = sets;
  }

  get state(): LogState {
    return { isOn: this.#isOn, base: this.#base, logFd: this.#logFd };
  }

  /**
   * SET_LOG_BASE; `fd` stays the caller's. What a log may not be all refuse alike, and the one before
   * stays. One that not all can map none has: then what is written is missed, and they say so.
   */
  setBase(log: LogDescription, fd: number): void {
    // Before anybody maps it: where there are no descriptors left, nobody does.
    const kept = { log, fd: duplicateFd(fd) };
    const errors: unknown[] = [];
    for (const set of this.#sets) {
      try {
        set.setLogBase(log, fd);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length === 0) {
      this.#keepBase(kept);
      return;
    }
    discardFds(kept.fd);
    if (errors.length < this.#sets.length) this.#dropBase();
    throw errors[0];
  }

  /** SET_LOG_FD; `fd` is this one's now. */
  setFd(fd: number): void {
    takeEventFd('SET_LOG_FD', fd);
    this.#replaceFd(fd);
  }

  /** SET_FEATURES, with VHOST_F_LOG_ALL or without. */
  switch(isOn: boolean): void {
    this.#isOn = isOn;
    for (const set of this.#sets) set.setLogging(isOn);
  }

  /** What another process has had, its descriptors with it. */
  restore({ isOn, base, logFd }: LogState): void {
    if (base !== undefined) {
      for (const set of this.#sets) set.setLogBase(base.log, base.fd);
      this.#keepBase(base);
    }
    if (logFd !== undefined) this.setFd(logFd);
    this.switch(isOn);
  }

  /** The session is at its end, or at its beginning again. */
  drop(): void {
    this.switch(false);
    this.#dropBase();
    this.#replaceFd(undefined);
  }

  #dropBase(): void {
    for (const set of this.#sets) set.dropLog();
    this.#keepBase(undefined);
  }

  #keepBase(base: LogState['base']): void {
    if (this.#base !== undefined) discardFds(this.#base.fd);
    this.#base = base;
  }

  #replaceFd(fd: number | undefined): void {
    const before = this.#logFd;
    if (before === fd) return;
    this.#logFd = fd;
    for (const set of this.#sets) set.setLogFd(fd);
    if (before !== undefined) closeFd(before);
  }
}
