/**
 * Asynchronous I/O: one table of claims for io_uring and for Linux AIO, on a file of /tmp opened with
 * O_DIRECT; plain reads and writes of the same file are the judges. And the vectors that both use.
 */

import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { highHalf, lowHalf } from '../../src/base/u64.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import {
  type AsyncIo,
  addressHalves,
  IO_PAGES_MAX,
  type IoPages,
  IoVectors,
} from '../../src/native/async-io.ts';
import { EPOLLIN, Epoll } from '../../src/native/epoll.ts';
import { IoUring } from '../../src/native/io-uring.ts';
import { LinuxAio } from '../../src/native/linux-aio.ts';
import { countOpenFds } from '../models/descriptors.ts';
import { type Random, replayable, SEED, seededRandom } from '../models/random.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const TIB = 2 ** 40;
const EBADF = 9;
const EINVAL = 22;
const DEPTH = 32;
/** More than the I/Os in flight take at once. */
const POOL_PAGES = 1024;
/** In the 64 KiB pages of linear memory; the pool does not begin where the memory does. */
const MEMORY_PAGES = 80;
const POOL_OFFSET = 3 * 65536;

const KINDS: [string, new (fd: number, pages: IoPages, depth: number) => AsyncIo][] = [
  ['io_uring', IoUring],
  ['Linux AIO', LinuxAio],
];

const folder = mkdtempSync(join(tmpdir(), 'rz-async-'));
const path = join(folder, 'disk');
afterAll(() => rmSync(folder, { recursive: true }));

/** Opened past the page cache; undefined, loudly, where that is not to be had. */
function openDirect(flags: number): number | undefined {
  try {
    return openSync(path, flags | constants.O_DIRECT);
  } catch (error) {
    console.warn(`skipped: no O_DIRECT in ${tmpdir()}: ${(error as Error).message}`);
    return undefined;
  }
}

closeSync(openSync(path, 'wx'));
const directFd = openDirect(constants.O_RDWR);
if (directFd !== undefined) closeSync(directFd);

interface Transfer {
  readonly io: number;
  readonly isWrite: boolean;
  readonly offset: number;
  readonly pages: readonly number[];
}

/** A file, memory of its own, and an AsyncIo between them. */
class Rig {
  readonly fd: number;
  readonly judge = openSync(path, 'r+');
  readonly view = new Uint8Array(
    new WebAssembly.Memory({ initial: MEMORY_PAGES, maximum: MEMORY_PAGES }).buffer,
  );
  readonly pages: IoPages = { view: this.view, offset: POOL_OFFSET, count: POOL_PAGES };
  readonly epoll = new Epoll();
  readonly io: AsyncIo;

  constructor(Kind: (typeof KINDS)[number][1], depth = DEPTH, flags = constants.O_RDWR) {
    this.fd = openDirect(flags)!;
    this.io = new Kind(this.fd, this.pages, depth);
    this.epoll.add(this.io.wakeFd, EPOLLIN, 7);
  }

  page(index: number): Uint8Array {
    const at = POOL_OFFSET + index * PAGE_BYTES;
    return this.view.subarray(at, at + PAGE_BYTES);
  }

  start({ io, isWrite, offset, pages }: Transfer): void {
    pages.forEach((page, index) => {
      this.io.setPage(io, index, page);
    });
    this.io.start(io, isWrite, lowHalf(offset), highHalf(offset), pages.length);
  }

  /**
   * Whether its descriptor becomes readable in time. A wait may end early: io_uring's completions
   * interrupt the thread that submitted, as a signal would.
   */
  isWoken(timeoutMillis: number): boolean {
    const end = performance.now() + timeoutMillis;
    for (;;) {
      const left = Math.max(0, Math.ceil(end - performance.now()));
      if (this.epoll.wait(left) === 1) return true;
      if (left === 0) return false;
    }
  }

  /** What has ended, once `count` have: the result of each I/O by its number. */
  take(count: number): Map<number, number> {
    const results = new Map<number, number>();
    const end = performance.now() + 10_000;
    while (results.size < count) {
      if (performance.now() > end) expect.fail(`${results.size} of ${count} have ended`);
      const io = this.io.next();
      if (io === -1) {
        if (!this.io.hasEnded()) expect(this.isWoken(5000), 'woken in time').toBe(true);
        this.io.woken();
        continue;
      }
      expect(results.has(io), `I/O ${io} ends once`).toBe(false);
      results.set(io, this.io.result);
    }
    return results;
  }

