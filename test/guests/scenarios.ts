/**
 * The scenarios in which nothing happens to the guest but its workload: every guest there is, and
 * kinds of memory, processors and disks. guests.test.ts runs the table.
 */

import { expect } from 'vitest';
import { findMarker } from '../../guest/qemu.ts';
import { fragmentedFile, loopDevice } from './backings.ts';
import {
  checkDiscarded,
  checkNothingFailed,
  checkOnlyHeaderLeft,
  checkSwapped,
  checkVerified,
  pagesSomewhere,
} from './checks.ts';
import { DISK_512M, type Outcome, type Scenario, value } from './scenario.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
/** Seconds that a guest holds still after its discard; the quiet figures are taken then. */
const HOLD = '4';

/**
 * Leaves 96 MiB of low memory and 160 MiB just above 4 GiB, of 5 GiB: q35 puts 2 GiB below 4 GiB,
 * so RAM above begins at 4 GiB and ends at 7 GiB.
 */
const ONLY_A_LITTLE_LOW_AND_HIGH = ['memmap=1952M$96M', 'memmap=2912M$4256M'];

/** Linux 6.1 counts slots as used that a processor has put aside: SWAP_SLOTS_CACHE_SIZE. */
const SLOT_CACHE_PAGES = 64;

/** True of every scenario with a backing swap, as the workload ends. */
function checkBacked(outcome: Outcome): void {
  checkSwapped(outcome);
  const loaded = outcome.loaded[0]!;
  for (const figures of [loaded, outcome.end[0]!]) {
    expect(figures.compr_data_size).toBeLessThanOrEqual(figures.memlimit);
    // The header is the one page that is not the guest's doing.
    expect(pagesSomewhere(figures) - 1).toBeLessThanOrEqual(figures.num_writes);
  }
  // What the guest has swapped out now is here, and so is what it has freed and not discarded.
  const usedPages = value(outcome.guest, 'swaps', 'used_kb') / 4 - SLOT_CACHE_PAGES;
  expect(pagesSomewhere(loaded)).toBeGreaterThanOrEqual(usedPages);
  const written = loaded.num_writes - loaded.bdev_num_writes;
  expect(written).toBeGreaterThanOrEqual(loaded.pages_stored + loaded.pages_zero - 1);
}

/** Written, read back, freed and discarded: what every guest must show. */
function checkWholeLife(outcome: Outcome): void {
  const { guest } = outcome;
  checkSwapped(outcome);
  checkVerified(guest);
  checkDiscarded(outcome);
  checkOnlyHeaderLeft(outcome);
  expect(value(guest, 'disk', 'sectors')).toBe((512 * MIB) / 512);
  expect(value(guest, 'disk', 'rotational')).toBe(0);
}

/** Swaps; then a file system is made, filled, read back after it was unmounted, and checked. */
const FILE_SYSTEM_LIFE = [
  'set -e; d=/dev/vda; f=/tmp/files; q=/sys/block/vda/queue',
  '/bin/swapon -d $d; fillverify 88 1 0; swapoff $d',
  'grep -q ext4 /proc/filesystems || modprobe ext4; mkfs.ext4 -q -F -b 1024 $d; mkdir $f; mount -t ext4 -o discard $d $f',
  'blocks="logical=$(cat $q/logical_block_size) physical=$(cat $q/physical_block_size)"',
  'echo "RZS: blocks $blocks file_system=$(stat -f -c %S $f)"',
  'cp -a /init /bin /lib $f; for i in $(seq 200); do head -c $((i * 37)) /init >$f/small$i; done',
  'rm $f/small*5; cd $f; find . -type f | xargs sha256sum >/tmp/sums; cd /; umount $f',
  'echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 -o ro $d $f; cd $f; same=yes',
  'sha256sum -c /tmp/sums >/tmp/compared || same=no; cd /; umount $f',
  'checked=0; e2fsck -f -n $d || checked=$?',
  'echo "RZS: copied same=$same checked=$checked files=$(wc -l </tmp/sums)"',
].join('; ');

