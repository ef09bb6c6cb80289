/** A window with a codec: compressing in place, at any offset, within the work area. */

import { describe, expect, it } from 'vitest';
import { lzo1xWorstCase } from '../../src/lzo-wasm/lzo1x.ts';
import { WINDOW_BOUNCE_OFFSET, WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { PageWindow, WORK_IN, WORK_OUT, WORK_PAGE } from '../../src/store/page-window.ts';
import { PAGE_KINDS } from '../models/pages.ts';
import { SEED, seededRandom } from '../models/random.ts';

const random = seededRandom(SEED);

describe('the work area', () => {
  it('has parts that do not overlap and end before the bounce page', () => {
    expect(WORK_OUT + lzo1xWorstCase(4096)).toBeLessThanOrEqual(WORK_IN);
    expect(WORK_IN + 4096).toBeLessThanOrEqual(WORK_PAGE);
    expect(WORK_PAGE + 4096).toBeLessThanOrEqual(WINDOW_BOUNCE_OFFSET);
    expect([WORK_OUT, WORK_IN, WORK_PAGE].map((offset) => offset % 4)).toEqual([0, 0, 0]);
  });
});

describe('the codec of a window', () => {
  it.each(Object.keys(PAGE_KINDS))('gives back a page of kind %s, changing no other', (name) => {
    const { u8, codec } = new PageWindow(3 * WINDOW_WORK_BYTES);
    const page = PAGE_KINDS[name]!(random);
    for (const offset of [WINDOW_WORK_BYTES + 4096, WINDOW_WORK_BYTES + 8193]) {
      u8.fill(0x77, WINDOW_BOUNCE_OFFSET);
      u8.set(page, offset);
      const bytes = codec.compress(offset, 4096, WORK_OUT);
      u8.copyWithin(WORK_IN, WORK_OUT, WORK_OUT + Math.min(bytes, 4096));
      if (bytes <= 4096) {
        expect(codec.decompress(WORK_IN, bytes, WORK_PAGE, 4096)).toBe(4096);
        expect(Buffer.compare(u8.subarray(WORK_PAGE, WORK_PAGE + 4096), page)).toBe(0);
      }
      expect(Buffer.compare(u8.subarray(offset, offset + 4096), page)).toBe(0);
      const before = u8.subarray(WINDOW_BOUNCE_OFFSET, offset);
      expect(before.every((byte) => byte === 0x77)).toBe(true);
    }
  });
});
