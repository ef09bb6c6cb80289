/** eventfd: signals add up, draining empties, nothing ever waits. */

import { openSync, readSync, writeSync } from 'node:fs';
import { expect, it } from 'vitest';
import {
  createEventFd,
  drainEventFd,
  notAnEventFd,
  signalEventFd,
} from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { socketPair } from '../../src/native/socket.ts';
import { isCloseOnExec, isNonBlocking } from '../models/descriptors.ts';

/** Reads and so resets the counter; 0 when there is nothing to read. */
function counterOf(fd: number): bigint {
  const value = Buffer.alloc(8);
  try {
    readSync(fd, value);
  } catch (error) {
    expect((error as NodeJS.ErrnoException).code).toBe('EAGAIN');
    return 0n;
  }
  return value.readBigUInt64LE();
}

function withEventFd(use: (fd: number) => void): void {
  const fd = createEventFd();
  try {
    use(fd);
  } finally {
    closeFd(fd);
  }
}

it('starts empty, non-blocking and close-on-exec', () => {
  withEventFd((fd) => {
    expect(isNonBlocking(fd)).toBe(true);
    expect(isCloseOnExec(fd)).toBe(true);
    expect(counterOf(fd)).toBe(0n);
  });
});

it('adds one with every signal', () => {
  withEventFd((fd) => {
    for (let i = 0; i < 3; i++) signalEventFd(fd);
    expect(counterOf(fd)).toBe(3n);
  });
});

it('is empty after a drain, however often it was signalled, and an empty one may be drained', () => {
  withEventFd((fd) => {
    signalEventFd(fd);
    signalEventFd(fd);
    drainEventFd(fd);
    expect(counterOf(fd)).toBe(0n);
    drainEventFd(fd);
    signalEventFd(fd);
    expect(counterOf(fd)).toBe(1n);
  });
});

it('does not wait when the counter is full', () => {
  withEventFd((fd) => {
    const full = Buffer.alloc(8);
    full.writeBigUInt64LE(2n ** 64n - 2n);
    writeSync(fd, full);
    signalEventFd(fd);
    expect(counterOf(fd)).toBe(2n ** 64n - 2n);
  });
});

it('is told from everything else', () => {
  withEventFd((fd) => expect(notAnEventFd(fd)).toBeUndefined());
  const [ours, theirs] = socketPair();
  expect(notAnEventFd(ours)).toMatch(/^socket:\[\d+\]$/);
  const device = openSync('/dev/null', 'r');
  const memory = createMemfd('anon_inode:[eventfd]', 4096);
  expect(notAnEventFd(device)).toBe('/dev/null');
  expect(notAnEventFd(memory)).toMatch(/^\/memfd:/);
  for (const fd of [ours, theirs, device, memory]) closeFd(fd);
  expect(notAnEventFd(device), 'closed').toBe('what /proc does not name');
});
