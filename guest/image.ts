/**
 * Builds the guests' initramfs from busybox, the kernel's virtio modules, `init` and the workloads,
 * into `.cache/guest/<guest>/initrd.gz`. Rebuilt when an input changed, by a hash over all of them.
 * Called by guest/qemu.ts.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { CACHE_DIR, fetchGuest, fetchPackages, type GuestFiles } from '../scripts/fetch.ts';
import { ensureTools } from '../scripts/setup.ts';
import { type CpioEntry, gzippedCpio } from './cpio.ts';
import { FILE_SYSTEM_PACKAGES, fileSystemEntries } from './e2fsprogs.ts';
import { GUESTS, type Guest, type GuestName } from './guests.ts';

export type GuestImage = { kernel: string; initrd: string };

/** `tools`: where FILE_SYSTEM_PACKAGES lie, if they are wanted. */
type ImageFiles = GuestFiles & { tools: readonly string[] };

const SOURCE_DIR = fileURLToPath(new URL('.', import.meta.url));

/** Guest programs, one C file each, and the headers among them. */
const PROGRAMS = [
  'scan',
  'fillverify',
  'churn',
  'documents',
  'filecache',
  'gaps',
  'swapon',
] as const;
const HEADERS = ['common.h', 'pages.h'] as const;

/** What users run in guests of their own; here init does. */
const DOCTOR = 'usr/local/sbin/ramzswap-doctor';

/** Loaded at boot: what leads to a virtio disk, either way. */
const BOOT_MODULES = ['virtio_pci', 'virtio_mmio', 'virtio_blk'] as const;

/** There for `modprobe` where the kernel has them: the disk's rivals, and a file system. */
const MORE_MODULES = ['zram', 'lzo', 'ext4'] as const;

const CFLAGS = ['-std=c11', '-D_GNU_SOURCE', '-O2', '-static', '-s', '-Wall', '-Wextra', '-Werror'];

/** What init mounts things on, and where files go. */
const DIRECTORIES = [
  ...['bin', 'dev', 'lib', 'lib/modules', 'proc', 'sys', 'tmp'],
  ...['usr', 'usr/local', 'usr/local/sbin'],
];

/** Builds of one guest follow each other: apt has locks, and later ones find what the first made. */
const builds = new Map<GuestName, Promise<GuestImage>>();

export function buildInitramfs(name: GuestName, hasFileSystemTools = false): Promise<GuestImage> {
  const build = () => buildNow(name, hasFileSystemTools);
  // What became of the build before is its caller's affair.
  const image = builds.get(name)?.then(build, build) ?? build();
  builds.set(name, image);
  return image;
}

