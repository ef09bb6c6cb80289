/** Epoll: tokens come back, readiness is level triggered, waits end in time. */

import { openSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SystemError } from '../../src/base/errors.ts';
import { EPOLLET, EPOLLHUP, EPOLLIN, EPOLLRDHUP, Epoll } from '../../src/native/epoll.ts';
import { createEventFd, drainEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { countOpenFds, withFolder } from '../models/descriptors.ts';
import { socketPair } from './socket-pair.ts';

let epoll: Epoll;
let fds: number[] = [];

function eventFd(): number {
  const fd = createEventFd();
  fds.push(fd);
  return fd;
}

function readyTokens(timeoutMillis = 0): number[] {
  const count = epoll.wait(timeoutMillis);
  return Array.from({ length: count }, (_, i) => epoll.token(i)).sort((a, b) => a - b);
}

beforeEach(() => {
  epoll = new Epoll();
});

afterEach(() => {
  epoll.close();
  fds.forEach(closeFd);
  fds = [];
});

describe('wait', () => {
  it('reports nothing at once when nothing is ready and it may not wait', () => {
    epoll.add(eventFd(), EPOLLIN, 7);
    expect(readyTokens()).toEqual([]);
  });

  it('waits as long as it is told, no less', () => {
    const before = process.hrtime.bigint();
    expect(readyTokens(30)).toEqual([]);
    expect(process.hrtime.bigint() - before).toBeGreaterThanOrEqual(29_000_000n);
  });

  it('gives back the token of each descriptor that is ready, and of no other', () => {
    const [a, b, c] = [eventFd(), eventFd(), eventFd()];
    epoll.add(a, EPOLLIN, 0);
    epoll.add(b, EPOLLIN, 123456);
    epoll.add(c, EPOLLIN, 2 ** 31 - 1);
    signalEventFd(c);
    signalEventFd(a);
    expect(readyTokens(-1)).toEqual([0, 2 ** 31 - 1]);
  });

  it('reports again until the descriptor is drained', () => {
    const fd = eventFd();
    epoll.add(fd, EPOLLIN, 5);
    signalEventFd(fd);
    expect(readyTokens()).toEqual([5]);
    expect(readyTokens()).toEqual([5]);
    drainEventFd(fd);
    expect(readyTokens()).toEqual([]);
  });

  it('reports each signal once with EPOLLET, also of a counter that nobody reads', () => {
    const fd = eventFd();
    signalEventFd(fd);
    epoll.add(fd, EPOLLIN | EPOLLET, 5);
    expect(readyTokens(), 'signalled before it was watched').toEqual([5]);
    for (let i = 0; i < 3; i++) {
      expect(readyTokens()).toEqual([]);
      signalEventFd(fd);
      expect(readyTokens()).toEqual([5]);
    }
  });

  it('reports at most 64 at a time, and the others in turn', () => {
    const all = Array.from({ length: 100 }, eventFd);
    all.forEach((fd, token) => {
      epoll.add(fd, EPOLLIN, token);
      signalEventFd(fd);
    });
    const first = readyTokens();
    expect(first).toHaveLength(64);
    for (const token of first) drainEventFd(all[token]!);
    expect(new Set([...first, ...readyTokens()]).size).toBe(100);
  });

  it('reports a peer that hung up, also when only that was asked for', () => {
    const [here, there] = socketPair();
    epoll.add(here, EPOLLRDHUP | EPOLLHUP, 9);
    expect(readyTokens()).toEqual([]);
    closeFd(there);
    expect(readyTokens()).toEqual([9]);
    closeFd(here);
  });
});

describe('watching', () => {
  it('says nothing any more of a descriptor that was removed', () => {
    const fd = eventFd();
    epoll.add(fd, EPOLLIN, 1);
    signalEventFd(fd);
    epoll.remove(fd);
    expect(readyTokens()).toEqual([]);
    epoll.add(fd, EPOLLIN, 2);
    expect(readyTokens()).toEqual([2]);
  });

  it('refuses plain files, descriptors watched already and ones it does not watch', () => {
    withFolder((folder) => {
      const file = openSync(join(folder, 'plain'), 'w');
      expect(() => epoll.add(file, EPOLLIN, 1)).toThrow('epoll_ctl: EPERM');
      closeFd(file);
    });
    const fd = eventFd();
    expect(() => epoll.remove(fd)).toThrow('epoll_ctl: ENOENT');
    epoll.add(fd, EPOLLIN, 1);
    expect(() => epoll.add(fd, EPOLLIN, 1)).toThrow(SystemError);
  });

  it('leaves no descriptor behind when closed', () => {
    const before = countOpenFds();
    const other = new Epoll();
    expect(countOpenFds()).toBe(before + 1);
    other.close();
    expect(countOpenFds()).toBe(before);
  });
});
