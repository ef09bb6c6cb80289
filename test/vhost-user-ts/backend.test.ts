/** The back end's session: each request's meaning, its answer, and who closes which descriptor. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  BackendSession,
  Connection,
  decodeU64,
  decodeVringState,
  encodeConfig,
  encodeLog,
  encodeMemTable,
  encodeMessage,
  encodeSingleRegion,
  encodeU64,
  encodeVringAddress,
  encodeVringState,
  FLAG_NEED_REPLY,
  FLAG_REPLY,
  PROTOCOL_FEATURES,
  ProtocolError,
  RequestError,
  VHOST_USER,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F,
} from '../../src/vhost-user-ts/index.ts';
import { openFds } from '../driver/descriptors.ts';
import { type FrontEnd, RequestRefused } from '../driver/front-end.ts';
import {
  RECORDER_FEATURES as FEATURES,
  RECORDER_QUEUES as QUEUES,
  type Recorder,
  recordedSession,
} from '../driver/recorder.ts';
import { socketPair } from '../driver/sockets.ts';

const none = new Uint8Array(0);
const region = { guestAddress: 4096, bytes: 8192, userAddress: 12288, mmapOffset: 0 };

let before = 0;
let handler: Recorder;
let session: BackendSession;
let frontEnd: FrontEnd;
let ownFds: number[] = [];

beforeEach(() => {
  before = openFds();
  ({ handler, session, frontEnd } = recordedSession(() => session.poll()));
});

/** Whatever a test did: with both ends closed nothing is left open. */
afterEach(() => {
  for (const fd of [...handler.kept, ...ownFds]) closeFd(fd);
  ownFds = [];
  session.close();
  frontEnd.close();
  expect(openFds(), 'open descriptors').toBe(before);
});

function newFd(): number {
  const fd = createEventFd();
  ownFds.push(fd);
  return fd;
}

function withReplyAck(features = PROTOCOL_FEATURES): void {
  frontEnd.send(VHOST_USER.SET_PROTOCOL_FEATURES, encodeU64(features));
  session.poll();
  frontEnd.protocolFeatures = features;
}

/** Sends a request without NEED_REPLY and lets the session handle it. */
function plain(request: number, payload: Uint8Array, fds: readonly number[] = []): void {
  frontEnd.send(request, payload, fds);
  session.poll();
}

const log = { mmapSize: 64, mmapOffset: 4096 };
const state = (index: number, num: number) => encodeVringState({ index, num });
const address = { index: 1, flags: 1, desc: 16, used: 32, avail: 64, log: 5n };

describe('requests that are answered with what was asked', () => {
  const u64 = (request: number) => decodeU64(frontEnd.query(request));

  it('GET_FEATURES adds the protocol feature bit to the device features', () => {
    expect(u64(VHOST_USER.GET_FEATURES)).toBe(FEATURES | VHOST_USER_F_PROTOCOL_FEATURES);
  });

  it('GET_PROTOCOL_FEATURES says what works, and not what does not', () => {
    const offered = u64(VHOST_USER.GET_PROTOCOL_FEATURES);
    expect(offered).toBe(PROTOCOL_FEATURES);
    expect(offered & (1n << 9n), 'CONFIG').not.toBe(0n);
    expect(offered & (1n << 14n), 'INBAND_NOTIFICATIONS').toBe(0n);
    expect(offered & (1n << 16n), 'STATUS').toBe(0n);
  });

  it('GET_QUEUE_NUM and GET_MAX_MEM_SLOTS', () => {
    expect(u64(VHOST_USER.GET_QUEUE_NUM)).toBe(BigInt(QUEUES));
    expect(u64(VHOST_USER.GET_MAX_MEM_SLOTS)).toBe(509n);
  });

  it('GET_VRING_BASE stops a ring and says its index', () => {
    expect(frontEnd.getBase(2)).toBe(1002);
    expect(handler.calls).toEqual([['get base', 2]]);
  });

  it('an answer repeats the request and carries version 1 and the reply flag, no more', () => {
    withReplyAck();
    frontEnd.send(VHOST_USER.GET_QUEUE_NUM, none, [], FLAG_NEED_REPLY);
    const reply = frontEnd.receive();
    expect([reply.request, reply.flags]).toEqual([VHOST_USER.GET_QUEUE_NUM, 1 | FLAG_REPLY]);
    expect(frontEnd.getBase(0), 'exactly one answer was sent').toBe(1000);
  });

  it.each([
    [0, 60],
    [0, 57],
    [0, 8],
    [32, 1],
    [59, 1],
    [60, 0],
  ])('GET_CONFIG at %i answers exactly %i bytes', (offset, size) => {
    expect(frontEnd.getConfig(offset, size)).toEqual(handler.config.slice(offset, offset + size));
  });

  it.each([
    [0, 61],
    [60, 1],
    [0xffffffff, 1],
  ])('GET_CONFIG at %i of %i bytes is not there: an empty payload', (offset, size) => {
    expect(frontEnd.getConfig(offset, size)).toBeUndefined();
    expect(frontEnd.getConfig(0, 4), 'the connection goes on').toEqual(Uint8Array.of(0, 1, 2, 3));
  });
});

