/** The section of BENCHMARKS.md that this benchmark writes, its plots, and the machine it names. */
import { spawnSync } from 'node:child_process';
import { cpus, loadavg, release } from 'node:os';
import { groupedBarsSvg } from '../charts.ts';
import { median } from '../median.ts';
import { BACK_ENDS, type BackEndName } from './back-ends.ts';
import { type Figures, figureOf, type Results } from './rows.ts';
import { figureCells, markdownTable, short, verdictCells } from './tables.ts';
import type { Measured, Verdict } from './targets.ts';

const BEGIN = '<!-- bench-path: begin; written by `make bench` -->';
const END = '<!-- bench-path: end -->';
const PLOTS = 'scripts/bench-path/plots';
const DEPTHS = [1, 32] as const;

export interface Report extends Measured {
  readonly rounds: number;
  readonly seconds: number;
  readonly corpusPages: number;
  readonly diskPages: number;
  /** Back ends that could not be measured here, and why. */
  readonly missing: readonly string[];
  readonly verdicts: readonly Verdict[];
}

/** `text` with what lies between the markers replaced; all else stays as it is. */
export function replaceBetweenMarkers(text: string, body: string): string {
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`expected ${BEGIN} … ${END}, in that order`);
  return `${text.slice(0, begin + BEGIN.length)}\n\n${body.trim()}\n\n${text.slice(end)}`;
}

function machine(): string {
  const [cpu] = cpus();
  const qemu = spawnSync('qemu-storage-daemon', ['--version'], { encoding: 'utf8' });
  const version = /version (\S+)/.exec(qemu.stdout ?? '')?.[1] ?? 'none';
  const date = new Date().toLocaleDateString('en-GB', { dateStyle: 'long' });
  return (
    `${date}; ${cpus().length} × ${cpu?.model ?? 'unknown processor'}, Linux ${release()}, ` +
    `Node ${process.version.slice(1)}, qemu-storage-daemon ${version}; ` +
    `load at the end ${loadavg()[0]!.toFixed(1)}`
  );
}

function method({ rounds, seconds, corpusPages, diskPages }: Report): string {
  return `
\`scripts/bench-path/\`, ${machine()}.

A client in C, in a process of its own, is the guest's driver: a ring of 128, indirect descriptors,
one page a descriptor, kicks and interrupts by event index; it sleeps until the interrupt when
nothing has completed. It writes ${corpusPages.toLocaleString('en-US')} pages of live processes'
anonymous memory, none of one repeated word, on ${(diskPages * 4) / 1024} MiB of the disk, which is
filled first. Every byte is verified before and after the timed rows, a cache line of each page
within them. In each round all back ends start afresh and take turns of ${seconds} s row by row, in an
order that rotates and is reversed, the others idle meanwhile; medians of ${rounds} rounds, and of
the rounds' own ratios. Latencies are of requests (64K: 16 pages).
*CPU* is the process's CPU clock: all threads of the back end, those included that ended meanwhile
and io_uring's workers; zram compresses in the thread that submits. The kernel's own threads are not
in it. *Sleeps* are the client's, of a hundred requests.

- **ours**: \`ramzswapd --disksize 256M\`.
- **a**: qemu-storage-daemon, an I/O thread, over a file in tmpfs (\`O_DIRECT\`, aio=native): nothing
  is compressed.
- **b-native, b-io_uring**: the same over a zram of the host's with lzo, by aio=native and aio=io_uring.
`;
}

/** Markdown; the heading above it stands in the file. */
export function section(report: Report): string {
  const { results, missing, codec, verdicts, daemon } = report;
  const parts = [method(report)];
  if (missing.length > 0)
    parts.push(missing.map((line) => `**Not measured: ${line}.**`).join('\n'));
  parts.push(markdownTable(figureCells(results)));
  parts.push(
    codec === undefined
      ? '**Not measured: liblzo2.**'
      : 'liblzo2 alone, same pages, processor time, the mean of three passes in each round: ' +
          `${short(median(codec.map((round) => round.compress)))} µs to compress a page, ` +
          `${short(median(codec.map((round) => round.decompress)))} µs to decompress it.`,
  );
  if (daemon === undefined) parts.push("**Not measured: the daemon's own figures.**");
  parts.push(
    "Targets; beside (b) the better of its two ways, figure by figure. The daemon's own: 512 MiB, " +
      'idle over 10 s (a last collection, 40 ms, comes some 8 s after start-up and is not in it), ' +
      'then half filled.',
  );
  parts.push(markdownTable(verdictCells(verdicts)));
  const images = Object.keys(plots(results)).map((name) => `![${name}](${PLOTS}/${name}.svg)`);
  parts.push(images.join('\n'));
  return parts.map((part) => part.trim()).join('\n\n');
}

/** Name → SVG. */
export function plots(results: Results): Record<string, string> {
  const names = BACK_ENDS.map(({ name }) => name).filter((name) =>
    [...results.values()].some((ofRow) => ofRow.has(name)),
  );
  const rows = [...results.keys()];
  const series = (value: (backEnd: BackEndName) => (number | undefined)[]) =>
    names.map((name) => ({ name, values: value(name) }));
  const throughput = groupedBarsSvg({
    ...{ title: 'Pages a second', unit: 'pages/s', groups: rows, scale: 'linear' },
    series: series((name) => rows.map((row) => rounded(results, row, name, 'pagesPerSecond'))),
  });
  const drawn: Record<string, string> = { 'pages-per-second': throughput };
  const parts = { p50: 'p50Micros', p99: 'p99Micros', 'p99.9': 'p999Micros' } as const;
  for (const depth of DEPTHS) {
    const cells = ['read', 'write'].flatMap((operation) =>
      Object.entries(parts).map(([text, figure]) => ({
        ...{ text: `${operation} ${text}`, figure },
        row: `${operation} 4K d${depth}`,
      })),
    );
    drawn[`latency-depth-${depth}`] = groupedBarsSvg({
      ...{ title: `Latency at depth ${depth}, 4 KiB, random`, unit: 'µs', scale: 'log' },
      groups: cells.map(({ text }) => text),
      series: series((name) => cells.map(({ row, figure }) => rounded(results, row, name, figure))),
    });
  }
  return drawn;
}

function rounded(results: Results, row: string, backEnd: BackEndName, figure: keyof Figures) {
  const value = figureOf(results, row, backEnd, figure);
  return value === undefined ? undefined : Math.round(value);
}
