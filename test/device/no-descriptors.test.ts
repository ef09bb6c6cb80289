/**
 * A daemon that has a descriptor for what a message brings, and none beside it: the request is refused,
 * and nothing of it is mapped.
 */

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { AttachedDriver, Daemon, isBuilt } from '../driver/daemon.ts';
import { RequestRefused } from '../driver/front-end.ts';

const BYTES = 1 << 20;
const NAME = 'one-too-many';
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function limitFds(pid: number, count: number): void {
  execFileSync('prlimit', ['--pid', `${pid}`, `--nofile=${count}:`]);
}

/** The number below which one is free. */
function limitForOne(pid: number): number {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let [next, free] = [0, 0];
  for (; free < 2; next++) if (!open.has(next)) free++;
  return next - 1;
}

function isMapped(pid: number): boolean {
  return readFileSync(`/proc/${pid}/maps`, 'utf8').includes(NAME);
}

if (!isBuilt) console.warn('no-descriptors.test.ts: SKIPPED, dist/ is missing');

describe.skipIf(!isBuilt).each([1, 2])('with %i queue threads', (threads) => {
  it.each([
    [
      'ADD_MEM_REG',
      ({ frontEnd }: AttachedDriver, fd: number) =>
        frontEnd.addRegion(
          { guestAddress: 2 ** 40, userAddress: 2 ** 41, bytes: BYTES, mmapOffset: 0 },
          fd,
        ),
    ],
    [
      'SET_LOG_BASE',
      ({ frontEnd }: AttachedDriver, fd: number) =>
        frontEnd.setLogBase({ mmapSize: BYTES, mmapOffset: 0 }, fd),
    ],
    [
      'SET_INFLIGHT_FD',
      ({ frontEnd }: AttachedDriver, fd: number) =>
        frontEnd.setInflight(
          { mmapBytes: BYTES, mmapOffset: 0, queues: threads, queueSize: 128 },
          fd,
        ),
    ],
  ])('%s is refused whole, and taken when there are descriptors', async (_, ask) => {
    const daemon = await Daemon.start(['--queue-threads', `${threads}`]);
    cleanUps.push(() => daemon.stop());
    const attached = AttachedDriver.connect(daemon);
    cleanUps.push(() => attached.close());
    const fd = createMemfd(NAME, BYTES);
    cleanUps.push(() => closeFd(fd));
    limitFds(daemon.pid, limitForOne(daemon.pid));
    expect(() => ask(attached, fd)).toThrow(RequestRefused);
    expect(daemon.stderr).not.toContain('fatal');
    expect(isMapped(daemon.pid)).toBe(false);
    limitFds(daemon.pid, 1024);
    ask(attached, fd);
    expect(isMapped(daemon.pid)).toBe(true);
  });
});
