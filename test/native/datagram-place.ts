/** A place that receives datagrams, as a service manager's is. For tests: src/native only sends. */

import koffi from 'koffi';
import { closeFd } from '../../src/native/fd.ts';
import { receiveWithFds, waitReadable } from '../../src/native/socket.ts';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const EAGAIN = 11;

const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int domain, int type, int protocol)');
const bind = libc.func('int bind(int fd, const void *address, unsigned int length)');

export interface Datagram {
  readonly text: string;
  readonly fds: readonly number[];
}

export class DatagramPlace {
  readonly path: string;
  readonly #fd: number;

  /** `path`: of a file, or @name. */
  constructor(path: string) {
    this.path = path;
    this.#fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : `${path}\0`);
    const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), name]);
    if (bind(this.#fd, address, address.length) !== 0) throw new Error(`bind: ${path}`);
  }

  /** The next datagram, whose descriptors are the caller's; undefined: none came in `millis`. */
  receive(millis = 0): Datagram | undefined {
    if (millis > 0) waitReadable(this.#fd, millis);
    const buffer = Buffer.alloc(4096);
    const fds: number[] = [];
    const bytes = receiveWithFds(this.#fd, buffer, 0, buffer.length, fds);
    if (bytes === -EAGAIN) return undefined;
    if (bytes < 0) throw new Error(`recvmsg: errno ${-bytes}`);
    return { text: buffer.toString('utf8', 0, bytes), fds };
  }

  close(): void {
    closeFd(this.#fd);
  }
}
