/**
 * `make bench`: the data path beside its peers. A native client drives each back end over its socket
 * from a process of its own; back ends take turns, row after row, on pages of live processes.
 * Prints tables and what of the targets is reached, and writes its section of BENCHMARKS.md.
 *
 * By hand: `npx tsx scripts/bench-path/main.ts --only 'read.*d32' --backends ours --rounds 1 --no-write`.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { collectAnonymousPages } from '../corpus.ts';
import { CACHE_DIR } from '../fetch.ts';
import { type CodecOperation, type Liblzo2, openLiblzo2 } from '../liblzo2.ts';
import { median } from '../median.ts';
import { BACK_ENDS, type BackEnd } from './back-ends.ts';
import { BenchClient, buildClient } from './client.ts';
import { measureDaemon } from './daemon-figures.ts';
import { plots, type Report, replaceBetweenMarkers, section } from './report.ts';
import { figuresOf, orderOf, type Results, ROWS, Rounds, type Row } from './rows.ts';
import { figureCells, terminalTable, verdictCells } from './tables.ts';
import { type CodecMicros, judge, type Measured, TARGETS } from './targets.ts';

const PAGE = 4096;
const DISK_PAGES = 65536;
const CORPUS_PAGES = 16384;
/** Fewer say too little to be written down. */
const WRITTEN_ROUNDS_MIN = 5;
const CORPUS_TRIES = 3;
const CODEC_PASSES = 3;
const BENCHMARKS = fileURLToPath(new URL('../../BENCHMARKS.md', import.meta.url));
const PLOTS = fileURLToPath(new URL('./plots', import.meta.url));
const CORPUS_PATH = join(CACHE_DIR, 'bench-path.pages');

interface Options {
  readonly rounds: string;
  readonly seconds: string;
  readonly only: string;
  readonly backends?: string;
  readonly clientSpin?: boolean;
  readonly write: boolean;
}

function parseOptions(): Options {
  return new Command('bench-path')
    .option('--rounds <n>', 'of every back end, in turn', '5')
    .option('--seconds <s>', 'of each row in a round', '1')
    .option('--only <regex>', 'rows with such a name', '')
    .option('--backends <names>', `of ${BACK_ENDS.map(({ name }) => name).join(',')}`)
    .option('--client-spin', 'the client polls for completions and never sleeps')
    .option('--no-write', 'leave BENCHMARKS.md and the plots alone')
    .parse()
    .opts<Options>();
}

/** Those asked for that can be measured here; the others are told of. */
function chooseBackEnds(names: string | undefined): { here: BackEnd[]; missing: string[] } {
  const wanted = names?.split(',');
  const unknown = wanted?.filter((name) => !BACK_ENDS.some((backEnd) => backEnd.name === name));
  if (unknown !== undefined && unknown.length > 0) throw new Error(`no back end ${unknown}`);
  const chosen = BACK_ENDS.filter(({ name }) => wanted?.includes(name) ?? true);
  const missing: string[] = [];
  const here = chosen.filter((backEnd) => {
    const why = backEnd.missing();
    if (why !== undefined) missing.push(`${backEnd.name} (${backEnd.text}): ${why}`);
    return why === undefined;
  });
  return { here, missing };
}

/** A busy machine's helpers are not always ready in time: the largest of a few tries. */
function collectCorpus(): number {
  let pages: Buffer = Buffer.alloc(0);
  for (let tries = 0; tries < CORPUS_TRIES && pages.length < CORPUS_PAGES * PAGE; tries++) {
    const collected = collectAnonymousPages(CORPUS_PAGES);
    if (collected.length > pages.length) pages = collected;
  }
  mkdirSync(CACHE_DIR, { recursive: true });
  writeFileSync(CORPUS_PATH, pages);
  return pages.length / PAGE;
}

/** A back end with its client connected. */
interface Pair {
  readonly name: BackEnd['name'];
  readonly client: BenchClient;
  stop(): Promise<void>;
}

/** Started afresh, filled and checked; idle until its turn. */
async function startPair(backEnd: BackEnd, options: Options): Promise<Pair> {
  const running = await backEnd.start(DISK_PAGES * PAGE);
  try {
    const client = await BenchClient.connect({
      ...{ socketPath: running.socketPath, backendPid: running.pid },
      ...{ corpusPath: CORPUS_PATH, diskPages: DISK_PAGES },
      extraArgs: options.clientSpin ? ['--spin'] : [],
    });
    const stop = () => client.close().finally(() => running.stop());
    await client.run('fill');
    await client.run('verify');
    return { name: backEnd.name, client, stop };
  } catch (error) {
    await running.stop();
    throw error;
  }
}

