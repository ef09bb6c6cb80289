/**
 * What io_uring has for itself; what it shares with Linux AIO is in async-io.test.ts. Its rings stay
 * mapped when it is closed: views over them must never lead nowhere.
 */

import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SystemError } from '../../src/base/errors.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import type { IoPages } from '../../src/native/async-io.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { IoUring } from '../../src/native/io-uring.ts';
import { countOpenFds, isCloseOnExec } from '../models/descriptors.ts';

const view = new Uint8Array(new WebAssembly.Memory({ initial: 4, maximum: 4 }).buffer);
const pages: IoPages = { view, offset: 0, count: 64 };

/** The next that ends, soon. */
function nextOf(ring: IoUring): number {
  for (const end = performance.now() + 5000; performance.now() < end; ) {
    const io = ring.next();
    if (io !== -1) return io;
  }
  return expect.fail('nothing ends');
}

function isAllowed(): boolean {
  try {
    new IoUring(0, pages, 1).close();
    return true;
  } catch (error) {
    console.warn(`skipped: io_uring: ${(error as Error).message}`);
    return false;
  }
}

function mappings(): number {
  return readFileSync('/proc/self/maps', 'utf8').split('[io_uring]').length - 1;
}

describe.skipIf(!isAllowed())('io_uring', () => {
  let fd: number;

  beforeEach(() => {
    fd = createMemfd('test', 64 * PAGE_BYTES);
  });

  afterEach(() => closeFd(fd));

  function transfer(ring: IoUring, isWrite: boolean, page: number): number {
    ring.setPage(0, 0, page);
    ring.start(0, isWrite, page * PAGE_BYTES, 0, 1);
    expect(ring.submit()).toBe(true);
    nextOf(ring);
    return ring.result;
  }

  it('has one descriptor, the ring, which no program that we start inherits', () => {
    const before = countOpenFds();
    const ring = new IoUring(fd, pages, 8);
    expect(countOpenFds()).toBe(before + 1);
    expect(isCloseOnExec(ring.wakeFd)).toBe(true);
    expect(readFileSync('/proc/self/maps', 'utf8')).toContain('[io_uring]');
    ring.close();
    expect(countOpenFds()).toBe(before);
  });

  it('unmaps its rings when it is closed, and looking at where they were is no crash', () => {
    const ring = new IoUring(fd, pages, 8);
    expect(transfer(ring, true, 0)).toBe(PAGE_BYTES);
    const before = mappings();
    ring.close();
    expect(mappings()).toBe(before - 2);
    expect(() => ring.hasEnded()).not.toThrow();
  });

  it('maps two ranges a ring, whatever its depth', () => {
    for (const depth of [1, 5, 4096]) {
      const before = mappings();
      const ring = new IoUring(fd, pages, depth);
      expect(mappings()).toBe(before + 2);
      ring.close();
    }
  });

  it.each([0, 32769])('of a depth of %i is refused with the call, and leaves nothing', (depth) => {
    const before = countOpenFds();
    expect(() => new IoUring(fd, pages, depth)).toThrow(SystemError);
    expect(() => new IoUring(fd, pages, depth)).toThrow('io_uring_setup: EINVAL');
    expect(countOpenFds()).toBe(before);
  });

  it('goes round its rings thousands of times, one I/O at a time and in bursts', () => {
    const ring = new IoUring(fd, pages, 4);
    for (let i = 0; i < 10_000; i++) {
      view.fill(i, 0, 8);
      expect(transfer(ring, true, i % 4)).toBe(PAGE_BYTES);
    }
    for (let i = 0; i < 2500; i++) {
      for (let io = 0; io < 4; io++) {
        ring.setPage(io, 0, 60 - io);
        ring.start(io, false, io * PAGE_BYTES, 0, 1);
      }
      expect(ring.submit()).toBe(true);
      let ended = 0;
      for (let left = 4; left > 0; left--) ended |= 1 << nextOf(ring);
      expect(ended).toBe(15);
    }
    ring.close();
  });

  it('works for several files at once, each with a ring of its own', () => {
    const other = createMemfd('other', 0);
    const rings = [new IoUring(fd, pages, 2), new IoUring(other, pages, 2)];
    view.fill(1, 0, PAGE_BYTES);
    expect(transfer(rings[0]!, true, 0)).toBe(PAGE_BYTES);
    expect(transfer(rings[1]!, false, 0)).toBe(0);
    view.fill(2, 0, PAGE_BYTES);
    expect(transfer(rings[1]!, true, 0)).toBe(PAGE_BYTES);
    expect(transfer(rings[0]!, false, 0)).toBe(PAGE_BYTES);
    expect(view[PAGE_BYTES - 1]).toBe(1);
    for (const ring of rings) ring.close();
    closeFd(other);
  });
});
