/** Unix sockets: listening places, connections, bytes and the descriptors that travel with them. */

import { once } from 'node:events';
import {
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { RefusedError, SystemError } from '../../src/base/errors.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import {
  acceptConnection,
  connectUnix,
  FDS_PER_MESSAGE_MAX,
  isListening,
  isPeerGone,
  isPeerProcess,
  listenUnix,
  peerProcessId,
  receiveWithFds,
  sendWithFds,
  streamFault,
  socketPair as unnamedPair,
  waitReadable,
} from '../../src/native/socket.ts';
import {
  countOpenFds,
  identityOf,
  isCloseOnExec,
  isNonBlocking,
  isRoot,
  withFolder,
} from '../models/descriptors.ts';
import { bareSocket } from './bare-socket.ts';
import { sendManyFds } from './send-many-fds.ts';
import { socketPair } from './socket-pair.ts';

const EAGAIN = 11;
const EMSGSIZE = 90;
const EPIPE = 32;

/** Runs `use` with a pair, then expects that it left no other descriptor open. */
function withPair(use: (connected: number, accepted: number) => void): void {
  const before = countOpenFds();
  const [connected, accepted] = socketPair();
  try {
    use(connected, accepted);
  } finally {
    closeFd(connected);
    closeFd(accepted);
  }
  expect(countOpenFds()).toBe(before);
}

/** One receive of at most `length` bytes. */
function receive(socket: number, length: number): { result: number; text: string; fds: number[] } {
  const buffer = Buffer.alloc(length + 8, 0x2e);
  const fds: number[] = [];
  const result = receiveWithFds(socket, buffer, 4, length, fds);
  expect(buffer.subarray(0, 4).toString()).toBe('....');
  expect(buffer.subarray(4 + length).toString()).toBe('....');
  return { result, text: buffer.toString('latin1', 4, 4 + Math.max(0, result)), fds };
}

describe('a listening place', () => {
  it('accepts connections from the moment its file is there', () => {
    withFolder((folder) => {
      const path = join(folder, 'a.sock');
      const listener = listenUnix(path);
      expect(readdirSync(folder)).toEqual(['a.sock']);
      expect(isListening(listener)).toBe(true);
      expect(acceptConnection(listener)).toBe(-EAGAIN);
      const connected = connectUnix(path);
      const accepted = acceptConnection(listener);
      expect(accepted).toBeGreaterThan(2);
      expect(acceptConnection(listener)).toBe(-EAGAIN);
      for (const fd of [listener, connected, accepted]) {
        expect([isNonBlocking(fd), isCloseOnExec(fd)]).toEqual([true, true]);
      }
      expect([isListening(connected), isListening(accepted)]).toEqual([false, false]);
      expect(peerProcessId(accepted)).toBe(process.pid);
      expect(isPeerProcess(connected, process.pid)).toBe(true);
      expect(isPeerProcess(connected, process.ppid)).toBe(false);
      [listener, connected, accepted].forEach(closeFd);
    });
  });

  it('refuses a place where a live process listens, and leaves that one working', () => {
    withFolder((folder) => {
      const path = join(folder, 'live.sock');
      const listener = listenUnix(path);
      const before = countOpenFds();
      expect(() => listenUnix(path)).toThrow(RefusedError);
      expect(() => listenUnix(path)).toThrow('in use by a live process');
      expect(countOpenFds()).toBe(before);
      expect(readdirSync(folder)).toEqual(['live.sock']);
      closeFd(connectUnix(path));
      closeFd(listener);
    });
  });

  it('replaces a stale socket that nobody listens on', () => {
    withFolder((folder) => {
      const path = join(folder, 'stale.sock');
      closeFd(listenUnix(path));
      expect(existsSync(path)).toBe(true);
      expect(() => connectUnix(path)).toThrow('ECONNREFUSED');
      const listener = listenUnix(path);
      closeFd(connectUnix(path));
      closeFd(listener);
    });
  });

  it('refuses to replace what is not a socket', () => {
    withFolder((folder) => {
      const path = join(folder, 'precious');
      writeFileSync(path, 'data');
      symlinkSync('nowhere', join(folder, 'link'));
      expect(() => listenUnix(path)).toThrow('exists and is not a socket');
      expect(() => listenUnix(join(folder, 'link'))).toThrow(RefusedError);
      expect(() => listenUnix(folder)).toThrow(RefusedError);
      expect(readFileSync(path, 'utf8')).toBe('data');
    });
  });

  it('takes a path as long as an address holds, and refuses one byte more', () => {
    withFolder((folder) => {
      const longest = `${folder}/${'x'.repeat(107 - folder.length - 1)}`;
      const listener = listenUnix(longest);
      closeFd(connectUnix(longest));
      closeFd(listener);
      const before = countOpenFds();
      expect(() => listenUnix(`${longest}y`)).toThrow('expected 1 to 107 bytes, got 108');
      expect(() => connectUnix(`${longest}y`)).toThrow(RefusedError);
      expect(() => listenUnix('')).toThrow(RefusedError);
      expect(() => listenUnix(`${folder}/a\0b`)).toThrow(RefusedError);
      expect(countOpenFds()).toBe(before);
    });
  });

  it('says which folder is missing, and leaks nothing', () => {
    withFolder((folder) => {
      const before = countOpenFds();
      expect(() => listenUnix(join(folder, 'missing', 'a.sock'))).toThrow(SystemError);
      expect(() => listenUnix(join(folder, 'missing', 'a.sock'))).toThrow(
        'missing/a.sock: mkdtemp',
      );
      expect(() => connectUnix(join(folder, 'none'))).toThrow(/none: connect: ENOENT/);
      expect(countOpenFds()).toBe(before);
    });
  });
});

