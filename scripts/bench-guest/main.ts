/**
 * `make bench-guest`: the ancestor's measurements in guests, on our disk and on its rivals, round
 * after round in turn; and how much the store holds that the guest no longer needs. Prints the
 * tables of BENCHMARKS.md and writes its plots. `main.ts --rounds 3 scan stale`.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Argument, Command, Option } from 'commander';
import { barsSvg, linesSvg } from '../charts.ts';
import { CACHE_DIR } from '../fetch.ts';
import { median } from '../median.ts';
import {
  DOCUMENTS,
  FILE_CACHE,
  type Figures,
  type Measure,
  measure,
  measureStale,
  SCAN,
  STALE_CASES,
  type StaleResult,
  type StaleSample,
} from './measures.ts';
import { NO_SWAP, SWAPS, type SwapKind } from './swaps.ts';

const PLOTS = fileURLToPath(new URL('./plots', import.meta.url));
const NAMES = ['scan', 'documents', 'filecache', 'stale'] as const;

interface Row {
  readonly kind: string;
  /** Medians of the rounds that came to their end. */
  readonly figures: Figures;
  /** Behind the kind's name in tables: rounds in which the workload was killed. */
  readonly note: string;
}

/** Every kind once, then again backwards: what else the machine does falls on all alike. */
async function measureAll(
  what: Measure,
  kinds: readonly SwapKind[],
  rounds: number,
): Promise<Row[]> {
  const all = kinds.map((): Figures[] => []);
  for (let round = 1; round <= rounds; round++) {
    const turn = [...kinds.entries()];
    for (const [i, kind] of round % 2 === 0 ? turn.reverse() : turn) {
      const figures = await measure(what, kind);
      const said = figures === undefined ? 'killed: out of memory' : JSON.stringify(figures);
      console.error(`${what.name}, round ${round}, ${kind.name}: ${said}`);
      if (figures !== undefined) all[i]!.push(figures);
    }
  }
  return kinds.map(({ name: kind }, i) => {
    const killed = rounds - all[i]!.length;
    const note = killed === 0 ? '' : `; out of memory in ${killed} of ${rounds}`;
    return { kind, figures: medians(all[i]!), note };
  });
}

function medians(rounds: readonly Figures[]): Figures {
  const names = Object.keys(rounds[0] ?? {});
  return Object.fromEntries(
    names.map((name) => [name, median(rounds.map((figures) => figures[name]!))]),
  );
}

function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const line = (cells: readonly (string | number)[]) => console.log(`| ${cells.join(' | ')} |`);
  line(head);
  line(head.map(() => '---'));
  for (const row of rows) line(row);
  console.log('');
}

function fixed(value: number | undefined, digits: number): string {
  return value === undefined || Number.isNaN(value) ? '–' : value.toFixed(digits);
}

/** zram's times are counted in whole ticks of 4 ms, which says nothing of microseconds. */
function requestTime(kind: string, millis: number | undefined, pages: number | undefined): string {
  return kind.startsWith('zram') ? '–' : `${fixed(millis, 3)} (${fixed(pages, 1)})`;
}

function plot(name: string, svg: string): void {
  mkdirSync(PLOTS, { recursive: true });
  writeFileSync(join(PLOTS, `${name}.svg`), svg);
}

/** The figure named `unit` of every kind. */
function plotBars(name: string, title: string, unit: string, rows: readonly Row[]): void {
  const bars = rows.map(({ kind, figures }) => ({
    name: kind,
    value: Math.round(figures[unit]! * 10) / 10,
  }));
  plot(name, barsSvg({ title, unit, rows: bars }));
}

async function scan(rounds: number): Promise<void> {
  const rows = await measureAll(SCAN, SWAPS, rounds);
  console.log(`\n### ${SCAN.command}, ${SCAN.memoryMiB} MiB of RAM, medians of ${rounds}\n`);
  const first = rows[0]!.figures.seconds!;
  table(
    ['swap', 'seconds', 'ramzswap = 1', 'a read in ms (pages)', 'a write in ms (pages)'],
    rows.map(({ kind, figures: f, note }) => [
      `${kind}${note}`,
      fixed(f.seconds, 1),
      fixed(f.seconds! / first, 2),
      requestTime(kind, f.readMillis, f.readPages),
      requestTime(kind, f.writeMillis, f.writePages),
    ]),
  );
  plotBars('scan', `Time of ${SCAN.command}`, 'seconds', rows);
}

