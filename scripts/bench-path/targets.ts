/**
 * What the data path is to reach, as a table, and what of it is reached. Ratios are
 * medians of the rounds' own. Beside (b) a row counts as reached against the better of its two ways
 * of I/O, figure by figure: the harder comparison.
 */

import { median } from '../median.ts';
import type { DaemonFigures } from './daemon-figures.ts';
import { type Figures, type Results, ratioTo } from './rows.ts';

const MIB = 2 ** 20;

/** liblzo2's own processor time for a page of the same corpus, in microseconds. */
export interface CodecMicros {
  readonly compress: number;
  readonly decompress: number;
}

/** All that a target can be about; undefined: not measured this time. */
export interface Measured {
  readonly results: Results;
  /** By round. */
  readonly codec: readonly CodecMicros[] | undefined;
  readonly daemon: DaemonFigures | undefined;
}

export interface Target {
  readonly text: string;
  readonly bound: 'at most' | 'at least';
  readonly limit: number;
  readonly unit: string;
  /** Undefined: something it needs was not measured. */
  value(measured: Measured): number | undefined;
}

export interface Verdict {
  readonly text: string;
  readonly wanted: string;
  readonly got: string;
  readonly verdict: 'reached' | 'not reached' | 'not measured';
}

type FigureName = Exclude<keyof Figures, 'sleepsPercent' | 'maxMicros' | 'p99Micros'>;

/** Ours to the better of (b)'s two ways, as the bound has it: the harder comparison. */
function ratioToZram(results: Results, row: string, name: FigureName, bound: Target['bound']) {
  const native = ratioTo(results, row, 'b-native', name);
  const ioUring = ratioTo(results, row, 'b-io_uring', name);
  if (native === undefined || ioUring === undefined) return undefined;
  return bound === 'at most' ? Math.max(native, ioUring) : Math.min(native, ioUring);
}

const NAMES: Record<FigureName, string> = {
  pagesPerSecond: 'pages/s',
  p50Micros: 'p50',
  p999Micros: 'p99.9',
  cpuMicrosPerPage: 'CPU per page',
};

type Bound = readonly [bound: Target['bound'], limit: number];

/** Ours divided by a peer's. */
function beside(peer: 'a' | 'b', row: string, name: FigureName, [bound, limit]: Bound): Target {
  return {
    ...{ text: `${row}: ${NAMES[name]} / (${peer})'s`, bound, limit, unit: '×' },
    value: ({ results }) =>
      peer === 'a' ? ratioTo(results, row, 'a', name) : ratioToZram(results, row, name, bound),
  };
}

/** The back end's time for a page divided by what liblzo2 alone takes for it. */
function besideCodec(row: string, operation: keyof CodecMicros, limit: number): Target {
  return {
    ...{ text: `${row}: CPU per page / liblzo2's ${operation}`, bound: 'at most', limit },
    unit: '×',
    value: ({ results, codec }) => {
      const rounds = results.get(row)?.get('ours');
      if (rounds === undefined || codec === undefined) return undefined;
      return median(
        rounds.map(({ cpuMicrosPerPage }, round) => cpuMicrosPerPage / codec[round]![operation]),
      );
    },
  };
}

function ofDaemon(
  text: string,
  [limit, unit]: readonly [number, string],
  value: (daemon: DaemonFigures) => number,
): Target {
  return {
    ...{ text, bound: 'at most', limit, unit },
    value: ({ daemon }) => (daemon === undefined ? undefined : value(daemon)),
  };
}

const [READ, WRITE, LARGE_WRITE] = ['read 4K d32', 'write 4K d32', 'write 64K d4'] as const;

export const TARGETS: readonly Target[] = [
  beside('b', 'read 4K d1', 'p50Micros', ['at most', 0.4]),
  beside('b', READ, 'pagesPerSecond', ['at least', 2.5]),
  beside('a', READ, 'pagesPerSecond', ['at least', 2]),
  beside('b', 'write 4K d1', 'p50Micros', ['at most', 0.4]),
  beside('b', WRITE, 'pagesPerSecond', ['at least', 1.8]),
  beside('a', WRITE, 'pagesPerSecond', ['at least', 1.2]),
  beside('b', LARGE_WRITE, 'pagesPerSecond', ['at least', 1.1]),
  // 1.5 times the pages of a second of processor time.
  beside('b', LARGE_WRITE, 'cpuMicrosPerPage', ['at most', 1 / 1.5]),
  besideCodec(READ, 'decompress', 1.6),
  besideCodec(WRITE, 'compress', 1.6),
  {
    ...{ text: `${READ}: p99.9 / its own p50`, bound: 'at most', limit: 4, unit: '×' },
    value: ({ results }) => {
      const rounds = results.get(READ)?.get('ours');
      return rounds && median(rounds.map(({ p999Micros, p50Micros }) => p999Micros / p50Micros));
    },
  },
  beside('b', WRITE, 'p999Micros', ['at most', 1.3]),
  ofDaemon('daemon, resident when empty', [80, 'MiB'], (d) => d.residentBytes / MIB),
  ofDaemon(
    'each further device of 64 MiB, its files included',
    [1, 'MiB'],
    (d) => d.furtherDeviceBytes / MIB,
  ),
  ofDaemon('idle CPU, nobody connected', [0.2, '%'], (d) => d.idleCpuPercent),
  ofDaemon('idle CPU, rings running', [0.2, '%'], (d) => d.connectedIdleCpuPercent),
  ofDaemon(
    'file blocks held beyond mem_used_total, full',
    [4, 'MiB'],
    (d) => (d.full.fileBytes - d.full.usedBytes) / MIB,
  ),
  ofDaemon(
    'file blocks held beyond mem_used_total, 7 of 8 pages discarded',
    [4, 'MiB'],
    (d) => (d.discarded.fileBytes - d.discarded.usedBytes) / MIB,
  ),
];

/** Two digits after the point decide nothing: what is shown is rounded, what is compared is not. */
export function judge(target: Target, measured: Measured): Verdict {
  const value = target.value(measured);
  const { text, bound, limit, unit } = target;
  const wanted = `${bound} ${Number(limit.toFixed(2))} ${unit}`;
  if (value === undefined) return { text, wanted, got: '–', verdict: 'not measured' };
  const isReached = bound === 'at most' ? value <= limit : value >= limit;
  const got = `${value.toFixed(value < 0.095 ? 3 : 2)} ${unit}`;
  return { text, wanted, got, verdict: isReached ? 'reached' : 'not reached' };
}
