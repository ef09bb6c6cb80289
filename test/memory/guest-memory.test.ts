/**
 * Guest memory: regions mapped, resolved and removed. What a window shows is compared with what
 * the file holds, by reads and writes of the file itself. Files are sparse: GiBs cost nothing.
 * Random regions are in guest-memory.model.test.ts, huge pages in guest-memory.hugetlb.test.ts.
 */

import { readFileSync, readSync, writeSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import {
  GUEST_BYTES_MAX,
  GuestMemory,
  type GuestRegion,
  REGIONS_MAX,
} from '../../src/memory/guest-memory.ts';
import { WINDOW_BYTES_MAX, WINDOW_WORK_BYTES, Window } from '../../src/memory/window.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { countOpenFds } from '../models/descriptors.ts';

const KIB = 1024;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const PAGE = 4096;
const FILE_BYTES = 5 * GIB;
/** The front end's own addresses: anywhere, but not the guest's. */
const USER_BASE = 0x7f00_0000_0000;

let fd: number;
let memory: GuestMemory<Window>;
let windowsMade: Window[];

beforeAll(() => {
  fd = createMemfd('guest', FILE_BYTES);
});
afterAll(() => closeFd(fd));
beforeEach(() => {
  windowsMade = [];
  memory = new GuestMemory((bytes) => {
    const window = new Window(bytes);
    windowsMade.push(window);
    return window;
  });
});

function region(guestAddress: number, bytes: number, mmapOffset = 0): GuestRegion {
  return { guestAddress, userAddress: USER_BASE + guestAddress, bytes, mmapOffset };
}

function add(guestAddress: number, bytes: number, mmapOffset = 0): GuestRegion {
  const added = region(guestAddress, bytes, mmapOffset);
  memory.addRegion(added, fd);
  return added;
}

function resolve(address: number, length: number): number {
  return memory.resolve(address % 2 ** 32, Math.floor(address / 2 ** 32), length);
}

/** The byte that a guest sees at `address`. */
function byteAt(address: number): number {
  expect(resolve(address, 1)).toBe(1);
  return memory.window!.u8[memory.offset]!;
}

function writeByte(fileOffset: number, byte: number): void {
  writeSync(fd, Uint8Array.of(byte), 0, 1, fileOffset);
}

function readByte(fileOffset: number): number {
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, fileOffset);
  return byte[0]!;
}

describe('a region', () => {
  it.each([
    ['one page', PAGE],
    ['64 KiB', 64 * KIB],
    ['1 MiB and a page', MIB + PAGE],
    ['100 MiB', 100 * MIB],
    ['1 GiB', GIB],
    ['1 GiB and a page', GIB + PAGE],
    ['2.5 GiB', 2.5 * GIB],
  ])('of %s shows its file from first to last byte, both ways', (_, bytes) => {
    const start = 4 * GIB + 16 * MIB;
    const offset = 3 * MIB;
    add(start, bytes, offset);
    expect(memory.bytes).toBe(bytes);
    for (const at of [0, Math.floor(bytes / 2), bytes - 1]) {
      writeByte(offset + at, 0x11);
      expect(byteAt(start + at)).toBe(0x11);
      memory.window!.u8[memory.offset] = 0x22;
      expect(readByte(offset + at)).toBe(0x22);
    }
    expect(resolve(start - 1, 1)).toBe(0);
    expect(resolve(start + bytes, 1)).toBe(0);
  });

  it('may begin inside a page of its file', () => {
    add(GIB, 8192, 512);
    writeByte(512, 0x31);
    writeByte(512 + 8191, 0x32);
    expect([byteAt(GIB), byteAt(GIB + 8191)]).toEqual([0x31, 0x32]);
    expect(resolve(GIB + 8191, 10)).toBe(1);
  });

  it('may end inside the last page of its file', () => {
    const odd = createMemfd('odd', PAGE + 100);
    memory.addRegion(region(0, PAGE + 100), odd);
    closeFd(odd);
    expect(resolve(0, 2 * PAGE)).toBe(PAGE + 100);
    expect(byteAt(PAGE + 99)).toBe(0);
  });

  it('needs its descriptor only while it is added', () => {
    const other = createMemfd('other', PAGE);
    writeSync(other, Uint8Array.of(0x41), 0, 1, 0);
    const before = countOpenFds();
    memory.addRegion(region(0, PAGE), other);
    expect(countOpenFds()).toBe(before);
    closeFd(other);
    expect(byteAt(0)).toBe(0x41);
  });
});

