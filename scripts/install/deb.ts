/**
 * A Debian package of what "make install" puts under /usr, in the folder where it is called. The same
 * commit and the same dpkg make the same package, byte for byte: every time in it is
 * SOURCE_DATE_EPOCH, or else the commit's. Called by the Makefile.
 */

import { execFileSync } from 'node:child_process';
import {
  lstatSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { env } from 'node:process';
import { install, MANIFEST, ROOT } from './main.ts';

const PREFIX = '/usr';

/** The units' user and folder, and systemd told of the units. DPKG_ROOT: dpkg's, for another root folder. */
const POSTINST = `#!/bin/sh
set -e
if [ "$1" = configure ]; then
  if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers \${DPKG_ROOT:+--root="$DPKG_ROOT"} ramzswap.conf
  fi
  if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemd-tmpfiles --create ramzswap.conf
    systemctl daemon-reload
  fi
fi
`;

const POSTRM = `#!/bin/sh
set -e
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
`;

function output(program: string, args: readonly string[]): string {
  return execFileSync(program, args, { cwd: ROOT, encoding: 'utf8' }).trim();
}

interface PackageJson {
  readonly version: string;
  readonly description: string;
}

function control({ version, description }: PackageJson, architecture: string, kB: number): string {
  return [
    'Package: ramzswap',
    // A hyphen would begin Debian's own part of the version, and a release candidate comes before.
    `Version: ${version.replace('-', '~')}`,
    `Architecture: ${architecture}`,
    'Maintainer: The ramzswap developers <ramzswap@localhost>',
    `Installed-Size: ${kB}`,
    'Depends: nodejs (>= 20)',
    'Suggests: qemu-system',
    'Section: admin',
    'Priority: optional',
    `Description: ${description}`,
    '',
  ].join('\n');
}

/** deb-substvars(5), Installed-Size: each file rounded up, 1 for whatever else; no file system asked. */
function kilobytes(path: string): number {
  const below = readdirSync(path, { withFileTypes: true }).map((entry) => {
    const at = join(path, entry.name);
    if (entry.isDirectory()) return kilobytes(at);
    return entry.isFile() ? Math.ceil(lstatSync(at).size / 1024) : 1;
  });
  return below.reduce((sum, each) => sum + each, 1);
}

function setTimes(path: string, seconds: number): void {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const below = join(path, entry.name);
    if (entry.isDirectory()) setTimes(below, seconds);
    else lutimesSync(below, seconds, seconds);
  }
  lutimesSync(path, seconds, seconds);
}

function main(): void {
  const packageJson = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as PackageJson;
  const epoch = env.SOURCE_DATE_EPOCH ?? output('git', ['log', '-1', '--format=%ct']);
  // koffi's part in machine code.
  const architecture = output('dpkg', ['--print-architecture']);
  const temporary = mkdtempSync(join(tmpdir(), 'ramzswap-deb-'));
  try {
    const tree = join(temporary, 'tree');
    install(tree, PREFIX);
    // dpkg keeps a list of its own.
    rmSync(join(tree, PREFIX, MANIFEST));
    const kB = kilobytes(tree);
    mkdirSync(join(tree, 'DEBIAN'));
    writeFileSync(join(tree, 'DEBIAN/control'), control(packageJson, architecture, kB));
    writeFileSync(join(tree, 'DEBIAN/postinst'), POSTINST, { mode: 0o755 });
    writeFileSync(join(tree, 'DEBIAN/postrm'), POSTRM, { mode: 0o755 });
    setTimes(tree, Number(epoch));
    execFileSync('dpkg-deb', ['--root-owner-group', '--build', tree, '.'], {
      env: { ...env, SOURCE_DATE_EPOCH: epoch },
      stdio: 'inherit',
    });
  } finally {
    rmSync(temporary, { recursive: true });
  }
}

main();
