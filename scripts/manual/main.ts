/**
 * Makes what is made from the option tables and goes with the programs: manual pages (dist/man) and
 * the shell's completion (dist/completion). The last step of `npm run build`. The prose of a page is in
 * the file of its name here.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bashCompletion } from '../../src/control/completion.ts';
import { VERSION } from '../../src/control/version.ts';
import { PAGES } from './pages.ts';
import { roffPage } from './roff.ts';

const DIST = fileURLToPath(new URL('../../dist', import.meta.url));

function write(folder: string, name: string, text: string): void {
  mkdirSync(join(DIST, folder), { recursive: true });
  writeFileSync(join(DIST, folder, name), text);
}

for (const page of PAGES) write('man', `${page.name}.${page.section}`, roffPage(page, VERSION));
write('completion', 'rzscontrol', bashCompletion());
