/**
 * What Linux AIO has for itself; what it shares with io_uring is in async-io.test.ts. Its memory goes
 * away with it, and the kernel counts contexts: both must be given back.
 */

import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SystemError } from '../../src/base/errors.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import type { IoPages } from '../../src/native/async-io.ts';
import { drainEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { LinuxAio } from '../../src/native/linux-aio.ts';
import { countOpenFds, isCloseOnExec, withFolder } from '../models/descriptors.ts';

const view = new Uint8Array(new WebAssembly.Memory({ initial: 4, maximum: 4 }).buffer);
const pages: IoPages = { view, offset: 0, count: 64 };

/** The next that ends, soon. */
function nextOf(aio: LinuxAio): number {
  for (const end = performance.now() + 5000; performance.now() < end; ) {
    const io = aio.next();
    if (io !== -1) return io;
  }
  return expect.fail('nothing ends');
}

function isAllowed(): boolean {
  try {
    new LinuxAio(0, pages, 1).close();
    return true;
  } catch (error) {
    console.warn(`skipped: Linux AIO: ${(error as Error).message}`);
    return false;
  }
}

const AIO_MAX_NR = Number(readFileSync('/proc/sys/fs/aio-max-nr', 'utf8'));

/** Contexts of this process, by their memory. */
function contexts(): number {
  return readFileSync('/proc/self/maps', 'utf8').split('/[aio]').length - 1;
}

describe.skipIf(!isAllowed())('Linux AIO', () => {
  let fd: number;

  beforeEach(() => {
    fd = createMemfd('test', 64 * PAGE_BYTES);
  });

  afterEach(() => closeFd(fd));

  it('has one descriptor, which no program that we start inherits, and one context', () => {
    const [fds, before] = [countOpenFds(), contexts()];
    const aio = new LinuxAio(fd, pages, 8);
    expect([countOpenFds(), contexts()]).toEqual([fds + 1, before + 1]);
    expect(isCloseOnExec(aio.wakeFd)).toBe(true);
    aio.close();
    expect([countOpenFds(), contexts()]).toEqual([fds, before]);
  });

  it('sees an end without taking it, and takes it once', () => {
    const aio = new LinuxAio(fd, pages, 8);
    aio.setPage(5, 0, 1);
    aio.start(5, false, 0, 0, 1);
    expect(aio.hasEnded()).toBe(false);
    expect(aio.submit()).toBe(true);
    const end = performance.now() + 5000;
    while (!aio.hasEnded()) expect(performance.now()).toBeLessThan(end);
    expect([aio.next(), aio.result]).toEqual([5, PAGE_BYTES]);
    expect([aio.hasEnded(), aio.next()]).toEqual([false, -1]);
    aio.close();
  });

  it('has ended as long as something is left to take', () => {
    const aio = new LinuxAio(fd, pages, 8);
    for (let io = 0; io < 4; io++) {
      aio.setPage(io, 0, io);
      aio.start(io, false, 0, 0, 1);
    }
    // In memory, all four end here; the first next() has the kernel hand all of them over.
    expect(aio.submit()).toBe(true);
    for (let left = 4; left > 0; left--) {
      expect(aio.hasEnded()).toBe(true);
      nextOf(aio);
    }
    expect(aio.hasEnded()).toBe(false);
    aio.close();
  });

  it('goes round its ring of ends many times', () => {
    const aio = new LinuxAio(fd, pages, 4);
    for (let i = 0; i < 5000; i++) {
      for (let io = 0; io < 4; io++) {
        aio.setPage(io, 0, io);
        aio.start(io, i % 2 === 0, io * PAGE_BYTES, 0, 1);
      }
      expect(aio.submit()).toBe(true);
      let ended = 0;
      for (let left = 4; left > 0; left--) {
        const io = nextOf(aio);
        if (aio.result === PAGE_BYTES) ended |= 1 << io;
      }
      expect(ended).toBe(15);
      if (i % 100 === 0) aio.woken();
    }
    aio.close();
  });

  it('signals each end: its counter is theirs', () => {
    const aio = new LinuxAio(fd, pages, 4);
    for (let io = 0; io < 4; io++) {
      aio.setPage(io, 0, io);
      aio.start(io, false, 0, 0, 1);
    }
    expect(aio.submit()).toBe(true);
    for (let left = 4; left > 0; left--) nextOf(aio);
    const counted = /^eventfd-count:\s+([0-9a-f]+)$/m.exec(
      readFileSync(`/proc/self/fdinfo/${aio.wakeFd}`, 'utf8'),
    )![1];
    expect(Number.parseInt(counted!, 16)).toBe(4);
    drainEventFd(aio.wakeFd);
    aio.close();
  });

  it('ends what is in flight before it is closed', (context) => {
    withFolder((folder) => {
      const path = join(folder, 'file');
      let direct: number;
      try {
        direct = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_DIRECT);
      } catch (error) {
        console.warn(`skipped: no O_DIRECT in ${folder}: ${(error as Error).message}`);
        return context.skip();
      }
      view.fill(0x55);
      const aio = new LinuxAio(direct, pages, 32);
      for (let io = 0; io < 32; io++) {
        aio.setPage(io, 0, io);
        aio.start(io, true, io * PAGE_BYTES, 0, 1);
      }
      expect(aio.submit()).toBe(true);
      aio.close();
      // From here on no write may look at the memory any more.
      view.fill(0xaa);
      expect(readFileSync(path).equals(Buffer.alloc(32 * PAGE_BYTES, 0x55))).toBe(true);
      closeSync(direct);
    });
  });

  describe('is refused with the call, and leaves nothing,', () => {
    let before: [number, number];

    beforeEach(() => {
      before = [countOpenFds(), contexts()];
    });

    afterEach(() => expect([countOpenFds(), contexts()]).toEqual(before));

    it.each([
      ['of no depth', 0, 'io_setup: EINVAL'],
      ['of a depth that the kernel has not', AIO_MAX_NR + 1, 'io_setup: EAGAIN'],
    ])('%s', (_, depth, text) => {
      expect(() => new LinuxAio(fd, pages, depth)).toThrow(SystemError);
      expect(() => new LinuxAio(fd, pages, depth)).toThrow(text);
    });

    it('on a machine whose numbers of system calls it does not know', () => {
      const real = Object.getOwnPropertyDescriptor(process, 'arch')!;
      Object.defineProperty(process, 'arch', { ...real, value: 'riscv64' });
      try {
        expect(() => new LinuxAio(fd, pages, 8)).toThrow('riscv64: io_setup: ENOSYS');
      } finally {
        Object.defineProperty(process, 'arch', real);
      }
    });
  });
});
