/**
 * What people install: `make install`, `make uninstall`, `make deb` and npm's package, from a clone of
 * the test's own into folders of its own; the clone is gone before what was installed is run. Nothing
 * is fetched. About 40 seconds, most of them npm's and the file system's.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { isBuilt, until } from '../driver/daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const LOADER = createRequire(import.meta.url).resolve('tsx');
const START_MILLIS_MAX = 20_000;
// Thousands of small files to make and to remove.
vi.setConfig({ hookTimeout: 60_000 });

const json = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
const PACKAGE = json(join(ROOT, 'package.json')) as {
  version: string;
  bin: Record<string, string>;
  man: string[];
};
const PROGRAMS = Object.keys(PACKAGE.bin);
/** What users put into guests of their own. */
const FOR_GUESTS = filesBelow(join(ROOT, 'guest/rootfs'));

if (!isBuilt) console.warn('install.test.ts: SKIPPED: dist/ is missing: run "npm run build"');
const hasDpkg = spawnSync('dpkg-deb', ['--version']).error === undefined;
if (!hasDpkg) console.warn('install.test.ts: SKIPPED in part: dpkg-deb is not installed');

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function folder(): string {
  const made = makeFolder();
  cleanUps.push(made.remove);
  return made.path;
}

/** The packages that the lock file names for running, as far as this machine has them. */
function runtimePackages(): string[] {
  const { packages } = json(join(ROOT, 'package-lock.json')) as {
    packages: Record<string, { dev?: true }>;
  };
  return Object.entries(packages)
    .filter(([path, { dev }]) => path !== '' && dev !== true && existsSync(join(ROOT, path)))
    .map(([path]) => path);
}

/** A clone that was built, as far as installing looks at it; pages and completion if nobody makes them. */
function makeClone(path: string): void {
  const files = ['Makefile', 'package.json', 'package-lock.json', 'LICENSE', 'README.md'];
  for (const name of [...files, 'scripts', 'dist', 'guest/rootfs', ...runtimePackages()]) {
    cpSync(join(ROOT, name), join(path, name), { recursive: true });
  }
  mkdirSync(join(path, 'src'));
  for (const name of [...PACKAGE.man, 'dist/completion/rzscontrol']) {
    if (existsSync(join(path, name))) continue;
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), 'stands for what is not made yet\n');
  }
}

/** `make target` in `path`, which counts as built. */
function make(path: string, target: string, variables: readonly string[], umask = '022') {
  const tsx = `TSX=${process.execPath} --import ${LOADER}`;
  const args = ['-C', path, '--old-file=build', target, tsx, ...variables];
  return execa('sh', ['-c', `umask ${umask} && exec make "$@"`, 'sh', ...args], { reject: false });
}

