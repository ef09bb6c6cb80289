/** Statistics as people read them. */

import { describe, expect, it } from 'vitest';
import { daemonText, devicesText, statisticsText } from '../../src/control/statistics-text.ts';
import { Window } from '../../src/memory/window.ts';
import { FIGURES_BYTES, headerFigures, LATENCY_COUNT } from '../../src/store/layout.ts';
import { COUNTER, readStatistics } from '../../src/store/statistics.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';
import { daemonStatus, deviceStatus } from '../driver/control-stand-in.ts';

function sample(
  backingSwapName: string | null = null,
  latencies = new Float64Array(LATENCY_COUNT),
) {
  const figures = headerFigures(new Window(FIGURES_BYTES));
  const { counters, gauges } = figures;
  counters[COUNTER.numWrites] = 12;
  counters[COUNTER.pagesStored] = 8;
  counters[COUNTER.goodCompress] = 6;
  counters[COUNTER.pagesExpand] = 1;
  counters[COUNTER.comprDataSize] = 10_000;
  counters[COUNTER.memlimit] = 16 * 1024 * 1024;
  counters[COUNTER.disksize] = 512 * 1024 * 1024;
  counters[COUNTER.bdevNumReads] = 5;
  counters[COUNTER.bdevNumWrites] = 7;
  counters[COUNTER.pagesOnBacking] = 4;
  gauges[ARENA_GAUGE.poolPages] = 3;
  gauges[ARENA_GAUGE.rawPages] = 1;
  return readStatistics(backingSwapName, { ...figures, latencies });
}

describe('statisticsText', () => {
  it("has the ancestor's labels and units, one a line, in its order", () => {
    expect(statisticsText(sample()).split('\n')).toEqual([
      'DiskSize: 524288 kB',
      'NumReads: 0',
      'NumWrites: 12',
      'FailedReads: 0',
      'FailedWrites: 0',
      'InvalidIO: 0',
      'NotifyFree: 0',
      'ZeroPages: 0',
      'SamePages: 0',
      'GoodCompress: 75 %',
      'NoCompress: 12 %',
      'PagesStored: 8',
      'PagesUsed: 4',
      'OrigDataSize: 32 kB',
      'ComprDataSize: 9 kB',
      'MemUsedTotal: 16 kB',
    ]);
  });

  it('tells of limits where there are some, behind the rest', () => {
    const limited = { ...sample(), pool_limit: 2 ** 26 };
    const share = { guarantee: 2 ** 20, used: 2 ** 21, share: 2 ** 22, refused: 7 };
    expect(statisticsText(limited, share).split('\n').slice(-6)).toEqual([
      'MemUsedTotal: 16 kB',
      'PoolLimit: 65536 kB',
      'Guarantee: 1024 kB',
      'BudgetUsed: 2048 kB',
      'BudgetShare: 4096 kB',
      'BudgetRefused: 7',
    ]);
  });

  it('tells of the backing swap where there is one', () => {
    const latencies = new Float64Array(LATENCY_COUNT);
    // 90 reads of 64 to 127 µs, 10 of 1024 to 2047.
    latencies[6] = 90;
    latencies[10] = 10;
    const lines = statisticsText(sample('/swap', latencies)).split('\n');
    expect(lines.slice(0, 3)).toEqual([
      'BackingSwap: /swap',
      'DiskSize: 524288 kB',
      'MemLimit: 16384 kB',
    ]);
    expect(lines.slice(-7)).toEqual([
      'BDevNumReads: 5',
      'BDevNumWrites: 7',
      'PagesOnBacking: 4',
      'PagesLost: 0',
      'PagesMovedOut: 0',
      'BDevReadLatency: 50% below 128 us, 99% below 2048 us',
      'BDevWriteLatency: -',
    ]);
  });
});

describe('devicesText', () => {
  const active = { state: 'active', connected: true } as const;

  it('has a row for each device with what it holds and costs', () => {
    const failed = { ...sample(), failed_reads: 2, failed_writes: 3, mem_used_total: 0 };
    const [titles, ...rows] = devicesText(
      [
        deviceStatus('ramzswap0', { ...active, statistics: sample() }),
        deviceStatus('ramzswap1', { state: 'initialised', statistics: failed }),
        deviceStatus('ramzswap2', { connected: true }),
      ],
      null,
    ).split('\n');
    expect(titles!.trimEnd().split(/ {2,}/)).toEqual([
      ...['device', 'state', 'front end', 'disk', 'stored', 'compressed', 'memory', 'ratio'],
      'failed',
    ]);
    expect(rows.map((row) => row.trim().split(/ {2,}/))).toEqual([
      ['ramzswap0', 'active', 'connected', '512 MiB', '32 KiB', '9.8 KiB', '16 KiB', '2.00', '0'],
      ['ramzswap1', 'initialised', '-', '512 MiB', '32 KiB', '9.8 KiB', '0 B', '-', '5'],
      ['ramzswap2', 'uninitialised', 'connected', '-', '-', '-', '-', '-', '-'],
    ]);
  });

  it('is plain text whose columns stay where they are, whatever the figures', () => {
    const small = deviceStatus('ramzswap0', { ...active, statistics: sample() });
    const large = deviceStatus('ramzswap0', {
      state: 'uninitialised',
      statistics: {
        ...{ ...sample(), disksize: 1023.9 * 2 ** 30, orig_data_size: 1000.1 * 2 ** 30 },
        ...{ compr_data_size: 400.1 * 2 ** 30, mem_used_total: 2 ** 31, failed_reads: 999_999 },
      },
    });
    const [first, second] = [small, large].map((device) => devicesText([device], null).split('\n'));
    expect(first![0]).toBe(second![0]);
    expect(first![1]!.length).toBe(second![1]!.length);
    expect([...first!, ...second!].join('')).toMatch(/^[ -~]+$/);
  });

  it('says what the daemon has promised of its budget, if it has one', () => {
    const budget = { limit: 4 * 2 ** 30, committed: 2 ** 30 };
    expect(devicesText([deviceStatus('ramzswap0')], budget)).toMatch(
      /\n\nbudget: 1 GiB of 4 GiB committed$/,
    );
    expect(devicesText([], null)).toBe('no devices');
  });

  it('says where there is a budget who has what of it', () => {
    const share = { guarantee: 2 ** 20, used: 0, share: 2 ** 22, refused: 0 };
    const devices = [deviceStatus('a', { statistics: sample(), share }), deviceStatus('b')];
    const [titles, a, b] = devicesText(devices, { limit: 2 ** 30, committed: 0 }).split('\n');
    expect(titles).toMatch(/ failed +guarantee +share$/);
    expect(a).toMatch(/ 0 +1 MiB +4 MiB$/);
    expect(b).toMatch(/ - +- +-$/);
  });
});

describe('daemonText', () => {
  it('has the labels of statistics, and the budget where there is one', () => {
    expect(daemonText(daemonStatus()).split('\n')).toEqual([
      'Version: 0.1.0',
      'Process: 4711',
      'Uptime: 3725 s',
      'Threads: 2',
    ]);
    const budget = { limit: 2 ** 20, committed: 4096 };
    expect(daemonText(daemonStatus({ budget })).split('\n').slice(-2)).toEqual([
      'Budget: 1024 kB',
      'BudgetCommitted: 4 kB',
    ]);
  });
});
