/** Frames of top, as text. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bytesCell,
  countCell,
  microsCell,
  rowsShown,
  type TopView,
  topFrame,
  topText,
  waitingFrame,
} from '../../src/control/top-frame.ts';
import { type Sample, topRows } from '../../src/control/top-sample.ts';
import { daemonStatus, deviceStatus, figures } from '../driver/control-stand-in.ts';

const MIB = 2 ** 20;

/** Of `count` devices, each busier than the one before. */
function view(count: number, given: Partial<TopView> = {}, budget: null | object = null): TopView {
  const sample = (seconds: number): Sample => ({
    millis: seconds * 1000,
    daemon: daemonStatus({ budget: budget as never }),
    devices: Array.from({ length: count }, (_, i) => {
      const counts = { num_reads: seconds * 1000 * (i + 1), num_writes: seconds * 10 * i };
      const read_latency = [0, 0, 0, 0, seconds * 100];
      return deviceStatus(`ramzswap${i}`, {
        ...{ state: 'active', connected: true },
        share: budget === null ? null : { guarantee: 0, used: 1, share: 64 * MIB, refused: 0 },
        statistics: Object.assign(
          figures({
            ...{ ...counts, disksize: 1024 * MIB, orig_data_size: 300 * MIB },
            ...{ compr_data_size: 90 * MIB, mem_used_total: 100 * MIB },
          }),
          { read_latency },
        ),
      });
    }),
  });
  const rows = topRows(sample(0), sample(1));
  return { sample: sample(1), rows, sort: 'name', offset: 0, clock: '12:34:56', ...given };
}

const texts = (...args: Parameters<typeof topFrame>) => topFrame(...args).map(({ text }) => text);

describe('topFrame', () => {
  it('fills 80 columns and 24 rows with what matters most', () => {
    const lines = topFrame(view(2), { columns: 80, rows: 24 });
    expect(lines.map(({ text }) => text.trimEnd()).filter((text) => text !== '')).toEqual([
      'ramzswapd 0.1.0   up 1 h 2 min   2 devices, 2 active   12:34:56',
      'memory 200M   stored 600M   ratio 3.00   no budget',
      'read 3000 pages/s   written 10 pages/s   12.3 MB/s   failed 0',
      'device    STATE  STORED MEMORY RATIO READ/s WRITE/s   MB/s  R99%  W99% FAILED',
      'ramzswap0 active   300M   100M  3.00   1000       0   4.10  32us     -      0',
      'ramzswap1 active   300M   100M  3.00   2000      10   8.23  32us     -      0',
      'q quit   sort by: n name, m memory, r reads, w writes, f failed   arrows: scroll',
    ]);
    expect(lines.findIndex(({ isReversed }) => isReversed)).toBe(4);
    expect(lines[4]!.text).toHaveLength(80);
  });

  it('shows more where there is more room, and the budget where there is one', () => {
    const budget = { limit: 4096 * MIB, committed: 1536 * MIB };
    const lines = texts(view(1, { sort: 'memory' }, budget), { columns: 200, rows: 9 });
    expect(lines[1]).toMatch(/ {3}budget 1\.50G of 4\.00G committed$/);
    expect(lines[4]!.trimEnd()).toBe(
      'DEVICE    STATE  GUEST  DISK STORED COMPR memory SHARE RATIO READ/s WRITE/s FREE/s   MB/s  R50%' +
        '  R99%  W50%  W99% FAILED',
    );
    expect(lines[5]).toBe(
      'ramzswap0 active yes   1.00G   300M 90.0M   100M 64.0M  3.00   1000       0      0   4.10  32us' +
        '  32us     -     -      0',
    );
  });

  it('has exactly the lines of the terminal and none longer, however small that is', () => {
    const size = fc.record({
      columns: fc.integer({ min: 1, max: 250 }),
      rows: fc.integer({ min: 1, max: 60 }),
    });
    fc.assert(
      fc.property(size, fc.nat(40), fc.nat(50), ({ columns, rows }, count, offset) => {
        for (const frame of [
          topFrame(view(count, { offset }), { columns, rows }),
          waitingFrame('x'.repeat(300), { columns, rows }),
        ]) {
          expect(frame).toHaveLength(rows);
          expect(Math.max(...frame.map(({ text }) => text.length))).toBeLessThanOrEqual(columns);
        }
      }),
    );
  });

  it('scrolls over more devices than there is room for, and says how many are out of sight', () => {
    const size = { columns: 80, rows: 12 };
    const shown = (offset: number) =>
      texts(view(20, { offset }), size)
        .slice(5, -1)
        .map((text) => text.split(' ')[0]);
    expect(rowsShown(20, size)).toBe(5);
    expect(shown(0)).toEqual([
      'ramzswap0',
      'ramzswap1',
      'ramzswap2',
      'ramzswap3',
      'ramzswap4',
      '…',
    ]);
    expect(shown(7).slice(0, 2)).toEqual(['ramzswap7', 'ramzswap8']);
    expect(texts(view(20, { offset: 7 }), size).at(-2)).toBe('… 7 above, 8 more below');
    // Devices that have gone leave no empty screen.
    expect(shown(99)[4]).toBe('ramzswap19');
    expect(rowsShown(6, size)).toBe(6);
    expect(texts(view(6), size).join('\n')).not.toMatch(/more below/);
  });

  it('has room for long names', () => {
    const one = view(1);
    const rows = one.rows.map((row) => ({ ...row, device: 'a-name-of-20-letters' }));
    const [titles, row] = texts({ ...one, rows }, { columns: 80, rows: 24 }).slice(4);
    expect(row).toMatch(/^a-name-of-20-letters active /);
    expect(row!.indexOf('100M') + 4).toBe(titles!.indexOf('MEMORY') + 6);
  });
});

describe('topText', () => {
  it('has every column and device, and nothing that a terminal would obey', () => {
    const text = topText(view(100));
    expect(text.split('\n')).toHaveLength(105);
    expect(text).toMatch(/^[\n -~]+$/);
    expect(text).toMatch(/^device .* FREE\/s .* FAILED$/m);
  });
});

describe('cells', () => {
  it.each([
    [undefined, '-'],
    [0, '0'],
    [812, '812B'],
    [1024, '1.00K'],
    [64 * 1024, '64.0K'],
    [1023.4 * 1024, '1023K'],
    [1023.6 * 1024, '1.00M'],
    [1.25 * 2 ** 30, '1.25G'],
    [9.996 * 2 ** 30, '10.0G'],
    [99.96 * 2 ** 30, '100G'],
    [2 ** 53, '8192T'],
  ])('bytes %d are %s', (bytes, cell) => {
    expect(bytesCell(bytes)).toBe(cell);
  });

  it.each([
    [undefined, '-'],
    [0.4, '0'],
    [99_999, '99999'],
    [99_999.6, '100k'],
    [999_499, '999k'],
    [999_500, '1.00M'],
    [12_345_678, '12.3M'],
  ])('a count of %d is %s', (count, cell) => {
    expect(countCell(count)).toBe(cell);
  });

  it.each([
    [undefined, '-'],
    [2, '2us'],
    [512, '512us'],
    [1024, '1.0ms'],
    [8192, '8.2ms'],
    [131_072, '131ms'],
    [2 ** 20, '1.0s'],
    [2 ** 24, '17s'],
  ])('%d microseconds are %s', (micros, cell) => {
    expect(microsCell(micros)).toBe(cell);
  });
});