/** Looks at `path` as fast as it can until told to stop; then posts the permissions it has seen. */
const SPY = `
  const { parentPort, workerData: { path, stop } } = require('node:worker_threads');
  const { lstatSync } = require('node:fs');
  const seen = new Set();
  parentPort.postMessage('looking');
  while (Atomics.load(stop, 0) === 0) {
    const found = lstatSync(path, { throwIfNoEntry: false });
    if (found !== undefined) seen.add(found.mode & 0o7777);
  }
  parentPort.postMessage([...seen]);
`;

describe('permissions of a listening place', () => {
  it.each([0o000, 0o022, 0o777])('are what was asked for with umask %o', (umask) => {
    withFolder((folder) => {
      const before = process.umask(umask);
      try {
        for (const mode of [0o600, 0o660]) {
          const path = join(folder, `${mode}.sock`);
          closeFd(listenUnix(path, { mode }));
          expect(lstatSync(path).mode & 0o7777).toBe(mode);
        }
        closeFd(listenUnix(join(folder, 'default.sock')));
        expect(lstatSync(join(folder, 'default.sock')).mode & 0o7777).toBe(0o600);
      } finally {
        process.umask(before);
      }
    });
  });

  it('are never others, not even for the moment in which it is made', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'rz-test-'));
    const path = join(folder, 'spied.sock');
    const stop = new Int32Array(new SharedArrayBuffer(4));
    const spy = new Worker(SPY, { eval: true, workerData: { path, stop } });
    const before = process.umask(0);
    try {
      await once(spy, 'message');
      for (let i = 0; i < 500; i++) {
        closeFd(listenUnix(path, { mode: 0o660 }));
        unlinkSync(path);
      }
      Atomics.store(stop, 0, 1);
      expect(await once(spy, 'message')).toEqual([[0o660]]);
    } finally {
      process.umask(before);
      await spy.terminate();
      rmSync(folder, { recursive: true });
    }
  });

  it.skipIf(!isRoot)('let in the group that was asked for (needs root)', () => {
    withFolder((folder) => {
      const path = join(folder, 'group.sock');
      closeFd(listenUnix(path, { mode: 0o660, groupId: 54321 }));
      expect(lstatSync(path)).toMatchObject({ gid: 54321, uid: 0 });
      expect(lstatSync(path).mode & 0o7777).toBe(0o660);
    });
  });
});