describe('requests that the device carries out', () => {
  const cases: [string, () => [number, Uint8Array, number[]], unknown[][]][] = [
    ['SET_OWNER', () => [VHOST_USER.SET_OWNER, none, []], []],
    ['RESET_OWNER', () => [VHOST_USER.RESET_OWNER, none, []], [['disable']]],
    ['RESET_DEVICE', () => [VHOST_USER.RESET_DEVICE, none, []], [['reset']]],
    [
      'SET_FEATURES with protocol features',
      () => [VHOST_USER.SET_FEATURES, encodeU64(5n | VHOST_USER_F_PROTOCOL_FEATURES), []],
      [['features', 5n, false]],
    ],
    [
      'SET_FEATURES of a legacy front end',
      () => [VHOST_USER.SET_FEATURES, encodeU64(5n), []],
      [['features', 5n, true]],
    ],
    [
      'SET_MEM_TABLE',
      () => [VHOST_USER.SET_MEM_TABLE, encodeMemTable([region, region]), [newFd(), newFd()]],
      [['table', [region, region], 2]],
    ],
    [
      'SET_MEM_TABLE of one region in the struct of eight',
      () => {
        const payload = new Uint8Array(8 + 8 * 32);
        payload.set(encodeMemTable([region]));
        return [VHOST_USER.SET_MEM_TABLE, payload, [newFd()]];
      },
      [['table', [region], 1]],
    ],
    [
      'ADD_MEM_REG',
      () => [VHOST_USER.ADD_MEM_REG, encodeSingleRegion(region), [newFd()]],
      [['add', region]],
    ],
    [
      'REM_MEM_REG',
      () => [VHOST_USER.REM_MEM_REG, encodeSingleRegion(region), []],
      [['remove', region]],
    ],
    [
      'REM_MEM_REG with a descriptor',
      () => [VHOST_USER.REM_MEM_REG, encodeSingleRegion(region), [newFd()]],
      [['remove', region]],
    ],
    ['SET_LOG_BASE', () => [VHOST_USER.SET_LOG_BASE, encodeLog(log), [newFd()]], [['log', log]]],
    ['SET_LOG_FD', () => [VHOST_USER.SET_LOG_FD, none, [newFd()]], [['log', 0, 'fd']]],
    ['SET_VRING_NUM', () => [VHOST_USER.SET_VRING_NUM, state(1, 128), []], [['num', 1, 128]]],
    ['SET_VRING_BASE', () => [VHOST_USER.SET_VRING_BASE, state(1, 7), []], [['base', 1, 7]]],
    [
      'SET_VRING_ADDR',
      () => [VHOST_USER.SET_VRING_ADDR, encodeVringAddress(address), []],
      [['address', address]],
    ],
    [
      'SET_VRING_ENABLE 1',
      () => [VHOST_USER.SET_VRING_ENABLE, state(3, 1), []],
      [['enable', 3, true]],
    ],
    [
      'SET_VRING_ENABLE 0',
      () => [VHOST_USER.SET_VRING_ENABLE, state(3, 0), []],
      [['enable', 3, false]],
    ],
    [
      'SET_CONFIG',
      () => [
        VHOST_USER.SET_CONFIG,
        encodeConfig({ offset: 32, flags: 1, payload: Uint8Array.of(1) }),
        [],
      ],
      [['set config', 32, 1, [1]]],
    ],
    ...(['KICK', 'CALL', 'ERR'] as const).flatMap(
      (what): [string, () => [number, Uint8Array, number[]], unknown[][]][] => {
        const request = VHOST_USER[`SET_VRING_${what}`];
        return [
          [
            `SET_VRING_${what} with a descriptor`,
            () => [request, encodeU64(2n), [newFd()]],
            [[what.toLowerCase(), 2, 'fd']],
          ],
          [
            `SET_VRING_${what} without one`,
            () => [request, encodeU64(0x102n), []],
            [[what.toLowerCase(), 2, 'none']],
          ],
        ];
      },
    ),
  ];

  it.each(cases)('%s', (_title, make, calls) => {
    withReplyAck();
    const [request, payload, fds] = make();
    frontEnd.order(request, payload, fds);
    expect(handler.calls).toEqual(calls);
  });

  it('regression: QEMU 7.2 resumes without a handshake; its NEED_REPLY is answered', () => {
    frontEnd.send(VHOST_USER.SET_VRING_NUM, state(1, 128), [], FLAG_NEED_REPLY);
    expect(decodeU64(frontEnd.receive())).toBe(0n);
  });

  it('without REPLY_ACK the NEED_REPLY flag is not answered', () => {
    withReplyAck(PROTOCOL_FEATURES & ~VHOST_USER_PROTOCOL_F.REPLY_ACK);
    frontEnd.send(VHOST_USER.SET_VRING_NUM, state(1, 128), [], FLAG_NEED_REPLY);
    expect(frontEnd.getBase(0)).toBe(1000);
  });

  it('without NEED_REPLY nothing is answered', () => {
    withReplyAck();
    plain(VHOST_USER.SET_VRING_NUM, state(1, 128));
    expect(frontEnd.getBase(0)).toBe(1000);
  });
});

