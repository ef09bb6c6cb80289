/**
 * mkfs.ext4 and e2fsck for a guest, with the libraries and the loader they want, from packages of its
 * own release: as entries of its initramfs. They are some 5 MiB that stay in memory, so they go only
 * where they are asked for. Called by image.ts.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { CpioEntry } from './cpio.ts';

/** Where they come from; trixie calls the library libext2fs2t64. */
export const FILE_SYSTEM_PACKAGES = [
  ...['e2fsprogs', 'libext2fs2', 'libcom-err2', 'libblkid1', 'libuuid1', 'libc6'],
] as const;

const PROGRAMS = ['mkfs.ext4', 'e2fsck'] as const;
const CONFIGURATION = 'etc/mke2fs.conf';
const LIBRARIES = [
  ...['libext2fs.so.2', 'libe2p.so.2', 'libcom_err.so.2', 'libblkid.so.1', 'libuuid.so.1'],
  'libc.so.6',
] as const;
const LOADER = /^ld-linux.*\.so\.\d$/;

/** `directories`: where FILE_SYSTEM_PACKAGES lie unpacked. */
export function fileSystemEntries(directories: readonly string[]): CpioEntry[] {
  const found = new Map<string, string>();
  for (const directory of directories) {
    for (const path of readdirSync(directory, { recursive: true, encoding: 'utf8' })) {
      found.set(path.replace(/^usr\/(?=lib|sbin|bin)/, ''), join(directory, path));
    }
  }
  const files = new Map([
    ...PROGRAMS.map((name): [string, string] => [`bin/${name}`, pathOf(found, `sbin/${name}`)]),
    [CONFIGURATION, pathOf(found, CONFIGURATION)] as const,
    ...loaderFiles(found),
  ]);
  for (const [path, source] of found) {
    if (LIBRARIES.some((name) => name === basename(path))) files.set(path, source);
  }
  const names = [...files.keys()].map((path) => basename(path));
  const missing = LIBRARIES.filter((name) => !names.includes(name));
  if (missing.length > 0) throw new Error(`${directories.join(', ')}: no ${missing.join(', ')}`);
  const folders = [...new Set([...files.keys()].map(dirname))].sort();
  return [
    ...folders
      .filter((path) => path !== 'bin')
      .map((path): CpioEntry => ({ kind: 'directory', path, mode: 0o755 })),
    ...[...files].map(
      ([path, source]): CpioEntry => ({
        ...{ kind: 'file', path, mode: 0o755 },
        data: readFileSync(source),
      }),
    ),
  ];
}

/** The loader under each of its names: programs want it where their architecture has it. */
function loaderFiles(found: ReadonlyMap<string, string>): [string, string][] {
  const paths = [...found.keys()].filter((path) => LOADER.test(basename(path)));
  // One is the file; the others are links, some of them absolute: to the host's.
  const file = paths.find((path) => path.split('/').length > 2 && isFile(found.get(path)!));
  if (file === undefined) throw new Error('libc6 without a loader in its library folder');
  return paths.map((path) => [path, found.get(file)!]);
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

function pathOf(found: ReadonlyMap<string, string>, path: string): string {
  const source = found.get(path);
  if (source === undefined) throw new Error(`expected ${path} in one of the packages`);
  return source;
}
