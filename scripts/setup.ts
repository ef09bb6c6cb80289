/**
 * Makes sure the programs that the demo and the tests start are installed, and installs the missing
 * ones where it may (root on a Debian-like system). Programs only: what a guest is made of comes
 * from fetch.ts and is never installed. Called by the Makefile (`tsx scripts/setup.ts demo|test|…`).
 */
import { execFileSync } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { join } from 'node:path';
import { arch, argv, env, getuid } from 'node:process';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

/** Node's names of what Debian's packages may be installed on → Debian's. */
const DEBIAN_ARCHITECTURES: Record<string, string> = {
  x64: 'amd64',
  ia32: 'i386',
  arm: 'armhf',
  arm64: 'arm64',
};

type Tool = { packages: string[]; present: () => boolean };

/** What the code calls a tool → the Debian packages that bring it, and how to see it is there. */
const TOOLS = {
  'qemu-system-x86_64': program('qemu-system-x86_64', 'qemu-system-x86'),
  'qemu-system-i386': program('qemu-system-i386', 'qemu-system-x86'),
  'qemu-system-arm': program('qemu-system-arm', 'qemu-system-arm'),
  'qemu-system-aarch64': program('qemu-system-aarch64', 'qemu-system-arm'),
  file: program('file', 'file'),
  'qemu-storage-daemon': program('qemu-storage-daemon', 'qemu-system-common'),
  'qemu-img': program('qemu-img', 'qemu-utils'),
  gcc: compiler('gcc', 'gcc', 'libc6-dev'),
  'x86_64-linux-gnu-gcc': compilerFor('x86_64-linux-gnu', 'amd64'),
  'i686-linux-gnu-gcc': compilerFor('i686-linux-gnu', 'i386'),
  'arm-linux-gnueabihf-gcc': compilerFor('arm-linux-gnueabihf', 'armhf'),
  'aarch64-linux-gnu-gcc': compilerFor('aarch64-linux-gnu', 'arm64'),
  xz: program('xz', 'xz-utils'),
  lzop: program('lzop', 'lzop'),
  'lzo-headers': {
    packages: ['liblzo2-dev'],
    present: () => existsSync('/usr/include/lzo/lzo1x.h'),
  },
  'dpkg-deb': program('dpkg-deb', 'dpkg'),
  setpriv: program('setpriv', 'util-linux'),
  prlimit: program('prlimit', 'util-linux'),
  unshare: program('unshare', 'util-linux'),
  strace: program('strace', 'strace'),
  'systemd-analyze': program('systemd-analyze', 'systemd'),
  libvirtd: {
    packages: ['libvirt-daemon', 'libvirt-daemon-driver-qemu'],
    present: () => findProgram('libvirtd'),
  },
  virsh: program('virsh', 'libvirt-clients'),
  xxhsum: program('xxhsum', 'xxhash'),
  // Prometheus' parser in Python: the judge of the metrics.
  'prometheus-client': {
    packages: ['python3-prometheus-client'],
    present: () => existsSync('/usr/lib/python3/dist-packages/prometheus_client'),
  },
  // Its own fonts are none.
  chromium: { packages: ['chromium', 'fonts-liberation'], present: () => findProgram('chromium') },
  fio: program('fio', 'fio'),
  mkswap: program('mkswap', 'util-linux'),
  swapon: program('swapon', 'mount'),
  losetup: program('losetup', 'mount'),
  'mkfs.ext4': program('mkfs.ext4', 'e2fsprogs'),
  filefrag: program('filefrag', 'e2fsprogs'),
  groff: program('groff', 'groff-base'),
  mandoc: program('mandoc', 'mandoc'),
  'mkfs.xfs': program('mkfs.xfs', 'xfsprogs'),
  'mkfs.btrfs': program('mkfs.btrfs', 'btrfs-progs'),
} as const satisfies Record<string, Tool>;

export type ToolName = keyof typeof TOOLS;

/** What it takes to make and boot any guest, and then what a guest's architecture adds. */
export const GUEST_TOOLS = ['setpriv', 'dpkg-deb', 'xz'] as const;
const AMD64_GUEST = [...GUEST_TOOLS, 'qemu-system-x86_64', 'x86_64-linux-gnu-gcc'] as const;
const ALL_GUESTS = [
  ...AMD64_GUEST,
  'qemu-system-i386',
  'i686-linux-gnu-gcc',
  'qemu-system-arm',
  'arm-linux-gnueabihf-gcc',
  'qemu-system-aarch64',
  'aarch64-linux-gnu-gcc',
] as const;
/** Other people's LZO: the judges of the codec. */
const JUDGES = ['lzop', 'lzo-headers'] as const;
/** File systems and swap areas for backing swaps to lie on, and the judge of their extents. */
const DISKS = [
  'mkswap',
  'swapon',
  'losetup',
  'mkfs.ext4',
  'filefrag',
  'mkfs.xfs',
  'mkfs.btrfs',
] as const;