describe('descriptors', () => {
  it.each([0, 1])('pass with their bytes, from end %i of a pair', (from) => {
    withPair((...ends) => {
      const sent = [createMemfd('one', 4096), createEventFd()];
      expect(sendWithFds(ends[from]!, Buffer.from('hello'), sent)).toBe(0);
      const got = receive(ends[1 - from]!, 64);
      expect(got).toMatchObject({ result: 5, text: 'hello' });
      expect(got.fds).toHaveLength(2);
      expect(identityOf(got.fds[0]!)).toBe(identityOf(sent[0]!));
      expect(got.fds.every(isCloseOnExec)).toBe(true);
      expect(got.fds).not.toContain(sent[0]);
      [...sent, ...got.fds].forEach(closeFd);
    });
  });

  it('keep their order, up to the most that one message carries', () => {
    withPair((connected, accepted) => {
      const sent = Array.from({ length: FDS_PER_MESSAGE_MAX }, () => createMemfd('x', 4096));
      expect(sendWithFds(connected, Buffer.from('all'), sent)).toBe(0);
      const got = receive(accepted, 3);
      expect(got.result).toBe(3);
      expect(got.fds.map(identityOf)).toEqual(sent.map(identityOf));
      [...sent, ...got.fds].forEach(closeFd);
    });
  });

  it('stay with their own message when header and body are received one after the other', () => {
    withPair((connected, accepted) => {
      const [first, second] = [createMemfd('first', 4096), createMemfd('second', 4096)];
      sendWithFds(connected, Buffer.from('HEAD1.body1'), [first]);
      sendWithFds(connected, Buffer.from('HEAD2.body2'), [second]);
      const header = receive(accepted, 6);
      const body = receive(accepted, 5);
      const nextHeader = receive(accepted, 6);
      const nextBody = receive(accepted, 5);
      expect([header, body, nextHeader, nextBody].map((part) => part.text)).toEqual([
        'HEAD1.',
        'body1',
        'HEAD2.',
        'body2',
      ]);
      expect([body.fds, nextBody.fds]).toEqual([[], []]);
      expect(header.fds.map(identityOf)).toEqual([identityOf(first)]);
      expect(nextHeader.fds.map(identityOf)).toEqual([identityOf(second)]);
      [first, second, ...header.fds, ...nextHeader.fds].forEach(closeFd);
    });
  });

  it('are appended to those the caller holds already', () => {
    withPair((connected, accepted) => {
      const fd = createEventFd();
      sendWithFds(connected, Buffer.from('x'), [fd]);
      const fds = [99999];
      expect(receiveWithFds(accepted, Buffer.alloc(1), 0, 1, fds)).toBe(1);
      expect(fds).toHaveLength(2);
      expect(fds[0]).toBe(99999);
      [fd, fds[1]!].forEach(closeFd);
    });
  });

  it('beyond the most of a message are reported, and those that came are handed over', () => {
    withPair((connected, accepted) => {
      const fd = createMemfd('many', 4096);
      const before = countOpenFds();
      const many = Array.from({ length: FDS_PER_MESSAGE_MAX + 8 }, () => fd);
      expect(sendManyFds(connected, Buffer.from('flood'), many)).toBe(5);
      const got = receive(accepted, 5);
      expect(got.result).toBe(-EMSGSIZE);
      expect(got.fds).toHaveLength(FDS_PER_MESSAGE_MAX);
      expect(countOpenFds()).toBe(before + FDS_PER_MESSAGE_MAX);
      got.fds.forEach(closeFd);
      expect(countOpenFds()).toBe(before);
      sendWithFds(connected, Buffer.from('ok'), []);
      expect(receive(accepted, 2)).toEqual({ result: 2, text: 'ok', fds: [] });
      closeFd(fd);
    });
  });

  it('are refused by the sender when there are too many', () => {
    withPair((connected) => {
      const many = Array.from({ length: FDS_PER_MESSAGE_MAX + 1 }, () => connected);
      expect(() => sendWithFds(connected, Buffer.from('x'), many)).toThrow(AssertionError);
    });
  });

  it('do not come a second time with the next message', () => {
    withPair((connected, accepted) => {
      sendWithFds(connected, Buffer.from('a'), [accepted]);
      sendWithFds(connected, Buffer.from('b'));
      const first = receive(accepted, 1);
      const second = receive(accepted, 1);
      expect([first.fds.length, second.fds.length]).toEqual([1, 0]);
      first.fds.forEach(closeFd);
    });
  });
});

