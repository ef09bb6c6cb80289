/** Tables of the figures: for the terminal and, the same cells, for BENCHMARKS.md. */
import Table from 'cli-table3';
import type { Results } from './rows.ts';

const HEAD = [
  ...['row', 'back end', 'pages/s', 'ours / it', 'p50, µs', 'p99', 'p99.9', 'max'],
  ...['CPU, µs/page', 'sleeps, %'],
] as const;

/** Three digits that mean something: more would be noise. */
export function short(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en-US');
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** A line for each row and back end; the ratio of pages a second is ours to that back end's. */
function cells(results: Results): string[][] {
  return [...results].flatMap(([row, ofRow]) => {
    const ours = ofRow.get('ours');
    return [...ofRow]
      .toSorted(([a], [b]) => Number(b === 'ours') - Number(a === 'ours') || a.localeCompare(b))
      .map(([backEnd, f]) => [
        ...[row, backEnd, short(f.pagesPerSecond)],
        ours === undefined ? '–' : (ours.pagesPerSecond / f.pagesPerSecond).toFixed(2),
        ...[f.p50Micros, f.p99Micros, f.p999Micros, f.maxMicros, f.cpuMicrosPerPage].map(short),
        f.sleepsPercent.toFixed(0),
      ]);
  });
}

export function figuresTable(results: Results): string {
  const table = new Table({ head: [...HEAD], style: { head: [], border: [], compact: true } });
  table.push(...cells(results));
  return table.toString();
}
