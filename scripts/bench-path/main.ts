/**
 * `make bench`: the data path beside its peers. A native client drives each back end over its socket
 * from a process of its own; back ends take turns, round after round, on pages of live processes.
 * Prints tables and what of the targets is reached, and writes its section of BENCHMARKS.md.
 *
 * By hand: `npx tsx scripts/bench-path/main.ts --only 'read.*d32' --backends ours --rounds 1 --no-write`.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { collectAnonymousPages } from '../corpus.ts';
import { CACHE_DIR } from '../fetch.ts';
import { BACK_ENDS, type BackEnd } from './back-ends.ts';
import { BenchClient, buildClient } from './client.ts';
import { figuresOf, orderOf, ROWS, Rounds, type Row } from './rows.ts';
import { figuresTable } from './tables.ts';

const PAGE = 4096;
const DISK_PAGES = 65536;
const CORPUS_PAGES = 16384;
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

function collectCorpus(): number {
  const pages = collectAnonymousPages(CORPUS_PAGES);
  mkdirSync(CACHE_DIR, { recursive: true });
  writeFileSync(CORPUS_PATH, pages);
  return pages.length / PAGE;
}

/** One back end's turn: started fresh, filled, checked, timed, checked again. */
async function turn(backEnd: BackEnd, rows: readonly Row[], options: Options, rounds: Rounds) {
  const running = await backEnd.start(DISK_PAGES * PAGE);
  try {
    const client = await BenchClient.connect({
      ...{ socketPath: running.socketPath, backendPid: running.pid },
      ...{ corpusPath: CORPUS_PATH, diskPages: DISK_PAGES },
      extraArgs: options.clientSpin ? ['--spin'] : [],
    });
    try {
      await client.run('fill');
      await client.run('verify');
      for (const row of rows) {
        const figures = figuresOf(await client.run(`${row.job} seconds ${options.seconds}`));
        rounds.add(row.name, backEnd.name, figures);
        const perSecond = figures.pagesPerSecond.toFixed(0).padStart(7);
        console.error(`  ${row.name.padEnd(24)} ${perSecond} pages/s`);
      }
      await client.run('verify');
    } finally {
      await client.close();
    }
  } finally {
    await running.stop();
  }
}

async function main(): Promise<void> {
  const options = parseOptions();
  const rows = ROWS.filter(({ name }) => new RegExp(options.only).test(name));
  const { here, missing } = chooseBackEnds(options.backends);
  const problem = buildClient();
  if (problem !== undefined) throw new Error(problem);
  for (const line of missing) console.error(`NOT MEASURED: ${line}`);
  const corpusPages = collectCorpus();
  if (corpusPages < CORPUS_PAGES) {
    console.error(`the corpus has ${corpusPages} pages instead of ${CORPUS_PAGES}`);
  }

  const rounds = new Rounds();
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const backEnd of orderOf(here, round)) {
      console.error(`round ${round + 1}, ${backEnd.name}`);
      await turn(backEnd, rows, options, rounds);
    }
  }
  console.log(figuresTable(rounds.results()));
}

// A signal ends it by exit, so that a zram is reset.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
await main();
