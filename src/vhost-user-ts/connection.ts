/**
 * One end of a vhost-user socket: framing and the ownership of file descriptors. It never waits:
 * bytes that are not there yet are taken at the next call. It knows no message's meaning.
 *
 * A message is received header first, then body, each with exactly its own length: a receive across
 * a message boundary would lose the next message's descriptors.
 */

import { errnoName } from '../base/errors.ts';
import { closeFd, discardFds } from '../native/fd.ts';
import {
  FDS_PER_MESSAGE_MAX,
  isPeerProcess,
  receiveWithFds,
  sendWithFds,
} from '../native/socket.ts';
import { ProtocolError } from './errors.ts';
import { encodeMessage, type Message } from './messages.ts';
import {
  FLAG_VERSION,
  FLAG_VERSION_MASK,
  HEADER,
  PAYLOAD_BYTES_MAX,
  requestName,
} from './protocol.ts';

const EAGAIN = 11;
const ECONNRESET = 104;

/** A connection on its way to another process: its socket, and what of a message has come already. */
export interface ConnectionState {
  readonly fd: number;
  /** The process that its other end, seen from there, is connected to. */
  readonly process: number;
  /** Bytes of a message whose rest has not come. */
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
}

export class Connection {
  readonly fd: number;
  readonly #process: number;
  readonly #bytes = new Uint8Array(new ArrayBuffer(HEADER.BYTES + PAYLOAD_BYTES_MAX));
  readonly #view = new DataView(this.#bytes.buffer);
  #received = 0;
  /** Header, or header and payload once the header is known. */
  #expected: number = HEADER.BYTES;
  #fds: number[] = [];
  /** So many of them have been looked at. */
  #checkedFds = 0;

  /** Takes ownership of a connected, non-blocking socket. */
  constructor(fd: number, self = process.pid) {
    this.fd = fd;
    this.#process = self;
  }

  /** For another process, or another object, to go on with: this one is not to be used any more. */
  get state(): ConnectionState {
    const bytes = this.#bytes.slice(0, this.#received);
    return { fd: this.fd, process: this.#process, bytes, fds: this.#fds };
  }

  /** Goes on with what another has begun; owns its descriptors. Throws ProtocolError. */
  static resume({ fd, process: self, bytes, fds }: ConnectionState): Connection {
    const connection = new Connection(fd, self);
    connection.#fds = [...fds];
    const most = connection.#bytes.length;
    if (bytes.length > most) {
      throw new ProtocolError(
        `resumed message: expected ${most} bytes at most, got ${bytes.length}`,
      );
    }
    connection.#bytes.set(bytes);
    connection.#received = bytes.length;
    if (bytes.length > HEADER.BYTES) connection.#expectBody();
    return connection;
  }

  /**
   * The next whole message; undefined while there is none; 'closed' at the end of the stream.
   * Throws ProtocolError. The payload is valid until the next call; the fds are the caller's.
   */
  receive(): Message | 'closed' | undefined {
    for (;;) {
      if (this.#received === this.#expected && this.#received >= HEADER.BYTES) {
        if (this.#received > HEADER.BYTES || this.#expectBody() === HEADER.BYTES) {
          return this.#take();
        }
      }
      const count = receiveWithFds(
        this.fd,
        this.#bytes,
        this.#received,
        this.#expected - this.#received,
        this.#fds,
      );
      this.#refuseOwnSocket();
      if (count === -EAGAIN) return undefined;
      if (count === 0 || count === -ECONNRESET) return 'closed';
      if (count < 0) throw new ProtocolError(`receive: ${errnoName(-count)}`);
      if (this.#fds.length > FDS_PER_MESSAGE_MAX) {
        throw new ProtocolError(
          `message: expected ${FDS_PER_MESSAGE_MAX} file descriptors at most, got ${this.#fds.length}`,
        );
      }
      this.#received += count;
    }
  }

  /** Sends a message whole; the fds stay the caller's. Throws ProtocolError when it cannot. */
  send(request: number, flags: number, payload: Uint8Array, fds: readonly number[] = []): void {
    const result = sendWithFds(this.fd, encodeMessage(request, flags, payload), fds);
    if (result < 0) {
      throw new ProtocolError(`${requestName(request)}: send: ${errnoName(-result)}`);
    }
  }

  close(): void {
    discardFds(...this.#fds);
    this.#fds = [];
    closeFd(this.fd);
  }

  /**
   * The peer's own end of this connection, kept here, would keep the connection for ever: nobody
   * could close it. It is a socket whose other end is this process (or the one that began the
   * connection), where ours is another's.
   */
  #refuseOwnSocket(): void {
    for (; this.#checkedFds < this.#fds.length; this.#checkedFds++) {
      const fd = this.#fds[this.#checkedFds]!;
      if (!isPeerProcess(fd, this.#process) || isPeerProcess(this.fd, this.#process)) continue;
      throw new ProtocolError("message: expected another descriptor than the peer's own socket");
    }
  }

  /** Checks the header just received; the length of the whole message. */
  #expectBody(): number {
    const request = this.#view.getUint32(HEADER.request, true);
    const flags = this.#view.getUint32(HEADER.flags, true);
    const size = this.#view.getUint32(HEADER.size, true);
    if ((flags & FLAG_VERSION_MASK) !== FLAG_VERSION) {
      const got = flags & FLAG_VERSION_MASK;
      throw new ProtocolError(`${requestName(request)}: expected protocol version 1, got ${got}`);
    }
    if (size > PAYLOAD_BYTES_MAX) {
      throw new ProtocolError(
        `${requestName(request)}: expected a payload up to ${PAYLOAD_BYTES_MAX} bytes, got ${size}`,
      );
    }
    this.#expected = HEADER.BYTES + size;
    return this.#expected;
  }

  #take(): Message {
    const message = {
      request: this.#view.getUint32(HEADER.request, true),
      flags: this.#view.getUint32(HEADER.flags, true),
      payload: this.#bytes.subarray(HEADER.BYTES, this.#expected),
      fds: this.#fds,
    };
    this.#fds = [];
    this.#checkedFds = 0;
    this.#received = 0;
    this.#expected = HEADER.BYTES;
    return message;
  }
}
