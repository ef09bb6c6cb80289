/** The cursor over a chain's segments: every piece, in order, wherever it lies. */

import { afterEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import { ChainCursor, DescriptorChain } from '../../src/virtio/chain.ts';
import { GuestRam, type RamRegion, USER_BASE } from '../driver/guest-ram.ts';
import { Random } from '../driver/random.ts';

const MIB = 1 << 20;
const rams: GuestRam[] = [];

afterEach(() => {
  for (const ram of rams.splice(0)) ram.close();
});

/** Guest memory over `regions` in which every byte tells its file offset. */
function setUp(regions?: readonly RamRegion[], bytes = 2 * MIB) {
  const ram = new GuestRam(bytes, regions);
  rams.push(ram);
  for (let i = 0; i < bytes; i++) ram.window.u8[i] = (i * 31) ^ (i >> 8) ^ (i >> 16);
  const memory = new GuestMemory((size) => new Window(size));
  for (const region of ram.regions) memory.addRegion(region, ram.fd);
  return { ram, memory };
}

interface Segment {
  address: number | bigint;
  bytes: number;
  writable?: boolean;
}

function chainOf(segments: readonly Segment[]): DescriptorChain {
  const chain = new DescriptorChain(Math.max(1, segments.length));
  for (const { address, bytes, writable = false } of segments) {
    const big = BigInt(address);
    chain.addressLo[chain.count] = Number(big & 0xffffffffn);
    chain.addressHi[chain.count] = Number(big >> 32n);
    chain.length[chain.count] = bytes;
    chain.count++;
    if (writable) chain.writableBytes += bytes;
    else {
      chain.readableBytes += bytes;
      chain.readableCount++;
    }
  }
  return chain;
}

/** All bytes the cursor comes by, and the pieces they came in. */
function drain(cursor: ChainCursor, step: number): { bytes: number[]; pieces: number[] } {
  const bytes: number[] = [];
  const pieces: number[] = [];
  for (let found = cursor.next(step); found > 0; found = cursor.next(step)) {
    expect(found).toBeLessThanOrEqual(step);
    pieces.push(found);
    bytes.push(...cursor.window!.u8.subarray(cursor.offset, cursor.offset + found));
  }
  return { bytes, pieces };
}

describe('ChainCursor', () => {
  it('yields the bytes of several segments in order, no piece over a segment border', () => {
    const { ram, memory } = setUp();
    const segments = [
      { address: 17, bytes: 5 },
      { address: 4095, bytes: 3 },
      { address: 1, bytes: 16 },
    ];
    const cursor = new ChainCursor(memory, chainOf(segments));
    cursor.toReadable();
    const { bytes, pieces } = drain(cursor, 1000);
    expect(pieces).toEqual([5, 3, 16]);
    expect(bytes).toEqual([...ram.read(17, 5), ...ram.read(4095, 3), ...ram.read(1, 16)]);
  });

  it('gives no more than asked for and goes on in the middle of a segment', () => {
    const { memory } = setUp();
    const cursor = new ChainCursor(memory, chainOf([{ address: 100, bytes: 10 }]));
    cursor.toReadable();
    expect(drain(cursor, 4).pieces).toEqual([4, 4, 2]);
  });

  it('passes over segments of no bytes, also at the end', () => {
    const { memory } = setUp();
    const segments = [0, 4, 0, 0, 2, 0].map((bytes, i) => ({ address: i * 100, bytes }));
    const cursor = new ChainCursor(memory, chainOf(segments));
    cursor.toReadable();
    expect(drain(cursor, 100).pieces).toEqual([4, 2]);
  });

  it('crosses from one region to the next where they touch in guest addresses only', () => {
    const regions = [
      { guestAddress: 0, userAddress: USER_BASE, bytes: MIB, mmapOffset: MIB },
      { guestAddress: MIB, userAddress: USER_BASE + 8 * MIB, bytes: MIB, mmapOffset: 0 },
    ];
    const { ram, memory } = setUp(regions);
    const cursor = new ChainCursor(memory, chainOf([{ address: MIB - 10, bytes: 30 }]));
    cursor.toReadable();
    const { bytes, pieces } = drain(cursor, 100);
    expect(pieces).toEqual([10, 20]);
    expect(bytes).toEqual([...ram.read(MIB - 10, 30)]);
    expect(bytes.slice(0, 10)).toEqual([...ram.window.u8.subarray(2 * MIB - 10, 2 * MIB)]);
  });

  it('reads above 4 GiB, and carries where the low half overflows within a segment', () => {
    const start = 2 ** 32 - MIB;
    const regions = [
      { guestAddress: start, userAddress: USER_BASE, bytes: 2 * MIB, mmapOffset: 0 },
    ];
    const { ram, memory } = setUp(regions);
    const segments = [
      { address: 2 ** 32 - 3, bytes: 9 },
      { address: 2 ** 32 + 5, bytes: 4 },
    ];
    const cursor = new ChainCursor(memory, chainOf(segments));
    cursor.toReadable();
    const expected = [...ram.read(2 ** 32 - 3, 9), ...ram.read(2 ** 32 + 5, 4)];
    expect(drain(cursor, 2).bytes).toEqual(expected);
    cursor.toReadable();
    cursor.skip(4);
    expect(drain(cursor, 100).bytes).toEqual(expected.slice(4));
  });

  it('ends where an address is in no region, and at addresses that only halves can hold', () => {
    const { memory } = setUp();
    for (const address of [2 * MIB, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      const cursor = new ChainCursor(memory, chainOf([{ address, bytes: 8 }]));
      cursor.toReadable();
      expect(cursor.next(8), `address ${address}`).toBe(0);
    }
    const over = new ChainCursor(memory, chainOf([{ address: 2 * MIB - 3, bytes: 8 }]));
    over.toReadable();
    expect(over.next(8)).toBe(3);
    expect(over.next(8)).toBe(0);
  });

  it('toWritable begins behind the readable segments, and skip lands on the last byte', () => {
    const { ram, memory } = setUp();
    const chain = chainOf([
      { address: 0, bytes: 16 },
      { address: 500, bytes: 7, writable: true },
      { address: 700, bytes: 0, writable: true },
      { address: 900, bytes: 3, writable: true },
      { address: 950, bytes: 0, writable: true },
    ]);
    const cursor = new ChainCursor(memory, chain);
    for (let skip = 0; skip < 10; skip++) {
      cursor.toWritable();
      cursor.skip(skip);
      expect(cursor.next(1)).toBe(1);
      const address = skip < 7 ? 500 + skip : 900 + skip - 7;
      expect(cursor.window!.u8[cursor.offset]).toBe(ram.read(address, 1)[0]);
      expect(cursor.offset % 4096).toBe(address % 4096);
    }
  });

  it('any cut of any range, in any steps, gives the same bytes as reading it at once', () => {
    const { ram, memory } = setUp();
    for (let seed = 1; seed <= 300; seed++) {
      const random = new Random(seed);
      const segments = Array.from({ length: random.between(1, 9) }, () => ({
        address: random.below(MIB),
        bytes: random.oneIn(4) ? 0 : random.between(1, 300),
      }));
      const cursor = new ChainCursor(memory, chainOf(segments));
      cursor.toReadable();
      const { bytes } = drain(cursor, random.between(1, 64));
      const expected = segments.flatMap(({ address, bytes: n }) => [...ram.read(address, n)]);
      expect(bytes, `seed ${seed}`).toEqual(expected);
    }
  });
});
