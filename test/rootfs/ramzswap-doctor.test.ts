/**
 * The guest doctor on made-up machines: what it finds, in words, and that it changes nothing without
 * --fix. On real kernels it runs in every guest scenario.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';

const DOCTOR = fileURLToPath(
  new URL('../../guest/rootfs/usr/local/sbin/ramzswap-doctor', import.meta.url),
);
const SWAPS_HEAD = 'Filename Type Size Used Priority\n';
const MIB_SECTORS = 2048;

interface MadeDisk {
  readonly serial?: string;
  readonly sectors?: number;
  readonly rotational?: number;
  readonly readOnly?: number;
  readonly discardMax?: number;
  readonly discards?: number;
  /** The page size that its swap header was made for; 0: it has none. */
  readonly headerPage?: number;
}

interface Machine {
  readonly disks: Readonly<Record<string, MadeDisk>>;
  readonly pageKib?: number;
  readonly pageCluster?: number;
  /** Lines of /proc/swaps. */
  readonly swaps?: readonly string[];
}

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function make({ disks, pageKib = 4, pageCluster = 0, swaps = [] }: Machine): string {
  const root = mkdtempSync(join(tmpdir(), 'ramzswap-doctor-'));
  folders.push(root);
  const put = (path: string, data: string | Uint8Array) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), data);
  };
  put('proc/self/smaps', `Size: 4 kB\nKernelPageSize:        ${pageKib} kB\n`);
  put('proc/sys/vm/page-cluster', `${pageCluster}\n`);
  put('proc/meminfo', 'MemAvailable:   65536 kB\n');
  put('proc/swaps', SWAPS_HEAD + swaps.map((line) => `${line}\n`).join(''));
  put('sys/bus/virtio/drivers/virtio_blk/uevent', '');
  for (const [name, disk] of Object.entries(disks)) {
    const at = `sys/block/${name}`;
    // As the kernel has it: without a newline.
    put(`${at}/serial`, disk.serial ?? 'ramzswap0');
    put(`${at}/size`, `${disk.sectors ?? 64 * MIB_SECTORS}\n`);
    put(`${at}/ro`, `${disk.readOnly ?? 0}\n`);
    put(`${at}/queue/rotational`, `${disk.rotational ?? 0}\n`);
    put(`${at}/queue/discard_max_bytes`, `${disk.discardMax ?? 4 << 20}\n`);
    put(`${at}/stat`, ` 1 0 8 0 1 0 8 0 0 0 0 ${disk.discards ?? 16} 0 8 0 0 0\n`);
    put(`dev/${name}`, headerFor(disk.headerPage ?? 4096));
  }
  return root;
}

function headerFor(pageBytes: number): Uint8Array {
  const bytes = Buffer.alloc(65536);
  if (pageBytes > 0) bytes.write('SWAPSPACE2', pageBytes - 10, 'latin1');
  return bytes;
}

function run(root: string, ...args: string[]) {
  // Without the log of this machine's kernel, whose disks have the same names.
  const tools = mkdtempSync(join(tmpdir(), 'ramzswap-doctor-'));
  folders.push(tools);
  const put = (name: string, script: string) =>
    writeFileSync(join(tools, name), `#!/bin/sh\nroot=${root}\n${script}\n`, { mode: 0o755 });
  put('dmesg', ':');
  put('swapoff', 'sed -i "\\#^/dev/$(basename "$1") #d" "$root/proc/swaps"');
  put('swapon', SWAPON);
  const env = { PATH: `${tools}:${process.env.PATH}`, RAMZSWAP_DOCTOR_ROOT: root };
  const { status, stdout, stderr } = spawnSync('sh', [DOCTOR, ...args], { env, encoding: 'utf8' });
  return { status, lines: stdout.trimEnd().split('\n'), stderr };
}

/** Called as `swapon -d -p N DEVICE`, or for its help. */
const SWAPON = `case $1 in --help) echo " -p, --priority <prio>"; exit ;; esac
echo "\${4#"$root"} partition 65532 0 $3" >>"$root/proc/swaps"`;

function wrong(lines: readonly string[]): string[] {
  return lines.filter((line) => line.startsWith('WRONG'));
}

/** Everything below a folder, as one text. */
function contents(root: string): string {
  return execFileSync('sh', ['-c', 'find . -type f | sort | xargs cat'], { cwd: root }).toString(
    'latin1',
  );
}

const GOOD_SWAP = '/dev/vda partition 65532 0 100';

