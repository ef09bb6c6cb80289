/** The figures as tables: the same cells for the terminal and for BENCHMARKS.md. */
import Table from 'cli-table3';
import { type Figures, figureOf, type Results, ratioTo } from './rows.ts';
import type { Verdict } from './targets.ts';

export interface Cells {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** Three digits that mean something: more would be noise. */
export function short(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en-US');
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

const LATENCIES = ['p50Micros', 'p99Micros', 'p999Micros', 'maxMicros'] as const;

/** A line for each row and back end; the ratio is ours to that back end's, in pages a second. */
export function figureCells(results: Results): Cells {
  const rows = [...results].flatMap(([row, ofRow]) =>
    [...ofRow.keys()]
      .toSorted((a, b) => Number(b === 'ours') - Number(a === 'ours') || a.localeCompare(b))
      .map((backEnd) => {
        const figure = (name: keyof Figures) => figureOf(results, row, backEnd, name)!;
        return [
          ...[row, backEnd, short(figure('pagesPerSecond'))],
          ratioTo(results, row, backEnd, 'pagesPerSecond')?.toFixed(2) ?? '–',
          ...LATENCIES.map((name) => short(figure(name))),
          ...[short(figure('cpuMicrosPerPage')), figure('sleepsPercent').toFixed(0)],
        ];
      }),
  );
  const latencies = ['p50, µs', 'p99', 'p99.9', 'max'];
  const head = [
    'row',
    'back end',
    'pages/s',
    'ours / it',
    ...latencies,
    'CPU, µs/page',
    'sleeps, %',
  ];
  return { head, rows };
}

export function verdictCells(verdicts: readonly Verdict[]): Cells {
  const rows = verdicts.map(({ text, wanted, got, verdict }) => [text, wanted, got, verdict]);
  return { head: ['target', 'wanted', 'got', ''], rows };
}

export function terminalTable({ head, rows }: Cells): string {
  const style = { head: [], border: [], compact: true };
  const table = new Table({ head: [...head], style });
  table.push(...rows.map((row) => [...row]));
  return table.toString();
}

export function markdownTable({ head, rows }: Cells): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