/** What the daemon's privileges are taken away with, and who judges its unit. */
const SANDBOX = ['setpriv', 'prlimit', 'unshare', 'strace', 'systemd-analyze'] as const;

/** The daemon and the client alone: no service is started with them. */
const LIBVIRT = ['libvirtd', 'virsh'] as const;

/** What each target of the Makefile needs. */
const PROFILES = {
  demo: AMD64_GUEST,
  check: [
    ...JUDGES,
    'prometheus-client',
    'xxhsum',
    ...DISKS,
    ...SANDBOX,
    'qemu-storage-daemon',
    'file',
    'groff',
    'mandoc',
  ],
  test: [...ALL_GUESTS, ...DISKS, 'qemu-img', 'chromium', ...LIBVIRT],
  bench: ['gcc', ...JUDGES, 'fio', 'mkswap', 'qemu-storage-daemon'],
  'bench-guest': [...AMD64_GUEST, 'qemu-storage-daemon'],
} as const satisfies Record<string, readonly ToolName[]>;

/** A tool is missing and cannot be installed from here. Policy: print the message, exit 1. */
export class MissingToolsError extends Error {
  override readonly name = 'MissingToolsError';
}

/** Installs what is missing of `names`; throws MissingToolsError where that is not ours to do. */
export async function ensureTools(names: readonly ToolName[]): Promise<void> {
  const missing = names.filter((name) => !TOOLS[name].present());
  if (missing.length === 0) return;

  const packages = [...new Set(missing.flatMap((name) => [...TOOLS[name].packages]))];
  if (getuid?.() !== 0 || !findProgram('apt-get')) {
    throw new MissingToolsError(
      `missing: ${missing.join(', ')}. On Debian or Ubuntu: sudo apt-get install ` +
        `--no-install-recommends ${packages.join(' ')}`,
    );
  }
  await install(packages);

  const stillMissing = missing.filter((name) => !TOOLS[name].present());
  if (stillMissing.length > 0) {
    throw new MissingToolsError(
      `installed ${packages.join(', ')}, but still missing: ${stillMissing.join(', ')}`,
    );
  }
}

async function install(packages: string[]): Promise<void> {
  console.log(`setup: installing ${packages.join(' ')}`);
  // One unreachable index fails the whole update while the rest is usable: let the install decide.
  await execa('apt-get', ['update', '-q'], { reject: false, stdout: 'ignore', stderr: 'inherit' });
  await execa('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...packages], {
    env: { DEBIAN_FRONTEND: 'noninteractive' },
    stdin: 'ignore',
    stdout: 'inherit',
    stderr: 'inherit',
  });
}

function program(name: string, debianPackage: string): Tool {
  return { packages: [debianPackage], present: () => findProgram(name) };
}

/** Looks in the sbin folders too: an ordinary user's PATH leaves them out. */
export function findProgram(name: string): boolean {
  const folders = [...(env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
  return folders.some((folder) => folder !== '' && isExecutable(join(folder, name)));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The C library by itself too: a compiler can be there without it, and static linking needs it. */
function compiler(name: string, ...packages: string[]): Tool {
  return { packages, present: () => findProgram(name) && hasStaticLibc(name) };
}

/** Of Debian's architecture `architecture`: the host's own compiler, or one that crosses to it. */
function compilerFor(triple: string, architecture: string): Tool {
  const name = `${triple}-gcc`;
  if (DEBIAN_ARCHITECTURES[arch] === architecture) return compiler(name, 'gcc', 'libc6-dev');
  const cross = `gcc-${triple.replace('_', '-')}`;
  return compiler(name, cross, `libc6-dev-${architecture}-cross`);
}

/** A compiler answers with the bare name when it finds no such file. */
function hasStaticLibc(name: string): boolean {
  const answer = execFileSync(name, ['-print-file-name=libc.a'], { encoding: 'utf8' }).trim();
  return answer.startsWith('/') && existsSync(answer);
}

async function main(profile: string | undefined): Promise<number> {
  const names = (PROFILES as Record<string, readonly ToolName[]>)[profile ?? ''];
  if (names === undefined) {
    console.error(`usage: setup.ts ${Object.keys(PROFILES).join('|')}`);
    return 2;
  }
  try {
    await ensureTools(names);
    return 0;
  } catch (error) {
    if (!(error instanceof MissingToolsError)) throw error;
    console.error(`setup: ${error.message}`);
    return 1;
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(argv[2]);
