/**
 * The figures of the daemon and its devices in Prometheus' text format, or in OpenMetrics. All are read
 * at one moment, when somebody asks, and nothing is kept in between: a device that is gone is gone from
 * the next answer. What each figure is called stands in figures.ts. Called by metrics-server.ts.
 */

import { type Metric, Registry, type RegistryContentType } from 'prom-client';
import type { Statistics } from '../store/statistics.ts';
import { FIGURES, type Figure } from './figures.ts';
import { processMetrics } from './process-metrics.ts';
import {
  type DaemonStatus,
  DEVICE_STATES,
  type DeviceStatus,
  type ShareStatus,
} from './protocol.ts';

/** What there is to tell, now. */
export interface MetricsSource {
  devices(): readonly DeviceStatus[];
  daemon(): DaemonStatus;
}

export type MetricsFormat = 'prometheus' | 'openmetrics';

const CONTENT_TYPES = {
  prometheus: Registry.PROMETHEUS_CONTENT_TYPE,
  openmetrics: Registry.OPENMETRICS_CONTENT_TYPE,
} as const satisfies Record<MetricsFormat, RegistryContentType>;

export const PREFIX = 'ramzswap_';
const MICROS_PER_SECOND = 1e6;

type Labels = Readonly<Record<string, string>>;
type Type = 'counter' | 'gauge' | 'histogram';

interface Sample {
  readonly labels: Labels;
  readonly value: number;
  /** Where it is not the family's: `…_bucket`. */
  readonly metricName?: string;
}

/** All samples of one name, in the shape in which the library's registry wants to get them. */
class Family {
  /** The registry changes it: in OpenMetrics a counter's family is called without `_total`. */
  name: string;
  readonly help: string;
  readonly type: Type;
  readonly values: Sample[] = [];

  constructor(name: string, help: string, type: Type) {
    this.name = name;
    this.help = help;
    this.type = type;
  }

  async get(): Promise<this> {
    return this;
  }
}

class Families {
  readonly #families = new Map<string, Family>();

  add(type: Type, name: string, help: string, labels: Labels, value: number): void {
    this.#family(type, name, help).values.push({ labels, value });
  }

  /**
   * `counts` by powers of two: entry i those of [2^i, 2^(i+1)) µs, the last all above. The last has no
   * upper end, so it is in `+Inf` alone.
   */
  addHistogram(name: string, help: string, labels: Labels, counts: readonly number[], sum: number) {
    const { values } = this.#family('histogram', name, help);
    const add = (suffix: string, value: number, more: Labels = {}) => {
      values.push({ metricName: `${name}_${suffix}`, labels: { ...labels, ...more }, value });
    };
    let below = 0;
    for (const [index, count] of counts.slice(0, -1).entries()) {
      below += count;
      add('bucket', below, { le: String(2 ** (index + 1) / MICROS_PER_SECOND) });
    }
    const total = below + (counts.at(-1) ?? 0);
    add('bucket', total, { le: '+Inf' });
    add('sum', sum);
    add('count', total);
  }

  text(format: MetricsFormat): Promise<string> {
    const registry = new Registry<RegistryContentType>();
    registry.setContentType(CONTENT_TYPES[format]);
    for (const family of this.#families.values()) {
      // The library's histograms cannot be given counts, and its counters only what was added. Its
      // registry, which knows both formats, asks a metric for nothing but its name, type and get().
      registry.registerMetric(family as unknown as Metric);
    }
    return registry.metrics();
  }

  #family(type: Type, name: string, help: string): Family {
    const found = this.#families.get(name) ?? new Family(name, help, type);
    this.#families.set(name, found);
    return found;
  }
}

export interface MetricsText {
  readonly contentType: string;
  readonly text: string;
}

/** All metrics, read now. */
export async function metricsText(
  source: MetricsSource,
  format: MetricsFormat,
): Promise<MetricsText> {
  const families = new Families();
  const devices = source.devices();
  addDaemon(families, source.daemon(), devices.length);
  for (const device of devices) addDevice(families, device);
  for (const { name, help, type, value } of processMetrics()) {
    families.add(type, name, help, {}, value);
  }
  return { contentType: CONTENT_TYPES[format], text: await families.text(format) };
}