describe('SET_LOG_BASE', () => {
  it('is replied to though nobody asked for an acknowledgement, once', () => {
    withReplyAck();
    frontEnd.send(VHOST_USER.SET_LOG_BASE, encodeLog(log), [newFd()]);
    const reply = frontEnd.receive();
    expect([reply.request, reply.flags]).toEqual([VHOST_USER.SET_LOG_BASE, 1 | FLAG_REPLY]);
    expect(frontEnd.getBase(0), 'exactly one reply was sent').toBe(1000);
  });

  it('that cannot be done is refused where NEED_REPLY asks, else it ends the connection', () => {
    withReplyAck();
    handler.failure = new RequestError('SET_LOG_BASE: no');
    const fd = newFd();
    const open = openFds();
    const order = () => frontEnd.order(VHOST_USER.SET_LOG_BASE, encodeLog(log), [fd]);
    expect(order).toThrow(RequestRefused);
    const run = () => plain(VHOST_USER.SET_LOG_BASE, encodeLog(log), [fd]);
    expect(run).toThrow(new ProtocolError('SET_LOG_BASE: no'));
    expect(openFds(), 'the descriptors are closed').toBe(open);
  });

  it('without LOG_SHMFD names an address that means nothing here', () => {
    withReplyAck(PROTOCOL_FEATURES & ~VHOST_USER_PROTOCOL_F.LOG_SHMFD);
    const run = () => plain(VHOST_USER.SET_LOG_BASE, encodeU64(2n ** 46n));
    expect(run).toThrow('SET_LOG_BASE: expected LOG_SHMFD to be acknowledged');
    expect(handler.calls).toEqual([]);
  });
});

