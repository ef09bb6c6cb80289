/**
 * Writes the tables of options into README.md, between their marks, from the option tables of the
 * code: `npm run docs`. test/scripts/docs.test.ts sees that nobody has forgotten it.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { CONTROL_OPTIONS, TOP_OPTIONS } from '../src/control/control-options.ts';
import { DAEMON_OPTIONS, DEVICE_OPTIONS } from '../src/control/options.ts';
import { optionTable } from './manual/option-terms.ts';

export const README = fileURLToPath(new URL('../README.md', import.meta.url));

/** What a table is of, as its mark says → the table. */
const TABLES: Readonly<Record<string, string>> = {
  'of ramzswapd': optionTable(DAEMON_OPTIONS),
  'of devices': optionTable(DEVICE_OPTIONS),
  'of rzscontrol': optionTable(CONTROL_OPTIONS),
  'of rzscontrol top': optionTable(TOP_OPTIONS),
};

const END = '<!-- options end -->';

/** `text` with every table as the code has it now. Throws where a mark is missing. */
export function withTables(text: string): string {
  return Object.entries(TABLES).reduce((before, [what, table]) => {
    const mark = `<!-- options ${what}: npm run docs -->`;
    const from = before.indexOf(mark);
    const to = before.indexOf(END, from);
    if (from < 0 || to < 0) throw new Error(`README.md: expected ${mark} … ${END}`);
    return `${before.slice(0, from)}${mark}\n${table}\n${before.slice(to)}`;
  }, text);
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(README, withTables(readFileSync(README, 'utf8')));
}