/** All below `path` but folders, relative to it. */
function filesBelow(path: string): string[] {
  const entries = readdirSync(path, { withFileTypes: true, recursive: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(path, join(entry.parentPath, entry.name)))
    .sort();
}

/** The daemon and the tool at `bin` do what they are for. */
async function expectToRun(bin: string): Promise<void> {
  for (const name of PROGRAMS) {
    const version = execFileSync(join(bin, name), ['--version'], { encoding: 'utf8' });
    expect(version.trim(), name).toContain(PACKAGE.version);
  }
  const socket = join(folder(), 'vhost.sock');
  const args = ['--socket-path', socket, '--disksize', '16M'];
  const daemon = execa(join(bin, 'ramzswapd'), args, { reject: false });
  cleanUps.push(() => daemon.kill('SIGKILL'));
  await until(() => existsSync(socket) || daemon.exitCode !== null, 'socket', START_MILLIS_MAX);
  const control = ['--control-path', `${socket}.control`];
  const table = await execa(join(bin, 'rzscontrol'), control);
  expect(table.stdout).toContain('ramzswap0');
  daemon.kill('SIGTERM');
  expect((await daemon).exitCode).toBe(0);
}

const made = makeFolder();
const clone = join(made.path, 'clone');
beforeAll(() => {
  if (isBuilt) makeClone(clone);
});
afterAll(() => made.remove());

async function installInto(destdir: string, ...variables: string[]): Promise<void> {
  const { exitCode, stderr } = await make(
    clone,
    'install',
    [`DESTDIR=${destdir}`, ...variables],
    '077',
  );
  expect([exitCode, stderr]).toEqual([0, '']);
}

describe.skipIf(!isBuilt)('what make install installs', () => {
  const destdir = join(made.path, 'installed');
  const at = join(destdir, 'opt/r');
  beforeAll(() => installInto(destdir, 'PREFIX=/opt/r/'));

  it('is each thing in its place, for everybody to read', () => {
    const files = filesBelow(at);
    const units = readdirSync(join(ROOT, 'scripts/systemd')).filter((name) => !/conf$/.test(name));
    const places = [
      ...PROGRAMS.map((name) => `bin/${name}`),
      ...units.map((name) => `lib/systemd/system/${name}`),
      'lib/sysusers.d/ramzswap.conf',
      'lib/tmpfiles.d/ramzswap.conf',
      'share/bash-completion/completions/rzscontrol',
      'share/doc/ramzswap/LICENSE',
      'share/doc/ramzswap/README.md',
      'share/doc/ramzswap/examples/ramzswap0.conf',
      'share/doc/ramzswap/examples/ramzswapd.yaml',
      ...PACKAGE.man.map((path) => `share/man/man${path.at(-1)}/${basename(path)}`),
      'share/qemu/vhost-user/50-ramzswap.json',
      ...FOR_GUESTS.map((path) => `share/ramzswap/guest/rootfs/${path}`),
    ];
    expect(files.filter((path) => !path.startsWith('lib/ramzswap/'))).toEqual(places.sort());
    for (const path of files) expect(statSync(join(at, path)).mode & 0o444, path).toBe(0o444);
    const doctor = 'share/ramzswap/guest/rootfs/usr/local/sbin/ramzswap-doctor';
    for (const path of [...PROGRAMS.map((name) => `bin/${name}`), doctor]) {
      expect(statSync(join(at, path)).mode & 0o777, path).toBe(0o755);
    }
  });

  it('are the packages that the lock file names for running, and no other', () => {
    const packages = filesBelow(join(at, 'lib/ramzswap'))
      .map((path) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\/package\.json$/.exec(path)?.[1])
      .filter((path) => path !== undefined);
    expect(packages.sort()).toEqual(runtimePackages().sort());
  });

  it('are units and a description for QEMU that name the installed program', () => {
    for (const name of ['ramzswapd.service', 'ramzswapd@.service']) {
      const unit = readFileSync(join(at, 'lib/systemd/system', name), 'utf8');
      expect(unit.match(/^ExecStart=\S+/m)![0]).toBe('ExecStart=/opt/r/bin/ramzswapd');
    }
    const description = json(join(at, 'share/qemu/vhost-user/50-ramzswap.json'));
    // QEMU's docs/interop/vhost-user.json, VhostUserBackend: these are required, "tags" is the only other.
    expect(description).toEqual({
      description: expect.any(String),
      type: 'block',
      binary: '/opt/r/bin/ramzswapd',
    });
    const told = execFileSync(destdir + description.binary, ['--print-capabilities']);
    expect(JSON.parse(told.toString())).toEqual({ type: description.type, features: [] });
  });

  it('are programs that run when the clone is gone', async () => {
    for (const path of filesBelow(destdir)) {
      expect(readFileSync(join(destdir, path)).includes(clone), path).toBe(false);
    }
    renameSync(clone, `${clone}-aside`);
    cleanUps.push(() => renameSync(`${clone}-aside`, clone));
    await expectToRun(join(at, 'bin'));
  });
});

describe.skipIf(!isBuilt)('make install', () => {
  it('over an older version leaves nothing of that, and uninstall nothing of either', async () => {
    const destdir = folder();
    const old = join(clone, 'dist/old/gone.js');
    mkdirSync(dirname(old));
    writeFileSync(old, '');
    await installInto(destdir);
    const before = filesBelow(destdir);
    rmSync(dirname(old), { recursive: true });
    await installInto(destdir);
    const installed = 'usr/local/lib/ramzswap/dist/old/gone.js';
    expect(before).toContain(installed);
    expect(filesBelow(destdir)).toEqual(before.filter((path) => path !== installed));
    expect(existsSync(dirname(join(destdir, installed)))).toBe(false);
    const { exitCode, stderr } = await make(clone, 'uninstall', [`DESTDIR=${destdir}`]);
    expect([exitCode, stderr]).toEqual([0, '']);
    expect(readdirSync(destdir)).toEqual([]);
  });

  it('leaves a file that it has not put there, and everything else undone', async () => {
    const destdir = folder();
    const program = join(destdir, 'usr/local/bin/ramzswapd');
    mkdirSync(dirname(program), { recursive: true });
    writeFileSync(program, 'mine');
    const { exitCode, stderr } = await make(clone, 'install', [`DESTDIR=${destdir}`]);
    expect(exitCode).toBe(2);
    expect(stderr).toContain(`${program}: expected nothing there`);
    expect(filesBelow(destdir)).toEqual(['usr/local/bin/ramzswapd']);
    expect(readFileSync(program, 'utf8')).toBe('mine');
  });

  it.each(['', '/a%i', '/usr/../etc'])('refuses PREFIX=%s', async (prefix) => {
    const destdir = folder();
    const variables = [`DESTDIR=${destdir}`, `PREFIX=${prefix}`];
    const { exitCode, stderr } = await make(clone, 'install', variables);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('PREFIX: expected an absolute path');
    expect(readdirSync(destdir)).toEqual([]);
  });
});

it.skipIf(!isBuilt).each(['install', 'uninstall'])(
  'make %s refuses a DESTDIR that depends on where it is called',
  async (target) => {
    const { exitCode, stderr } = await make(clone, target, ['DESTDIR=rel']);
    expect(exitCode).toBe(2);
    expect(stderr).toContain("DESTDIR: expected an absolute path, got 'rel'");
    expect(existsSync(join(clone, 'rel'))).toBe(false);
  },
);

describe.skipIf(!isBuilt)('make uninstall', () => {
  it('leaves what is others’: files, and folders that were there or are in use', async () => {
    const destdir = folder();
    const theirs = (path: string) => join(destdir, 'usr/local', path);
    mkdirSync(theirs('share/man/man1'), { recursive: true });
    await installInto(destdir);
    for (const path of ['bin/other', 'lib/ramzswap/notes']) writeFileSync(theirs(path), '');
    const variables = [`DESTDIR=${destdir}`, 'PREFIX=/usr/local/'];
    expect((await make(clone, 'uninstall', variables)).exitCode).toBe(0);
    expect(filesBelow(destdir)).toEqual(['usr/local/bin/other', 'usr/local/lib/ramzswap/notes']);
    expect(readdirSync(theirs('share'))).toEqual(['man']);
    expect(readdirSync(theirs('share/man'))).toEqual(['man1']);
  });

  it('without a manifest does nothing', async () => {
    const { exitCode, stderr } = await make(clone, 'uninstall', [`DESTDIR=${folder()}`]);
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining('nothing was installed')]);
  });

  it.each(['/usr/local/../etc/passwd', 'etc/passwd', '/..'])(
    'refuses a manifest with "%s"',
    async (line) => {
      const destdir = folder();
      const program = join(destdir, 'usr/local/lib/ramzswap');
      mkdirSync(program, { recursive: true });
      writeFileSync(join(program, 'mine'), '');
      const lines = ['/usr/local/lib/ramzswap/mine', line, '/usr/local/'];
      writeFileSync(join(program, 'manifest'), `${lines.join('\n')}\n`);
      const { exitCode, stderr } = await make(clone, 'uninstall', [`DESTDIR=${destdir}`]);
      expect([exitCode, stderr]).toEqual([2, expect.stringContaining('expected absolute paths')]);
      expect(readdirSync(program)).toEqual(['manifest', 'mine']);
    },
  );
});

