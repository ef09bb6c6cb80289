/** A device's state on the wire between two processes: what arrives, what is refused, who waits for whom. */

import { fstatSync, openSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import {
  awaitWord,
  type DeviceState,
  decodeState,
  encodeState,
  HANDOVER_VERSION,
  KEPT,
  receivedWord,
  receiveState,
  sendState,
  sendWord,
  TAKEN,
  YOURS,
} from '../../src/device/handover.ts';
import { closeFd } from '../../src/native/fd.ts';
import { sendWithFds } from '../../src/native/socket.ts';
import { openFds } from '../driver/descriptors.ts';
import { socketPair } from '../driver/sockets.ts';

let before = 0;
const owned = new Set<number>();
let old = -1;
let young = -1;

beforeEach(() => {
  before = openFds();
  [old, young] = socketPair();
  for (const fd of [old, young]) owned.add(fd);
});

afterEach(() => {
  for (const fd of owned) closeFd(fd);
  owned.clear();
  expect(openFds(), 'open descriptors').toBe(before);
});

function closeNow(fd: number): void {
  owned.delete(fd);
  closeFd(fd);
}

function makeFd(): number {
  const fd = openSync('/dev/null', 'r');
  owned.add(fd);
  return fd;
}

const soon = (millis = 2000) => performance.now() + millis;

function header(bytes: number, fds: number): Uint8Array {
  const header = new Uint8Array(new ArrayBuffer(8));
  const view = new DataView(header.buffer);
  view.setUint32(0, bytes, true);
  view.setUint32(4, fds, true);
  return header;
}

function send(bytes: Uint8Array, fds: readonly number[] = []): void {
  expect(sendWithFds(old, bytes, fds)).toBe(0);
}

/** Of a device with one of everything that is not plain JSON. */
function someState(fds: readonly [number, number, number, number]): DeviceState {
  const connection = { fd: fds[2], process: 7, bytes: Uint8Array.of(1, 2, 255), fds: [fds[3]] };
  const session = { connection, protocolFeatures: 2n ** 63n + 1n, backendChannel: undefined };
  return {
    version: HANDOVER_VERSION,
    process: 7,
    name: 'ramzswap0',
    files: { fd: fds[0], arenaFd: fds[1], isKept: true },
    listenFd: undefined,
    session: { session, isLegacy: false, rings: [] },
  } as unknown as DeviceState;
}

describe('a state', () => {
  it('comes out as it went in, with descriptors of its own', () => {
    const fds = [makeFd(), makeFd(), makeFd(), makeFd()] as const;
    sendState(old, encodeState(someState(fds)), soon());
    const got = receiveState(young, soon());
    for (const fd of got.fds) owned.add(fd);
    expect(got.fds).toHaveLength(4);
    expect(new Set([...got.fds, ...fds]).size).toBe(8);
    const again = got.fds as [number, number, number, number];
    const { listenFd: _, ...wanted } = someState(again);
    const { backendChannel: __, ...session } = wanted.session!.session;
    expect(decodeState(got.text, got.fds)).toEqual({
      ...wanted,
      session: { ...wanted.session, session },
    });
  });

  it('of 600 descriptors and 100,000 bytes arrives whole', () => {
    const fds = Array.from({ length: 600 }, makeFd);
    const text = 'x'.repeat(100_000);
    sendState(old, { text, fds }, soon());
    const got = receiveState(young, soon());
    for (const fd of got.fds) owned.add(fd);
    expect(got.text).toBe(text);
    expect(got.fds).toHaveLength(600);
    expect(got.fds.every((fd) => fstatSync(fd).isCharacterDevice())).toBe(true);
  });

  it('of another version is refused', () => {
    const text = JSON.stringify({ version: HANDOVER_VERSION + 1 });
    expect(() => decodeState(text, [])).toThrow(
      `take-over: expected version ${HANDOVER_VERSION}, got ${HANDOVER_VERSION + 1}`,
    );
  });

  it.each(['', 'null', '7', '{"version":', '[]', '"a"'])('%j is none', (text) => {
    expect(() => decodeState(text, [])).toThrow(RefusedError);
  });

  it('that names a descriptor which did not come is refused', () => {
    const text = JSON.stringify({ version: HANDOVER_VERSION, controlFd: 1 });
    expect(() => decodeState(text, [5])).toThrow('expected 1 descriptors, got one at 1');
  });
});

describe('receiving', () => {
  it('refuses more than there can be, before it waits for any of it', () => {
    send(header(2 ** 26 + 1, 0));
    expect(() => receiveState(young, soon())).toThrow(/expected up to 67108864 bytes and 4096/);
    send(header(10, 4097));
    expect(() => receiveState(young, soon())).toThrow(/got 10 and 4097/);
  });

  it('refuses bytes without the descriptors that they were to bring', () => {
    send(header(4, 3));
    send(new Uint8Array(16), [young]);
    expect(() => receiveState(young, soon())).toThrow('expected 3 descriptors, got 1');
  });

  it('refuses more descriptors than were announced', () => {
    send(header(4, 1));
    send(new Uint8Array(1), [old, old]);
    send(new Uint8Array(4));
    expect(() => receiveState(young, soon())).toThrow('expected 1 descriptors, got 2');
  });

  it.each([0, 3, 8, 9, 40])('an end after %i bytes is told of at once', (bytes) => {
    const text = Buffer.concat([header(100, 1), new Uint8Array(100)]).subarray(0, bytes);
    if (bytes > 0) send(Uint8Array.from(text), bytes > 8 ? [makeFd()] : []);
    closeNow(old);
    const start = performance.now();
    expect(() => receiveState(young, soon())).toThrow('is gone: end of stream');
    expect(performance.now() - start).toBeLessThan(1000);
  });

  it('a process that hangs is waited for until the deadline', () => {
    send(header(100, 0));
    const start = performance.now();
    expect(() => receiveState(young, soon(100))).toThrow('hangs');
    expect(performance.now() - start).toBeGreaterThan(95);
  });
});

describe('sending', () => {
  it('to a process that takes nothing ends at the deadline', () => {
    const start = performance.now();
    expect(() => sendState(old, { text: 'x'.repeat(2 ** 22), fds: [] }, soon(100))).toThrow(
      'hangs',
    );
    expect(performance.now() - start).toBeGreaterThan(95);
  });

  it('to a process that has gone is refused at once', () => {
    closeNow(young);
    expect(() => sendState(old, { text: 'x', fds: [] }, soon())).toThrow('is gone: EPIPE');
  });
});

describe('a word', () => {
  it('arrives; nothing, and the end, are no words', () => {
    expect(receivedWord(young)).toBeUndefined();
    sendWord(old, YOURS, soon());
    expect(receivedWord(young)).toBe(YOURS);
    closeNow(old);
    expect(receivedWord(young)).toBe('gone');
  });

  it('said before the end is heard before it', () => {
    sendWord(young, TAKEN, soon());
    sendWord(old, KEPT, soon());
    closeNow(old);
    expect(receivedWord(young)).toBe(KEPT);
    expect(receivedWord(young)).toBe('gone');
  });

  it('an end with something unread is an end', () => {
    sendWord(young, TAKEN, soon());
    closeNow(old);
    expect(receivedWord(young)).toBe('gone');
  });

  it('brings no descriptors that would stay', () => {
    send(Uint8Array.of(TAKEN), [old, young]);
    expect(receivedWord(young)).toBe(TAKEN);
  });

  it('is waited for until the deadline', () => {
    const start = performance.now();
    expect(() => awaitWord(young, soon(50))).toThrow('hangs');
    expect(performance.now() - start).toBeGreaterThan(45);
    sendWord(old, KEPT, soon());
    expect(awaitWord(young, soon())).toBe(KEPT);
  });
});
