/**
 * Installs what was built, for the Makefile: `main.ts DESTDIR PREFIX`. layout.ts says what goes
 * where; here it is done, with a manifest of it for uninstall.sh:
 *
 *   1. refuse: a file that is there and was not ours is left, and nothing else is done
 *   2. remove what an older version put there (never written over: a running daemon has files mapped)
 *   3. write the manifest, so that whatever happens next can be undone
 *   4. make folders, files, links
 */

import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { type Entry, layout, PROGRAM } from './layout.ts';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const UNINSTALL = fileURLToPath(new URL('uninstall.sh', import.meta.url));
export const MANIFEST = `${PROGRAM}/manifest`;

/** It cannot be installed there. Policy: print the message, exit 1; nothing was changed. */
class RefusedError extends Error {
  override readonly name = 'RefusedError';
}

/** All below `destdir` as if that were the root folder; returns how many files. */
export function install(destdir: string, prefix: string): number {
  if (destdir !== '' && !isAbsolute(destdir)) {
    throw new RefusedError(`DESTDIR: expected an absolute path, got '${destdir}'`);
  }
  const top = destdir === '' ? '' : resolve(destdir);
  const at = checkedPrefix(prefix);
  const temporary = mkdtempSync(join(tmpdir(), 'ramzswap-install-'));
  try {
    const entries = layout(unpack(temporary), ROOT, at);
    removeOlder(top, at, entries);
    // Installed for everybody, whatever whoever installs keeps to himself.
    process.umask(0o022);
    writeManifest(top, at, entries);
    for (const entry of entries) put(join(top + at, entry.place), entry);
    return entries.length;
  } finally {
    rmSync(temporary, { recursive: true });
  }
}

/** It becomes part of unit files, where other characters mean something. */
function checkedPrefix(prefix: string): string {
  if (!/^\/[\w./+-]*$/.test(prefix) || prefix.split('/').includes('..')) {
    throw new RefusedError(
      `PREFIX: expected an absolute path of letters, digits and ./+-_, got '${prefix}'`,
    );
  }
  return prefix.replace(/\/+$/, '');
}

/** Npm's own idea of the package, unpacked. */
function unpack(temporary: string): string {
  const args = ['pack', '--ignore-scripts', '--silent', `--pack-destination=${temporary}`];
  const archive = execFileSync('npm', args, { cwd: ROOT, encoding: 'utf8' }).trim();
  execFileSync('tar', ['-xzf', archive, '--no-same-owner'], { cwd: temporary });
  return join(temporary, 'package');
}

function removeOlder(top: string, prefix: string, entries: readonly Entry[]): void {
  const manifest = join(top + prefix, MANIFEST);
  const isOlder = existsSync(manifest);
  const ours = new Set(isOlder ? readFileSync(manifest, 'utf8').split('\n') : []);
  const others = entries.map(({ place }) => `${prefix}/${place}`).filter((path) => !ours.has(path));
  const inTheWay = others.filter((path) => lstatSync(top + path, { throwIfNoEntry: false }));
  if (inTheWay.length > 0) {
    throw new RefusedError(
      `${top}${inTheWay[0]}: expected nothing there, or what "make install" has put there ` +
        `(${inTheWay.length} in all)`,
    );
  }
  if (isOlder) execFileSync('sh', [UNINSTALL, top, prefix]);
}

/** A line for each file, and for each folder that is not there yet, with a slash at its end. */
function writeManifest(top: string, prefix: string, entries: readonly Entry[]): void {
  const paths = [...entries.map(({ place }) => place), MANIFEST].map(
    (place) => `${prefix}/${place}`,
  );
  const folders = new Set<string>();
  for (const path of paths) {
    for (let folder = dirname(path); folder !== '/'; folder = dirname(folder)) {
      if (folders.has(`${folder}/`) || existsSync(top + folder)) break;
      folders.add(`${folder}/`);
    }
  }
  const lines = [...folders, ...paths.slice(0, -1)].sort();
  mkdirSync(join(top + prefix, PROGRAM), { recursive: true });
  writeFileSync(join(top + prefix, MANIFEST), `${lines.join('\n')}\n`);
}

function put(path: string, entry: Entry): void {
  mkdirSync(dirname(path), { recursive: true });
  if ('linkTo' in entry) {
    symlinkSync(entry.linkTo, path);
    // The program that it leads to: not every npm packs it as one.
    chmodSync(path, 0o755);
  } else if ('text' in entry) {
    writeFileSync(path, entry.text);
  } else {
    copyFileSync(entry.copyOf, path);
    chmodSync(path, lstatSync(entry.copyOf).mode & 0o100 ? 0o755 : 0o644);
  }
}

function main([destdir = '', prefix = '']: readonly string[]): number {
  try {
    const count = install(destdir, prefix);
    console.log(
      `install: ${count} files below ${destdir}${prefix}; "make uninstall" with the same PREFIX ` +
        'and DESTDIR removes them',
    );
    return 0;
  } catch (error) {
    // A call that failed says which, and where.
    const isKnown = error instanceof RefusedError || 'syscall' in (error as Error);
    console.error(`install: ${isKnown ? (error as Error).message : (error as Error).stack}`);
    return 1;
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main(argv.slice(2));
