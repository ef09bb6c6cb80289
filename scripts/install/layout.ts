/**
 * What is installed where: decides, and touches nothing. What there is to install is npm's answer, the
 * files of the package (package.json "files") and the packages that it needs at run time; where it
 * goes is the table here. Called by main.ts.
 */

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { join, posix, relative } from 'node:path';

/** Below PREFIX: the program, and the list of what was installed. */
export const PROGRAM = 'lib/ramzswap';

/** A file of the package → its place below PREFIX. The first that matches. */
const PLACES: readonly (readonly [RegExp, string])[] = [
  [/^dist\/man\/([^/]+\.(\d))$/, 'share/man/man$2/$1'],
  [/^dist\/completion\/([^/]+)$/, 'share/bash-completion/completions/$1'],
  [/^(?:dist\/.+|package\.json)$/, `${PROGRAM}/$&`],
  [/^scripts\/systemd\/([^/]+\.(?:service|socket))$/, 'lib/systemd/system/$1'],
  [/^scripts\/systemd\/([^/]+)\.(sysusers|tmpfiles)\.conf$/, 'lib/$2.d/$1.conf'],
  [/^scripts\/qemu\/([^/]+\.json)$/, 'share/qemu/vhost-user/$1'],
  [/^guest\/rootfs\/.+$/, 'share/ramzswap/$&'],
  [/^scripts\/(examples\/[^/]+)$/, 'share/doc/ramzswap/$1'],
  [/^[^/]+$/, 'share/doc/ramzswap/$&'],
];

/** A place below PREFIX, and what goes there. */
export type Entry = { readonly place: string } & (
  | { readonly copyOf: string }
  | { readonly text: string }
  | { readonly linkTo: string }
);

interface PackageJson {
  readonly bin: Record<string, string>;
}

/** `unpacked`: the package's files; `root`: where its packages are installed; `prefix`: without a last slash. */
export function layout(unpacked: string, root: string, prefix: string): Entry[] {
  const files = filesBelow(unpacked).map((path) => entryOf(unpacked, path, prefix));
  const { bin } = JSON.parse(readFileSync(join(unpacked, 'package.json'), 'utf8')) as PackageJson;
  const links = Object.entries(bin).map(([name, path]) => ({
    place: `bin/${name}`,
    linkTo: posix.relative('bin', `${PROGRAM}/${path}`),
  }));
  return [...files, ...dependencies(root), ...links];
}

function entryOf(unpacked: string, path: string, prefix: string): Entry {
  const [pattern, replacement] = PLACES.find(([known]) => known.test(path)) ?? [];
  if (pattern === undefined) throw new Error(`${path}: expected a place for it in layout.ts`);
  const place = path.replace(pattern, replacement!);
  const copyOf = join(unpacked, path);
  const text = () => readFileSync(copyOf, 'utf8');
  if (place.startsWith('lib/systemd/')) return { place, text: unitAt(prefix, text()) };
  if (place.startsWith('share/qemu/')) return { place, text: descriptionAt(prefix, text()) };
  return { place, copyOf };
}

/** Units name the program without a folder, for systemd to look for it: here we know. */
function unitAt(prefix: string, unit: string): string {
  return unit.replace(/^ExecStart=(?=ramzswapd )/m, `ExecStart=${prefix}/bin/`);
}

/** QEMU's vhost-user.json, VhostUserBackend: "binary" is an absolute path. */
function descriptionAt(prefix: string, description: string): string {
  const binary = `${prefix}/bin/ramzswapd`;
  return `${JSON.stringify({ ...JSON.parse(description), binary }, null, 2)}\n`;
}

/**
 * The packages that the program needs, as "npm ci" has installed them from package-lock.json: so
 * nothing is fetched by whoever installs, who is root more often than not.
 */
function dependencies(root: string): Entry[] {
  const args = ['ls', '--omit=dev', '--all', '--parseable'];
  const top = realpathSync(root);
  const paths = execFileSync('npm', args, { cwd: top, encoding: 'utf8' }).trim().split('\n');
  const packages = paths.filter((path) => path.startsWith(join(top, 'node_modules/')));
  return packages.flatMap((path) =>
    filesBelow(path).map((file) => {
      const copyOf = join(path, file);
      return { place: join(PROGRAM, relative(top, copyOf)), copyOf };
    }),
  );
}

/** All files, relative to `folder`; packages inside a package are npm's to name. */
function filesBelow(folder: string, below = ''): string[] {
  return readdirSync(join(folder, below), { withFileTypes: true }).flatMap((entry) => {
    if (entry.name === 'node_modules') return [];
    const path = join(below, entry.name);
    return entry.isDirectory() ? filesBelow(folder, path) : [path];
  });
}
