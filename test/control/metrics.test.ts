/** Metrics from figures that are known, read back by Prometheus' own parser. */

import { describe, expect, it } from 'vitest';
import { FIGURES } from '../../src/control/figures.ts';
import { metricsText, PREFIX } from '../../src/control/metrics.ts';
import { DEVICE_STATES } from '../../src/control/protocol.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { hasPrometheusParser, parseMetrics, sampleOf } from '../driver/prometheus-parser.ts';
import { deviceOf, LATENCY_BUCKETS, StatusSource, statisticsOf } from '../driver/status-source.ts';

const MIB = 1024 ** 2;

async function read(source: StatusSource, format: 'prometheus' | 'openmetrics' = 'prometheus') {
  return parseMetrics((await metricsText(source, format)).text, format);
}

/** Each number another, so that none can stand for another. */
function distinct(): Statistics {
  let next = 1000;
  const values = Object.entries(FIGURES).map(([name, { kind }]) => {
    if (kind === 'text') return [name, '/dev/sdx1'];
    if (kind !== 'histogram') return [name, next++];
    return [name, Array.from({ length: LATENCY_BUCKETS }, () => next++)];
  });
  return Object.fromEntries(values) as Statistics;
}

describe.skipIf(!hasPrometheusParser)('metrics', () => {
  it('have every figure of a device, in base units', async () => {
    const statistics = distinct();
    const families = await read(new StatusSource(deviceOf('a', { statistics })));
    for (const name of Object.keys(FIGURES) as (keyof Statistics)[]) {
      const { metric, kind, factor = 1 } = FIGURES[name];
      if (metric === null || kind === 'histogram') continue;
      const got = sampleOf(families, `${PREFIX}${metric}`, { device: 'a' });
      expect(got, name).toBeCloseTo((statistics[name] as number) * factor, 9);
    }
    expect(sampleOf(families, 'ramzswap_device_info', { backing_swap: '/dev/sdx1' })).toBe(1);
  });

  it('count histograms cumulatively, the last bucket without an upper end', async () => {
    const bdev_read_latency = new Array(LATENCY_BUCKETS).fill(0);
    bdev_read_latency[0] = 1;
    bdev_read_latency[3] = 10;
    bdev_read_latency[LATENCY_BUCKETS - 1] = 100;
    const statistics = statisticsOf({
      bdev_read_latency,
      bdev_read_latency_micros: 12_345_678,
    });
    const families = await read(new StatusSource(deviceOf('a', { statistics })));
    const name = 'ramzswap_backing_read_seconds';
    const below = (le: string) => sampleOf(families, `${name}_bucket`, { le });
    expect([below('0.000002'), below('0.000008'), below('0.000016')]).toEqual([1, 1, 11]);
    // 2^23 µs is the lower end of the last.
    expect([below('8.388608'), below('16.777216'), below('+Inf')]).toEqual([11, undefined, 111]);
    expect(sampleOf(families, `${name}_count`)).toBe(111);
    expect(sampleOf(families, `${name}_sum`)).toBe(12.345678);
    expect(families.find((family) => family.name === name)?.type).toBe('histogram');
  });

  it('say what follows from the figures, and nothing where there is nothing', async () => {
    const statistics = statisticsOf({
      orig_data_size: 300 * MIB,
      compr_data_size: 90 * MIB,
      mem_used_total: 100 * MIB,
    });
    const source = new StatusSource(deviceOf('full', { statistics }), deviceOf('empty'));
    const families = await read(source);
    const of = (name: string, device: string) => sampleOf(families, `ramzswap_${name}`, { device });
    expect(of('compression_ratio', 'full')).toBeCloseTo(300 / 90, 12);
    expect(of('memory_ratio', 'full')).toBe(3);
    expect(of('allocator_efficiency_ratio', 'full')).toBe(0.9);
    expect(of('compression_ratio', 'empty')).toBeUndefined();
    expect(of('memory_ratio', 'empty')).toBeUndefined();
  });

  it('say in which state each device is, and which have a front end', async () => {
    const source = new StatusSource(
      ...DEVICE_STATES.map((state) => deviceOf(state, { state, connected: state === 'active' })),
    );
    const families = await read(source);
    for (const device of DEVICE_STATES) {
      const states = DEVICE_STATES.map((state) =>
        sampleOf(families, 'ramzswap_device_state', { device, state }),
      );
      expect(states).toEqual(DEVICE_STATES.map((state) => (state === device ? 1 : 0)));
      const connected = sampleOf(families, 'ramzswap_device_connected', { device });
      expect(connected).toBe(device === 'active' ? 1 : 0);
    }
  });

  it('have no figures of a device that is not initialised', async () => {
    const bare = deviceOf('bare', { state: 'uninitialised', statistics: null });
    const families = await read(new StatusSource(bare));
    expect(sampleOf(families, 'ramzswap_device_info', { device: 'bare' })).toBe(1);
    expect(sampleOf(families, 'ramzswap_pages_read_total')).toBeUndefined();
  });

  it('forget a device that is gone', async () => {
    const source = new StatusSource(deviceOf('a'), deviceOf('b'));
    expect(sampleOf(await read(source), 'ramzswap_stored_pages', { device: 'b' })).toBe(0);
    source.list = source.list.slice(0, 1);
    const families = await read(source);
    expect(sampleOf(families, 'ramzswap_devices')).toBe(1);
    const devices = families.flatMap(({ samples }) => samples.map(([, { device }]) => device));
    expect(new Set(devices)).toEqual(new Set([undefined, 'a']));
  });

  it('have the budget and each share of it, where there is one', async () => {
    const share = { guarantee: 1, used: 2, share: 3, refused: 4 };
    const source = new StatusSource(deviceOf('a', { share }), deviceOf('b'));
    expect(sampleOf(await read(source), 'ramzswap_budget_limit_bytes')).toBeUndefined();
    source.status = { ...source.status, budget: { limit: 20, committed: 10 } };
    const families = await read(source);
    const value = (name: string, device = 'a') =>
      sampleOf(families, `ramzswap_share_${name}`, { device });
    expect(sampleOf(families, 'ramzswap_budget_limit_bytes')).toBe(20);
    expect(sampleOf(families, 'ramzswap_budget_committed_bytes')).toBe(10);
    expect(value('guarantee_bytes')).toBe(1);
    expect(value('used_bytes')).toBe(2);
    expect(value('limit_bytes')).toBe(3);
    expect(value('refused_total')).toBe(4);
    expect(value('used_bytes', 'b')).toBeUndefined();
  });

  it.each(['a"b', 'back\\slash', '{x="y"} 1', '<script>', 'snow\u2603'])(
    'have a device called %s',
    async (name) => {
      const families = await read(new StatusSource(deviceOf(name)));
      expect(sampleOf(families, 'ramzswap_stored_pages', { device: name })).toBe(0);
    },
  );

  it('are the same in OpenMetrics', async () => {
    const source = new StatusSource(deviceOf('a', { statistics: distinct() }));
    const ours = (families: Awaited<ReturnType<typeof read>>) =>
      families
        .flatMap(({ samples }) => samples)
        .filter(([name]) => name.startsWith(PREFIX))
        .map(([name, labels, value]) => [name, Object.entries(labels).sort(), value]);
    expect(ours(await read(source, 'openmetrics'))).toEqual(ours(await read(source)));
  });
});