describe('a region longer than a part', () => {
  const START = 4 * GIB;
  const OFFSET = 256 * MIB;

  beforeEach(() => {
    add(START, 3 * GIB + 4 * PAGE, OFFSET);
  });

  it.each([1, 2, 3])('is contiguous for a MiB over its inner boundary %i', (part) => {
    const boundary = part * GIB;
    const rest = (from: number) => 3 * GIB + 4 * PAGE - from;
    for (const [from, length] of [
      [boundary - 8, 4096],
      [boundary - 1, MIB],
      [boundary - 4096, 8192],
    ] as const) {
      writeByte(OFFSET + boundary - 1, part);
      writeByte(OFFSET + boundary, part + 10);
      const wanted = Math.min(length, rest(from));
      expect(resolve(START + from, wanted)).toBe(wanted);
      const { window, offset } = memory;
      expect(window!.u8[offset + boundary - 1 - from]).toBe(part);
      expect(window!.u8[offset + boundary - from]).toBe(part + 10);
      window!.u8[offset + boundary - from] = part + 20;
      expect(readByte(OFFSET + boundary)).toBe(part + 20);
    }
  });

  it('answers from the next part at its boundary', () => {
    expect(resolve(START + GIB - 1, 2 * GIB)).toBe(1 + MIB);
    const before = memory.window;
    expect(resolve(START + GIB, 2 * GIB)).toBe(GIB + MIB);
    expect(memory.window).not.toBe(before);
    writeByte(OFFSET + GIB, 0x51);
    expect(byteAt(START + GIB)).toBe(0x51);
  });

  it('is never contiguous beyond its end', () => {
    const end = START + 3 * GIB + 4 * PAGE;
    expect(resolve(end - PAGE, 2 * PAGE)).toBe(PAGE);
    expect(resolve(START + 3 * GIB - 1, MIB)).toBe(1 + 4 * PAGE);
  });

  it('keeps every offset below 2^31', () => {
    for (const window of windowsMade) expect(window.bytes).toBeLessThanOrEqual(WINDOW_BYTES_MAX);
    expect(resolve(START + 3 * GIB + 4 * PAGE - 1, 1)).toBe(1);
    expect(memory.offset).toBe(memory.offset | 0);
  });

  it('is resolved by user address, across parts too', () => {
    const user = USER_BASE + START;
    expect(memory.resolveUser(user)).toBe(GIB + MIB);
    expect(memory.resolveUser(user + 2 * GIB - 16)).toBe(16 + MIB);
    writeByte(OFFSET + 2 * GIB, 0x61);
    expect(memory.window!.u8[memory.offset + 16]).toBe(0x61);
    expect(memory.resolveUser(user + 3 * GIB + 4 * PAGE - 1)).toBe(1);
    expect(memory.resolveUser(user + 3 * GIB + 4 * PAGE)).toBe(0);
    expect(memory.resolveUser(user - 1)).toBe(0);
    expect(memory.resolveUser(START)).toBe(0);
  });
});

describe('several regions', () => {
  it('answer each for itself, with a gap between them and without', () => {
    add(0, 640 * KIB, 0);
    add(MIB, 2 * MIB, MIB);
    add(3 * MIB, MIB, 8 * MIB);
    add(4 * GIB, MIB, 16 * MIB);
    const places: [number, number][] = [
      [0, 0],
      [640 * KIB - 1, 640 * KIB - 1],
      [MIB, MIB],
      [3 * MIB - 1, 3 * MIB - 1],
      [3 * MIB, 8 * MIB],
      [4 * GIB + 5, 16 * MIB + 5],
    ];
    for (const [i, [, fileOffset]] of places.entries()) writeByte(fileOffset, 100 + i);
    for (const [i, [address]] of places.entries()) expect(byteAt(address)).toBe(100 + i);
    for (const hole of [640 * KIB, MIB - 1, 4 * MIB, 4 * GIB - 1, 4 * GIB + MIB, 2 ** 40]) {
      expect(resolve(hole, 1)).toBe(0);
    }
    expect(memory.bytes).toBe(640 * KIB + 4 * MIB);
    expect(memory.regions).toHaveLength(4);
  });

  it('are not contiguous with one another, however close', () => {
    add(0, PAGE, 0);
    add(PAGE, PAGE, PAGE);
    expect(resolve(PAGE - 8, 16)).toBe(8);
    expect(memory.resolveUser(USER_BASE + PAGE - 8)).toBe(8);
    writeByte(PAGE, 0x72);
    expect(memory.resolveUser(USER_BASE + PAGE)).toBe(PAGE);
    expect(memory.window!.u8[memory.offset]).toBe(0x72);
  });

  it('may show the same bytes of the file', () => {
    add(0, PAGE, 7 * PAGE);
    add(GIB, PAGE, 7 * PAGE);
    byteAt(5);
    memory.window!.u8[memory.offset] = 0x71;
    expect(byteAt(GIB + 5)).toBe(0x71);
  });

  it('share windows: small ones cost no address space of their own', () => {
    for (let i = 0; i < 100; i++) add(i * 2 * MIB, MIB, i * 2 * MIB);
    expect(windowsMade.length).toBeLessThanOrEqual(2);
  });
});