describe('ramzswap-doctor', () => {
  it('finds nothing wrong with a disk that is swapped on as it should be', () => {
    const { status, lines } = run(make({ disks: { vda: {} }, swaps: [GOOD_SWAP] }));
    expect(wrong(lines)).toEqual([]);
    expect(lines.at(-1)).toBe('ramzswap-doctor: all in order');
    expect(status).toBe(0);
  });

  it.each<[string, Machine, RegExp]>([
    ['a rotational disk', { disks: { vda: { rotational: 1 } } }, /vda +rotational: .*echo 0 > /],
    ['a disk not swapped on', { disks: { vda: {} } }, /vda +not swapped on: .*swapon -d/],
    ['no size', { disks: { vda: { sectors: 0 } } }, /vda +serial ramzswap0, capacity 0/],
    ['a read-only disk', { disks: { vda: { readOnly: 1 } } }, /vda +read-only/],
    ['no discards', { disks: { vda: { discardMax: 0 } } }, /vda +takes no discards/],
    [
      'no header',
      { disks: { vda: { headerPage: 0 } } },
      /vda +no swap header: .*mkswap \/dev\/vda/,
    ],
    [
      'a header for other pages',
      { disks: { vda: {} }, pageKib: 16 },
      /pages of 4096 bytes, but this kernel's have 16384: .*--guest-page-size 16384/,
    ],
    [
      'a swap that was swapped on without discards',
      { disks: { vda: { discards: 0 } }, swaps: [GOOD_SWAP] },
      /vda +swapped on without --discard/,
    ],
    [
      'a swap that was swapped on while rotational',
      { disks: { vda: { rotational: 1 } }, swaps: [GOOD_SWAP] },
      /vda +swapped on while it was rotational/,
    ],
    [
      'another swap that comes first',
      { disks: { vda: {} }, swaps: [GOOD_SWAP, '/dev/zram0 partition 65532 0 200'] },
      /vda +priority 100, another swap has 200/,
    ],
    [
      'two of ours with unequal priorities',
      {
        disks: { vda: {}, vdb: { serial: 'ramzswap1' } },
        swaps: [GOOD_SWAP, '/dev/vdb partition 65532 0 90'],
      },
      /priorities from 90 to 100/,
    ],
    [
      'two disks of one name',
      { disks: { vda: {}, vdb: {} }, swaps: [GOOD_SWAP, '/dev/vdb partition 65532 0 100'] },
      /vdb +another disk has the serial ramzswap0 too/,
    ],
    ['page clusters', { disks: { vda: {} }, pageCluster: 3 }, /vm.page-cluster is 3/],
    [
      'no disk of ours, and names the others',
      { disks: { vda: { serial: 'root' } } },
      /no disk whose serial begins with "ramzswap" \(there is vda with serial "root"\)/,
    ],
  ])('finds %s, and changes nothing', (_, machine, words) => {
    const root = make(machine);
    const before = contents(root);
    const { status, lines } = run(root);
    expect(
      wrong(lines).some((line) => words.test(line)),
      lines.join('\n'),
    ).toBe(true);
    expect(status).toBe(1);
    expect(contents(root)).toBe(before);
  });

  it('looks at disks of other names when told, and at no others then', () => {
    const root = make({ disks: { vda: { serial: 'fast' }, vdb: {} } });
    const { lines } = run(root, '--serial', 'fast', '--serial=none');
    expect(lines.some((line) => /^ok +vda +serial fast, 64 MiB/.test(line))).toBe(true);
    expect(lines.some((line) => /^\w+ +vdb /.test(line))).toBe(false);
    expect(wrong(lines).some((line) => /no disk of serial "none"/.test(line))).toBe(true);
  });

  it.runIf(process.getuid?.() === 0)('mends what is only a setting, as root', () => {
    const root = make({ disks: { vda: { rotational: 1, headerPage: 0 } }, pageCluster: 3 });
    const { status, lines } = run(root, '--fix');
    expect(lines.filter((line) => line.startsWith('fixed'))).toHaveLength(2);
    expect(readFileSync(join(root, 'sys/block/vda/queue/rotational'), 'utf8').trim()).toBe('0');
    expect(readFileSync(join(root, 'proc/sys/vm/page-cluster'), 'utf8').trim()).toBe('0');
    // It makes no swap header: that would be the end of whatever else is on the disk.
    expect(wrong(lines).map((line) => line.split(/ +/)[1])).toEqual(['vda', 'vda']);
    expect(status).toBe(1);
  });

  it.runIf(process.getuid?.() === 0).each([
    [-2, -3, 100],
    [10, 5, 100],
    [200, 150, 200],
  ])('gives two disks of priorities %i and %i the same, %i, at once', (one, other, both) => {
    const root = make({
      disks: { vda: {}, vdb: { serial: 'ramzswap1' } },
      swaps: [`/dev/vda partition 65532 0 ${one}`, `/dev/vdb partition 65532 0 ${other}`],
    });
    const { status, lines } = run(root, '--fix');
    expect(wrong(lines)).toEqual([]);
    expect(status).toBe(0);
    const swaps = readFileSync(join(root, 'proc/swaps'), 'utf8').trimEnd().split('\n').slice(1);
    expect(swaps.map((line) => line.split(' ').at(-1))).toEqual([`${both}`, `${both}`]);
  });

  it.each([
    [['--nonsense'], /--nonsense: no such option/],
    [['--priority', '40000'], /--priority: expected 0 to 32767/],
    [['--serial'], /--serial: expected a value/],
  ])('%j is a usage error', (args, words) => {
    const { status, stderr } = run(make({ disks: {} }), ...args);
    expect(status).toBe(2);
    expect(stderr).toMatch(words);
  });
});