describe.skipIf(!isBuilt || !hasDpkg)('make deb', () => {
  it('makes a package without anything of this machine or moment, whose programs run', async () => {
    // Compression takes longer than all else, and is dpkg's.
    const variables = ['SOURCE_DATE_EPOCH=1700000000', 'DPKG_DEB_COMPRESSOR_TYPE=none'];
    const { exitCode, stderr } = await make(clone, 'deb', variables, '077');
    expect([exitCode, stderr]).toEqual([0, '']);
    const packages = readdirSync(clone).filter((name) => name.endsWith('.deb'));
    expect(packages).toEqual([expect.stringMatching(`^ramzswap_${PACKAGE.version}_\\w+\\.deb$`)]);
    const path = join(clone, packages[0]!);
    cleanUps.push(() => rmSync(path));
    const dpkg = (...args: string[]) => execFileSync('dpkg-deb', args, { encoding: 'utf8' }).trim();
    expect(dpkg('-f', path, 'Version')).toBe(PACKAGE.version);
    expect(dpkg('-f', path, 'Depends')).toBe('nodejs (>= 20)');
    const lines = dpkg('-c', path).split('\n');
    const expected =
      /^(drwxr-xr-x|-rw-r--r--|-rwxr-xr-x|lrwxrwxrwx) root\/root +\d+ 2023-11-1[45] /;
    expect(lines.filter((line) => !expected.test(line))).toEqual([]);
    const tree = folder();
    dpkg('-x', path, tree);
    expect(readdirSync(tree)).toEqual(['usr']);
    expect(existsSync(join(tree, 'usr/lib/ramzswap/manifest'))).toBe(false);
    await expectToRun(join(tree, 'usr/bin'));
  });
});

describe.skipIf(!isBuilt)('npm pack', () => {
  it('has what is built, units, description, what is for guests, and nothing that nobody needs', () => {
    const path = folder();
    const args = ['pack', '--ignore-scripts', '--silent', `--pack-destination=${path}`];
    const archive = execFileSync('npm', args, { cwd: clone, encoding: 'utf8' }).trim();
    const listing = execFileSync('tar', ['-tzf', join(path, archive)], { encoding: 'utf8' });
    const files = listing.trim().split('\n');
    for (const name of [
      ...Object.values(PACKAGE.bin),
      ...PACKAGE.man,
      'dist/lzo-wasm/lzo1x.wasm',
      'dist/completion/rzscontrol',
      'scripts/systemd/ramzswapd@.service',
      'scripts/qemu/50-ramzswap.json',
      ...FOR_GUESTS.map((name) => `guest/rootfs/${name}`),
      'LICENSE',
      'README.md',
    ]) {
      expect(files).toContain(`package/${name}`);
    }
    const wanted =
      /^package\/(dist\/.*|guest\/rootfs\/.*|scripts\/(examples|qemu|systemd)\/.*|[^/]+)$/;
    expect(files.filter((name) => !wanted.test(name) || /\.map$|\/\.\w+$/.test(name))).toEqual([]);
  });

  it('names all manual pages, for npm installs those that it is told of', () => {
    const pages = readdirSync(join(clone, 'dist/man')).map((name) => `dist/man/${name}`);
    expect([...PACKAGE.man].sort()).toEqual(pages.sort());
  });
});
