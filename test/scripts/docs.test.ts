/** Every option is said once, in the tables of the code: help, README and manual follow. */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { README, withTables } from '../../scripts/docs.ts';
import { optionTable, optionTerms } from '../../scripts/manual/option-terms.ts';
import { RAMZSWAP_RUN } from '../../scripts/manual/ramzswap-run.ts';
import { RAMZSWAPD } from '../../scripts/manual/ramzswapd.ts';
import type { Page } from '../../scripts/manual/roff.ts';
import { RZSCONTROL } from '../../scripts/manual/rzscontrol.ts';
import {
  CONTROL_OPTIONS,
  type ControlOptionSpec,
  TOP_OPTIONS,
} from '../../src/control/control-options.ts';
import { DAEMON_OPTIONS, DEVICE_OPTIONS } from '../../src/control/options.ts';
import { isBuilt, RAMZSWAPD as RAMZSWAPD_PROGRAM, RZSCONTROL as TOOL } from '../driver/daemon.ts';

type Specs = Readonly<Record<string, ControlOptionSpec>>;

const RUN = fileURLToPath(new URL('../../dist/bin/ramzswap-run.js', import.meta.url));
const DAEMON: Specs = { ...DAEMON_OPTIONS, ...DEVICE_OPTIONS };
const OF_COMMANDER = ['--version', '--help'];

const long = (specs: Specs) => Object.keys(specs).map((name) => `--${name}`);

/** The long options that a program's help lists. */
async function helped(program: string, ...command: string[]): Promise<string[]> {
  const { stdout } = await execa(process.execPath, [program, ...command, '--help']);
  const listed = stdout.matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm);
  return [...listed].map(([, option]) => option!).sort();
}

/** The options that a manual page has a paragraph of. */
function explained(page: Page): string[] {
  const terms = page.sections.flatMap(({ blocks }) =>
    blocks.flatMap((block) => (typeof block === 'object' && 'terms' in block ? block.terms : [])),
  );
  return terms.flatMap(([term]) => /--[\w-]+/.exec(term)?.[0] ?? []).sort();
}

describe('README.md', () => {
  it('has the tables that the code has now: npm run docs', () => {
    const text = readFileSync(README, 'utf8');
    expect(withTables(text)).toBe(text);
  });

  it('must have every mark', () => {
    expect(() => withTables('# nothing')).toThrow(
      /expected <!-- options of ramzswapd: npm run docs/,
    );
  });

  it('says of each option what it takes, means, may be, and is without it', () => {
    expect(
      optionTable({
        plain: { kind: 'flag', help: 'a | b' },
        long_one: {
          ...{ short: 'l', kind: 'choice', argument: '<what>', choices: ['x', 'y'], fallback: 'x' },
          ...{ help: 'short', details: 'long' },
        },
        n: { kind: 'count', argument: '<n>', help: 'how many', min: 1, max: 8 },
      }).split('\n'),
    ).toEqual([
      '| option | meaning | default |',
      '|---|---|---|',
      '| `--plain` | a \\| b |  |',
      '| `-l`, `--long_one WHAT` | long (`x`, `y`) | x |',
      '| `--n N` | how many (1 to 8) |  |',
    ]);
    expect(optionTerms({ x: { kind: 'flag', help: 'a thing', fallback: 'none' } })).toEqual([
      ['--x', 'A thing. Default: none.'],
    ]);
  });
});

describe('the manual', () => {
  it('explains every option once, and nothing else', () => {
    expect(explained(RZSCONTROL)).toEqual([...long(CONTROL_OPTIONS), ...long(TOP_OPTIONS)].sort());
    expect(explained(RAMZSWAPD)).toEqual([...long(DAEMON), ...OF_COMMANDER].sort());
  });
});

describe.skipIf(!isBuilt)('--help', () => {
  it('of rzscontrol lists every option, and nothing else', async () => {
    expect(await helped(TOOL)).toEqual(long(CONTROL_OPTIONS).sort());
    expect(await helped(TOOL, 'top')).toEqual([...long(TOP_OPTIONS), '--help'].sort());
  });

  it('of ramzswapd lists every option, and nothing else', async () => {
    expect(await helped(RAMZSWAPD_PROGRAM)).toEqual([...long(DAEMON), ...OF_COMMANDER].sort());
  });
});

describe.skipIf(!isBuilt)('ramzswap-run(1)', () => {
  it('explains the options that --help lists, and names all that it speaks of', async () => {
    expect(await helped(RUN)).toEqual(explained(RAMZSWAP_RUN));
    const { stdout } = await execa(process.execPath, [RUN, '--help']);
    const page = JSON.stringify(RAMZSWAP_RUN);
    for (const [option] of stdout.matchAll(/--[a-z-]+/g)) expect(page).toContain(option);
  });
});

describe('short letters', () => {
  it('mean one thing each, behind top as well', () => {
    const letters = Object.values<ControlOptionSpec>({
      ...CONTROL_OPTIONS,
      ...TOP_OPTIONS,
    }).flatMap(({ short }) => short ?? []);
    expect(new Set(letters).size).toBe(letters.length);
  });
});
