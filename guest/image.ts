/**
 * Builds the guests' initramfs from busybox, the kernel's virtio modules, `init` and the workloads,
 * into `.cache/guest/<arch>/initrd.gz`. Rebuilt when an input changed, by a hash over all of them.
 * Called by guest/qemu.ts.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { CACHE_DIR, fetchGuest, type GuestArch, type GuestFiles } from '../scripts/fetch.ts';
import { ensureTools } from '../scripts/setup.ts';
import { type CpioEntry, gzippedCpio } from './cpio.ts';

export type GuestImage = { kernel: string; initrd: string };

const SOURCE_DIR = fileURLToPath(new URL('.', import.meta.url));

/** Guest programs, one C file each, and the headers among them. */
const WORKLOADS = ['scan', 'fillverify'] as const;
const HEADERS = ['common.h'] as const;

/** Per guest: the compiler and the modules that lead to a virtio disk. */
const BUILDS = {
  amd64: { compiler: 'gcc', modules: ['virtio_pci', 'virtio_blk'] },
} as const satisfies Record<GuestArch, { compiler: string; modules: readonly string[] }>;

const CFLAGS = ['-std=c11', '-D_GNU_SOURCE', '-O2', '-static', '-s', '-Wall', '-Wextra', '-Werror'];

/** What init mounts things on, and where files go. */
const DIRECTORIES = ['bin', 'dev', 'lib', 'lib/modules', 'proc', 'sys', 'tmp'];

export async function buildInitramfs(arch: GuestArch = 'amd64'): Promise<GuestImage> {
  const files = await fetchGuest(arch);
  const folder = join(CACHE_DIR, 'guest', arch);
  const initrd = join(folder, 'initrd.gz');
  const stamp = join(folder, 'initrd.inputs');
  const inputs = await hashInputs(arch, files);
  const known = existsSync(initrd) && existsSync(stamp) ? await readFile(stamp, 'utf8') : '';
  if (known !== inputs) {
    await ensureTools(['gcc']);
    await mkdir(folder, { recursive: true });
    const aside = await mkdtemp(join(folder, 'new-'));
    try {
      await writeFile(join(aside, 'initrd'), gzippedCpio(await collect(arch, files, aside)));
      await writeFile(join(aside, 'inputs'), inputs);
      await rename(join(aside, 'initrd'), initrd);
      await rename(join(aside, 'inputs'), stamp);
    } finally {
      await rm(aside, { recursive: true, force: true });
    }
  }
  return { kernel: files.kernel, initrd };
}

/** Contents of what lies here, names (they carry versions) of what comes from packages. */
async function hashInputs(arch: GuestArch, files: GuestFiles): Promise<string> {
  const sources = [
    'init',
    'cpio.ts',
    'image.ts',
    ...[...WORKLOADS.map((name) => `${name}.c`), ...HEADERS].map((name) => `workloads/${name}`),
  ];
  const hash = createHash('sha256').update(JSON.stringify([arch, files]));
  for (const source of sources) {
    hash.update(`\0${source}\0`).update(await readFile(join(SOURCE_DIR, source)));
  }
  return hash.digest('hex');
}

async function collect(arch: GuestArch, files: GuestFiles, aside: string): Promise<CpioEntry[]> {
  const modules = await modulesInOrder(files.modulesDir, BUILDS[arch].modules);
  const list = modules.map((module) => `${basename(module.path)}\n`).join('');
  return [
    ...DIRECTORIES.map((path): CpioEntry => ({ kind: 'directory', path, mode: 0o755 })),
    // The kernel opens the console for init before init could mount devtmpfs.
    { kind: 'character device', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    { kind: 'character device', path: 'dev/null', mode: 0o666, major: 1, minor: 3 },
    file('init', 0o755, await readFile(join(SOURCE_DIR, 'init'))),
    file('bin/busybox', 0o755, await readFile(files.busybox)),
    { kind: 'symlink', path: 'bin/sh', target: 'busybox' },
    file('modules.list', 0o644, Buffer.from(list)),
    ...modules.map(({ path, data }) => file(`lib/modules/${basename(path)}`, 0o644, data)),
    ...(await compileWorkloads(BUILDS[arch].compiler, aside)),
  ];
}

async function compileWorkloads(compiler: string, aside: string): Promise<CpioEntry[]> {
  const compile = async (name: string): Promise<CpioEntry> => {
    const output = join(aside, name);
    await execa(compiler, [...CFLAGS, '-o', output, join(SOURCE_DIR, 'workloads', `${name}.c`)]);
    return file(`bin/${name}`, 0o755, await readFile(output));
  };
  return Promise.all(WORKLOADS.map(compile));
}

function file(path: string, mode: number, data: Uint8Array): CpioEntry {
  return { kind: 'file', path, mode, data };
}

type Module = { path: string; data: Buffer };

/**
 * The wanted modules after all they depend on. `modules.dep` is made at installation, which does not
 * happen here; each module names its dependencies itself.
 */
async function modulesInOrder(modulesDir: string, wanted: readonly string[]): Promise<Module[]> {
  const paths = await findModules(modulesDir);
  const builtin = new Set(
    (await readFile(join(modulesDir, 'modules.builtin'), 'utf8')).split('\n').map(moduleName),
  );
  const ordered = new Map<string, Module>();
  const visiting = new Set<string>();

  async function visit(name: string): Promise<void> {
    if (visiting.has(name) || builtin.has(name)) return;
    visiting.add(name);
    const path = paths.get(name);
    if (path === undefined) throw new Error(`${modulesDir}: no module ${name}`);
    const data = await readFile(path);
    for (const dependency of dependenciesOf(data)) await visit(dependency);
    ordered.set(name, { path, data });
  }
  for (const name of wanted) await visit(name);
  return [...ordered.values()];
}

async function findModules(modulesDir: string): Promise<Map<string, string>> {
  const names = await readdir(join(modulesDir, 'kernel'), { recursive: true });
  const modules = names.filter((name) => name.endsWith('.ko'));
  return new Map(modules.map((name) => [moduleName(name), join(modulesDir, 'kernel', name)]));
}

/** File names and dependency lists differ in this: virtio-rng.ko is the module virtio_rng. */
function moduleName(path: string): string {
  return basename(path, '.ko').replaceAll('-', '_');
}

/** `depends=a,b` is one of the NUL-separated strings of the section .modinfo. */
function dependenciesOf(module: Buffer): string[] {
  const key = '\0depends=';
  const at = module.indexOf(key);
  if (at < 0) throw new Error('module without a depends= field');
  const start = at + key.length;
  const value = module.toString('latin1', start, module.indexOf(0, start));
  return value === '' ? [] : value.split(',').map(moduleName);
}
