/**
 * Fetches what a guest is made of, Debian's kernel and static busybox, into `.cache/packages`,
 * unpacked and without installing anything: neither root nor a matching host release is needed.
 * Called by guest/image.ts; `tsx scripts/fetch.ts [GUEST …]` fills the cache ahead of time.
 *
 * A package's life: stamp found → done, offline. Otherwise: resolve the metapackage to the package
 * of today (old kernels disappear from the archive) → download → unpack aside → rename → stamp.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { DEFAULT_GUEST, GUESTS, type Guest, isGuestName } from '../guest/guests.ts';
import { type DebianPackage, PrivateApt } from './apt.ts';

/** At the repository root, git-ignored; everything in it can be deleted at any time. */
export const CACHE_DIR = fileURLToPath(new URL('../.cache', import.meta.url));

const BUSYBOX_PACKAGE = 'busybox-static';

export type GuestFiles = {
  kernel: string;
  modulesDir: string;
  kernelVersion: string;
  busybox: string;
};

/** Brings a guest's kernel and busybox into the cache, and says where they are. */
export async function fetchGuest(guest: Guest): Promise<GuestFiles> {
  const kernel = await fetchPackage(guest, guest.kernelPackage);
  const busybox = await fetchPackage(guest, BUSYBOX_PACKAGE);
  const kernelVersion = kernel.name.replace(/^linux-image-/, '');
  return {
    kernel: existing(kernel.directory, [
      `boot/vmlinuz-${kernelVersion}`,
      `usr/lib/modules/${kernelVersion}/vmlinuz`,
    ]),
    modulesDir: existing(kernel.directory, [
      `lib/modules/${kernelVersion}`,
      `usr/lib/modules/${kernelVersion}`,
    ]),
    kernelVersion,
    busybox: existing(busybox.directory, ['bin/busybox', 'usr/bin/busybox']),
  };
}

/** Brings further packages into the cache; where each lies unpacked. */
export async function fetchPackages(guest: Guest, names: readonly string[]): Promise<string[]> {
  const directories: string[] = [];
  for (const name of names) directories.push((await fetchPackage(guest, name)).directory);
  return directories;
}

async function fetchPackage(
  { suite, architecture }: Guest,
  wanted: string,
): Promise<{ name: string; directory: string }> {
  const folder = join(CACHE_DIR, 'packages', `${suite}-${architecture}`);
  const stamp = join(folder, `${wanted}.json`);
  let found = await readStamp(folder, stamp);
  if (found === undefined) {
    await mkdir(folder, { recursive: true });
    const aside = await mkdtemp(join(folder, 'new-'));
    try {
      const apt = new PrivateApt(CACHE_DIR, suite, architecture);
      found = await downloadAndUnpack(apt, wanted, folder, aside);
      await writeFile(join(aside, 'stamp'), `${JSON.stringify(found)}\n`);
      await rename(join(aside, 'stamp'), stamp);
    } finally {
      await rm(aside, { recursive: true, force: true });
    }
  }
  return { name: found.name, directory: directoryOf(folder, found) };
}

/** A stamp counts only while what it speaks of is there: people delete half a cache. */
async function readStamp(folder: string, stamp: string): Promise<DebianPackage | undefined> {
  if (!existsSync(stamp)) return undefined;
  const known = JSON.parse(await readFile(stamp, 'utf8')) as DebianPackage;
  return existsSync(directoryOf(folder, known)) ? known : undefined;
}

function directoryOf(folder: string, { name, version }: DebianPackage): string {
  return join(folder, `${name}_${version}`.replaceAll(':', '%3a'));
}

async function downloadAndUnpack(
  apt: PrivateApt,
  wanted: string,
  folder: string,
  aside: string,
): Promise<DebianPackage> {
  const download = async () => {
    const found = await apt.resolve(wanted);
    console.log(`fetch: ${found.name} ${found.version} (${apt.architecture})`);
    return { found, archives: await apt.download(found, join(aside, 'deb')) };
  };
  // No package lists yet, or lists so old that they name versions no longer served.
  const { found, archives } = await download().catch(async () => {
    await apt.refresh();
    return download();
  });
  const unpacked = join(aside, 'unpacked');
  for (const archive of archives) await execa('dpkg-deb', ['-x', archive, unpacked]);
  const directory = directoryOf(folder, found);
  await rm(directory, { recursive: true, force: true });
  await rename(unpacked, directory);
  return found;
}

/** Merged-/usr moved these files from one release to the next. */
function existing(directory: string, candidates: string[]): string {
  const found = candidates.map((path) => join(directory, path)).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`${directory} has none of ${candidates.join(', ')}`);
  return found;
}

async function main(names: readonly string[]): Promise<number> {
  const unknown = names.filter((name) => !isGuestName(name));
  if (unknown.length > 0) {
    console.error(`fetch: expected ${Object.keys(GUESTS).join(', ')}, got ${unknown.join(', ')}`);
    return 2;
  }
  for (const name of names.filter(isGuestName)) console.log(await fetchGuest(GUESTS[name]));
  return 0;
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  const names = argv.slice(2);
  process.exitCode = await main(names.length > 0 ? names : [DEFAULT_GUEST]);
}
