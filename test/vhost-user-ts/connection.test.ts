/** Framing: whole messages come out however their bytes arrive; each descriptor has one owner. */

import { fstatSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { sendWithFds } from '../../src/native/socket.ts';
import {
  Connection,
  encodeMessage,
  encodeU64,
  type Message,
  ProtocolError,
} from '../../src/vhost-user-ts/index.ts';
import { openFds } from '../driver/descriptors.ts';
import { socketPair } from '../driver/sockets.ts';

let before = 0;
let peer = -1;
let connection: Connection;

beforeEach(() => {
  before = openFds();
  const [client, server] = socketPair();
  peer = client;
  connection = new Connection(server);
});

afterEach(() => {
  if (peer >= 0) closeFd(peer);
  connection.close();
  expect(openFds(), 'open descriptors').toBe(before);
});

function send(bytes: Uint8Array, fds: readonly number[] = []): void {
  expect(sendWithFds(peer, bytes, fds)).toBe(0);
}

function received(): Message {
  const message = connection.receive();
  if (message === undefined || message === 'closed') throw new Error(`got ${message}`);
  return message;
}

describe('receive', () => {
  it('gives a message that arrives byte by byte once it is whole', () => {
    const bytes = encodeMessage(8, 0, encodeU64(0x1122334455667788n));
    for (let i = 0; i < bytes.length; i++) {
      expect(connection.receive()).toBeUndefined();
      send(bytes.slice(i, i + 1));
    }
    const message = received();
    expect([message.request, message.flags]).toEqual([8, 1]);
    expect(message.payload).toEqual(encodeU64(0x1122334455667788n));
    expect(connection.receive()).toBeUndefined();
  });

  it('gives a message without a payload', () => {
    send(encodeMessage(1, 0, new Uint8Array(0)));
    expect(received().payload).toHaveLength(0);
    expect(connection.receive()).toBeUndefined();
  });

  it('gives each message of a burst its own descriptors', () => {
    const files = [1, 2, 3].map((pages) => createMemfd('test', pages * 4096));
    send(encodeMessage(12, 0, encodeU64(0n)), [files[0]!]);
    send(encodeMessage(13, 0, encodeU64(1n)));
    send(encodeMessage(5, 0, encodeU64(2n)), [files[1]!, files[2]!]);
    for (const fd of files) closeFd(fd);
    const sizes = [12, 13, 5].map((request) => {
      const message = received();
      expect(message.request).toBe(request);
      const found = message.fds.map((fd) => fstatSync(fd).size / 4096);
      for (const fd of message.fds) closeFd(fd);
      return found;
    });
    expect(sizes).toEqual([[1], [], [2, 3]]);
  });

  it('collects descriptors that come with any part of a message', () => {
    const bytes = encodeMessage(12, 0, encodeU64(0n));
    const [a, b] = [createEventFd(), createEventFd()];
    send(bytes.slice(0, 5), [a]);
    expect(connection.receive()).toBeUndefined();
    send(bytes.slice(5), [b]);
    const { fds } = received();
    expect(fds).toHaveLength(2);
    for (const fd of [a, b, ...fds]) closeFd(fd);
  });

  it('takes a payload of the largest size and refuses one byte more', () => {
    send(encodeMessage(25, 0, new Uint8Array(4108).fill(7)));
    expect(received().payload).toEqual(new Uint8Array(4108).fill(7));
    send(encodeMessage(25, 0, new Uint8Array(4109)));
    const error = 'SET_CONFIG: expected a payload up to 4108 bytes, got 4109';
    expect(() => connection.receive()).toThrow(new ProtocolError(error));
  });

  it.each([0, 2, 3])('refuses protocol version %i', (version) => {
    const bytes = encodeMessage(1, 0, new Uint8Array(0));
    bytes[4] = version;
    send(bytes);
    const error = `GET_FEATURES: expected protocol version 1, got ${version}`;
    expect(() => connection.receive()).toThrow(new ProtocolError(error));
  });

  it("says 'closed' at the end of the stream, also in the middle of a message", () => {
    send(encodeMessage(1, 0, encodeU64(0n)).slice(0, 14));
    expect(connection.receive()).toBeUndefined();
    closeFd(peer);
    peer = -1;
    expect(connection.receive()).toBe('closed');
  });

  it('a whole message is still received after the peer has closed', () => {
    send(encodeMessage(3, 0, new Uint8Array(0)));
    closeFd(peer);
    peer = -1;
    expect(received().request).toBe(3);
    expect(connection.receive()).toBe('closed');
  });
});

describe('close', () => {
  it('releases the descriptors of a message that never became whole', () => {
    const file = createEventFd();
    send(encodeMessage(12, 0, encodeU64(0n)).slice(0, 13), [file, file, file]);
    closeFd(file);
    expect(connection.receive()).toBeUndefined();
    expect(openFds()).toBe(before + 2 + 3);
    // afterEach closes, and counts.
  });

  it('releases the descriptors of a message whose header was refused', () => {
    const file = createEventFd();
    const bytes = encodeMessage(12, 0, encodeU64(0n));
    bytes[4] = 2;
    send(bytes, [file]);
    closeFd(file);
    expect(() => connection.receive()).toThrow(ProtocolError);
  });
});

describe('send', () => {
  it('a peer that is gone is a ProtocolError that names the message', () => {
    closeFd(peer);
    peer = -1;
    expect(() => connection.send(1, 4, encodeU64(0n))).toThrow('GET_FEATURES: send: EPIPE');
  });

  it('a peer that does not read is an error, not a wait', () => {
    const fill = () => {
      for (let i = 0; i < 10_000; i++) connection.send(24, 4, new Uint8Array(4108));
    };
    expect(fill).toThrow(/GET_CONFIG: send: (EAGAIN|EWOULDBLOCK)/);
  });
});

describe('a connection that another process goes on with', () => {
  /** The same socket, as an object of its own; the first is forgotten. */
  function resume(): void {
    connection = Connection.resume(connection.state);
  }

  it('gives each message once, wherever its bytes were cut', () => {
    const bytes = encodeMessage(8, 0, encodeU64(0x1122334455667788n));
    for (let cut = 0; cut <= bytes.length; cut++) {
      if (cut > 0) send(bytes.slice(0, cut));
      if (cut < bytes.length) {
        expect(connection.receive(), `${cut} bytes`).toBeUndefined();
        resume();
        send(bytes.slice(cut));
      } else resume();
      expect(received().payload).toEqual(encodeU64(0x1122334455667788n));
      expect(connection.receive()).toBeUndefined();
    }
  });

  it('a header without a payload is a message', () => {
    resume();
    send(encodeMessage(1, 0, new Uint8Array(0)));
    resume();
    expect(received().request).toBe(1);
  });

  it('keeps the descriptors of a message of which half has come', () => {
    const fds = [createEventFd(), createEventFd()];
    const bytes = encodeMessage(5, 0, new Uint8Array(40));
    send(bytes.slice(0, 14), fds);
    for (const fd of fds) closeFd(fd);
    expect(connection.receive()).toBeUndefined();
    resume();
    send(bytes.slice(14));
    const message = received();
    expect(message.fds).toHaveLength(2);
    for (const fd of message.fds) closeFd(fd);
  });

  it('refuses what is longer than any message', () => {
    const bytes = new Uint8Array(1 << 16);
    expect(() => Connection.resume({ ...connection.state, bytes })).toThrow(ProtocolError);
  });
});
