/**
 * Fuzzes for a while: `node --import tsx scripts/fuzz.ts [--seconds N] [--target name] [--seed S]
 * [--cases N]`. Targets (test/fuzz/targets.ts) take turns in a child process, which writes down
 * each case before it begins; a child that falls silent or dies is a find like a failed property,
 * and the parent can say which case it was. Prints a line a target; exits 1 with the command that
 * runs a failing case again.
 */

import { spawn } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Budget } from '../test/fuzz/budget.ts';
import { SESSION_FIGURES } from '../test/fuzz/hostile-front-end.ts';
import { FUZZ_TARGETS } from '../test/fuzz/targets.ts';

const SLICE_MILLIS = 2000;
const SILENCE_MILLIS_MAX = 20_000;
const LOOK_MILLIS = 500;
/** The child's diary: one case, written over the one before. */
const DIARY_BYTES = 64;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '120' },
    target: { type: 'string' },
    seed: { type: 'string' },
    cases: { type: 'string' },
    diary: { type: 'string' },
  },
});

interface Plan {
  readonly names: readonly string[];
  readonly seed: number;
  /** Of each target. */
  readonly cases: number;
  readonly millis: number;
}

function makePlan(): Plan {
  const { target } = values;
  const all = Object.keys(FUZZ_TARGETS);
  if (target !== undefined && !all.includes(target)) fail(`--target: expected ${all.join(', ')}`);
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : number('seed');
  return {
    names: target === undefined ? all : [target],
    seed,
    cases: values.cases === undefined ? Number.POSITIVE_INFINITY : number('cases'),
    millis: number('seconds') * 1000,
  };
}

function number(name: 'seconds' | 'seed' | 'cases'): number {
  const value = Number(values[name]);
  if (!Number.isSafeInteger(value) || value < 0) {
    fail(`--${name}: expected a whole number, got ${values[name]}`);
  }
  return value;
}

function fail(what: string): never {
  process.stderr.write(`${what}\n`);
  process.exit(2);
}

function replayCommand(target: string, seed: number): string {
  return `node --import tsx scripts/fuzz.ts --target ${target} --seed ${seed} --cases 1`;
}

// ── The child: fuzzes ───────────────────────────────────────────────────────────────────────────

interface Tally {
  cases: number;
  millis: number;
}

async function fuzz(plan: Plan, diary: string): Promise<void> {
  const fd = openSync(diary, 'r+');
  const end = Date.now() + plan.millis;
  const tallies = new Map<string, Tally>(plan.names.map((name) => [name, { cases: 0, millis: 0 }]));
  const isLeft = (name: string) => tallies.get(name)!.cases < plan.cases;
  while (Date.now() < end && plan.names.some(isLeft)) {
    for (const name of plan.names.filter(isLeft)) {
      const tally = tallies.get(name)!;
      const begin = Date.now();
      const onCase = (seed: number) => {
        writeSync(fd, `${name} ${seed}`.padEnd(DIARY_BYTES), 0);
      };
      const until = Math.min(end, begin + SLICE_MILLIS);
      const budget: Budget = { cases: plan.cases - tally.cases, until, onCase };
      tally.cases += await FUZZ_TARGETS[name]!((plan.seed + tally.cases) >>> 0, budget);
      tally.millis += Date.now() - begin;
    }
  }
  for (const [name, { cases, millis }] of tallies) {
    const rate = Math.round((1000 * cases) / Math.max(1, millis));
    process.stdout.write(
      `${name.padEnd(10)} ${cases} cases in ${Math.round(millis / 1000)} s, ${rate} seeds/s, ` +
        `from seed ${plan.seed}\n`,
    );
  }
  if (SESSION_FIGURES.sessions > 0) {
    process.stdout.write(`sessions   ${JSON.stringify(SESSION_FIGURES)}\n`);
  }
}

// ── The parent: watches ─────────────────────────────────────────────────────────────────────────

async function watch(plan: Plan): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'rz-fuzz-'));
  const diary = join(folder, 'diary');
  writeSync(openSync(diary, 'w'), ''.padEnd(DIARY_BYTES));
  const args = ['--import', 'tsx', fileURLToPath(import.meta.url), '--diary', diary];
  for (const name of ['seconds', 'target', 'cases'] as const) {
    if (values[name] !== undefined) args.push(`--${name}`, values[name]);
  }
  const child = spawn(process.execPath, [...args, '--seed', String(plan.seed)], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const ended = new Promise<string | number>((resolve) => {
    child.once('exit', (status, signal) => resolve(signal ?? status ?? 1));
  });
  let last = '';
  let lastChange = Date.now();
  let isHung = false;
  const timer = setInterval(() => {
    const now = readFileSync(diary, 'utf8');
    if (now !== last) lastChange = Date.now();
    last = now;
    if (Date.now() - lastChange < SILENCE_MILLIS_MAX) return;
    isHung = true;
    child.kill('SIGKILL');
  }, LOOK_MILLIS);
  const outcome = await ended;
  clearInterval(timer);
  const [target, seed] = readFileSync(diary, 'utf8').trim().split(' ');
  rmSync(folder, { recursive: true });
  if (outcome === 0) return 0;
  const how = isHung ? `no sign of life for ${SILENCE_MILLIS_MAX / 1000} s` : `ended: ${outcome}`;
  process.stderr.write(`${target}: seed ${seed}: ${how}\n`);
  process.stderr.write(`again: ${replayCommand(target!, Number(seed))}\n`);
  process.stderr.write(`all of it: --seed ${plan.seed} without --cases\n`);
  return 1;
}

if (values.diary === undefined) {
  process.exitCode = await watch(makePlan());
} else {
  try {
    await fuzz(makePlan(), values.diary);
    process.exit(0);
  } catch (error) {
    const { stack } = (error as Error & { cause?: Error }).cause ?? {};
    process.stderr.write(`${error instanceof Error ? error.message : error}\n${stack ?? ''}\n`);
    process.exit(1);
  }
}
