/**
 * The data path's benchmark: what it makes of figures, and its native client against our daemon,
 * with every byte verified.
 */

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BenchClient, buildClient } from '../../scripts/bench-path/client.ts';
import { plots, replaceBetweenMarkers, section } from '../../scripts/bench-path/report.ts';
import {
  type Figures,
  figureOf,
  figuresOf,
  orderOf,
  ROWS,
  Rounds,
  ratioTo,
} from '../../scripts/bench-path/rows.ts';
import { figureCells, markdownTable, short } from '../../scripts/bench-path/tables.ts';
import { judge, TARGETS } from '../../scripts/bench-path/targets.ts';
import { median } from '../../scripts/median.ts';
import { Daemon, isBuilt } from '../driver/daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const PAGE = 4096;
const DISK_PAGES = 4096;
const CORPUS_PAGES = 64;
const hasGcc = spawnSync('gcc', ['--version']).status === 0;

function figures(part: Partial<Figures>): Figures {
  return {
    ...{ pagesPerSecond: 1, p50Micros: 1, p99Micros: 1, p999Micros: 1, maxMicros: 1 },
    ...{ cpuMicrosPerPage: 1, sleepsPercent: 0, ...part },
  };
}

/** One round of one row. */
function rowOf(row: string, of: Record<'ours' | 'b-native' | 'b-io_uring', number>) {
  const rounds = new Rounds();
  for (const [name, pagesPerSecond] of Object.entries(of)) {
    rounds.add(row, name as keyof typeof of, figures({ pagesPerSecond }));
  }
  return { results: rounds.results, codec: undefined, daemon: undefined };
}

describe('figures', () => {
  it('are per page, in microseconds', () => {
    const job = {
      ...{ requests: 10, pages: 160, elapsedNs: 1e6, backendCpuNs: 8e5, clientCpuNs: 1e5 },
      ...{ p50Ns: 1500, p99Ns: 2000, p999Ns: 3000, maxNs: 4000, kicks: 1, sleeps: 5 },
      waitedBy: 'interrupt' as const,
    };
    const { pagesPerSecond, p50Micros, cpuMicrosPerPage, sleepsPercent } = figuresOf(job);
    expect([pagesPerSecond, p50Micros]).toEqual([160_000, 1.5]);
    expect([cpuMicrosPerPage, sleepsPercent]).toEqual([5, 50]);
  });

  it('have medians, also of an even number of rounds', () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([4, 1, 2, 9])).toBe(3);
  });

  it("of two back ends are compared round by round: a slow moment's fall on both", () => {
    const rounds = new Rounds();
    for (const [ours, theirs] of [
      [100, 50],
      [10, 4],
      [80, 40],
    ] as const) {
      rounds.add('r', 'ours', figures({ pagesPerSecond: ours }));
      rounds.add('r', 'a', figures({ pagesPerSecond: theirs }));
    }
    expect(figureOf(rounds.results, 'r', 'ours', 'pagesPerSecond')).toBe(80);
    expect(ratioTo(rounds.results, 'r', 'a', 'pagesPerSecond')).toBe(2);
    expect(ratioTo(rounds.results, 'r', 'b-native', 'pagesPerSecond')).toBeUndefined();
  });

  it('come from rounds in which everybody is first and last alike', () => {
    const orders = [0, 1, 2, 3, 4, 5].map((round) => orderOf(['a', 'b', 'c'], round).join(''));
    expect(orders).toEqual(['abc', 'cba', 'bca', 'acb', 'cab', 'bac']);
  });

  it('have rows of names of their own', () => {
    expect(new Set(ROWS.map(({ name }) => name)).size).toBe(ROWS.length);
  });
});

describe('tables', () => {
  it('begin with ours and give its ratio to each peer', () => {
    const { results } = rowOf('r', { 'b-native': 50, ours: 100, 'b-io_uring': 200 });
    const { rows } = figureCells(results);
    expect(rows.map((cells) => cells.slice(1, 4))).toEqual([
      ['ours', '100', '1.00'],
      ['b-io_uring', '200', '0.50'],
      ['b-native', '50.0', '2.00'],
    ]);
  });

  it('show three digits, all of a large number', () => {
    expect([1.234, 45.67, 789.1, 123456.7].map(short)).toEqual(['1.23', '45.7', '789', '123,457']);
  });

  it('are Markdown', () => {
    const text = markdownTable({ head: ['a', 'b'], rows: [['1', '2']] });
    expect(text).toBe('| a | b |\n| --- | --- |\n| 1 | 2 |');
  });

  it('replace what lies between the markers and nothing else', () => {
    const markers = /<!-- bench-path: begin.*?-->|<!-- bench-path: end -->/g;
    const file =
      '# A\n<!-- bench-path: begin; written by `make bench` -->\nold\n' +
      '<!-- bench-path: end -->\n## B\n';
    const replaced = replaceBetweenMarkers(file, 'new\n');
    expect(replaced.replace(markers, '|')).toBe('# A\n|\n\nnew\n\n|\n## B\n');
    expect(replaceBetweenMarkers(replaced, 'new')).toBe(replaced);
    expect(() => replaceBetweenMarkers('# A', 'new')).toThrow('expected');
  });
});