describe('a connection', () => {
  it('says EAGAIN with nothing there, and 0 at the end of the stream', () => {
    withPair((_, accepted) => expect(receive(accepted, 8).result).toBe(-EAGAIN));
    const [connected, accepted] = socketPair();
    sendWithFds(connected, Buffer.from('bye'));
    closeFd(connected);
    expect(receive(accepted, 8)).toMatchObject({ result: 3, text: 'bye' });
    expect(receive(accepted, 8).result).toBe(0);
    closeFd(accepted);
  });

  it('knows that its peer is gone without consuming what it sent', () => {
    const [connected, accepted] = socketPair();
    expect(isPeerGone(accepted)).toBe(false);
    sendWithFds(connected, Buffer.from('last'));
    expect(isPeerGone(accepted)).toBe(false);
    closeFd(connected);
    expect(isPeerGone(accepted)).toBe(true);
    expect(receive(accepted, 4).text).toBe('last');
    expect(isPeerGone(accepted)).toBe(true);
    closeFd(accepted);
  });

  it('says EPIPE, without a signal, to who sends when the peer is gone', () => {
    const [connected, accepted] = socketPair();
    closeFd(accepted);
    expect(sendWithFds(connected, Buffer.from('x'))).toBe(-EPIPE);
    closeFd(connected);
  });

  it('gives up on a peer that does not read, instead of waiting for it', () => {
    withPair((connected) => {
      expect(sendWithFds(connected, Buffer.alloc(16 * 2 ** 20))).toBe(-EAGAIN);
    });
  });

  it('receives only into its buffer', () => {
    withPair((_, accepted) => {
      const buffer = Buffer.alloc(8);
      for (const [offset, length] of [
        [0, 9],
        [-1, 4],
        [8, 1],
        [0, 0],
      ]) {
        expect(() => receiveWithFds(accepted, buffer, offset!, length!, [])).toThrow(
          AssertionError,
        );
      }
    });
  });
});

describe('a pair without a name', () => {
  it('is two connected sockets, non-blocking and close-on-exec', () => {
    const [a, b] = unnamedPair();
    for (const fd of [a, b]) expect([isNonBlocking(fd), isCloseOnExec(fd)]).toEqual([true, true]);
    sendWithFds(a, Buffer.from('there'));
    sendWithFds(b, Buffer.from('back'));
    expect([receive(b, 8).text, receive(a, 8).text]).toEqual(['there', 'back']);
    [a, b].forEach(closeFd);
  });
});

describe('waiting until there is something to read', () => {
  it('ends at once when there is, or when the peer is gone', () => {
    const [a, b] = unnamedPair();
    const before = process.hrtime.bigint();
    sendWithFds(a, Buffer.from('x'));
    waitReadable(b, 10_000);
    expect(receive(b, 8).result).toBe(1);
    closeFd(a);
    waitReadable(b, 10_000);
    expect(receive(b, 8).result).toBe(0);
    expect(process.hrtime.bigint() - before).toBeLessThan(5_000_000_000n);
    closeFd(b);
  });

  it('ends after the time it was given', () => {
    withPair((_, accepted) => {
      const before = process.hrtime.bigint();
      waitReadable(accepted, 30);
      expect(process.hrtime.bigint() - before).toBeGreaterThanOrEqual(29_000_000n);
    });
  });
});

it('does not take a file for a socket', () => {
  const fd = createMemfd('file', 4096);
  expect(() => isListening(fd)).toThrow('getsockopt: ENOTSOCK');
  expect(receiveWithFds(fd, Buffer.alloc(1), 0, 1, [])).toBe(-88);
  closeFd(fd);
});

describe('a place for front ends', () => {
  it('listens, or is connected, whatever has become of the peer', () => {
    withPair((connected, accepted) => {
      expect([streamFault(connected), streamFault(accepted)]).toEqual([undefined, undefined]);
    });
    const [own, other] = unnamedPair();
    closeFd(other);
    expect(streamFault(own)).toBeUndefined();
    closeFd(own);
    withFolder((folder) => {
      const listener = listenUnix(join(folder, 's'));
      expect(streamFault(listener)).toBeUndefined();
      closeFd(listener);
    });
  });

  it.each([
    ['a file', () => createMemfd('file', 0), 'no socket'],
    ['TCP', () => bareSocket('internet', 'stream'), 'a socket of address family 2'],
    ['for datagrams', () => bareSocket('unix', 'datagram'), 'a socket of type 2'],
    ['bound to nothing', () => bareSocket('unix', 'stream'), 'one that does neither'],
  ])('is not %s', (_, open, fault) => {
    const fd = open();
    expect(streamFault(fd)).toBe(fault);
    closeFd(fd);
  });
});
