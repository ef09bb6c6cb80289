/** The rows of the tables: which jobs are timed, and what is made of many rounds of one. */

import { median } from '../median.ts';
import type { BackEndName } from './back-ends.ts';
import type { JobFigures } from './client.ts';

export interface Row {
  /** As in the tables; `--only` matches it. */
  readonly name: string;
  /** The job of client.c without its duration. */
  readonly job: string;
}

const BLOCKS = { '4K': 4096, '64K': 65536 } as const;

function row(
  operation: 'read' | 'write' | 'mixed',
  block: keyof typeof BLOCKS,
  depth: number,
  pattern: 'random' | 'sequential' = 'random',
): Row {
  const said = pattern === 'sequential' ? ' seq' : '';
  return {
    name: `${operation} ${block}${said} d${depth}`,
    job: `${operation} ${pattern} ${BLOCKS[block]} ${depth}`,
  };
}

const rowsOf = (operation: 'read' | 'write') => [
  ...[1, 4, 32].map((depth) => row(operation, '4K', depth)),
  row(operation, '4K', 32, 'sequential'),
  ...[1, 4].map((depth) => row(operation, '64K', depth)),
];

export const ROWS: readonly Row[] = [...rowsOf('read'), ...rowsOf('write'), row('mixed', '4K', 32)];

/** Of one job. Times are of requests; 64K are 16 pages. */
export interface Figures {
  readonly pagesPerSecond: number;
  readonly p50Micros: number;
  readonly p99Micros: number;
  readonly p999Micros: number;
  readonly maxMicros: number;
  readonly cpuMicrosPerPage: number;
  /** Times the client slept, of a hundred requests: how its completions were waited for. */
  readonly sleepsPercent: number;
}

export function figuresOf(job: JobFigures): Figures {
  return {
    pagesPerSecond: (job.pages / job.elapsedNs) * 1e9,
    p50Micros: job.p50Ns / 1000,
    p99Micros: job.p99Ns / 1000,
    p999Micros: job.p999Ns / 1000,
    maxMicros: job.maxNs / 1000,
    cpuMicrosPerPage: job.backendCpuNs / job.pages / 1000,
    sleepsPercent: (job.sleeps / job.requests) * 100,
  };
}

/** Each figure's own median. */
export function medians(rounds: readonly Figures[]): Figures {
  const names = Object.keys(rounds[0]!) as (keyof Figures)[];
  const entries = names.map((name) => [name, median(rounds.map((figures) => figures[name]))]);
  return Object.fromEntries(entries);
}

/** The order of a turn: the list rotated by it, and backwards in every second one. */
export function orderOf<T>(items: readonly T[], turn: number): T[] {
  const by = (turn >> 1) % items.length;
  const rotated = [...items.slice(by), ...items.slice(0, by)];
  return turn % 2 === 0 ? rotated : rotated.reverse();
}

/** Row → back end → figures by round; a back end that is missing here has no entry. */
export type Results = ReadonlyMap<string, ReadonlyMap<BackEndName, readonly Figures[]>>;

/** A figure's median over the rounds; undefined: not measured. */
export function figureOf(
  results: Results,
  row: string,
  backEnd: BackEndName,
  name: keyof Figures,
): number | undefined {
  const rounds = results.get(row)?.get(backEnd);
  return rounds === undefined ? undefined : median(rounds.map((figures) => figures[name]));
}

/**
 * Ours divided by a peer's: the median of the rounds' own ratios. The two were measured within
 * seconds, so what else the machine did then falls on both; medians of minutes apart do not cancel.
 */
export function ratioTo(
  results: Results,
  row: string,
  peer: BackEndName,
  name: keyof Figures,
): number | undefined {
  const [ours, theirs] = [results.get(row)?.get('ours'), results.get(row)?.get(peer)];
  if (ours === undefined || theirs === undefined) return undefined;
  return median(ours.map((figures, round) => figures[name] / theirs[round]![name]));
}

/** Collects rounds. */
export class Rounds {
  readonly results = new Map<string, Map<BackEndName, Figures[]>>();

  add(row: string, backEnd: BackEndName, figures: Figures): void {
    const ofRow = this.results.get(row) ?? new Map<BackEndName, Figures[]>();
    this.results.set(row, ofRow);
    ofRow.set(backEnd, [...(ofRow.get(backEnd) ?? []), figures]);
  }
}