/** A round: row by row, every back end in its turn, and all are checked again. */
async function measureRound(
  round: number,
  rows: readonly Row[],
  pairs: readonly Pair[],
  options: Options,
  rounds: Rounds,
): Promise<void> {
  for (const [index, row] of rows.entries()) {
    const said: string[] = [];
    for (const { name, client } of orderOf(pairs, round + index)) {
      const figures = figuresOf(await client.run(`${row.job} seconds ${options.seconds}`));
      rounds.add(row.name, name, figures);
      said.push(`${name} ${figures.pagesPerSecond.toFixed(0)}`);
    }
    console.error(`round ${round + 1}, ${row.name}, pages/s: ${said.join(', ')}`);
  }
  for (const { client } of pairs) await client.run('verify');
}

/**
 * liblzo2's processor time for a page: the mean of three passes a round, like ours of a second, which
 * others on the machine make slower too.
 */
class CodecTimes {
  readonly #side: Liblzo2 | undefined;
  readonly #pages: number;
  readonly #rounds: CodecMicros[] = [];

  private constructor(side: Liblzo2 | undefined, pages: number) {
    this.#side = side;
    this.#pages = pages;
  }

  static async open(pages: number, missing: string[]): Promise<CodecTimes> {
    try {
      return new CodecTimes(await openLiblzo2(CORPUS_PATH), pages);
    } catch (error) {
      missing.push(`liblzo2: ${(error as Error).message.split('\n')[0]}`);
      return new CodecTimes(undefined, pages);
    }
  }

  async measure(): Promise<void> {
    if (this.#side === undefined) return;
    const compress = await this.#mean('compress');
    this.#rounds.push({ compress, decompress: await this.#mean('decompress') });
  }

  async #mean(operation: CodecOperation): Promise<number> {
    let nanos = 0;
    for (let pass = 0; pass < CODEC_PASSES; pass++) nanos += await this.#side!.cpu(operation);
    return nanos / CODEC_PASSES / this.#pages / 1000;
  }

  /** By round. */
  close(): readonly CodecMicros[] | undefined {
    this.#side?.close();
    return this.#side && this.#rounds;
  }
}

/** The rounds: liblzo2, then every back end in its turn. */
async function measure(
  options: Options,
  rows: readonly Row[],
  here: readonly BackEnd[],
  codec: CodecTimes,
): Promise<Results> {
  const rounds = new Rounds();
  for (let round = 0; round < Number(options.rounds); round++) {
    await codec.measure();
    const pairs: Pair[] = [];
    try {
      for (const backEnd of here) pairs.push(await startPair(backEnd, options));
      await measureRound(round, rows, pairs, options, rounds);
    } finally {
      await Promise.all(pairs.map((pair) => pair.stop()));
    }
  }
  return rounds.results;
}

function print({ results, codec }: Measured, verdicts: Report['verdicts']): void {
  console.log(terminalTable(figureCells(results)));
  if (codec !== undefined) {
    const [there, back] = (['compress', 'decompress'] as const).map((name) =>
      median(codec.map((round) => round[name])).toFixed(2),
    );
    console.log(`liblzo2, µs/page: ${there} and ${back} back`);
  }
  console.log(terminalTable(verdictCells(verdicts)));
}

function writeReport(report: Report): void {
  const text = readFileSync(BENCHMARKS, 'utf8');
  writeFileSync(BENCHMARKS, replaceBetweenMarkers(text, section(report)));
  mkdirSync(PLOTS, { recursive: true });
  for (const [name, svg] of Object.entries(plots(report.results))) {
    writeFileSync(join(PLOTS, `${name}.svg`), svg);
  }
}

async function main(): Promise<void> {
  const options = parseOptions();
  const rows = ROWS.filter(({ name }) => new RegExp(options.only).test(name));
  const { here, missing } = chooseBackEnds(options.backends);
  const problem = buildClient();
  if (problem !== undefined) throw new Error(problem);
  const corpusPages = collectCorpus();
  if (corpusPages < CORPUS_PAGES) missing.push(`${CORPUS_PAGES - corpusPages} pages of the corpus`);
  const codec = await CodecTimes.open(corpusPages, missing);
  for (const line of missing) console.error(`NOT MEASURED: ${line}`);

  const isWhole = options.only === '' && options.backends === undefined;
  const results = await measure(options, rows, here, codec);
  const daemon = isWhole ? await measureDaemon(CORPUS_PATH, DISK_PAGES) : undefined;
  const measured = { results, codec: codec.close(), daemon };
  const verdicts = TARGETS.map((target) => judge(target, measured));
  print(measured, verdicts);

  const [count, seconds] = [Number(options.rounds), Number(options.seconds)];
  if (!options.write) return;
  if (!isWhole || options.clientSpin || count < WRITTEN_ROUNDS_MIN) {
    console.error('not written to BENCHMARKS.md: only a whole run of five rounds is');
    return;
  }
  const disk = { corpusPages, diskPages: DISK_PAGES };
  writeReport({ ...measured, ...disk, rounds: count, seconds, missing, verdicts });
}

// A signal ends it by exit, so that a zram is removed.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
await main();
// The plotting library keeps a timer.
process.exit(0);