describe('what the device cannot do', () => {
  it('is refused with non-zero where NEED_REPLY asks, and the connection goes on', () => {
    withReplyAck();
    const reasons: string[] = [];
    session.onRefusal = (reason) => reasons.push(reason);
    handler.failure = new RequestError('SET_VRING_NUM: no');
    expect(() => frontEnd.setNum(1, 128)).toThrow(RequestRefused);
    handler.failure = undefined;
    frontEnd.setNum(1, 128);
    expect(reasons).toEqual(['SET_VRING_NUM: no']);
  });

  it('ends the connection without NEED_REPLY: the peer would believe that it worked', () => {
    handler.failure = new RequestError('SET_VRING_NUM: no');
    const run = () => plain(VHOST_USER.SET_VRING_NUM, state(1, 128));
    expect(run).toThrow(new ProtocolError('SET_VRING_NUM: no'));
  });

  it('ends the connection where the answer has no place for an error', () => {
    withReplyAck();
    handler.failure = new RequestError('GET_VRING_BASE: no');
    frontEnd.send(VHOST_USER.GET_VRING_BASE, state(1, 0), [], FLAG_NEED_REPLY);
    expect(() => session.poll()).toThrow(ProtocolError);
  });

  it('an error of our own is not taken for the peer’s', () => {
    withReplyAck();
    handler.failure = new TypeError('a bug');
    frontEnd.send(VHOST_USER.SET_VRING_NUM, state(1, 2), [], FLAG_NEED_REPLY);
    expect(() => session.poll()).toThrow(new TypeError('a bug'));
  });

  const descriptors: [string, number, () => Uint8Array, number][] = [
    ['SET_MEM_TABLE', VHOST_USER.SET_MEM_TABLE, () => encodeMemTable([region, region]), 2],
    ['ADD_MEM_REG', VHOST_USER.ADD_MEM_REG, () => encodeSingleRegion(region), 1],
    ['SET_VRING_KICK', VHOST_USER.SET_VRING_KICK, () => encodeU64(1n), 1],
    ['SET_VRING_CALL', VHOST_USER.SET_VRING_CALL, () => encodeU64(1n), 1],
    ['SET_VRING_ERR', VHOST_USER.SET_VRING_ERR, () => encodeU64(1n), 1],
    ['SET_BACKEND_REQ_FD', VHOST_USER.SET_BACKEND_REQ_FD, () => none, 1],
    ['SET_LOG_BASE', VHOST_USER.SET_LOG_BASE, () => encodeLog(log), 1],
    ['SET_LOG_FD', VHOST_USER.SET_LOG_FD, () => none, 1],
  ];

  it.each(descriptors)(
    '%s with too few or too many descriptors',
    (name, request, payload, count) => {
      withReplyAck();
      for (const got of [count - 1, count + 1, 0, 8]) {
        const fds = Array.from({ length: got }, newFd);
        frontEnd.send(request, payload(), fds, FLAG_NEED_REPLY);
        const error = `${name}: expected ${count} file descriptors, got ${got}`;
        const open = openFds();
        expect(() => session.poll()).toThrow(new ProtocolError(error));
        expect(openFds(), 'none was kept').toBe(open);
        expect(handler.calls).toEqual([]);
      }
    },
  );

  it('a descriptor together with the no-descriptor flag', () => {
    const run = () => plain(VHOST_USER.SET_VRING_CALL, encodeU64(0x101n), [newFd()]);
    expect(run).toThrow('SET_VRING_CALL: expected 0 file descriptors, got 1');
  });

  it.each([
    ['SET_VRING_NUM', () => state(QUEUES, 1)],
    ['SET_VRING_BASE', () => state(0xffffffff, 1)],
    ['GET_VRING_BASE', () => state(QUEUES, 0)],
    ['SET_VRING_ENABLE', () => state(255, 1)],
    ['SET_VRING_ADDR', () => encodeVringAddress({ ...address, index: QUEUES })],
  ] as const)('%s of a ring that is not there', (name, payload) => {
    const run = () => plain(VHOST_USER[name], payload());
    expect(run).toThrow(new RegExp(`^${name}: expected a ring below 4, got \\d+`));
    expect(handler.calls).toEqual([]);
  });

  it('a kick descriptor for a ring that is not there is closed', () => {
    withReplyAck();
    const fd = newFd();
    const open = openFds();
    expect(() => frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, 255, fd)).toThrow(RequestRefused);
    expect(openFds()).toBe(open);
  });

  it('descriptors that a request has no use for are closed', () => {
    const fds = [newFd(), newFd()];
    const open = openFds();
    plain(VHOST_USER.SET_OWNER, none, fds);
    plain(VHOST_USER.SET_VRING_NUM, state(0, 8), fds);
    expect(openFds()).toBe(open);
  });

  it('descriptors of a region that is refused are closed', () => {
    withReplyAck();
    handler.failure = new RequestError('no');
    const fd = newFd();
    const open = openFds();
    expect(() => frontEnd.addRegion(region, fd)).toThrow(RequestRefused);
    expect(openFds()).toBe(open);
  });

  it.each([0, 19, 20, 22, 23, 26, 31, 32, 33, 35, 39, 40, 77, 0xffffffff])(
    'request %i, which was not offered',
    (request) => {
      withReplyAck();
      frontEnd.send(request, none, [newFd()], FLAG_NEED_REPLY);
      expect(() => session.poll()).toThrow(ProtocolError);
      expect(() => session.poll()).not.toThrow();
    },
  );

  it('protocol features that were never offered', () => {
    for (const bit of [1n, 2n, 12n, 14n, 16n, 63n].map((n) => 1n << n)) {
      if ((PROTOCOL_FEATURES & bit) !== 0n) continue;
      const run = () => plain(VHOST_USER.SET_PROTOCOL_FEATURES, encodeU64(bit | 1n));
      expect(run).toThrow(/^SET_PROTOCOL_FEATURES: expected a part of 0x[0-9a-f]+, got 0x/);
    }
  });

  it('SET_VRING_ENABLE of anything but 0 and 1', () => {
    const run = () => plain(VHOST_USER.SET_VRING_ENABLE, state(1, 2));
    expect(run).toThrow('SET_VRING_ENABLE: ring 1: expected 0 or 1, got 2');
  });

  it('a payload where none belongs', () => {
    for (const name of ['GET_FEATURES', 'SET_OWNER', 'RESET_DEVICE', 'GET_QUEUE_NUM'] as const) {
      const run = () => plain(VHOST_USER[name], encodeU64(0n));
      expect(run).toThrow(`${name}: expected a payload of 0 bytes, got 8`);
    }
  });
});