const WHOLE_LIFE = {
  hardware: { memoryMiB: 128 },
  commands: ['fillverify 128 1'],
  orders: { after: 'discard' },
  check: checkWholeLife,
} as const;

export const SCENARIOS: readonly Scenario[] = [
  {
    claim: 'a 128 MiB guest verifies 192 MiB, discards, and leaves nothing behind',
    hardware: { memoryMiB: 128 },
    commands: ['fillverify 192 1'],
    orders: { after: 'discard', hold: HOLD },
    check: (outcome) => {
      checkWholeLife(outcome);
      const { startResidentBytes, quiet } = outcome;
      const loaded = outcome.loaded[0]!;
      expect(value(outcome.guest, 'disk', 'queues')).toBe(1);
      expect(loaded.good_compress_pct).toBeGreaterThan(50);
      expect(loaded.compr_data_size).toBeLessThan(loaded.orig_data_size);
      expect(loaded.mem_used_total).toBeGreaterThan(loaded.compr_data_size);
      expect(quiet).toBeDefined();
      expect(quiet!.statistics.mem_used_total).toBeLessThanOrEqual(64 * KIB);
      expect(Math.abs(quiet!.residentBytes - startResidentBytes)).toBeLessThan(16 * MIB);
      expect(quiet!.cpuMillis).toBeLessThan(2);
    },
  },
  {
    claim: 'verifies 128 MiB in less RAM, discards, and leaves nothing behind',
    guests: ['amd64-trixie', 'i386', 'armhf', 'arm64', 'arm64-16k'],
    ...WHOLE_LIFE,
  },
  {
    claim: 'does the same over virtio-mmio',
    guests: ['arm64'],
    moreGuests: ['armhf'],
    disk: { transport: 'mmio' },
    ...WHOLE_LIFE,
    commands: ['fillverify 112 1 0'],
  },
  ...[2, 4].map(
    (cpus): Scenario => ({
      claim: `${cpus} CPUs get as many queues without naming num-queues, on ${cpus / 2} threads`,
      // With four a thread has two queues as well.
      guests: cpus === 4 ? ['amd64'] : [],
      moreGuests: cpus === 4 ? ['armhf', 'arm64'] : ['amd64', 'armhf', 'arm64', 'amd64-trixie'],
      daemons: [[...DISK_512M, '--queue-threads', `${cpus / 2}`]],
      hardware: { memoryMiB: 128, cpus },
      commands: ['for seed in 1 2 3; do fillverify 44 $seed 0 & done; wait'],
      check: (outcome) => {
        checkSwapped(outcome);
        checkVerified(outcome.guest, 3);
        expect(value(outcome.guest, 'init', 'cpus')).toBe(cpus);
        expect(value(outcome.guest, 'disk', 'queues')).toBe(cpus);
      },
    }),
  ),
  {
    claim: 'two disks of equal priority share the swapping',
    guests: ['amd64'],
    moreGuests: ['armhf', 'arm64', 'amd64-trixie', 'i386'],
    daemons: [DISK_512M, DISK_512M],
    hardware: { memoryMiB: 128, cpus: 2 },
    orders: { swap: '/dev/vda,/dev/vdb', priority: '10', after: 'discard' },
    commands: ['fillverify 72 1 0 & first=$!; fillverify 72 2 0 && wait $first'],
    check: (outcome) => {
      checkSwapped(outcome);
      checkVerified(outcome.guest, 2);
      checkOnlyHeaderLeft(outcome);
      const [one, other] = outcome.loaded.map(({ num_writes }) => num_writes);
      expect(one! / (one! + other!)).toBeGreaterThan(0.3);
      expect(one! / (one! + other!)).toBeLessThan(0.7);
      const serials = outcome.guest.markers.filter(({ name }) => name === 'disk');
      expect(serials.map(({ values }) => values.serial)).toEqual(['ramzswap0', 'ramzswap1']);
    },
  },
  {
    claim: 'a guest with 5 GiB swaps from memory above 4 GiB',
    hardware: { memoryMiB: 5120, kernelArgs: ONLY_A_LITTLE_LOW_AND_HIGH },
    commands: ['fillverify 256 1 0'],
    check: (outcome) => {
      checkSwapped(outcome);
      checkVerified(outcome.guest);
      // What is left of 5 GiB; more than half of it can only lie above 4 GiB.
      const memory = value(outcome.guest, 'init', 'memory_kb') * KIB;
      expect(memory).toBeGreaterThan(150 * MIB);
      expect(memory).toBeLessThan(260 * MIB);
    },
  },
  {
    claim: 'a swap file in a thousand pieces holds what 16 MiB of memory do not',
    daemons: [['--memlimit', '16M']],
    backing: fragmentedFile,
    hardware: { memoryMiB: 128 },
    commands: ['fillverify 256 1 0'],
    orders: { after: 'discard' },
    check: (outcome) => {
      checkBacked(outcome);
      const loaded = outcome.loaded[0]!;
      // Discarded from page 1 on: of all that was anywhere, the header is left.
      expect(outcome.end[0]).toMatchObject({
        ...{ pages_stored: 1, pages_zero: 0, pages_same: 0, pages_on_backing: 0 },
        compr_data_size: 4 * KIB,
      });
      expect(loaded.memlimit).toBe(16 * MIB);
      expect(loaded.bdev_num_writes).toBeGreaterThan(10_000);
      expect(loaded.bdev_num_reads).toBeGreaterThan(10_000);
      const extents = /: (\d+) extents/.exec(outcome.daemons[0]!.log.join('\n'))?.[1];
      expect(Number(extents)).toBeGreaterThan(1000);
    },
  },
  {
    claim: 'a loop device takes nearly all of what does not compress',
    daemons: [['--memlimit', '16M']],
    backing: loopDevice,
    hardware: { memoryMiB: 128 },
    commands: ['fillverify 176 1 0 --kinds=random'],
    check: (outcome) => {
      checkBacked(outcome);
      const loaded = outcome.loaded[0]!;
      expect(loaded.disksize).toBe(512 * MIB);
      expect(loaded.bdev_num_writes / loaded.num_writes).toBeGreaterThan(0.95);
    },
  },
  {
    claim: 'a loop device takes next to nothing of text',
    // The text of this workload compresses to about half: a little more is still worth keeping here.
    daemons: [['--memlimit', '256M', '--incompressible-bytes', '2304']],
    backing: loopDevice,
    hardware: { memoryMiB: 128 },
    commands: ['fillverify 176 1 0 --kinds=text'],
    check: (outcome) => {
      checkBacked(outcome);
      const loaded = outcome.loaded[0]!;
      expect(loaded.bdev_num_writes / loaded.num_writes).toBeLessThan(0.1);
    },
  },
  {
    claim:
      'a disk with blocks of 512 bytes holds a file system of blocks of 1 KiB, and still swaps',
    daemons: [['--disksize', '128M', '--logical-block-size', '512', '--queue-threads', '2']],
    hardware: { memoryMiB: 128, cpus: 2, hasFileSystemTools: true },
    orders: { swap: 'none' },
    commands: [FILE_SYSTEM_LIFE],
    check: ({ guest, loaded }) => {
      checkNothingFailed(loaded);
      const blocks = findMarker(guest, 'blocks')!.values;
      expect(blocks).toMatchObject({ logical: '512', physical: '4096', file_system: '1024' });
      expect(findMarker(guest, 'copied')!.values).toMatchObject({ same: 'yes', checked: '0' });
      expect(value(guest, 'copied', 'files')).toBeGreaterThan(200);
      checkVerified(guest);
      // Counted by the page, whole or not: whole ones have eight sectors, so some were not.
      const sectors = value(guest, 'blockstat', 'read_sectors');
      expect(sectors).toBeGreaterThan(50_000);
      expect(loaded[0]!.num_reads * 8).toBeGreaterThan(sectors + 1000);
    },
  },
];