function addDaemon(families: Families, daemon: DaemonStatus, deviceCount: number): void {
  const gauge = (name: string, help: string, value: number, labels: Labels = {}) =>
    families.add('gauge', `${PREFIX}${name}`, help, labels, value);
  const { version, budget } = daemon;
  gauge('build_info', 'the version that runs; always 1', 1, { version, node: process.version });
  gauge('uptime_seconds', 'since the daemon started', daemon.uptime_seconds);
  gauge('reactor_threads', 'threads that devices are spread over', daemon.threads);
  gauge('devices', 'devices that the daemon has', deviceCount);
  if (budget === null) return;
  gauge('budget_limit_bytes', 'host memory for stored pages of all devices', budget.limit);
  gauge('budget_committed_bytes', 'held or guaranteed of the budget', budget.committed);
}

function addDevice(families: Families, status: DeviceStatus): void {
  const { device, statistics, share } = status;
  const gauge = (name: string, help: string, value: number, more: Labels = {}) =>
    families.add('gauge', `${PREFIX}${name}`, help, { device, ...more }, value);
  gauge('device_info', 'how the device is set up; always 1', 1, {
    socket: status.socket ?? '',
    thread: String(status.thread),
    backing_swap: statistics?.backing_swap_name ?? '',
  });
  for (const state of DEVICE_STATES) {
    const help = '1: the state that the device is in; 0: the others';
    gauge('device_state', help, state === status.state ? 1 : 0, { state });
  }
  gauge('device_connected', '1: a front end is connected', status.connected ? 1 : 0);
  if (share !== null) addShare(families, device, share);
  if (statistics === null) return;
  for (const name of Object.keys(FIGURES) as (keyof Statistics)[]) {
    addFigure(families, device, statistics, FIGURES[name], statistics[name]);
  }
  addRatios(families, device, statistics);
}

function addFigure(
  families: Families,
  device: string,
  statistics: Statistics,
  { kind, help, metric, factor = 1, sum }: Figure,
  value: Statistics[keyof Statistics],
): void {
  if (metric === null || kind === 'text') return;
  const name = `${PREFIX}${metric}`;
  if (kind === 'histogram') {
    const seconds = sum === undefined ? 0 : Number(statistics[sum]) / MICROS_PER_SECOND;
    families.addHistogram(name, help, { device }, value as readonly number[], seconds);
  } else {
    families.add(kind, name, help, { device }, (value as number) * factor);
  }
}

function addShare(families: Families, device: string, share: ShareStatus): void {
  const labels = { device };
  const gauge = (name: string, help: string, value: number) =>
    families.add('gauge', `${PREFIX}share_${name}_bytes`, help, labels, value);
  gauge('guarantee', 'of the budget, what no other device can take', share.guarantee);
  gauge('used', 'of the budget, what the device holds', share.used);
  gauge('limit', 'of the budget, what the device may hold while memory is short', share.share);
  const help = 'how often the device wanted more of the budget and got nothing';
  families.add('counter', `${PREFIX}share_refused_total`, help, labels, share.refused);
}

/** What people divide anyway; of nothing there is no ratio. */
function addRatios(families: Families, device: string, statistics: Statistics): void {
  const ratio = (name: string, help: string, part: number, whole: number) => {
    if (whole === 0) return;
    families.add('gauge', `${PREFIX}${name}`, help, { device }, part / whole);
  };
  const {
    orig_data_size: original,
    compr_data_size: compressed,
    mem_used_total: used,
  } = statistics;
  ratio('compression_ratio', 'original size by compressed size', original, compressed);
  ratio('memory_ratio', 'original size by host memory in use', original, used);
  ratio('allocator_efficiency_ratio', 'compressed size by host memory in use', compressed, used);
}