async function buildNow(name: GuestName, hasFileSystemTools: boolean): Promise<GuestImage> {
  const guest: Guest = GUESTS[name];
  const files = await fetchGuest(guest);
  const tools = hasFileSystemTools ? await fetchPackages(guest, FILE_SYSTEM_PACKAGES) : [];
  const folder = join(CACHE_DIR, 'guest', name);
  const title = hasFileSystemTools ? 'initrd-e2fsprogs' : 'initrd';
  const initrd = join(folder, `${title}.gz`);
  const stamp = join(folder, `${title}.inputs`);
  const inputs = await hashInputs(guest, { ...files, tools });
  const known = existsSync(initrd) && existsSync(stamp) ? await readFile(stamp, 'utf8') : '';
  if (known !== inputs) {
    await ensureTools([guest.compiler, 'xz']);
    await mkdir(folder, { recursive: true });
    const aside = await mkdtemp(join(folder, 'new-'));
    try {
      const entries = await collect(guest, { ...files, tools }, aside);
      await writeFile(join(aside, 'initrd'), await gzippedCpio(entries));
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
async function hashInputs(guest: Guest, files: ImageFiles): Promise<string> {
  const sources = [
    'init',
    'cpio.ts',
    'image.ts',
    'e2fsprogs.ts',
    `rootfs/${DOCTOR}`,
    ...[...PROGRAMS.map((name) => `${name}.c`), ...HEADERS].map((name) => `workloads/${name}`),
  ];
  const hash = createHash('sha256').update(JSON.stringify([guest, files]));
  for (const source of sources) {
    hash.update(`\0${source}\0`).update(await readFile(join(SOURCE_DIR, source)));
  }
  return hash.digest('hex');
}

async function collect(guest: Guest, files: ImageFiles, aside: string): Promise<CpioEntry[]> {
  return [
    ...DIRECTORIES.map((path): CpioEntry => ({ kind: 'directory', path, mode: 0o755 })),
    // The kernel opens the console for init before init could mount devtmpfs.
    { kind: 'character device', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    { kind: 'character device', path: 'dev/null', mode: 0o666, major: 1, minor: 3 },
    file('init', 0o755, await readFile(join(SOURCE_DIR, 'init'))),
    file(DOCTOR, 0o755, await readFile(join(SOURCE_DIR, 'rootfs', DOCTOR))),
    file('bin/busybox', 0o755, await readFile(files.busybox)),
    { kind: 'symlink', path: 'bin/sh', target: 'busybox' },
    ...(await moduleEntries(files)),
    ...(await compilePrograms(guest.compiler, aside)),
    ...(files.tools.length === 0 ? [] : fileSystemEntries(files.tools)),
  ];
}

async function compilePrograms(compiler: string, aside: string): Promise<CpioEntry[]> {
  const compile = async (name: string): Promise<CpioEntry> => {
    const output = join(aside, name);
    await execa(compiler, [...CFLAGS, '-o', output, join(SOURCE_DIR, 'workloads', `${name}.c`)]);
    return file(`bin/${name}`, 0o755, await readFile(output));
  };
  return Promise.all(PROGRAMS.map(compile));
}

function file(path: string, mode: number, data: Uint8Array): CpioEntry {
  return { kind: 'file', path, mode, data };
}

/** `modules.boot` is for our init, `modules.dep` (its form: depmod(8)) for modprobe. */
async function moduleEntries({ modulesDir, kernelVersion }: GuestFiles): Promise<CpioEntry[]> {
  const kernel = await KernelModules.read(modulesDir);
  for (const name of BOOT_MODULES) await kernel.take(name);
  const boot = kernel.taken.map(({ name }) => `${name}\n`).join('');
  for (const name of MORE_MODULES) await kernel.take(name);
  const dependencies = kernel.taken.map(
    ({ name, needs }) => `${[`${name}.ko:`, ...needs.map((need) => `${need}.ko`)].join(' ')}\n`,
  );
  const folder = `lib/modules/${kernelVersion}`;
  return [
    { kind: 'directory', path: folder, mode: 0o755 },
    file('modules.boot', 0o644, Buffer.from(boot)),
    file(`${folder}/modules.dep`, 0o644, Buffer.from(dependencies.join(''))),
    ...kernel.taken.map(({ name, data }) => file(`${folder}/${name}.ko`, 0o644, data)),
  ];
}

/** `needs`: all that it depends on, directly or not, what must be loaded last first. */
type Module = { name: string; needs: string[]; data: Buffer };

/**
 * Picks modules, after all they depend on. `modules.dep` is made at installation, which does not
 * happen here; each module names its dependencies itself.
 */
class KernelModules {
  readonly #paths: Map<string, string>;
  readonly #taken = new Map<string, Module>();

  private constructor(paths: Map<string, string>) {
    this.#paths = paths;
  }

  static async read(modulesDir: string): Promise<KernelModules> {
    const names = await readdir(join(modulesDir, 'kernel'), { recursive: true });
    const modules = names.filter((name) => MODULE_FILE.test(name));
    return new KernelModules(
      new Map(modules.map((name) => [moduleName(name), join(modulesDir, 'kernel', name)])),
    );
  }

  /** In an order in which they can be loaded. */
  get taken(): readonly Module[] {
    return [...this.#taken.values()];
  }

  /** Returns it and all it depends on; nothing if it is no module, but built in or not there. */
  async take(name: string): Promise<string[]> {
    const path = this.#paths.get(name);
    if (path === undefined) return [];
    let module = this.#taken.get(name);
    if (module === undefined) {
      const data = await readModule(path);
      const needs = new Set<string>();
      for (const dependency of dependenciesOf(data)) {
        for (const need of await this.take(dependency)) needs.add(need);
      }
      module = { name, needs: [...needs], data };
      this.#taken.set(name, module);
    }
    return [name, ...module.needs];
  }
}

const MODULE_FILE = /\.ko(\.xz)?$/;

/** File names and dependency lists differ in this: virtio-rng.ko is the module virtio_rng. */
function moduleName(path: string): string {
  return basename(path).replace(MODULE_FILE, '').replaceAll('-', '_');
}

async function readModule(path: string): Promise<Buffer> {
  if (!path.endsWith('.xz')) return readFile(path);
  const { stdout } = await execa('xz', ['-dc', path], { encoding: 'buffer' });
  return Buffer.from(stdout);
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
