/**
 * A frame of `rzscontrol top` as lines of text: a header, a table of as many columns and devices as
 * there is room for, a line of keys. terminal.ts brings it to the screen, top.ts says when.
 */

import type { SortKey } from './control-options.ts';
import { type Sample, type TopRow, totalsOf } from './top-sample.ts';

export interface FrameLine {
  readonly text: string;
  /** Shown dark on light, or the other way round. */
  readonly isReversed?: boolean;
}

/** All that a frame is made of. */
export interface TopView {
  readonly sample: Sample;
  /** Sorted. */
  readonly rows: readonly TopRow[];
  readonly sort: SortKey;
  /** The first row that is shown. */
  readonly offset: number;
  /** Local time. */
  readonly clock: string;
  /** For how long the daemon has not said what is new; undefined: it does. */
  readonly silentSeconds?: number | undefined;
}

export interface Size {
  readonly columns: number;
  readonly rows: number;
}

interface Column {
  readonly title: string;
  readonly width: number;
  /** 1: never left out; the highest goes first where room is short. */
  readonly rank: number;
  readonly isLeft?: boolean;
  /** Left out where no device has it. */
  readonly isOptional?: boolean;
  readonly cell: (row: TopRow) => string;
}

const NAME_WIDTH_MIN = 9;

/** In their order. Those of rank 6 and less are 79 characters wide with names of 9. */
const COLUMNS: readonly Column[] = [
  { title: 'DEVICE', width: NAME_WIDTH_MIN, rank: 1, isLeft: true, cell: (row) => row.device },
  { title: 'STATE', width: 6, rank: 2, isLeft: true, cell: stateCell },
  { title: 'GUEST', width: 5, rank: 9, isLeft: true, cell: (row) => (row.connected ? 'yes' : '-') },
  { title: 'DISK', width: 5, rank: 7, cell: (row) => bytesCell(row.diskBytes) },
  { title: 'STORED', width: 6, rank: 6, cell: (row) => bytesCell(row.storedBytes) },
  { title: 'COMPR', width: 5, rank: 10, cell: (row) => bytesCell(row.compressedBytes) },
  { title: 'MEMORY', width: 6, rank: 3, cell: (row) => bytesCell(row.memoryBytes) },
  {
    title: 'SHARE',
    width: 5,
    rank: 8,
    isOptional: true,
    cell: (row) => bytesCell(row.share?.share),
  },
  { title: 'RATIO', width: 5, rank: 4, cell: (row) => row.ratio?.toFixed(2) ?? '-' },
  { title: 'READ/s', width: 6, rank: 3, cell: (row) => countCell(row.readsPerSecond) },
  { title: 'WRITE/s', width: 7, rank: 3, cell: (row) => countCell(row.writesPerSecond) },
  { title: 'FREE/s', width: 6, rank: 11, cell: (row) => countCell(row.freesPerSecond) },
  { title: 'MB/s', width: 6, rank: 5, cell: (row) => megabytesCell(row.bytesPerSecond) },
  { title: 'R50%', width: 5, rank: 8, cell: (row) => microsCell(row.readHalfMicros) },
  { title: 'R99%', width: 5, rank: 5, cell: (row) => microsCell(row.readMostMicros) },
  { title: 'W50%', width: 5, rank: 8, cell: (row) => microsCell(row.writeHalfMicros) },
  { title: 'W99%', width: 5, rank: 5, cell: (row) => microsCell(row.writeMostMicros) },
  { title: 'FAILED', width: 6, rank: 4, cell: (row) => countCell(row.failed) },
];

const KEYS = 'q quit   sort by: n name, m memory, r reads, w writes, f failed   arrows: scroll';
/** Header, empty line, titles; at the end the line of keys. */
const FIXED_LINES = 6;

/** For a terminal: exactly as many lines as fit, none longer than it is wide. */
export function topFrame(view: TopView, size: Size): FrameLine[] {
  const columns = columnsFor(view.rows, size.columns);
  const shown = rowsShown(view.rows.length, size);
  const offset = Math.min(view.offset, view.rows.length - shown);
  const rest = view.rows.length - offset - shown;
  const lines = [
    ...headerLines(view).map((text) => ({ text })),
    { text: '' },
    { text: titles(columns, view.sort).padEnd(size.columns), isReversed: true },
    ...view.rows.slice(offset, offset + shown).map((row) => ({ text: rowText(columns, row) })),
  ];
  const more = offset > 0 || rest > 0 ? `… ${offset} above, ${rest} more below` : '';
  const room = size.rows - lines.length - 1;
  for (let i = 0; i < room; i++) lines.push({ text: i === 0 ? more : '' });
  return [...lines.slice(0, size.rows - 1), lastLine(view)]
    .slice(0, size.rows)
    .map((line) => ({ ...line, text: line.text.slice(0, size.columns) }));
}

/** Keys, or that the figures are no longer those of now. */
function lastLine({ silentSeconds }: TopView): FrameLine {
  if (silentSeconds === undefined) return { text: KEYS };
  return { text: `no answer from the daemon for ${silentSeconds} s   q quit`, isReversed: true };
}

/** How many of `count` rows a terminal has room for: a line less where some are left out. */
export function rowsShown(count: number, { rows }: Size): number {
  const room = Math.max(0, rows - FIXED_LINES);
  return count <= room ? count : Math.max(0, room - 1);
}