async function documents(rounds: number): Promise<void> {
  const rows = await measureAll(DOCUMENTS, [NO_SWAP, ...SWAPS], rounds);
  console.log(`\n### ${DOCUMENTS.command}, ${DOCUMENTS.memoryMiB} MiB of RAM\n`);
  table(
    ['swap', 'documents that fit'],
    rows.map(({ kind, figures, note }) => [`${kind}${note}`, fixed(figures.documents, 0)]),
  );
  plotBars('documents', 'Documents of 16 MiB that fit in 124 MiB of RAM', 'documents', rows);
}

async function fileCache(rounds: number): Promise<void> {
  const rows = await measureAll(FILE_CACHE, [NO_SWAP, ...SWAPS], rounds);
  console.log(`\n### ${FILE_CACHE.command}, ${FILE_CACHE.memoryMiB} MiB of RAM\n`);
  const first = rows[0]!.figures.seconds!;
  table(
    ['swap', 'seconds', 'no swap = 1', 'pages swapped out'],
    rows.map(({ kind, figures: f, note }) => [
      `${kind}${note}`,
      fixed(f.seconds, 1),
      fixed(f.seconds! / first, 2),
      fixed(f.swappedPages, 0),
    ]),
  );
  plotBars('file-cache', 'A file as large as RAM: time, hardly anything to swap', 'seconds', rows);
}

async function stale(): Promise<void> {
  const results: { guest: string; policy: string; result: StaleResult }[] = [];
  for (const one of STALE_CASES) {
    const result = await measureStale(one);
    console.error(`stale, ${one.guest}, ${one.policy}: ${JSON.stringify(result)}`);
    results.push({ guest: one.guest, policy: one.policy, result });
  }
  console.log('\n### Stale slots: pages held for each page of swap in use\n');
  const ratio = ({ heldPages, usedPages }: StaleSample) => heldPages / usedPages;
  table(
    ['guest', 'discard', 'median of rounds', 'last round', 'after freeing 3/4', 'stale then, MiB'],
    results.map(({ guest, policy, result: { rounds, freed } }) => [
      guest,
      policy,
      fixed(median(rounds.map(ratio)), 2),
      fixed(ratio(rounds.at(-1)!), 2),
      fixed(ratio(freed), 2),
      fixed(((freed.heldPages - freed.usedPages) * 4) / 1024, 0),
    ]),
  );
  for (const guest of new Set(results.map((one) => one.guest))) {
    const series = results
      .filter((one) => one.guest === guest)
      .map(({ policy, result }) => ({
        name: policy,
        points: [...result.rounds, result.freed].map((one) => Math.round(ratio(one) * 100) / 100),
      }));
    const title = `Pages held per page of swap in use, ${guest}, by swapon's discards`;
    const xName = 'round; the last is after three quarters were freed';
    plot(`stale-${guest}`, linesSvg({ title, xName, yName: 'held / used', series }));
  }
}

async function main(): Promise<void> {
  const program = new Command('bench-guest')
    .addOption(new Option('--rounds <N>', 'of every kind').choices(['1', '3', '5']).default('3'))
    .addArgument(new Argument('[measures...]', 'which; all by default').choices(NAMES))
    .parse();
  const { rounds } = program.opts<{ rounds: string }>();
  const wanted = new Set(program.args.length > 0 ? program.args : NAMES);
  mkdirSync(CACHE_DIR, { recursive: true });
  if (wanted.has('scan')) await scan(Number(rounds));
  if (wanted.has('documents')) await documents(Number(rounds));
  if (wanted.has('filecache')) await fileCache(Number(rounds));
  if (wanted.has('stale')) await stale();
}

await main();
// The plotting library keeps a timer.
process.exit(0);
