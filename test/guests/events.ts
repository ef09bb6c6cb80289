/**
 * The scenarios in which something happens to a guest that swaps: the doctor, reboot and reset,
 * disks and memory that come and go. events.test.ts runs the table.
 */

import { expect } from 'vitest';
import type { GuestDaemon } from '../../guest/daemon.ts';
import type { GuestResult } from '../../guest/qemu.ts';
import type { Qmp } from '../../guest/qmp.ts';
import { sleep } from '../driver/daemon.ts';
import {
  checkNothingFailed,
  checkOnlyHeaderLeft,
  checkSwapped,
  checkVerified,
  pagesSomewhere,
} from './checks.ts';
import { DISK_512M, type Outcome, type Scenario, type Stage, value } from './scenario.ts';

const MIB = 2 ** 20;
/** Far more than fits 128 MiB of RAM, and no end to it. */
const STORM = 'fillverify 160 1 1000';
/** How long a storm goes on before something happens to it. */
const STORM_MILLIS = 2_000;

/** In the middle of eight seconds of load. */
const UPGRADE_AFTER_MILLIS = 2_000;

/** An empty place that a disk can be plugged into while the guest runs. */
const EMPTY_SLOT = ['-device', 'pcie-root-port,id=slot0,chassis=1'];
const DISK_APPEARS = 'until [ -e /sys/block/vda ]; do usleep 100000; done';
const DISK_GOES = 'while [ -e /sys/block/vda ]; do usleep 100000; done';

function isFirst({ marker, nth }: Stage, name: string, word: string): boolean {
  return marker.name === name && marker.words[0] === word && nth === 1;
}

async function plug(monitor: Qmp, { socketPath }: GuestDaemon): Promise<void> {
  const addr = { type: 'unix', data: { path: socketPath } };
  const backend = { type: 'socket', data: { addr, server: false } };
  await monitor.execute('chardev-add', { id: 'late', backend });
  const device = { driver: 'vhost-user-blk-pci', chardev: 'late', id: 'disk0', bus: 'slot0' };
  await monitor.execute('device_add', device);
}

/** Resolves when the guest has let go of the disk. */
async function unplug(monitor: Qmp): Promise<void> {
  const gone = monitor.event('DEVICE_DELETED');
  await monitor.execute('device_del', { id: 'disk0' });
  await gone;
  await monitor.execute('chardev-remove', { id: 'late' });
}

/** The daemon has seen that its front end is gone; the test's own time limit ends a vain wait. */
async function untilAlone(daemon: GuestDaemon): Promise<void> {
  while ((await daemon.status()).connected) await sleep(20);
}

/** Freed swap came back as discards during the last workload: told by its command. */
function checkDiscardedAtTheEnd(guest: GuestResult): void {
  expect(discardsWhen(guest, 'end')).toBeGreaterThan(discardsWhen(guest, 'swept') + 2);
}

/** To be called at every marker: notes what the swapon after the storm has left. */
async function noteSwept({ marker, note }: Stage): Promise<void> {
  if (marker.name === 'discards' && marker.values.when === 'swept') await note('swept');
}

/** A guest that came back after whatever was done to it, and swapped as if nothing had been. */
function checkCameBack(outcome: Outcome): void {
  const { guest } = outcome;
  expect(guest.markers.filter(({ name }) => name === 'init')).toHaveLength(2);
  checkVerified(guest);
  checkDiscardedAtTheEnd(guest);
  checkOnlyHeaderLeft(outcome);
  checkNothingFailed(outcome.end);
  // The storm was one; what it left was swept by the second boot's swapon.
  expect(pagesSomewhere(outcome.notes.get('storm')!)).toBeGreaterThan(5_000);
  expect(pagesSomewhere(outcome.notes.get('swept')!)).toBeLessThan(500);
  expect(outcome.daemons[0]!.log.filter((line) => /"level":(50|60)/.test(line))).toEqual([]);
}

/** Named figures that a command printed: `RZS: discards when=NAME count=N`. */
function discardsWhen(guest: GuestResult, when: string): number {
  const marker = guest.markers.find((m) => m.name === 'discards' && m.values.when === when);
  return Number(marker?.values.count);
}

/** Of the workload `gaps`, in milliseconds. */
function longestGap(guest: GuestResult, name: string): number {
  const said = guest.markers.filter(({ words }) => words[0] === name);
  const micros = said.find(({ values }) => values.longest_us !== undefined)?.values.longest_us;
  return Math.round(Number(micros) / 1000);
}

/** The fields of Documentation/block/stat.rst: the twelfth is the number of discards. */
function sayDiscards(when: string): string {
  return `awk '{ print "RZS: discards when=${when} count=" $12 }' /sys/block/vda/stat`;
}

const AFTERWARDS = `${sayDiscards('swept')}; fillverify 112 2 0 && ${sayDiscards('end')}`;

