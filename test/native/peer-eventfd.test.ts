/** Signals on an eventfd whose other holder makes writes to it wait. */

import { writeSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  preparePeerSignals,
  signalDirectly,
  signalPeerEventFd,
  signalWithRoom,
} from '../../src/native/peer-eventfd.ts';
import { openFds, signals } from '../driver/descriptors.ts';
import { counterOf, setBlocking } from '../models/descriptors.ts';

/** More than the context of AIO has room for. */
const MANY = 5000;
const fds: number[] = [];

afterEach(() => {
  for (const fd of fds.splice(0)) closeFd(fd);
});

function eventFd(): number {
  const fd = createEventFd();
  fds.push(fd);
  return fd;
}

/** Its counter cannot be added to, and a write() to it waits. */
function fullEventFd(): number {
  const fd = eventFd();
  const full = Buffer.alloc(8);
  full.writeBigUInt64LE(2n ** 64n - 2n);
  writeSync(fd, full);
  setBlocking(fd);
  return fd;
}

describe.each([
  ['by the kernel', signalPeerEventFd],
  ['after a look', signalWithRoom],
])('a signal %s', (_, signal) => {
  it('adds one to the counter', () => {
    const [one, other] = [eventFd(), eventFd()];
    for (let i = 0; i < 3; i++) signal(one);
    signal(other);
    expect([signals(one), signals(other)]).toEqual([3, 1]);
    signal(one);
    expect([signals(one), signals(other)]).toEqual([1, 0]);
  });

  it(`adds one ${MANY} times`, () => {
    const fd = eventFd();
    for (let i = 0; i < MANY; i++) signal(fd);
    expect(signals(fd)).toBe(MANY);
  });

  it('does not wait for room in a counter that is full', () => {
    const fd = fullEventFd();
    for (let i = 0; i < 3; i++) signal(fd);
    expect(counterOf(fd)).toBeGreaterThanOrEqual(2n ** 64n - 2n);
  });

  it('on what is closed does nothing', () => {
    const gone = createEventFd();
    closeFd(gone);
    signal(gone);
    const fd = eventFd();
    signal(fd);
    expect(signals(fd)).toBe(1);
  });
});

it('is made of one descriptor a thread', () => {
  preparePeerSignals();
  const before = openFds();
  preparePeerSignals();
  signalPeerEventFd(eventFd());
  expect(openFds()).toBe(before + 1);
});

describe('a thread that signals directly', () => {
  afterEach(() => signalDirectly(false));

  it('adds one to the counter, by a write: where that may not wait it is not heard when full', () => {
    signalDirectly();
    const fd = eventFd();
    for (let i = 0; i < 3; i++) signalPeerEventFd(fd);
    expect(signals(fd)).toBe(3);
    const full = Buffer.alloc(8);
    full.writeBigUInt64LE(2n ** 64n - 2n);
    writeSync(fd, full);
    signalPeerEventFd(fd);
    expect(counterOf(fd)).toBe(2n ** 64n - 2n);
  });
});
