/** Listening sockets as the control thread opens them: made by the fence, removed with care. */

import { lstatSync, unlinkSync } from 'node:fs';
import { closeFd } from '../native/fd.ts';
import { isListening, listenUnix } from '../native/socket.ts';

export interface ListeningSocket {
  readonly fd: number;
  readonly path: string;
  /** Removes the socket file, if it is still this one. */
  remove(): void;
}

/** Listens at `path`; throws RefusedError (in use, not a socket) or SystemError (no permission). */
export function openListeningSocket(path: string): ListeningSocket {
  const fd = listenUnix(path);
  const { ino, dev } = lstatSync(path);
  return {
    fd,
    path,
    remove() {
      const found = lstatSync(path, { throwIfNoEntry: false });
      if (found?.ino === ino && found.dev === dev) unlinkSync(path);
    },
  };
}

export { abortWith, exitNow } from '../native/process.ts';
export { closeFd, isListening };