describe('resolve', () => {
  it('takes halves signed and unsigned', () => {
    const start = 3 * 2 ** 32 - 2 * PAGE;
    add(start, 4 * PAGE, 0);
    writeByte(2 * PAGE - 1, 0x81);
    for (const lo of [0xffffffff, -1]) {
      expect(memory.resolve(lo, 2, 16)).toBe(16);
      expect(memory.window!.u8[memory.offset]).toBe(0x81);
    }
    for (const lo of [0xffffe000, 0xffffe000 | 0]) expect(memory.resolve(lo, 2, 9)).toBe(9);
    expect(memory.resolve(-1, 3, 1)).toBe(0);
    expect(memory.resolve(0x80000000, 2, 1)).toBe(0);
  });

  it('takes a low half of all ones at the end of 4 GiB', () => {
    add(2 ** 32 - PAGE, PAGE, 0);
    expect(memory.resolve(-1, 0, 10)).toBe(1);
    expect(memory.resolve(0xffffffff, 0, 10)).toBe(1);
    expect(memory.resolve(0, 1, 1)).toBe(0);
  });

  it('finds nothing at addresses that no guest has', () => {
    add(0, PAGE, 0);
    for (const hi of [0x200000, 0x7fffffff, -1, 0xffffffff, 0x80000000]) {
      expect(memory.resolve(0, hi, 1)).toBe(0);
      expect(memory.resolve(-1, hi, 1)).toBe(0);
    }
  });

  it('gives no more than was asked for', () => {
    add(0, MIB, 0);
    expect([resolve(0, 1), resolve(0, 4096), resolve(MIB - 1, 4096)]).toEqual([1, 4096, 1]);
  });

  it('finds nothing before anything is added, and nothing after it was cleared', () => {
    expect(resolve(0, 1)).toBe(0);
    add(0, PAGE, 0);
    expect(resolve(0, 1)).toBe(1);
    memory.clear();
    expect([resolve(0, 1), memory.resolveUser(USER_BASE)]).toEqual([0, 0]);
    expect([memory.bytes, memory.regions.length]).toEqual([0, 0]);
    expect(memory.window).toBeUndefined();
  });
});

describe('removal', () => {
  it('leaves zeros in the window and the file untouched, other regions as they were', () => {
    add(0, MIB, 0);
    const removed = add(MIB, MIB, MIB);
    add(2 * MIB, MIB, 2 * MIB);
    for (const at of [0, MIB, 2 * MIB - 1, 2 * MIB]) writeByte(at, 0x91);
    resolve(MIB, MIB);
    const { window, offset } = memory;
    memory.removeRegion({ ...removed, mmapOffset: 12345 });
    expect(window!.u8.subarray(offset, offset + MIB).every((byte) => byte === 0)).toBe(true);
    window!.u8[offset] = 1;
    expect([readByte(MIB), readByte(2 * MIB - 1)]).toEqual([0x91, 0x91]);
    expect(resolve(MIB, 1)).toBe(0);
    expect(memory.resolveUser(removed.userAddress)).toBe(0);
    expect([byteAt(0), byteAt(2 * MIB)]).toEqual([0x91, 0x91]);
    expect(memory.bytes).toBe(2 * MIB);
  });

  it('takes all parts of a long region away, with their overlap', () => {
    const removed = add(0, 2 * GIB + PAGE, 0);
    for (const at of [GIB - 1, GIB, GIB + MIB - 1]) writeByte(at, 0xa1);
    resolve(GIB - 1, 1);
    const { window, offset } = memory;
    expect([window!.u8[offset], window!.u8[offset + MIB]]).toEqual([0xa1, 0xa1]);
    memory.removeRegion(removed);
    expect([window!.u8[offset], window!.u8[offset + 1], window!.u8[offset + MIB]]).toEqual([
      0, 0, 0,
    ]);
    for (const at of [0, GIB, 2 * GIB]) expect(resolve(at, 1)).toBe(0);
  });

  it('of everything leaves zeros in every window', () => {
    add(0, MIB, 0);
    add(GIB, MIB, MIB);
    for (const at of [0, MIB]) writeByte(at, 0xb1);
    memory.clear();
    for (const window of windowsMade) {
      const used = window.u8.subarray(WINDOW_WORK_BYTES, WINDOW_WORK_BYTES + 4 * MIB);
      expect(used.every((byte) => byte === 0)).toBe(true);
    }
    expect([readByte(0), readByte(MIB)]).toEqual([0xb1, 0xb1]);
  });

  it('makes room: the same addresses can be added again, and address space does not run away', () => {
    for (let i = 0; i < 50; i++) {
      add(0, 100 * MIB, i * MIB);
      writeByte(i * MIB, i);
      expect(byteAt(0)).toBe(i);
      if (i % 2 === 0) memory.clear();
      else memory.removeRegion(region(0, 100 * MIB));
    }
    expect(windowsMade.length).toBe(1);
  });

  it('is refused for a region that differs in address or size', () => {
    const added = add(GIB, MIB, 0);
    for (const wanted of [
      { ...added, guestAddress: GIB + PAGE },
      { ...added, userAddress: added.userAddress + PAGE },
      { ...added, bytes: MIB - PAGE },
    ]) {
      expect(() => memory.removeRegion(wanted)).toThrow(RefusedError);
    }
    expect(memory.regions).toEqual([added]);
    expect(resolve(GIB, 1)).toBe(1);
  });
});

