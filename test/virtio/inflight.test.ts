/**
 * A queue's region of the in-flight area: what a killed back end has left is found, at whatever write
 * it ended; and whatever bytes are there, nothing is read or written beside the region.
 */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Window } from '../../src/memory/window.ts';
import {
  INFLIGHT,
  INFLIGHT_ENTRY,
  InflightRegion,
  inflightRegionBytes,
} from '../../src/virtio/inflight.ts';

const SIZE = 8;
const AT = 128;
const BYTES = inflightRegionBytes(SIZE);

function makeRegion(window = new Window(65536)): { region: InflightRegion; window: Window } {
  return { region: new InflightRegion(window, AT, SIZE), window };
}

function flags(window: Window): number[] {
  const entry = (head: number) => AT + INFLIGHT.HEADER_BYTES + head * INFLIGHT_ENTRY.BYTES;
  return Array.from({ length: SIZE }, (_, head) => window.u8[entry(head)]!);
}

it('has the size of its entries, in whole cache lines', () => {
  expect([1, 3, 4, 128, 1024].map(inflightRegionBytes)).toEqual([64, 64, 128, 2112, 16448]);
});

it('begins empty for a ring that nobody has used it for', () => {
  const { region, window } = makeRegion();
  window.u8.fill(0xff, AT, AT + BYTES);
  expect(region.resume(SIZE, 77)).toBeUndefined();
  const half = (field: number) => window.u16[(AT + field) >> 1];
  expect([half(INFLIGHT.version), half(INFLIGHT.desc_num)]).toEqual([1, SIZE]);
  expect(half(INFLIGHT.used_idx)).toBe(77);
  expect(flags(window)).toEqual(Array(SIZE).fill(0));
  expect(region.resume(SIZE, 77)).toEqual([]);
});

it('names what was popped and not returned, oldest first', () => {
  const { region, window } = makeRegion();
  region.resume(SIZE, 0);
  for (const head of [5, 2, 7, 0]) region.popped(head);
  region.pushed(2);
  region.published(1, 1);
  expect(flags(window)).toEqual([1, 0, 0, 0, 0, 1, 0, 1]);
  const next = makeRegion(window).region;
  expect(next.resume(SIZE, 1)).toEqual([5, 7, 0]);
  // What it pops itself comes behind.
  next.popped(1);
  expect(makeRegion(window).region.resume(SIZE, 1)).toEqual([5, 7, 0, 1]);
});

it('keeps the order when its counter passes 2^32', () => {
  const { region, window } = makeRegion();
  region.resume(SIZE, 0);
  region.popped(3);
  const counter =
    (AT + INFLIGHT.HEADER_BYTES + 3 * INFLIGHT_ENTRY.BYTES + INFLIGHT_ENTRY.counter) >> 2;
  window.i32[counter] = -1;
  const next = makeRegion(window).region;
  expect(next.resume(SIZE, 0)).toEqual([3]);
  for (const head of [1, 0]) next.popped(head);
  expect(window.i32[counter + 1]).toBe(0);
  expect(makeRegion(window).region.resume(SIZE, 0)).toEqual([3, 1, 0]);
});

describe('the last batch', () => {
  it('counts as returned once the used index says so, taken off or not', () => {
    const { region, window } = makeRegion();
    region.resume(SIZE, 65535);
    for (const head of [4, 6, 1]) region.popped(head);
    region.pushed(6);
    region.pushed(4);
    // The used index was stored, then the process ended.
    expect(makeRegion(window).region.resume(SIZE, 1)).toEqual([1]);
    expect(flags(window)).toEqual([0, 1, 0, 0, 0, 0, 0, 0]);
  });

  it('does not while the used index does not', () => {
    const { region, window } = makeRegion();
    region.resume(SIZE, 10);
    for (const head of [4, 6]) region.popped(head);
    region.pushed(4);
    region.pushed(6);
    expect(makeRegion(window).region.resume(SIZE, 10)).toEqual([4, 6]);
  });
});

it('is another ring when size or used index cannot be those of this one', () => {
  for (const [size, usedIdx] of [
    [4, 0],
    [SIZE, 9],
    [SIZE, 65535],
  ] as const) {
    const { region, window } = makeRegion();
    region.resume(SIZE, 0);
    region.popped(3);
    expect(makeRegion(window).region.resume(size, usedIdx)).toBeUndefined();
  }
});

it('stays in its place, whatever bytes are there', () => {
  const bytes = fc.uint8Array({ minLength: BYTES, maxLength: BYTES });
  fc.assert(
    fc.property(bytes, fc.boolean(), fc.nat(65535), (content, isKnown, usedIdx) => {
      const { region, window } = makeRegion();
      window.u8.fill(0xa5, 0, 4096);
      window.u8.set(content, AT);
      if (isKnown) {
        window.u16[(AT + INFLIGHT.version) >> 1] = 1;
        window.u16[(AT + INFLIGHT.desc_num) >> 1] = SIZE;
        window.u16[(AT + INFLIGHT.used_idx) >> 1] = usedIdx - (content[0]! % 12);
      }
      const heads = region.resume(SIZE, usedIdx) ?? [];
      expect(heads.every((head) => head < SIZE)).toBe(true);
      expect(new Set(heads).size).toBe(heads.length);
      window.u16[(AT + INFLIGHT.last_batch_head) >> 1] = content[1]! * 257;
      region.popped(1);
      region.pushed(1);
      region.published(SIZE, usedIdx);
      const beside = [...window.u8.subarray(0, AT), ...window.u8.subarray(AT + BYTES, 4096)];
      expect(beside.every((byte) => byte === 0xa5)).toBe(true);
    }),
  );
});
