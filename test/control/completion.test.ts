/** Completion, by bash itself. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bashCompletion } from '../../src/control/completion.ts';
import { CONTROL_OPTIONS, TOP_OPTIONS } from '../../src/control/control-options.ts';
import { makeFolder } from '../driver/sockets.ts';

let folder: { path: string; remove: () => void };
/** The program that the completion asks for devices, and where it notes what it was called with. */
let program: string;
let asked: string;
beforeEach(() => {
  folder = makeFolder();
  program = join(folder.path, 'rzscontrol');
  asked = join(folder.path, 'asked');
  writeFileSync(
    program,
    `#!/bin/sh\necho "$@" >> '${asked}'\nprintf '%s\\n' ramzswap0 ramzswap1 'a$(touch oops)b'\n`,
    { mode: 0o755 },
  );
  mkdirSync(join(folder.path, 'files'));
  for (const name of ['swap one', 'swap2']) writeFileSync(join(folder.path, 'files', name), '');
});
afterEach(() => folder.remove());

/** What bash offers for the last of `words`, which it has split as its readline does. */
async function offered(...words: string[]): Promise<string[]> {
  const script = `${bashCompletion()}
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    _rzscontrol "$1" "\${COMP_WORDS[COMP_CWORD]}" "\${COMP_WORDS[COMP_CWORD-1]}"
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout, stderr } = await execa('bash', ['-c', script, 'bash', program, ...words], {
    cwd: folder.path,
    env: {},
    extendEnv: true,
  });
  expect(stderr).toBe('');
  return stdout === '' ? [] : stdout.split('\n');
}

const long = (specs: object) => Object.keys(specs).map((name) => `--${name}`);

describe('the completion for bash', () => {
  it('is a script that bash has nothing against', async () => {
    await execa('bash', ['-n', '-c', bashCompletion()]);
    const registered = await execa('bash', ['-c', `${bashCompletion()}complete -p rzscontrol`]);
    expect(registered.stdout).toBe('complete -F _rzscontrol rzscontrol');
  });

  it('offers all options, those that begin so, and those of top behind top', async () => {
    expect(await offered('-')).toEqual(long(CONTROL_OPTIONS));
    expect(await offered('ramzswap0', '--re')).toEqual(['--reset', '--remove', '--reload']);
    expect(await offered('top', '-')).toEqual([
      ...long(TOP_OPTIONS),
      ...['--control-path', '--json', '--help'],
    ]);
    expect(await offered('--control-path', 'top', '--ini')).toEqual(['--init']);
  });

  it('offers devices and top for the first word, and neither for a second', async () => {
    expect(await offered('')).toEqual(['top', 'ramzswap0', 'ramzswap1', 'a\\$\\(touch\\ oops\\)b']);
    expect(await offered('--json', 'ramzswap1')).toEqual(['ramzswap1']);
    expect(await offered('-d', '5', 't')).toEqual(['top']);
    expect(await offered('ramzswap0', '')).toEqual([]);
    expect(await offered('ramzswap0', '--init', 'r')).toEqual([]);
  });

  it('asks the daemon that was named, and evaluates nothing of what it says', async () => {
    expect(await offered('--control-path', '/a b', '--remove', 'ramzswap0')).toEqual(['ramzswap0']);
    expect(await offered('--control-path', '=', '/c', '--remove', '=', 'a')).toHaveLength(1);
    const { stdout } = await execa('cat', [asked]);
    expect(stdout.split('\n')).toEqual([
      '--control-path /a b --completion devices',
      '--control-path /c --completion devices',
    ]);
    expect((await execa('ls', [folder.path])).stdout).not.toMatch(/oops/);
  });

  it('offers files where a path is wanted, also behind an equals sign', async () => {
    for (const words of [
      ['-b', 'files/s'],
      ['ramzswap0', '--backing_swap', 'files/s'],
      ['ramzswap0', '--backing_swap', '=', 'files/s'],
      ['top', '--control-path', 'files/s'],
    ]) {
      expect((await offered(...words)).sort(), `${words}`).toEqual([
        'files/swap one',
        'files/swap2',
      ]);
    }
    expect(await offered('--backing_swap', '=')).toContain('files');
  });

  it('offers the choices of an option, and nothing for a number', async () => {
    expect(await offered('top', '--sort', '')).toEqual([...TOP_OPTIONS.sort.choices]);
    expect(await offered('top', '--sort', '=', 'm')).toEqual(['memory']);
    expect(await offered('--completion', 'b')).toEqual(['bash']);
    expect(await offered('ramzswap0', '-d', '')).toEqual([]);
    expect(await offered('--disksize_kb', '=', '')).toEqual([]);
  });

  it('says nothing where there is no such program', async () => {
    program = '/nowhere/rzscontrol';
    expect(await offered('')).toEqual(['top']);
  });
});