/** For a file or a pipe: every column and every device. */
export function topText(view: TopView): string {
  const columns = columnsFor(view.rows, Number.POSITIVE_INFINITY);
  return [
    ...headerLines(view),
    '',
    titles(columns, view.sort),
    ...view.rows.map((row) => rowText(columns, row)),
  ].join('\n');
}

/** Instead of figures, while there is nobody to ask. */
export function waitingFrame(reason: string, size: Size): FrameLine[] {
  const lines: FrameLine[] = [
    { text: 'waiting for the daemon'.padEnd(size.columns), isReversed: true },
    { text: reason },
  ];
  while (lines.length < size.rows - 1) lines.push({ text: '' });
  return [...lines, { text: 'q quit' }]
    .slice(0, size.rows)
    .map((line) => ({ ...line, text: line.text.slice(0, size.columns) }));
}

function headerLines({ sample, rows, clock }: TopView): string[] {
  const { version, uptime_seconds, budget } = sample.daemon;
  const active = rows.filter(({ state }) => state === 'active').length;
  const totals = totalsOf(rows);
  const { memoryBytes, storedBytes } = totals;
  const ratio = memoryBytes === 0 ? '-' : (storedBytes / memoryBytes).toFixed(2);
  const budgetText =
    budget === null
      ? 'no budget'
      : `budget ${bytesCell(budget.committed)} of ${bytesCell(budget.limit)} committed`;
  return [
    `ramzswapd ${version}   up ${durationText(uptime_seconds)}   ` +
      `${rows.length} ${rows.length === 1 ? 'device' : 'devices'}, ${active} active   ${clock}`,
    `memory ${bytesCell(memoryBytes)}   stored ${bytesCell(storedBytes)}   ratio ${ratio}   ` +
      budgetText,
    `read ${countCell(totals.readsPerSecond)} pages/s   written ${countCell(totals.writesPerSecond)} ` +
      `pages/s   ${megabytesCell(totals.bytesPerSecond)} MB/s   failed ${countCell(totals.failed)}`,
  ];
}

/** The lowest ranks that fit, in the order of the table. */
function columnsFor(rows: readonly TopRow[], width: number): Column[] {
  const longest = Math.max(NAME_WIDTH_MIN, ...rows.map(({ device }) => device.length));
  const all = COLUMNS.filter(
    ({ isOptional, cell }) => isOptional !== true || rows.some((row) => cell(row) !== '-'),
  ).map((column) => (column.rank === 1 ? { ...column, width: longest } : column));
  const chosen = new Set<Column>();
  let used = -1;
  for (const column of [...all].sort((a, b) => a.rank - b.rank)) {
    used += column.width + 1;
    if (column.rank > 1 && used > width) break;
    chosen.add(column);
  }
  return all.filter((column) => chosen.has(column));
}

const SORT_TITLES: Readonly<Record<SortKey, string>> = {
  name: 'DEVICE',
  memory: 'MEMORY',
  reads: 'READ/s',
  writes: 'WRITE/s',
  failed: 'FAILED',
};

/** In capitals; what rows are sorted by in small letters, which is seen without colours. */
function titles(columns: readonly Column[], sort: SortKey): string {
  return joined(columns, ({ title }) =>
    title === SORT_TITLES[sort] ? title.toLowerCase() : title,
  );
}

function rowText(columns: readonly Column[], row: TopRow): string {
  return joined(columns, ({ cell }) => cell(row));
}

function joined(columns: readonly Column[], cell: (column: Column) => string): string {
  return columns
    .map((column) =>
      column.isLeft === true
        ? cell(column).padEnd(column.width)
        : cell(column).padStart(column.width),
    )
    .join(' ')
    .trimEnd();
}

function stateCell({ state }: TopRow): string {
  return { uninitialised: 'uninit', initialised: 'init', active: 'active' }[state];
}

/** At most five characters: `0`, `812B`, `64.0K`, `1.25G`, `1023M`. */
export function bytesCell(bytes: number | undefined): string {
  if (bytes === undefined) return '-';
  if (bytes < 1024) return bytes === 0 ? '0' : `${Math.round(bytes)}B`;
  let value = bytes;
  let unit = -1;
  // From here on three digits would be rounded up to 1024.
  while (value >= 1023.5 && unit < 3) {
    value /= 1024;
    unit++;
  }
  return `${threeDigits(value)}${'KMGT'[unit]}`;
}

/** At most six characters: `99999`, `123k`, `1.23M`. */
export function countCell(count: number | undefined): string {
  if (count === undefined) return '-';
  if (count < 99_999.5) return `${Math.round(count)}`;
  return count < 999_500 ? `${threeDigits(count / 1000)}k` : `${threeDigits(count / 1e6)}M`;
}

function megabytesCell(bytes: number | undefined): string {
  return bytes === undefined ? '-' : (bytes / 1e6).toFixed(bytes < 9.995e6 ? 2 : 1);
}

/** At most five characters: `512us`, `8.2ms`, `16.8s`. */
export function microsCell(micros: number | undefined): string {
  if (micros === undefined) return '-';
  if (micros < 1000) return `${micros}us`;
  const [value, unit] = micros < 1e6 ? [micros / 1000, 'ms'] : [micros / 1e6, 's'];
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)}${unit}`;
}

function threeDigits(value: number): string {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

function durationText(seconds: number): string {
  const [days, hours] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min` : `${Math.floor(seconds)} s`;
}
