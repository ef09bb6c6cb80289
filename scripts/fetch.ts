/**
 * Fetches what a guest is made of, Debian's kernel and static busybox, into `.cache/packages`,
 * unpacked and without installing anything: neither root nor a matching host release is needed.
 * Called by guest/image.ts; `tsx scripts/fetch.ts` fills the cache ahead of time.
 *
 * A package's life: stamp found → done, offline. Otherwise: resolve the metapackage to the package
 * of today (old kernels disappear from the archive) → download → unpack aside → rename → stamp.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { argv, getuid } from 'node:process';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

/** At the repository root, git-ignored; everything in it can be deleted at any time. */
export const CACHE_DIR = fileURLToPath(new URL('../.cache', import.meta.url));

const PRIVATE_APT = join(CACHE_DIR, 'apt');

/** One kind of guest → the packages it is made of, in Debian's architecture names. */
const GUESTS = {
  amd64: { kernel: 'linux-image-cloud-amd64', busybox: 'busybox-static' },
} as const;

export type GuestArch = keyof typeof GUESTS;

export type GuestFiles = {
  kernel: string;
  modulesDir: string;
  kernelVersion: string;
  busybox: string;
};

/** A concrete package, never a metapackage. */
type Package = { name: string; version: string };

/** Brings a guest's kernel and busybox into the cache, and says where they are. */
export async function fetchGuest(arch: GuestArch = 'amd64'): Promise<GuestFiles> {
  const kernel = await fetchPackage(arch, GUESTS[arch].kernel);
  const busybox = await fetchPackage(arch, GUESTS[arch].busybox);
  const kernelVersion = kernel.name.replace(/^linux-image-/, '');
  return {
    kernel: existing(kernel.directory, [`boot/vmlinuz-${kernelVersion}`]),
    modulesDir: existing(kernel.directory, [
      `lib/modules/${kernelVersion}`,
      `usr/lib/modules/${kernelVersion}`,
    ]),
    kernelVersion,
    busybox: existing(busybox.directory, ['bin/busybox', 'usr/bin/busybox']),
  };
}

async function fetchPackage(
  arch: GuestArch,
  wanted: string,
): Promise<{ name: string; directory: string }> {
  const folder = join(CACHE_DIR, 'packages', arch);
  const stamp = join(folder, `${wanted}.json`);
  let found = await readStamp(folder, stamp);
  if (found === undefined) {
    await mkdir(folder, { recursive: true });
    const aside = await mkdtemp(join(folder, 'new-'));
    try {
      found = await downloadAndUnpack(folder, aside, arch, wanted);
      await writeFile(join(aside, 'stamp'), `${JSON.stringify(found)}\n`);
      await rename(join(aside, 'stamp'), stamp);
    } finally {
      await rm(aside, { recursive: true, force: true });
    }
  }
  return { name: found.name, directory: directoryOf(folder, found) };
}

/** A stamp counts only while what it speaks of is there: people delete half a cache. */
async function readStamp(folder: string, stamp: string): Promise<Package | undefined> {
  if (!existsSync(stamp)) return undefined;
  const known = JSON.parse(await readFile(stamp, 'utf8')) as Package;
  return existsSync(directoryOf(folder, known)) ? known : undefined;
}

function directoryOf(folder: string, { name, version }: Package): string {
  return join(folder, `${name}_${version}`.replaceAll(':', '%3a'));
}

async function downloadAndUnpack(
  folder: string,
  aside: string,
  arch: GuestArch,
  wanted: string,
): Promise<Package> {
  let found: Package;
  try {
    found = await download(aside, arch, wanted);
  } catch {
    // No package lists yet, or lists so old that they name versions no longer served.
    await refreshLists();
    found = await download(aside, arch, wanted);
  }
  const downloads = join(aside, 'deb');
  const [archive] = await readdir(downloads);
  if (archive === undefined) throw new Error(`apt-get download ${found.name}: no file came`);

  const unpacked = join(aside, 'unpacked');
  await execa('dpkg-deb', ['-x', join(downloads, archive), unpacked]);
  const directory = directoryOf(folder, found);
  await rm(directory, { recursive: true, force: true });
  await rename(unpacked, directory);
  return found;
}

async function download(aside: string, arch: GuestArch, wanted: string): Promise<Package> {
  const found = await resolve(arch, wanted);
  console.log(`fetch: ${found.name} ${found.version} (${arch})`);
  const exact = `${found.name}:${arch}=${found.version}`;
  // A new folder for each attempt: one that failed may have left a piece of an archive.
  const downloads = join(aside, 'deb');
  await rm(downloads, { recursive: true, force: true });
  await mkdir(downloads);
  // As root, apt would hand the download to a user of its own, who may not write here.
  const asRoot = isRoot() ? ['-o', 'APT::Sandbox::User=root'] : [];
  await execa('apt-get', [...aptState(), ...asRoot, '-q', 'download', exact], { cwd: downloads });
  return found;
}

/** Follows a kernel metapackage to the kernel of today; other packages are themselves. */
async function resolve(arch: GuestArch, wanted: string): Promise<Package> {
  const record = await showPackage(arch, wanted);
  const concrete = record.get('Depends')?.match(/\blinux-image-[\w.+-]+/)?.[0];
  if (concrete !== undefined) return resolve(arch, concrete);
  const version = record.get('Version');
  if (version === undefined) throw new Error(`apt-cache show ${wanted}: no Version field`);
  return { name: wanted, version };
}

/** The fields of the candidate version's record, continuation lines left out. */
async function showPackage(arch: GuestArch, name: string): Promise<Map<string, string>> {
  const query = [...aptState(), 'show', '--no-all-versions', `${name}:${arch}`];
  const { stdout } = await execa('apt-cache', query, { env: { LC_ALL: 'C' } });
  const fields = stdout.split('\n').map((line) => line.match(/^([\w-]+): (.*)$/));
  return new Map(fields.flatMap((field) => (field === null ? [] : [[field[1]!, field[2]!]])));
}

/** Root refreshes the machine's own package lists, anybody else a private set in the cache. */
async function refreshLists(): Promise<void> {
  if (!isRoot()) {
    await mkdir(join(PRIVATE_APT, 'lists', 'partial'), { recursive: true });
    await mkdir(join(PRIVATE_APT, 'cache', 'archives', 'partial'), { recursive: true });
  }
  console.log('fetch: refreshing the package lists');
  // A single index that fails makes `update` fail; whether it mattered, the download will tell.
  await execa('apt-get', [...aptState(), '-q', 'update'], { reject: false });
}

/** The options that make apt use the private lists, once there are any. */
function aptState(): string[] {
  if (isRoot() || !existsSync(PRIVATE_APT)) return [];
  const lists = `Dir::State::Lists=${join(PRIVATE_APT, 'lists')}`;
  const cache = `Dir::Cache=${join(PRIVATE_APT, 'cache')}`;
  return ['-o', lists, '-o', cache];
}

/** Merged-/usr moved these files from one release to the next. */
function existing(directory: string, candidates: string[]): string {
  const found = candidates.map((path) => join(directory, path)).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`${directory} has none of ${candidates.join(', ')}`);
  return found;
}

function isRoot(): boolean {
  return getuid?.() === 0;
}

if (argv[1] === fileURLToPath(import.meta.url)) console.log(await fetchGuest());