describe('refused, and nothing changed, is', () => {
  function expectRefused(bad: GuestRegion, message: string | RegExp, from = fd): void {
    const before = [...memory.regions];
    expect(() => memory.addRegion(bad, from)).toThrow(RefusedError);
    expect(() => memory.addRegion(bad, from)).toThrow(message);
    expect(memory.regions).toEqual(before);
  }

  it('a region that overlaps another by one byte, at guest or user addresses', () => {
    add(GIB, MIB, 0);
    expectRefused(region(GIB - PAGE, PAGE + 1), 'overlaps region 0x40000000–0x40100000');
    expectRefused(region(GIB + MIB - 1, PAGE), 'overlaps');
    expectRefused(region(GIB + PAGE, PAGE), 'overlaps');
    expectRefused(region(GIB - MIB, 4 * MIB), 'overlaps');
    const elsewhere = { ...region(2 * GIB, MIB), userAddress: USER_BASE + GIB + MIB - 1 };
    expectRefused(elsewhere, 'overlaps');
    memory.addRegion({ ...elsewhere, userAddress: USER_BASE + GIB + MIB }, fd);
    memory.addRegion({ ...region(GIB + MIB, PAGE), userAddress: 0 }, fd);
    add(GIB - PAGE, PAGE, 0);
  });

  it('a region beyond the end of its file', () => {
    expectRefused(
      region(0, PAGE + 1, FILE_BYTES - PAGE),
      `expected a file of ${FILE_BYTES + 1} bytes, got ${FILE_BYTES}`,
    );
    expectRefused(region(0, PAGE, FILE_BYTES), 'expected a file');
    add(0, PAGE, FILE_BYTES - PAGE);
  });

  it('a region without a size', () => {
    expectRefused(region(GIB, 0), 'expected a size, got 0');
  });

  it('a number that is not an address below 2^53', () => {
    for (const bad of [-1, 2 ** 53, 1.5, Number.NaN, Number.MAX_SAFE_INTEGER]) {
      for (const field of ['guestAddress', 'userAddress', 'mmapOffset'] as const) {
        expectRefused({ ...region(0, PAGE), [field]: bad }, 'expected addresses below 2^53');
      }
    }
    expectRefused(region(0, 2 ** 53), 'expected addresses below 2^53');
  });

  it(`region ${REGIONS_MAX + 1}`, () => {
    for (let i = 0; i < REGIONS_MAX; i++) add(i * 2 * PAGE, PAGE, i * PAGE);
    writeByte((REGIONS_MAX - 1) * PAGE, 0xc1);
    expect(byteAt((REGIONS_MAX - 1) * 2 * PAGE)).toBe(0xc1);
    expectRefused(region(GIB, PAGE), `at most ${REGIONS_MAX} memory regions`);
    memory.removeRegion(region(0, PAGE));
    add(GIB, PAGE, 0);
  });

  it('more memory than a guest has, before any of it is mapped', () => {
    const huge = createMemfd('huge', GUEST_BYTES_MAX + PAGE);
    expectRefused(region(0, GUEST_BYTES_MAX + PAGE), 'guest memory at most', huge);
    add(0, PAGE, 0);
    expectRefused(region(GIB, GUEST_BYTES_MAX), 'guest memory at most', huge);
    closeFd(huge);
  });

  it('a region for which no address space is left', () => {
    const starved = new GuestMemory<Window>(() => {
      throw new RangeError('WebAssembly.Memory(): could not allocate memory');
    });
    expect(() => starved.addRegion(region(0, PAGE), fd)).toThrow(/no address space for 67108864/);
    expect(starved.regions).toEqual([]);
  });

  it('a descriptor that cannot be mapped', () => {
    const eventFd = createEventFd();
    expectRefused(region(0, PAGE), 'expected a regular file', eventFd);
    expect([memory.regions.length, resolve(0, 1)]).toEqual([0, 0]);
    closeFd(eventFd);
    add(0, PAGE, 0);
  });
});

