/**
 * How a reactor takes connections: one front end after another, also when the first has just gone
 * and nobody has noticed, and when the kernel refuses to help for a while.
 */

import { openSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { AssertionError, assert } from '../../src/base/assert.ts';
import { BlockDevice } from '../../src/device/block-device.ts';
import { Reactor } from '../../src/device/reactor.ts';
import { createEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { connectUnix, listenUnix, sendWithFds } from '../../src/native/socket.ts';
import { makeFolder, socketPair } from '../driver/sockets.ts';

const RUN_MILLIS_MAX = 5000;
const cleanUps: (() => unknown)[] = [];

afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

/** A reactor with one device, in this thread: `step` is called every turn, until it says true. */
function setUp() {
  const wakeFd = createEventFd();
  const said: string[] = [];
  let step = () => true;
  const reactor = new Reactor(wakeFd, {
    takeOrders: () => {
      if (step()) reactor.stop();
      else signalEventFd(wakeFd);
    },
    report: (_, level, message) => {
      said.push(`${level}: ${message.replace(/process \d+/, 'process N')}`);
    },
    connection: (_, isConnected) => void said.push(`connected ${isConnected}`),
  });
  const device = new BlockDevice({ name: 'one', numQueues: 1 }, reactor, { report() {} });
  device.init({ name: 'one', diskBytes: 1 << 20, guestPageBytes: 4096 });
  reactor.add(device.queues);
  cleanUps.push(() => closeFd(wakeFd));
  cleanUps.push(() => reactor.close());
  const run = (each: () => boolean) => {
    const deadline = Date.now() + RUN_MILLIS_MAX;
    step = () => each() || Date.now() > deadline;
    signalEventFd(wakeFd);
    reactor.run();
  };
  return { reactor, device, said, run };
}

/** Opens files until one has this number. */
function takeNumber(fd: number): void {
  for (let last = -1; last !== fd; ) {
    last = openSync('/proc/self/exe', 'r');
    const opened = last;
    cleanUps.push(() => closeFd(opened));
    expect(opened).toBeLessThanOrEqual(fd);
  }
}

describe('a front end that has gone when the next one comes', () => {
  it.each([
    ['is told of before it, whichever the kernel tells first', 0],
    ['regression: does not keep the next one out by what it sent last', 20],
  ])('%s', (_, bytes) => {
    const { reactor, device, said, run } = setUp();
    const folder = makeFolder();
    const path = join(folder.path, 's');
    const listenFd = listenUnix(path);
    cleanUps.push(() => closeFd(listenFd), folder.remove);
    reactor.listen(device, listenFd);
    const first = connectUnix(path);
    let second: number | undefined;
    run(() => {
      if (second !== undefined || !said.includes('connected true')) return said.length >= 6;
      // The listening socket becomes readable before the session ends.
      second = connectUnix(path);
      if (bytes > 0) sendWithFds(first, new Uint8Array(new ArrayBuffer(bytes)));
      closeFd(first);
      return false;
    });
    closeFd(second!);
    expect(said).toEqual([
      'connected true',
      'info: front end connected: process N',
      'info: front end disconnected',
      'connected false',
      'connected true',
      'info: front end connected: process N',
    ]);
  });
});

describe('a socket that cannot be watched again', () => {
  it('costs nobody else anything, where it cannot even be watched', () => {
    const { reactor, device, said, run } = setUp();
    // A file has no events: what epoll says of it stands for a system that has no watches left.
    const listenFd = openSync('/proc/self/exe', 'r');
    cleanUps.push(() => closeFd(listenFd));
    reactor.listen(device, listenFd);
    run(() => true);
    expect(said).toEqual([expect.stringMatching(/^error: connections put off: /)]);
    reactor.remove(device);
  });

  it('regression: is tried again later, and said once', () => {
    const { reactor, device, said, run } = setUp();
    // Readable and not listening: accept fails for good, and the socket is left alone for a while.
    const [client, server] = socketPair();
    reactor.listen(device, server);
    closeFd(client);
    let replacedAt: number | undefined;
    run(() => {
      if (said.length === 0) return false;
      if (replacedAt === undefined) {
        // Meanwhile its number is a file's, which epoll refuses.
        closeFd(server);
        takeNumber(server);
        replacedAt = Date.now();
      }
      // Two more times half a second.
      return Date.now() - replacedAt > 1300;
    });
    expect(said).toEqual([
      'error: connections put off: EINVAL (invalid argument)',
      'error: connections put off: EPERM (operation not permitted)',
    ]);
  });
});

describe('what a message has led to', () => {
  function connected() {
    const made = setUp();
    const [client, server] = socketPair();
    cleanUps.push(() => closeFd(client));
    made.reactor.adopt(made.device, server);
    sendWithFds(client, new Uint8Array(new ArrayBuffer(1)));
    return made;
  }

  it('ends the session alone, with the reason, if nobody has thought of it', () => {
    const { device, said, run } = connected();
    device.pollSession = () => {
      throw new TypeError('ENOENT, fstat');
    };
    run(() => said.length >= 4);
    expect(said.slice(2)).toEqual([
      'error: connection dropped: unexpected TypeError: ENOENT, fstat',
      'connected false',
    ]);
    expect(device.isAttached).toBe(false);
  });

  it('ends the process if it is our bug', () => {
    const { device, run } = connected();
    device.pollSession = () => {
      assert(false, 'a bug');
    };
    expect(() => run(() => false)).toThrow(AssertionError);
  });
});
