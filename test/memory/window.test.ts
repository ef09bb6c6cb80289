/** Windows: sizes, bounds, and views of the same bytes. */

import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import {
  WINDOW_BOUNCE_OFFSET,
  WINDOW_BYTES_MAX,
  WINDOW_CODEC_BYTES,
  WINDOW_WORK_BYTES,
  Window,
} from '../../src/memory/window.ts';

describe('a window', () => {
  it.each([
    [1, 65536],
    [65536, 65536],
    [65537, 131072],
  ])('of %i bytes has %i', (bytes, rounded) => {
    const window = new Window(bytes);
    expect([window.bytes, window.u8.length]).toEqual([rounded, rounded]);
  });

  it('reaches to 2 GiB and no further', () => {
    const window = new Window(WINDOW_BYTES_MAX);
    expect(window.u8.length).toBe(2 ** 31);
    window.u8[2 ** 31 - 1] = 1;
    expect(window.i32[2 ** 29 - 1]).toBe(0x01000000);
    expect(() => new Window(WINDOW_BYTES_MAX + 1)).toThrow(AssertionError);
    expect(() => new Window(0)).toThrow(AssertionError);
  });

  it('shows the same bytes in all its views, little-endian', () => {
    const { u8, u16, i32 } = new Window(65536);
    u8.set([1, 2, 3, 0x84], 8);
    expect(u16[5]).toBe(0x8403);
    expect(i32[2]).toBe(0x84030201 | 0);
  });

  it('cannot grow, so that its views never die', () => {
    const window = new Window(65536);
    const memory = window.memory as unknown as { grow(pages: number): number };
    expect(() => memory.grow(1)).toThrow(RangeError);
    expect(window.u8.length).toBe(65536);
  });
});

it('has a bounce page at the end of the work area, outside of what the codec uses', () => {
  expect(WINDOW_BOUNCE_OFFSET).toBeGreaterThanOrEqual(WINDOW_CODEC_BYTES);
  expect(WINDOW_BOUNCE_OFFSET + 4096).toBe(WINDOW_WORK_BYTES);
  expect(WINDOW_BOUNCE_OFFSET % 4096).toBe(0);
});