describe('forgetting resident pages', () => {
  const resident = () =>
    Number(/^RssShmem:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * KIB;

  it('holds none of them in the end, a step at a time, and shows them again from the file', () => {
    const other = createMemfd('resident', 128 * MIB);
    memory.addRegion(region(0, 96 * MIB), other);
    memory.addRegion(region(GIB, 32 * MIB, 96 * MIB), other);
    const before = resident();
    for (const [start, bytes] of [
      [0, 96 * MIB],
      [GIB, 32 * MIB],
    ] as const) {
      resolve(start, 1);
      memory.window!.u8.fill(0xd1, memory.offset, memory.offset + bytes);
    }
    const touched = resident() - before;
    expect(touched).toBeGreaterThan(120 * MIB);
    expect(memory.forgetResidentStep()).toBe(true);
    const dropped = before + touched - resident();
    expect(dropped).toBeGreaterThan(3 * MIB);
    expect(dropped).toBeLessThan(5 * MIB);
    for (let steps = 1; memory.forgetResidentStep(); steps++) expect(steps).toBeLessThan(40);
    expect(resident() - before).toBeLessThan(4 * MIB);
    for (const at of [0, 96 * MIB - 1, GIB, GIB + 32 * MIB - 1]) expect(byteAt(at)).toBe(0xd1);
    closeFd(other);
  });

  it('begins anew after it came to its end', () => {
    const other = createMemfd('resident', 16 * MIB);
    memory.addRegion(region(0, 16 * MIB), other);
    for (let round = 0; round < 2; round++) {
      const before = resident();
      resolve(0, 1);
      memory.window!.u8.fill(round + 1, memory.offset, memory.offset + 16 * MIB);
      expect(resident() - before).toBeGreaterThan(14 * MIB);
      while (memory.forgetResidentStep());
      expect(resident() - before).toBeLessThan(2 * MIB);
    }
    closeFd(other);
  });

  it('ends also when regions go away in its middle', () => {
    add(0, 128 * MIB);
    add(GIB, PAGE);
    expect(memory.forgetResidentStep()).toBe(true);
    memory.removeRegion(region(0, 128 * MIB));
    for (let steps = 0; memory.forgetResidentStep(); steps++) expect(steps).toBeLessThan(10);
    memory.clear();
    for (let steps = 0; memory.forgetResidentStep(); steps++) expect(steps).toBeLessThan(10);
  });
});

describe('what cannot be unmapped', () => {
  it('stays where it is, out of reach, and nothing is mapped over it', () => {
    const ENOMEM = 12;
    const told: string[] = [];
    let result = -ENOMEM;
    memory = new GuestMemory(
      (bytes) => new Window(bytes),
      () => result,
    );
    memory.onTrouble = (what) => told.push(what);
    writeByte(0, 0x11);
    writeByte(MIB, 0x22);
    const first = add(0, MIB);
    expect(byteAt(0)).toBe(0x11);
    const { window, offset } = memory;
    memory.removeRegion(first);
    expect(told).toEqual(['region 0x0–0x100000 stays mapped: mmap: ENOMEM (not enough memory)']);
    expect(resolve(0, 1)).toBe(0);
    add(0, MIB, MIB);
    expect(byteAt(0)).toBe(0x22);
    expect(window!.u8[offset], 'the file is there as before').toBe(0x11);
    memory.clear();
    expect(told).toHaveLength(2);
    result = 0;
    memory.release();
    expect(told).toHaveLength(2);
  });
});
