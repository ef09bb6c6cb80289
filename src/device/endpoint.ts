/** Listening sockets as the control thread opens them: made by the fence, removed with care. */

import { lstatSync, unlinkSync } from 'node:fs';
import { RefusedError, SystemError } from '../base/errors.ts';
import { closeFd } from '../native/fd.ts';
import { groupId } from '../native/group.ts';
import { isListening, listenUnix, type SocketAccess, streamFault } from '../native/socket.ts';

const EPERM = 1;
/** (gid_t) -1 means "leave it" to chown. */
const GROUP_ID_MAX = 2 ** 32 - 2;

export interface ListeningSocket {
  readonly fd: number;
  readonly path: string;
  /** Removes the socket file, if it is still this one. */
  remove(): void;
}

/** For the front end, which often is another user: a group may be let in. */
export function frontEndAccess(group?: string): SocketAccess {
  return { mode: 0o660, ...(group === undefined ? {} : { groupId: numberOfGroup(group) }) };
}

/** For those who may give orders: this user, and root. */
export const CONTROL_ACCESS: SocketAccess = { mode: 0o600 };

/** A group's number, from that or its name. */
function numberOfGroup(group: string): number {
  if (!/^\d+$/.test(group)) {
    const found = groupId(group);
    if (found === undefined) throw new RefusedError(`socket group '${group}': no such group`);
    return found;
  }
  if (Number(group) > GROUP_ID_MAX) {
    throw new RefusedError(`socket group: expected ${GROUP_ID_MAX} at most, got ${group}`);
  }
  return Number(group);
}

/** Listens at `path`; throws RefusedError (in use, not a socket) or SystemError (no permission). */
export function openListeningSocket(path: string, access: SocketAccess): ListeningSocket {
  return listeningSocket(listenAs(path, access), path);
}

/** One that listens at `path` already, another process's until now; its file may be gone. */
export function listeningSocket(fd: number, path: string): ListeningSocket {
  const own = lstatSync(path, { throwIfNoEntry: false });
  return {
    fd,
    path,
    remove() {
      const found = lstatSync(path, { throwIfNoEntry: false });
      if (own !== undefined && found?.ino === own.ino && found.dev === own.dev) unlinkSync(path);
    },
  };
}

function listenAs(path: string, access: SocketAccess): number {
  try {
    return listenUnix(path, access);
  } catch (error) {
    if (!(error instanceof SystemError) || !/chown$/.test(error.call)) throw error;
    if (error.errno !== EPERM) throw error;
    throw new RefusedError(
      `${path}: expected a socket group that this process is a member of (only root may give any), ` +
        `got group ${access.groupId}`,
    );
  }
}

export { abortWith, exitNow } from '../native/process.ts';
export { acceptConnection } from '../native/socket.ts';
export { closeFd, isListening, streamFault };