describe('the section of BENCHMARKS.md', () => {
  it('says what was not measured, and draws what was', () => {
    const measured = rowOf('read 4K d32', { ours: 2, 'b-native': 1, 'b-io_uring': 1 });
    const verdicts = TARGETS.map((target) => judge(target, measured));
    const run = { rounds: 5, seconds: 1, corpusPages: 64, diskPages: 1024 };
    const text = section({ ...measured, ...run, verdicts, missing: ['a: no such thing here'] });
    expect(text).toContain('**Not measured: a: no such thing here.**');
    expect(text).toContain('**Not measured: liblzo2.**');
    expect(text).toContain("| read 4K d32: pages/s / (a)'s | at least 2 × | – | not measured |");
    const drawn = plots(measured.results);
    for (const [name, svg] of Object.entries(drawn)) {
      expect(svg).toMatch(/^<svg/);
      expect(text).toContain(`/${name}.svg)`);
    }
  });
});

describe('targets', () => {
  const [target] = TARGETS.filter(({ text }) => text === "read 4K d32: pages/s / (b)'s");

  it("are judged beside the better of (b)'s two ways", () => {
    const fast = rowOf('read 4K d32', { ours: 250, 'b-native': 50, 'b-io_uring': 100 });
    expect(judge(target!, fast)).toMatchObject({ got: '2.50 ×', verdict: 'reached' });
    const slow = rowOf('read 4K d32', { ours: 249, 'b-native': 50, 'b-io_uring': 100 });
    expect(judge(target!, slow)).toMatchObject({ verdict: 'not reached' });
  });

  it('of what was not measured are said to be so', () => {
    const nothing = { results: new Map(), codec: undefined, daemon: undefined };
    const verdicts = TARGETS.map((one) => judge(one, nothing).verdict);
    expect(new Set(verdicts)).toEqual(new Set(['not measured']));
  });
});

if (!hasGcc) console.warn('SKIPPED: the native client needs gcc: apt-get install gcc libc6-dev');

describe.skipIf(!hasGcc || !isBuilt)('the native client', () => {
  const folder = makeFolder();
  const corpusPath = join(folder.path, 'corpus');
  let daemon: Daemon;

  beforeAll(async () => {
    expect(buildClient()).toBeUndefined();
    // Half noise, half text: pages that compress.
    const pages = Array.from({ length: CORPUS_PAGES }, (_, i) => [
      randomBytes(PAGE / 2),
      Buffer.alloc(PAGE / 2, `page ${i} `),
    ]);
    writeFileSync(corpusPath, Buffer.concat(pages.flat()));
    daemon = await Daemon.start(['--log-level', 'error']);
  });

  afterAll(async () => {
    await daemon?.stop();
    folder.remove();
  });

  const connect = (extraArgs: readonly string[] = []) => {
    const { socketPath, pid: backendPid } = daemon;
    return BenchClient.connect({
      ...{ socketPath, backendPid, corpusPath, diskPages: DISK_PAGES, extraArgs },
    });
  };

  it.each([
    ['as a guest does', []],
    ['polling', ['--spin']],
    ['without indirect descriptors', ['--no-indirect']],
    ['on four queues', ['--queues', '4']],
  ])('gets back what it has written, %s', async (_, extraArgs) => {
    const client = await connect(extraArgs);
    await client.run('fill');
    await client.run('write random 4096 32 count 4000');
    await client.run('write random 65536 4 count 100');
    const mixed = await client.run('mixed random 4096 32 count 4000');
    const read = await client.run('read sequential 65536 4 count 256');
    const verified = await client.run('verify');
    await client.close();
    expect(mixed).toMatchObject({ requests: 4000, pages: 4000 });
    expect(read).toMatchObject({ requests: 256, pages: DISK_PAGES });
    expect(verified).toMatchObject({ pages: DISK_PAGES });
    expect(mixed.p50Ns).toBeGreaterThan(0);
    expect(mixed.p99Ns).toBeGreaterThanOrEqual(mixed.p50Ns);
    expect(mixed.maxNs).toBeGreaterThanOrEqual(mixed.p999Ns);
    expect(mixed.backendCpuNs).toBeGreaterThan(0);
  });

  it('sees a single wrong byte', async () => {
    const client = await connect();
    await client.run('fill');
    // What it compares with is the file: to change that is to get a wrong byte back.
    const pages = readFileSync(corpusPath);
    const last = pages.length - 1;
    pages[last] = pages[last]! ^ 1;
    writeFileSync(corpusPath, pages);
    await expect(client.run('verify')).rejects.toThrow('given up: verify');
  });

  it('refuses to time reads of pages that were never written', async () => {
    const client = await connect();
    await expect(client.run('read random 4096 1 count 10')).rejects.toThrow('given up');
  });
});
