/** The manual pages: roff that a roff takes, and all that they promise to tell. */

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { PAGES as ALL } from '../../scripts/manual/pages.ts';
import { commandLine, inline, type Page, roffPage } from '../../scripts/manual/roff.ts';
import { bashCompletion } from '../../src/control/completion.ts';
import { VERSION } from '../../src/control/version.ts';
import { isBuilt } from '../driver/daemon.ts';

const PAGES: [string, Page][] = ALL.map((page) => [page.name, page]);

const has = (program: string) => spawnSync(program, ['--version']).error === undefined;
const hasGroff = has('groff');
const hasMandoc = has('mandoc');
for (const [program, isThere] of Object.entries({ groff: hasGroff, mandoc: hasMandoc })) {
  if (!isThere) console.warn(`manual.test.ts: SKIPPED in part: ${program} is not installed`);
}

/** The page as a reader without a terminal's tricks sees it, in one line. */
async function readable(page: Page): Promise<string> {
  const options = { input: roffPage(page, VERSION) };
  const { stdout, stderr } = await execa('groff', ['-man', '-ww', '-Tascii', '-P-cbou'], options);
  expect(stderr).toBe('');
  return stdout.replace(/\s+/g, ' ');
}

describe('roff', () => {
  it.each([
    ['a `--b-c` of *d*, see [e](f.md)', 'a \\fB\\%\\-\\-b\\-c\\fR of \\fId\\fR, see e'],
    ['`a b`', '\\fB\\%a \\%b\\fR'],
    ['back\\slash … 2 × 3', 'back\\eslash ... 2 \\(mu 3'],
    ["it's `'x'`", "it's \\fB\\%\\(aqx\\(aq\\fR"],
    ['2 * 3 * 4', '2 * 3 * 4'],
  ])('text %j is %j', (text, roff) => {
    expect(inline(text)).toBe(roff);
  });

  it('of command lines has what is typed in bold, what is filled in in italics', () => {
    expect(commandLine('-b, --swap <path> [-n <x>]')).toBe(
      '\\fB\\%\\-b\\fR, \\fB\\%\\-\\-swap\\fR \\fI\\%PATH\\fR [\\fB\\%\\-n\\fR \\fI\\%X\\fR]',
    );
  });

  it('never takes text for a request', () => {
    const page: Page = {
      ...{ name: 'x', section: 1, summary: 'x', synopsis: ['x'] },
      sections: [
        { title: 'y', blocks: ["'tis\n.so it", { lines: ['.ex'] }, { terms: [['.a', '.b']] }] },
      ],
    };
    const requests = roffPage(page, '1')
      .split('\n')
      .filter((line) => /^[.']/.test(line));
    expect(requests.slice(5)).toEqual(['.PP', '.PP', '.RS 4', '.EX', '.EE', '.RE', '.TP']);
  });

  it('refuses what it has no escape for', () => {
    expect(() => inline('größer')).toThrow(/no escape for 'ö'/);
  });
});

describe.each(PAGES)('%s', (name, page) => {
  it.skipIf(!hasGroff)(
    'is taken by groff without a warning, for screens and for paper',
    async () => {
      for (const device of ['utf8', 'ascii', 'ps', 'html']) {
        const args = ['-man', '-ww', `-T${device}`, '-z'];
        const input = roffPage(page, VERSION);
        const { exitCode, stderr } = await execa('groff', args, { input, reject: false });
        // Postscript and HTML come with more than groff-base.
        if (/can't (find|open) .*DESC|cannot open/.test(stderr)) continue;
        expect([exitCode, stderr], device).toEqual([0, '']);
      }
    },
  );

  it.skipIf(!hasMandoc)('is taken by mandoc', async () => {
    const input = roffPage(page, VERSION);
    await execa('mandoc', ['-Tlint', '-W', 'error'], { input });
  });

  it('is ASCII, and has the line that indexers look for', () => {
    const text = roffPage(page, VERSION);
    expect(text).toMatch(/^[\n -~]+$/);
    expect(text).toMatch(new RegExp(`^\\.SH NAME\\n${name} \\\\- .+\\n\\.SH SYNOPSIS$`, 'm'));
  });

  it.skipIf(!hasGroff)('has the sections that readers expect', async () => {
    const text = await readable(page);
    const expected = ['DESCRIPTION', 'OPTIONS', 'EXIT STATUS', 'FILES', 'EXAMPLES', 'SEE ALSO'];
    for (const title of expected) expect(text).toContain(` ${title} `);
  });

  it.skipIf(!isBuilt)('is in dist as the sources have it now', () => {
    const built = new URL(`../../dist/man/${name}.${page.section}`, import.meta.url);
    expect(readFileSync(built, 'utf8')).toBe(roffPage(page, VERSION));
  });
});

describe('package.json', () => {
  it.skipIf(!isBuilt)('names the pages, and they are built; so is the completion', () => {
    const at = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
    const { man } = JSON.parse(readFileSync(at('package.json'), 'utf8')) as { man: string[] };
    expect(man.sort()).toEqual(
      PAGES.map(([name, { section }]) => `dist/man/${name}.${section}`).sort(),
    );
    expect(man.every((path) => existsSync(at(path)))).toBe(true);
    expect(readFileSync(at('dist/completion/rzscontrol'), 'utf8')).toBe(bashCompletion());
  });
});
