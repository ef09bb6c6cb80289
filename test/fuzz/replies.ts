/**
 * What a device says to a hostile front end: whole messages out of the stream, and the descriptors
 * of in-flight areas. A target must take it, or the device is stopped by a full socket.
 */

import { receiveWithFds } from '../../src/native/socket.ts';
import { HEADER, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import type { MessageMaker } from './messages.ts';
import type { OddFds } from './odd-fds.ts';

const EAGAIN = 11;
const CHUNK_BYTES = 8192;

export interface Reply {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
}

export class ReplyReader {
  isClosed = false;
  readonly #fd: number;
  readonly #fds: OddFds;
  readonly #maker: MessageMaker;
  #rest = new Uint8Array(0);

  constructor(fd: number, fds: OddFds, maker: MessageMaker) {
    this.#fd = fd;
    this.#fds = fds;
    this.#maker = maker;
  }

  /** All replies that are there. */
  take(): Reply[] {
    const replies: Reply[] = [];
    const chunk = new Uint8Array(new ArrayBuffer(CHUNK_BYTES));
    for (;;) {
      const fds: number[] = [];
      const count = receiveWithFds(this.#fd, chunk, 0, chunk.length, fds);
      if (count <= 0) {
        this.isClosed ||= count !== -EAGAIN;
        return replies;
      }
      this.#rest = Buffer.concat([this.#rest, chunk.subarray(0, count)]);
      const whole = this.#cut();
      replies.push(...whole);
      for (const fd of fds) this.#own(fd, whole);
    }
  }

  /** A descriptor comes with the last bytes that are received before others. */
  #own(fd: number, replies: readonly Reply[]): void {
    const area = replies.findLast(({ request }) => request === VHOST_USER.GET_INFLIGHT_FD);
    if (area === undefined) this.#fds.adopt(fd);
    else this.#maker.takeReply(area.payload, fd);
  }

  #cut(): Reply[] {
    const replies: Reply[] = [];
    for (;;) {
      const rest = this.#rest;
      if (rest.length < HEADER.BYTES) return replies;
      const view = new DataView(rest.buffer, rest.byteOffset);
      const end = HEADER.BYTES + view.getUint32(HEADER.size, true);
      if (rest.length < end) return replies;
      replies.push({
        request: view.getUint32(HEADER.request, true),
        flags: view.getUint32(HEADER.flags, true),
        payload: rest.slice(HEADER.BYTES, end),
      });
      this.#rest = rest.subarray(end);
    }
  }
}