describe('the back-end channel', () => {
  it('carries the config change message, and asks for no acknowledgement', () => {
    expect(session.sendConfigChange(), 'no channel yet').toBe(false);
    const [ours, theirs] = socketPair();
    ownFds.push(theirs);
    plain(VHOST_USER.SET_BACKEND_REQ_FD, none, [theirs]);
    expect(session.sendConfigChange()).toBe(true);
    const channel = new Connection(ours);
    expect(channel.receive()).toMatchObject({ request: 2, flags: 1, payload: none });
    expect(channel.receive()).toBeUndefined();
    channel.close();
    expect(session.sendConfigChange(), 'the front end is gone').toBe(false);
  });

  it('a second one replaces the first, which is closed', () => {
    const [first, second] = [socketPair(), socketPair()];
    ownFds.push(first[0], second[0]);
    for (const [, theirs] of [first, second]) {
      plain(VHOST_USER.SET_BACKEND_REQ_FD, none, [theirs]);
      closeFd(theirs);
    }
    expect(new Connection(first[0]).receive()).toBe('closed');
    expect(session.sendConfigChange()).toBe(true);
    expect(new Connection(second[0]).receive()).toMatchObject({ request: 2 });
  });
});

it('poll handles a burst of requests in order and says when the peer has gone', () => {
  for (let i = 0; i < 10; i++) frontEnd.send(VHOST_USER.SET_VRING_NUM, state(i % QUEUES, i));
  for (let i = 0; i < 10; i++) expect(session.poll()).toBe(true);
  expect(handler.calls).toEqual(Array.from({ length: 10 }, (_, i) => ['num', i % QUEUES, i]));
  const [client, server] = socketPair();
  const other = new BackendSession(server, handler);
  closeFd(client);
  expect(other.poll()).toBe(false);
  other.close();
});

