/** Messages of a front end that wait until the device is ready for them. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  BackendSession,
  encodeVringState as encodeState,
  encodeU64,
  VHOST_USER,
} from '../../src/vhost-user-ts/index.ts';
import { openFds } from '../driver/descriptors.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { RECORDER_QUEUES as QUEUES, type Recorder, recordedSession } from '../driver/recorder.ts';
import { socketPair } from '../driver/sockets.ts';

const state = (index: number, num: number) => encodeState({ index, num });
let before = 0;
let handler: Recorder;
let session: BackendSession;
let frontEnd: FrontEnd;

beforeEach(() => {
  before = openFds();
  ({ handler, session, frontEnd } = recordedSession(() => session.poll()));
});

/** Whatever a test did: with both ends closed nothing is left open. */
afterEach(() => {
  handler.kept.forEach(closeFd);
  session.close();
  frontEnd.close();
  expect(openFds(), 'open descriptors').toBe(before);
});

function plain(request: number, payload: Uint8Array): void {
  frontEnd.send(request, payload);
  session.poll();
}

describe('a message that has to wait', () => {
  const [first, last] = [1, 3];

  it.each([
    ['GET_VRING_BASE', state(first, 0), ['at rest', first], ['get base', first]],
    ['SET_VRING_ENABLE', state(first, 0), ['at rest', first], ['enable', first, false]],
    ['SET_VRING_KICK', encodeU64(0x101n), ['start'], ['kick', first, 'none']],
  ] as const)(
    '%s is asked about until it may be, before what came behind it',
    (name, payload, asked, done) => {
      handler.notYet = 2;
      frontEnd.send(VHOST_USER[name], payload);
      frontEnd.send(VHOST_USER.SET_VRING_NUM, state(last, 8));
      for (const isWaiting of [true, true, false]) {
        expect(session.poll()).toBe(true);
        expect(session.isWaiting).toBe(isWaiting);
      }
      expect(handler.calls).toEqual([asked, asked, done, ['num', last, 8]]);
    },
  );

  it('is not one that enables a ring, or is wrong', () => {
    handler.notYet = 1;
    plain(VHOST_USER.SET_VRING_ENABLE, state(first, 1));
    expect(handler.calls).toEqual([['enable', first, true]]);
    expect(() => plain(VHOST_USER.GET_VRING_BASE, state(QUEUES, 0))).toThrow(
      /expected a ring below/,
    );
  });

  it('keeps its descriptor until then, and loses none when the session ends', () => {
    const fd = createEventFd();
    const kick = () => frontEnd.send(VHOST_USER.SET_VRING_KICK, encodeU64(1n), [fd]);
    handler.notYet = 1;
    kick();
    session.poll();
    session.poll();
    expect(handler.calls.at(-1)).toEqual(['kick', 1, 'fd']);
    handler.notYet = 1;
    kick();
    session.poll();
    expect(session.isWaiting).toBe(true);
    closeFd(fd);
    // afterEach: as many descriptors as before.
  });

  it('says that the peer has gone, for which nobody waits', () => {
    handler.notYet = Number.POSITIVE_INFINITY;
    const [client, server] = socketPair();
    const other = new BackendSession(server, handler);
    const going = new FrontEnd(client);
    going.send(VHOST_USER.GET_VRING_BASE, state(first, 0));
    expect(other.poll()).toBe(true);
    going.close();
    expect(other.poll()).toBe(false);
    other.close();
  });
});
