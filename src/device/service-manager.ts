/**
 * The service manager (systemd) as a daemon sees it: told by datagrams how far the daemon is
 * (sd_notify(3)), given descriptors to keep over a restart, and where they come back from
 * (sd_listen_fds(3)). Without a manager nothing is told, and nothing was kept.
 *
 *   environment: NOTIFY_SOCKET  where datagrams go: a path, or @name
 *                LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES  whose, how many from 3 on, names between colons
 *                FDSTORE        how many it keeps at most (systemd 254 and newer)
 *
 * Only the process that was started is meant, so all of these are taken out of the environment.
 */

import { fstatSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { closeFd, fdName, setCloseOnExec } from '../native/fd.ts';
import {
  connectDatagram,
  FDS_PER_MESSAGE_MAX,
  sendWithFds,
  waitWritable,
} from '../native/socket.ts';

const LISTEN_FDS_START = 3;
/** No process has more descriptors (fs.nr_open, by default). */
const LISTEN_FDS_MAX = 2 ** 20;
/** systemd's name for descriptors that were given none. */
const NAMELESS = 'unknown';

const EAGAIN = 11;
/** A manager that is busy takes its messages later; one that is gone says so at once. */
const SEND_MILLIS_MAX = 1000;

type Environment = Record<string, string | undefined>;

/** A descriptor that the manager has kept, or opened for us; its owner is who takes it. */
export interface PassedDescriptor {
  readonly fd: number;
  readonly name: string;
}

export class ServiceManager {
  /** How many descriptors it keeps at most; undefined: it does not say. */
  readonly storeMax: number | undefined;
  readonly #path: string | undefined;
  /** How many it has of each name, as far as this process knows: what it has passed on, too. */
  readonly #kept = new Map<string, number>();
  #passed: readonly PassedDescriptor[];

  /** Throws RefusedError or SystemError where the environment speaks of descriptors that are not there. */
  constructor(environment: Environment, processId = process.pid) {
    this.#path = takeVariable(environment, 'NOTIFY_SOCKET');
    const storeMax = takeVariable(environment, 'FDSTORE');
    this.storeMax = /^\d+$/.test(storeMax ?? '') ? Number(storeMax) : undefined;
    this.#passed = takePassed(environment, processId);
    for (const passed of this.#passed) if (!isSocket(passed)) this.#count(passed.name, 1);
  }

  #count(name: string, more: number): void {
    this.#kept.set(name, (this.#kept.get(name) ?? 0) + more);
  }

  /** How many it would have to keep in all with `count` for each of `names`. */
  wouldKeep(names: readonly string[], count: number): number {
    const others = [...this.#kept].filter(([name]) => !names.includes(name));
    return others.reduce((sum, [, kept]) => sum + kept, names.length * count);
  }

  /** What it has passed to this process and nobody has taken yet, in its order. */
  get passed(): readonly PassedDescriptor[] {
    return this.#passed;
  }

  /** Those of that name, which are the caller's from now on. */
  take(name: string): number[] {
    return this.#take((passed) => passed.name === name);
  }

  /** The sockets among them. */
  get sockets(): readonly PassedDescriptor[] {
    return this.#passed.filter(isSocket);
  }

  /** The sockets of that name, which are the caller's from now on. */
  takeSockets(name: string): number[] {
    return this.#take((passed) => passed.name === name && isSocket(passed));
  }

  #take(isWanted: (passed: PassedDescriptor) => boolean): number[] {
    const taken = this.#passed.filter(isWanted);
    this.#passed = this.#passed.filter((passed) => !taken.includes(passed));
    return taken.map(({ fd }) => fd);
  }

  /** Closes what nobody has taken; sockets are left, for they may be known by number. Their names. */
  closeRest(): string[] {
    const unused = this.#passed.filter((passed) => !isSocket(passed));
    this.#passed = this.#passed.filter((passed) => !unused.includes(passed));
    for (const { fd } of unused) closeFd(fd);
    return unused.map(({ name }) => name);
  }

  /** Where it listens, for another thread to tell it something. */
  get path(): string | undefined {
    return this.#path;
  }

  /** There is one to talk to. */
  get isThere(): boolean {
    return this.#path !== undefined;
  }

  /**
   * Sends `state`, lines of NAME=value, with `fds`, which stay the caller's. Throws SystemError when
   * it cannot be told, RefusedError when its address is none.
   */
  notify(state: string, fds: readonly number[] = []): void {
    if (this.#path === undefined) return;
    if (!/^[@/]./.test(this.#path)) {
      throw new RefusedError(`NOTIFY_SOCKET: expected /path or @name, got '${this.#path}'`);
    }
    const socket = connectDatagram(this.#path);
    try {
      this.#send(socket, Buffer.from(state), fds);
    } finally {
      closeFd(socket);
    }
  }

  /**
   * Has it keep `fds` under `name` until this service starts again, beside others of that name. It
   * keeps as many in all as FileDescriptorStoreMax= says, and does not answer.
   */
  storeDescriptors(name: string, fds: readonly number[]): void {
    // FDPOLL: it need not watch them, and could not drop memory files anyway.
    const state = `FDSTORE=1\nFDPOLL=0\nFDNAME=${checkedName(name)}`;
    for (let first = 0; first < fds.length; first += FDS_PER_MESSAGE_MAX) {
      this.notify(state, fds.slice(first, first + FDS_PER_MESSAGE_MAX));
    }
    this.#count(name, fds.length);
  }

  /** Has it close what it keeps under `name`. */
  removeDescriptors(name: string): void {
    this.notify(`FDSTOREREMOVE=1\nFDNAME=${checkedName(name)}`);
    this.#kept.delete(name);
  }

  #send(socket: number, bytes: Uint8Array, fds: readonly number[]): void {
    let result = sendWithFds(socket, bytes, fds);
    if (result === -EAGAIN) {
      waitWritable(socket, SEND_MILLIS_MAX);
      result = sendWithFds(socket, bytes, fds);
    }
    if (result !== 0) throw new SystemError('sendmsg', -result, this.#path);
  }
}

function isSocket({ fd }: PassedDescriptor): boolean {
  return fstatSync(fd).isSocket();
}

/** sd_notify(3): ASCII, no control characters, no colon, at most 255. */
function checkedName(name: string): string {
  assert(/^[\x20-\x39\x3b-\x7e]{1,255}$/.test(name), 'descriptors have a printable name');
  return name;
}

function takeVariable(environment: Environment, name: string): string | undefined {
  const value = environment[name];
  delete environment[name];
  return value === '' ? undefined : value;
}

function takePassed(environment: Environment, processId: number): PassedDescriptor[] {
  const forProcess = takeVariable(environment, 'LISTEN_PID');
  const count = takeVariable(environment, 'LISTEN_FDS');
  const names = takeVariable(environment, 'LISTEN_FDNAMES')?.split(':') ?? [];
  // Meant for a parent that has left its environment to us.
  if (count === undefined || forProcess !== String(processId)) return [];
  if (!/^\d+$/.test(count) || Number(count) > LISTEN_FDS_MAX) {
    throw new RefusedError(`LISTEN_FDS: expected a number of descriptors, got '${count}'`);
  }
  return Array.from({ length: Number(count) }, (_, i) => {
    const fd = LISTEN_FDS_START + i;
    if (!isPassed(fd)) {
      throw new RefusedError(
        `LISTEN_FDS: expected ${count} descriptors from ${LISTEN_FDS_START} on, got ${i}`,
      );
    }
    setCloseOnExec(fd);
    return { fd, name: names[i] || NAMELESS };
  });
}

/**
 * Whether it was open before this process began. Behind what was passed come Node's own, of which an
 * epoll descriptor is the first: closed, no signal and no client would be heard again.
 */
function isPassed(fd: number): boolean {
  const name = fdName(fd);
  return name !== undefined && name !== 'anon_inode:[eventpoll]';
}