it('a front end that never stops talking is left after a bounded number of messages', () => {
  for (let i = 0; i < 200; i++) frontEnd.send(VHOST_USER.SET_OWNER, none);
  frontEnd.send(VHOST_USER.RESET_OWNER, none);
  expect(session.poll()).toBe(true);
  expect(handler.calls).toEqual([]);
  for (let i = 0; i < 201; i++) session.poll();
  expect(handler.calls).toEqual([['disable']]);
});

it('a state of a reply is a vring state', () => {
  const reply = frontEnd.query(VHOST_USER.GET_VRING_BASE, state(3, 0));
  expect(decodeVringState(reply)).toEqual({ index: 3, num: 1003 });
});

it('half a message does not hold up the session', () => {
  const bytes = encodeMessage(VHOST_USER.SET_OWNER, 0, none);
  frontEnd.sendRaw(bytes.subarray(0, 7));
  expect(session.poll()).toBe(true);
  frontEnd.sendRaw(bytes.subarray(7));
  expect(frontEnd.getBase(1)).toBe(1001);
});

describe('a session that another process goes on with', () => {
  it('answers as was negotiated, on the same connection and channel', () => {
    withReplyAck(PROTOCOL_FEATURES);
    const [channel, ownChannel] = socketPair();
    ownFds.push(channel);
    plain(VHOST_USER.SET_BACKEND_REQ_FD, none, [ownChannel]);
    closeFd(ownChannel);
    const { state } = session;
    session = new BackendSession(state, handler);
    frontEnd.order(VHOST_USER.SET_VRING_NUM, encodeVringState({ index: 1, num: 8 }));
    expect(handler.calls).toEqual([['num', 1, 8]]);
    expect(session.sendConfigChange()).toBe(true);
    expect(new Connection(channel).receive()).toMatchObject({ request: 2 });
  });

  it('without protocol features asks for none, and answers where a reply is wanted', () => {
    session = new BackendSession(session.state, handler);
    expect(session.state).toMatchObject({ protocolFeatures: undefined, backendChannel: undefined });
    expect(session.sendConfigChange()).toBe(false);
    frontEnd.protocolFeatures = VHOST_USER_PROTOCOL_F.REPLY_ACK;
    frontEnd.order(VHOST_USER.SET_VRING_NUM, encodeVringState({ index: 0, num: 16 }));
    expect(handler.calls).toEqual([['num', 0, 16]]);
  });

  it('that did not acknowledge REPLY_ACK gets no replies', () => {
    withReplyAck(PROTOCOL_FEATURES & ~VHOST_USER_PROTOCOL_F.REPLY_ACK);
    session = new BackendSession(session.state, handler);
    frontEnd.send(
      VHOST_USER.SET_VRING_NUM,
      encodeVringState({ index: 0, num: 16 }),
      [],
      FLAG_NEED_REPLY,
    );
    session.poll();
    expect(frontEnd.getBase(0), 'the only answer').toBe(1000);
  });
});

it('begins no further message when those before it took long; the rest stays in the socket', () => {
  const done: number[] = [];
  handler.setVringNum = (index) => {
    done.push(index);
    const start = performance.now();
    while (performance.now() - start < 0.6);
  };
  const numbers = [0, 1, 2];
  for (const index of numbers) {
    frontEnd.send(VHOST_USER.SET_VRING_NUM, encodeVringState({ index, num: 128 }));
  }
  for (const index of numbers) {
    expect(session.poll()).toBe(true);
    expect(done).toEqual(numbers.slice(0, index + 1));
  }
});
