/** Units: sizes as people write them, sizes for people, pages and rounding. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/base/errors.ts';
import {
  bytesToPages,
  formatBytes,
  PAGE_BYTES,
  parseSize,
  roundUp,
  SECTORS_PER_PAGE,
} from '../../src/base/units.ts';

describe('parseSize', () => {
  it.each([
    ['1', 1],
    ['65536', 65536],
    ['10B', 10],
    ['4K', 4096],
    ['4k', 4096],
    ['512M', 512 * 2 ** 20],
    ['512 M', 512 * 2 ** 20],
    ['512MB', 512 * 2 ** 20],
    ['512MiB', 512 * 2 ** 20],
    ['  2G\n', 2 * 2 ** 30],
    ['1.5G', 1.5 * 2 ** 30],
    ['1.3K', 1331],
    ['2T', 2 * 2 ** 40],
    ['9007199254740991', Number.MAX_SAFE_INTEGER],
    ['8191T', 8191 * 2 ** 40],
  ])('takes %j as %d bytes', (text, bytes) => {
    expect(parseSize(text, 'size')).toBe(bytes);
  });

  it.each([
    '',
    ' ',
    'M',
    '-1',
    '+1',
    '1e3',
    '1.',
    '.5',
    '1,5G',
    '1KK',
    '1P',
    '0x10',
    'Infinity',
    'NaN',
    '1 2',
    '1 M M',
    '0',
    '0G',
    '9007199254740992',
    '8192T',
  ])('refuses %j', (text) => {
    expect(() => parseSize(text, '--disksize')).toThrow(UsageError);
  });

  it('refuses a size that rounds down to nothing', () => {
    expect(() => parseSize('0.5', 'size')).toThrow(UsageError);
    expect(() => parseSize('0.0001K', 'size')).toThrow(UsageError);
  });

  it('says which option was wrong and what it got', () => {
    expect(() => parseSize('lots', '--disksize')).toThrow(
      "--disksize: expected a size such as 512M or 2G, got 'lots'",
    );
  });

  it('reads back any whole number of units', () => {
    const unit = fc.constantFrom(['K', 2 ** 10], ['M', 2 ** 20], ['G', 2 ** 30], ['T', 2 ** 40]);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 8191 }), unit, (count, [suffix, bytes]) => {
        expect(parseSize(`${count}${suffix}`, 'size')).toBe(count * (bytes as number));
      }),
    );
  });
});

describe('formatBytes', () => {
  it.each([
    [0, '0 B'],
    [17, '17 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [512 * 2 ** 20, '512 MiB'],
    [1.5 * 2 ** 30, '1.5 GiB'],
    [3 * 2 ** 40, '3 TiB'],
    [2 ** 50, '1024 TiB'],
  ])('writes %d bytes as %j', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});

describe('pages', () => {
  it('rounds bytes down to whole pages', () => {
    expect(bytesToPages(PAGE_BYTES - 1)).toBe(0);
    expect(bytesToPages(PAGE_BYTES)).toBe(1);
    expect(bytesToPages(2 ** 45 + PAGE_BYTES - 1)).toBe(2 ** 33);
  });

  it('holds eight sectors in a page', () => {
    expect(SECTORS_PER_PAGE).toBe(8);
  });

  it('rounds up to the next multiple, and leaves multiples alone', () => {
    expect(roundUp(0, 4096)).toBe(0);
    expect(roundUp(1, 4096)).toBe(4096);
    expect(roundUp(4096, 4096)).toBe(4096);
    expect(roundUp(4097, 4096)).toBe(8192);
    expect(roundUp(10, 3)).toBe(12);
    expect(roundUp(2 ** 52 + 1, 2 ** 21)).toBe(2 ** 52 + 2 ** 21);
  });
});
