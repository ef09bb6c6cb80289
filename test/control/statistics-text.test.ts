/** Statistics as people read them. */

import { describe, expect, it } from 'vitest';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import { devicesTable, statisticsText } from '../../src/control/statistics-text.ts';
import { LATENCY_COUNT } from '../../src/store/layout.ts';
import { COUNTER, COUNTER_COUNT, readStatistics } from '../../src/store/statistics.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';

function sample(
  backingSwapName: string | null = null,
  latencies = new Float64Array(LATENCY_COUNT),
) {
  const counters = new Float64Array(COUNTER_COUNT);
  const gauges = new Float64Array(ARENA_GAUGE.COUNT);
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
  return readStatistics(backingSwapName, { counters, gauges, latencies });
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

const status = (known: Partial<DeviceStatus>): DeviceStatus => ({
  device: 'ramzswap0',
  state: 'initialised',
  connected: false,
  socket: null,
  thread: 0,
  statistics: null,
  share: null,
  ...known,
});

describe('devicesTable', () => {
  it('has a row for each device with what it holds and costs', () => {
    const table = devicesTable([
      status({ device: 'ramzswap0', connected: true, statistics: sample() }),
      status({ device: 'ramzswap1', statistics: { ...sample(), mem_used_total: 0 } }),
    ]);
    expect(table).toMatch(/ramzswap0.*connected.*512 MiB.*32 KiB.*9\.8 KiB.*16 KiB.*2\.00/);
    expect(table).toMatch(/ramzswap1.* - .*0 B.*-/);
  });
});