  /** One I/O from beginning to end: its result. */
  run(isWrite: boolean, offset: number, pages: readonly number[]): number {
    this.start({ io: 0, isWrite, offset, pages });
    expect(this.io.submit()).toBe(true);
    return this.take(1).get(0)!;
  }

  read(offset: number, bytes: number): Buffer {
    const buffer = Buffer.alloc(bytes);
    expect(readSync(this.judge, buffer, 0, bytes, offset)).toBe(bytes);
    return buffer;
  }

  close(): void {
    this.epoll.close();
    this.io.close();
    closeSync(this.fd);
    closeSync(this.judge);
  }
}

/** Whether a process may use it here; loudly, if not: containers often forbid io_uring. */
function isAllowed([name, Kind]: (typeof KINDS)[number]): boolean {
  if (directFd === undefined) return false;
  try {
    new Rig(Kind).close();
    return true;
  } catch (error) {
    console.warn(`skipped: ${name}: ${(error as Error).message}`);
    return false;
  }
}

function shuffled(random: Random, count: number, from: number): number[] {
  const all = Array.from({ length: from }, (_, i) => i);
  for (let i = all.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  return all.slice(0, count);
}

function noise(random: Random): Uint8Array {
  const words = Uint32Array.from({ length: PAGE_BYTES / 4 }, () => random.uint32());
  return new Uint8Array(words.buffer);
}

describe.each(KINDS)('%s', (name, Kind) => {
  const isPossible = isAllowed([name, Kind]);
  let rig: Rig;

  beforeEach((context) => {
    if (!isPossible) return context.skip();
    const fd = openSync(path, 'w');
    ftruncateSync(fd, 4 * TIB);
    closeSync(fd);
    rig = new Rig(Kind);
  });

  afterEach(() => {
    if (isPossible) rig.close();
  });

  it('has a name for people and the depth it was made with', () => {
    expect(rig.io.name).toBe(name);
    expect(rig.io.depth).toBe(DEPTH);
  });

  describe('data', () => {
    it('of one page is written where it should be, and nothing beside it', () => {
      writeSync(rig.judge, Buffer.alloc(3 * PAGE_BYTES, 0x77), 0, 3 * PAGE_BYTES, 0);
      rig.page(5).fill(0x11);
      expect(rig.run(true, PAGE_BYTES, [5])).toBe(PAGE_BYTES);
      const expected = Buffer.alloc(3 * PAGE_BYTES, 0x77).fill(0x11, PAGE_BYTES, 2 * PAGE_BYTES);
      expect(rig.read(0, 3 * PAGE_BYTES).equals(expected)).toBe(true);
    });

    it('of one page is read where it should be, and nothing beside it', () => {
      writeSync(rig.judge, Buffer.alloc(PAGE_BYTES, 0x22), 0, PAGE_BYTES, 8 * PAGE_BYTES);
      rig.view.fill(0x33);
      expect(rig.run(false, 8 * PAGE_BYTES, [9])).toBe(PAGE_BYTES);
      const expected = Buffer.alloc(rig.view.length, 0x33);
      const at = POOL_OFFSET + 9 * PAGE_BYTES;
      expected.fill(0x22, at, at + PAGE_BYTES);
      expect(expected.equals(rig.view)).toBe(true);
    });

    it.each([1, 2, 3, 17, IO_PAGES_MAX])('of %i pages goes out and in, in their order', (count) => {
      const random = seededRandom(SEED);
      const from = shuffled(random, count, POOL_PAGES / 2);
      for (const page of from) rig.page(page).set(noise(random));
      expect(rig.run(true, MIB, from)).toBe(count * PAGE_BYTES);
      const written = Buffer.concat(from.map((page) => rig.page(page)));
      expect(rig.read(MIB, written.length).equals(written)).toBe(true);

      const to = shuffled(random, count, POOL_PAGES / 2).map((page) => page + POOL_PAGES / 2);
      expect(rig.run(false, MIB, to)).toBe(count * PAGE_BYTES);
      expect(Buffer.concat(to.map((page) => rig.page(page))).equals(written)).toBe(true);
    });

    it('of the first and the last page of the pool is theirs', () => {
      rig.page(0).fill(1);
      rig.page(POOL_PAGES - 1).fill(2);
      expect(rig.run(true, 0, [POOL_PAGES - 1, 0])).toBe(2 * PAGE_BYTES);
      const expected = Buffer.alloc(2 * PAGE_BYTES, 2).fill(1, PAGE_BYTES);
      expect(rig.read(0, 2 * PAGE_BYTES).equals(expected)).toBe(true);
    });

    it.each([
      ['2 GiB', 2 * GIB],
      ['4 GiB', 4 * GIB],
      ['5 GiB and a page', 5 * GIB + PAGE_BYTES],
      ['1 TiB', TIB],
      ['the end of 4 TiB', 4 * TIB - PAGE_BYTES],
    ])('at %s is there, and not below', (_, offset) => {
      for (const at of [offset - PAGE_BYTES, offset % (4 * GIB)]) {
        if (at !== offset) writeSync(rig.judge, Buffer.alloc(PAGE_BYTES, 9), 0, PAGE_BYTES, at);
      }
      rig.page(3).set(noise(seededRandom(SEED)));
      expect(rig.run(true, offset, [3])).toBe(PAGE_BYTES);
      expect(rig.read(offset, PAGE_BYTES).equals(rig.page(3))).toBe(true);
      expect(rig.read(offset - PAGE_BYTES, PAGE_BYTES).every((byte) => byte === 9)).toBe(true);
      expect(rig.run(false, offset, [4])).toBe(PAGE_BYTES);
      expect(Buffer.compare(rig.page(4), rig.page(3))).toBe(0);
    });

    it('of an I/O of few pages does not remember an earlier one of many', () => {
      const pages = Array.from({ length: IO_PAGES_MAX }, (_, i) => i);
      for (const page of pages) rig.page(page).fill(page + 1);
      expect(rig.run(true, 0, pages)).toBe(IO_PAGES_MAX * PAGE_BYTES);
      rig.page(200).fill(200);
      rig.page(201).fill(201);
      expect(rig.run(true, 8 * PAGE_BYTES, [200, 201])).toBe(2 * PAGE_BYTES);
      expect(rig.run(true, 20 * PAGE_BYTES, [200])).toBe(PAGE_BYTES);
      const firsts = pages.map((page) => rig.read(page * PAGE_BYTES, 1)[0]!);
      const expected = pages.map((page) => page + 1);
      expected.splice(8, 2, 200, 201);
      expected.splice(20, 1, 200);
      expect(firsts).toEqual(expected);
    });
  });

  describe('many at once', () => {
    it('each end once, with a result of their own', () => {
      ftruncateSync(rig.judge, (DEPTH / 2) * 64 * PAGE_BYTES);
      for (let io = 0; io < DEPTH; io++) {
        const pages = Array.from({ length: (io % 16) + 1 }, (_, i) => io * 16 + i);
        rig.start({ io, isWrite: false, offset: io * 64 * PAGE_BYTES, pages });
      }
      expect(rig.io.submit()).toBe(true);
      const results = rig.take(DEPTH);
      for (let io = 0; io < DEPTH; io++) {
        expect(results.get(io)).toBe(io < DEPTH / 2 ? ((io % 16) + 1) * PAGE_BYTES : 0);
      }
      expect([rig.io.hasEnded(), rig.io.next()]).toEqual([false, -1]);
    });

    it('keep a file as a model of it (random, 3000 I/Os)', () => {
      replayable((random) => keepsModel(rig, random, 3000));
    });

    it('may be started one by one and submitted in any number', () => {
      for (let io = 0; io < DEPTH; io++) {
        rig.start({ io, isWrite: false, offset: 0, pages: [io] });
        if (io % 5 === 0) expect(rig.io.submit()).toBe(true);
      }
      expect(rig.io.submit()).toBe(true);
      expect(rig.take(DEPTH).size).toBe(DEPTH);
    });
  });

  describe('nothing', () => {
    it('is submitted as well as something', () => {
      expect(rig.io.submit()).toBe(true);
      expect(rig.io.submit()).toBe(true);
      expect(rig.run(false, 0, [0])).toBe(PAGE_BYTES);
      expect(rig.io.submit()).toBe(true);
    });

    it('has ended before anything was submitted', () => {
      expect([rig.io.hasEnded(), rig.io.next()]).toEqual([false, -1]);
      rig.start({ io: 3, isWrite: false, offset: 0, pages: [0] });
      expect([rig.io.hasEnded(), rig.io.next()]).toEqual([false, -1]);
      expect(rig.isWoken(20)).toBe(false);
      expect(rig.io.submit()).toBe(true);
      expect([...rig.take(1)]).toEqual([[3, PAGE_BYTES]]);
    });
  });

  describe('results', () => {
    it('are short at the end of the file, and 0 beyond it', () => {
      ftruncateSync(rig.judge, 2 * PAGE_BYTES + 1000);
      expect(rig.run(false, 0, [0, 1, 2, 3])).toBe(2 * PAGE_BYTES + 1000);
      expect(rig.run(false, 2 * PAGE_BYTES, [0])).toBe(1000);
      expect(rig.run(false, 3 * PAGE_BYTES, [0])).toBe(0);
      expect(rig.run(false, TIB, [0, 1])).toBe(0);
    });

    it('are what a plain call says, for an offset that is in no sector', () => {
      writeSync(rig.judge, noise(seededRandom(SEED)), 0, PAGE_BYTES, 0);
      let expected: number;
      try {
        expected = readSync(rig.fd, rig.page(0), 0, PAGE_BYTES, 100);
      } catch (error) {
        expected = (error as NodeJS.ErrnoException).errno!;
      }
      expect(rig.run(false, 100, [0])).toBe(expected);
      expect(rig.run(false, 0, [0])).toBe(PAGE_BYTES);
    });

    it.each([1, 2])('are an errno for an offset below 0 (%i pages)', (count) => {
      expect(rig.run(false, -PAGE_BYTES, [0, 1].slice(0, count))).toBe(-EINVAL);
      expect(rig.run(false, 0, [0])).toBe(PAGE_BYTES);
    });

    it('of those that are refused leave the others alone, wherever they stand (random)', () => {
      replayable((random) => {
        for (let round = 0; round < 100; round++) {
          const count = random.between(1, DEPTH);
          const order = shuffled(random, count, DEPTH);
          const isBad = order.map(() => random.rarely(3));
          order.forEach((io, i) => {
            const pages = random.rarely(2) ? [io] : [io, DEPTH + io];
            for (const page of pages) rig.page(page).fill(round + 1);
            const offset = isBad[i] ? -PAGE_BYTES : io * 2 * PAGE_BYTES;
            rig.start({ io, isWrite: true, offset, pages });
          });
          expect(rig.io.submit()).toBe(true);
          const results = rig.take(count);
          order.forEach((io, i) => {
            if (isBad[i]) {
              expect(results.get(io)).toBe(-EINVAL);
            } else {
              expect(results.get(io)).toBeGreaterThan(0);
              expect(rig.read(io * 2 * PAGE_BYTES, 1)[0]).toBe(round + 1);
            }
          });
        }
      });
    });

    it('are EBADF for all writes to a file that is open for reading, not for its reads', () => {
      const other = new Rig(Kind, DEPTH, constants.O_RDONLY);
      for (let io = 0; io < 9; io++) {
        const pages = io % 2 === 0 ? [io] : [io, 20];
        other.start({ io, isWrite: io % 3 !== 0, offset: 0, pages });
      }
      expect(other.io.submit()).toBe(true);
      const results = other.take(9);
      for (let io = 0; io < 9; io++) {
        const bytes = io % 2 === 0 ? PAGE_BYTES : 2 * PAGE_BYTES;
        expect(results.get(io)).toBe(io % 3 === 0 ? bytes : -EBADF);
      }
      expect(other.io.next()).toBe(-1);
      other.close();
    });
  });

  describe('its descriptor', () => {
    it('is readable when something has ended, until all is taken', () => {
      expect(rig.epoll.wait(0)).toBe(0);
      for (const io of [1, 2]) {
        rig.start({ io, isWrite: true, offset: io * PAGE_BYTES, pages: [io] });
      }
      expect(rig.io.submit()).toBe(true);
      expect(rig.isWoken(5000)).toBe(true);
      expect(rig.epoll.token(0)).toBe(7);
      rig.take(2);
      rig.io.woken();
      expect(rig.epoll.wait(0)).toBe(0);
    });

    it('tells again of what ends later', () => {
      for (let i = 0; i < 5; i++) {
        rig.start({ io: 0, isWrite: false, offset: 0, pages: [0] });
        expect(rig.io.submit()).toBe(true);
        expect(rig.isWoken(5000)).toBe(true);
        rig.io.woken();
        expect(rig.take(1).get(0)).toBe(PAGE_BYTES);
        expect(rig.epoll.wait(0)).toBe(0);
      }
    });

    it('regression: is readable for what the kernel refused at once', () => {
      rig.start({ io: 0, isWrite: false, offset: -PAGE_BYTES, pages: [0] });
      expect(rig.io.submit()).toBe(true);
      expect(rig.io.hasEnded()).toBe(true);
      const isWoken = rig.isWoken(100);
      expect(rig.take(1).get(0)).toBe(-EINVAL);
      expect(isWoken).toBe(true);
    });
  });

  describe('closing', () => {
    it('leaves the file to its owner, and no descriptor of its own', () => {
      const before = countOpenFds();
      const other = new Kind(rig.fd, rig.pages, DEPTH);
      expect(countOpenFds()).toBeGreaterThan(before);
      other.close();
      expect(countOpenFds()).toBe(before);
      expect(fstatSync(rig.fd).size).toBe(4 * TIB);
    });

    it('lets as many others be made as one likes, one after the other', () => {
      // Not more of them: Linux AIO takes 30 ms to close.
      for (let i = 0; i < 20; i++) {
        const other = new Rig(Kind);
        expect(other.run(false, 0, [i])).toBe(PAGE_BYTES);
        other.close();
      }
    });
  });

  it('refuses a descriptor that is none, I/O by I/O', () => {
    const other = new Kind(2 ** 20, rig.pages, 4);
    other.setPage(0, 0, 0);
    other.start(0, false, 0, 0, 1);
    expect(other.submit()).toBe(true);
    expect([other.next(), other.result]).toEqual([0, -EBADF]);
    other.close();
  });

  it.each([1, 3, 100])('works with a depth of %i', (depth) => {
    const other = new Rig(Kind, depth);
    for (let round = 0; round < 3; round++) {
      for (let io = 0; io < depth; io++) {
        other.page(io).fill(io + round);
        other.start({ io, isWrite: true, offset: io * PAGE_BYTES, pages: [io] });
      }
      expect(other.io.submit()).toBe(true);
      expect(other.take(depth).size).toBe(depth);
      for (let io = 0; io < depth; io++) {
        expect(other.read(io * PAGE_BYTES, 1)[0]).toBe(io + round);
      }
    }
    other.close();
  });
});

/**
 * Reads and writes of random lengths, as many in flight as there are I/Os, on ranges of the file that
 * no two of them touch at once: what a page of the file has is what was last written to it.
 */
function keepsModel(rig: Rig, random: Random, total: number): void {
  const LANE_PAGES = 128;
  /** Each I/O has a lane of the file, some above 4 GiB, and pages of the pool. */
  const laneOf = (io: number) => (io % 2) * 6 * GIB + io * LANE_PAGES * PAGE_BYTES;
  const poolPages = POOL_PAGES / DEPTH;
  const model = Array.from({ length: DEPTH * LANE_PAGES }, () => 0);
  const inFlight = new Map<number, Transfer>();
  const free = Array.from({ length: DEPTH }, (_, io) => io);
  let tag = 0;

  function startOne(): void {
    const io = free.splice(random.below(free.length), 1)[0]!;
    const count = random.rarely(2) ? 1 : random.between(1, poolPages);
    const first = random.below(LANE_PAGES - count + 1);
    const pages = shuffled(random, count, poolPages).map((page) => io * poolPages + page);
    const isWrite = !random.rarely(3);
    pages.forEach((page, i) => {
      const words = new Int32Array(rig.view.buffer, rig.page(page).byteOffset, PAGE_BYTES / 4);
      words.fill(-1);
      if (!isWrite) return;
      tag++;
      words.fill(tag);
      model[io * LANE_PAGES + first + i] = tag;
    });
    const transfer = { io, isWrite, offset: laneOf(io) + first * PAGE_BYTES, pages };
    rig.start(transfer);
    inFlight.set(io, transfer);
  }

  function endOne(io: number, result: number): void {
    const { isWrite, offset, pages } = inFlight.get(io)!;
    inFlight.delete(io);
    free.push(io);
    expect(result).toBe(pages.length * PAGE_BYTES);
    if (isWrite) return;
    const first = (offset - laneOf(io)) / PAGE_BYTES;
    pages.forEach((page, i) => {
      const words = new Int32Array(rig.view.buffer, rig.page(page).byteOffset, PAGE_BYTES / 4);
      const expected = model[io * LANE_PAGES + first + i]!;
      if (!words.every((word) => word === expected)) expect.fail(`page ${page}: not ${expected}`);
    });
  }

  for (let started = 0; started < total || inFlight.size > 0; ) {
    const count = Math.min(random.below(free.length + 1), total - started);
    for (let i = 0; i < count; i++) startOne();
    started += count;
    expect(rig.io.submit()).toBe(true);
    if (inFlight.size === 0) continue;
    for (const [io, result] of rig.take(random.between(1, inFlight.size))) endOne(io, result);
  }
  model.forEach((expected, page) => {
    const io = Math.floor(page / LANE_PAGES);
    const at = laneOf(io) + (page % LANE_PAGES) * PAGE_BYTES;
    const bytes = rig.read(at, PAGE_BYTES);
    if (bytes.readInt32LE(0) !== expected || bytes.readInt32LE(4092) !== expected) {
      expect.fail(`byte ${at}: expected ${expected}, got ${bytes.readInt32LE(0)}`);
    }
  });
}

describe('vectors', () => {
  const view = new Uint8Array(new WebAssembly.Memory({ initial: 2, maximum: 2 }).buffer);

  it('have pages at their addresses, and lengths of one page', () => {
    const vectors = new IoVectors({ view, offset: 2 * PAGE_BYTES, count: 8 }, 3);
    vectors.setPage(2, 5, 1);
    vectors.setPage(2, 6, 4);
    const at = (2 * IO_PAGES_MAX + 5) * 4;
    const [low, high, bytes, bytesHigh, nextLow, nextHigh] = vectors.words.subarray(at, at + 6);
    expect([bytes, bytesHigh]).toEqual([PAGE_BYTES, 0]);
    const address = (lowWord: number, highWord: number) => highWord * 2 ** 32 + (lowWord >>> 0);
    expect(address(low!, high!) % PAGE_BYTES).toBe(0);
    expect(address(nextLow!, nextHigh!) - address(low!, high!)).toBe(3 * PAGE_BYTES);
  });

  it('are named by the address of their only page, or of themselves', () => {
    const vectors = new IoVectors({ view, offset: 0, count: 8 }, 3);
    const words = new Int32Array(6);
    vectors.setPage(1, 0, 3);
    vectors.putAddress(words, 0, 1, 1);
    vectors.putAddress(words, 2, 1, 2);
    vectors.putAddress(words, 4, 2, 2);
    const at = IO_PAGES_MAX * 4;
    expect([words[0], words[1]]).toEqual([...vectors.words.subarray(at, at + 2)]);
    const stride = IO_PAGES_MAX * 16;
    const address = (i: number) => words[i + 1]! * 2 ** 32 + (words[i]! >>> 0);
    expect(address(4) - address(2)).toBe(stride);
  });

  it.each([
    ['begin inside a page', 512, 4],
    ['end one page beyond their memory', 0, 33],
    ['begin beyond it', 32 * PAGE_BYTES, 1],
  ])('are not made for pages that %s', (_, offset, count) => {
    expect(() => new IoVectors({ view, offset, count }, 1)).toThrow(AssertionError);
  });

  it('may cover all of their memory', () => {
    expect(() => new IoVectors({ view, offset: 0, count: 32 }, 1)).not.toThrow();
  });

  it('split addresses into halves, also across 4 GiB', () => {
    const [low, high] = addressHalves(0x7fff_ffff_f000, 2 ** 12, 3);
    expect([...low]).toEqual([0xffff_f000 | 0, 0, 0x1000]);
    expect([...high]).toEqual([0x7fff, 0x8000, 0x8000]);
  });
});