export const EVENTS: readonly Scenario[] = [
  {
    claim: 'the doctor finds the disk rotating and mends it; only then freed swap is discarded',
    guests: ['amd64', 'amd64-trixie', 'armhf'],
    moreGuests: ['arm64', 'i386'],
    hardware: { memoryMiB: 128 },
    orders: { swap: 'none' },
    commands: [
      [
        'ramzswap-doctor; echo "RZS: doctor exit=$?"',
        `swapon -d /dev/vda && ${sayDiscards('swept')}`,
        `fillverify 112 1 0 && ${sayDiscards('unmended')} && swapoff /dev/vda`,
        `ramzswap-doctor --fix; echo "RZS: doctor exit=$?"; ${sayDiscards('mended')}`,
        `fillverify 112 2 0 && ${sayDiscards('end')}`,
      ].join('; '),
    ],
    check: ({ guest, end }) => {
      const exits = guest.markers.filter(({ name }) => name === 'doctor');
      expect(exits.map(({ values }) => values.exit)).toEqual(['1', '0']);
      expect(guest.console.some((line) => /^WRONG +vda +rotational/.test(line))).toBe(true);
      expect(guest.console.some((line) => /^fixed +vda +rotational/.test(line))).toBe(true);
      checkVerified(guest, 2);
      checkNothingFailed(end);
      expect(discardsWhen(guest, 'swept')).toBeGreaterThan(0);
      expect(discardsWhen(guest, 'unmended')).toBe(discardsWhen(guest, 'swept'));
      expect(discardsWhen(guest, 'end')).toBeGreaterThan(discardsWhen(guest, 'mended') + 2);
    },
  },
  {
    claim: 'a hard reset in a swap storm: the next boot is clean',
    guests: ['amd64', 'arm64'],
    moreGuests: ['armhf', 'amd64-trixie', 'i386'],
    hardware: { memoryMiB: 128 },
    orders: { after: 'discard' },
    commands: [STORM, AFTERWARDS],
    act: async (stage) => {
      await noteSwept(stage);
      if (!isFirst(stage, 'fillverify', 'filled')) return;
      await sleep(STORM_MILLIS);
      await stage.note('storm');
      await (await stage.guest.monitor()).execute('system_reset');
    },
    check: checkCameBack,
  },
  {
    claim: 'a reboot in a swap storm: the next boot is clean',
    guests: ['armhf'],
    moreGuests: ['amd64', 'arm64', 'amd64-trixie', 'i386'],
    hardware: { memoryMiB: 128 },
    orders: { after: 'discard' },
    commands: [`${STORM} & sleep 8; echo "RZS: rebooting"; usleep 500000; reboot -f`, AFTERWARDS],
    act: async (stage) => {
      await noteSwept(stage);
      if (stage.marker.name === 'rebooting') await stage.note('storm');
    },
    check: checkCameBack,
  },
  {
    claim: 'a disk plugged, unplugged and plugged again while the guest runs',
    guests: ['amd64'],
    moreGuests: ['arm64', 'amd64-trixie'],
    attached: 'later',
    hardware: { memoryMiB: 128, extraArgs: EMPTY_SLOT },
    orders: { after: 'discard' },
    commands: [
      [
        `set -e; ${DISK_APPEARS}; ramzswap-doctor --fix; fillverify 112 1 0; swapoff /dev/vda`,
        `echo "RZS: unplug wanted"; ${DISK_GOES}; echo "RZS: plug wanted"`,
        `${DISK_APPEARS}; ramzswap-doctor --fix; fillverify 112 2 0`,
      ].join('; '),
    ],
    act: async ({ marker, guest, daemons }) => {
      const monitor = await guest.monitor();
      if (marker.name === 'cmd' && marker.words[0] === 'start') await plug(monitor, daemons[0]!);
      if (marker.name === 'unplug') await unplug(monitor);
      if (marker.name !== 'plug') return;
      // The guest may see that the disk is gone before QEMU is done with it.
      await untilAlone(daemons[0]!);
      await plug(monitor, daemons[0]!);
    },
    check: (outcome) => {
      checkSwapped(outcome);
      checkVerified(outcome.guest, 2);
      checkOnlyHeaderLeft(outcome);
    },
  },
  {
    claim: 'a disk unplugged in a swap storm: the daemon is well, and so is the next boot',
    guests: ['amd64'],
    moreGuests: ['arm64', 'amd64-trixie'],
    attached: 'later',
    hardware: { memoryMiB: 128, extraArgs: EMPTY_SLOT },
    // Workload and shell die of it, and init must not power off before the reset.
    orders: { after: 'discard', hold: '6' },
    commands: [
      `${DISK_APPEARS}; ramzswap-doctor --fix; ${STORM}`,
      `ramzswap-doctor --fix && ${AFTERWARDS}`,
    ],
    act: async (stage) => {
      const { guest, daemons } = stage;
      await noteSwept(stage);
      const monitor = await guest.monitor();
      if (isFirst(stage, 'cmd', 'start')) await plug(monitor, daemons[0]!);
      if (!isFirst(stage, 'fillverify', 'filled')) return;
      await sleep(STORM_MILLIS);
      await stage.note('storm');
      await unplug(monitor);
      await untilAlone(daemons[0]!);
      await plug(monitor, daemons[0]!);
      await monitor.execute('system_reset');
    },
    check: checkCameBack,
  },
  {
    claim: 'swapped off and on ten times under load',
    guests: ['amd64'],
    moreGuests: ['armhf', 'arm64', 'amd64-trixie', 'i386'],
    daemons: [DISK_512M, DISK_512M],
    hardware: { memoryMiB: 128, cpus: 2 },
    orders: { swap: '/dev/vda,/dev/vdb', priority: '10', after: 'discard' },
    commands: [
      [
        'fillverify 112 1 1 & load=$!; times=0',
        'while [ $times -lt 10 ] && swapoff /dev/vda && /bin/swapon -d -p 10 /dev/vda',
        'do times=$((times + 1)); usleep 300000; done',
        'echo "RZS: swapped times=$times"; wait $load',
      ].join('; '),
    ],
    check: (outcome) => {
      checkSwapped(outcome);
      checkVerified(outcome.guest);
      checkOnlyHeaderLeft(outcome);
      expect(value(outcome.guest, 'swapped', 'times')).toBe(10);
    },
  },
  {
    claim: 'a disk that grows while the guest swaps is larger at once, and all of it can be used',
    daemons: [['--disksize', '64M', '--max-disksize', '256M']],
    hardware: { memoryMiB: 128 },
    orders: { after: 'discard' },
    commands: [
      [
        `fillverify 112 1 0 & load=$!; until grep -qx ${(256 * MIB) / 512} /sys/block/vda/size`,
        'do usleep 100000; done; echo "RZS: grown"; wait $load && swapoff /dev/vda',
        'mkswap /dev/vda >/dev/null && swapon -d /dev/vda && fillverify 160 2 0',
      ].join('; '),
    ],
    act: async (stage) => {
      if (!isFirst(stage, 'fillverify', 'filled')) return;
      await stage.daemons[0]!.grow(256 * MIB);
    },
    check: (outcome) => {
      checkVerified(outcome.guest, 2);
      checkNothingFailed(outcome.end);
      checkOnlyHeaderLeft(outcome);
      expect(value(outcome.guest, 'swaps', 'size_kb')).toBe((256 * MIB) / 1024 - 4);
      expect(outcome.end[0]!.disksize).toBe(256 * MIB);
    },
  },
  {
    claim: 'a daemon upgraded while the guest swaps keeps it waiting less than two seconds',
    guests: ['amd64'],
    moreGuests: ['arm64', 'armhf'],
    hardware: { memoryMiB: 128 },
    orders: { after: 'discard' },
    commands: ['gaps 160 8'],
    act: async (stage) => {
      const { marker, daemons } = stage;
      if (marker.name === 'gaps' && marker.words.join(' ') === 'upgraded')
        await stage.note('ended');
      if (marker.name !== 'gaps' || marker.words.join(' ') !== 'upgraded start') return;
      await sleep(UPGRADE_AFTER_MILLIS);
      await daemons[0]!.upgrade();
      await stage.note('upgraded');
    },
    check: (outcome) => {
      const { guest, notes } = outcome;
      checkSwapped(outcome);
      checkOnlyHeaderLeft(outcome);
      expect(outcome.daemons[0]!.log.join('\n')).toContain('taken over from process');
      // It was over before the load was.
      expect([...notes.keys()]).toEqual(['upgraded', 'ended']);
      // Statistics go on where they were.
      expect(pagesSomewhere(notes.get('upgraded')!)).toBeGreaterThan(5_000);
      const [alone, upgraded] = ['alone', 'upgraded'].map((name) => longestGap(guest, name));
      process.stderr.write(
        `longest wait of a guest: ${upgraded} ms with an upgrade, ${alone} ms alone\n`,
      );
      expect(upgraded).toBeLessThan(Math.max(2000, 2 * alone!));
    },
  },
  {
    claim: 'memory hot-added while the guest swaps is swapped too',
    moreGuests: ['amd64-trixie'],
    hardware: {
      // With memory possible above 4 GiB, Linux takes 64 MiB for bounce buffers.
      memoryMiB: 192,
      extraArgs: ['-m', 'slots=1,maxmem=512M'],
      kernelArgs: ['memhp_default_state=online'],
    },
    orders: { after: 'discard' },
    commands: [
      "fillverify 256 1 0 && sed -n 's/^MemTotal: *\\([0-9]*\\) kB/RZS: memory kb=\\1/p' /proc/meminfo",
    ],
    act: async (stage) => {
      if (!isFirst(stage, 'fillverify', 'start')) return;
      await sleep(STORM_MILLIS);
      const monitor = await stage.guest.monitor();
      const memory = { 'qom-type': 'memory-backend-memfd', id: 'more', size: 128 * MIB };
      await monitor.execute('object-add', { ...memory, share: true });
      await monitor.execute('device_add', { driver: 'pc-dimm', id: 'dimm0', memdev: 'more' });
    },
    check: (outcome) => {
      checkSwapped(outcome);
      checkVerified(outcome.guest);
      checkOnlyHeaderLeft(outcome);
      const { guest } = outcome;
      const grown = value(guest, 'memory', 'kb') - value(guest, 'init', 'memory_kb');
      expect(grown).toBeGreaterThan(120 * 1024);
    },
  },
];
