/**
 * The guest scenarios: what boots, what it runs, and what must be true afterwards on both sides.
 * A row is a claim; guests.test.ts runs the table.
 */

import { expect } from 'vitest';
import type { GuestDaemon } from '../../guest/daemon.ts';
import { findMarker, type GuestOptions, type GuestResult } from '../../guest/qemu.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { fragmentedFile, loopDevice, type MadeBacking } from './backings.ts';

/** What was seen on the host while the guest held still, after its workload, swapoff and discard. */
export interface Quiet {
  readonly statistics: Statistics;
  readonly residentBytes: number;
  /** Processor time of the daemon over one second. */
  readonly cpuMillis: number;
}

export interface Outcome {
  readonly guest: GuestResult;
  readonly daemon: GuestDaemon;
  readonly startResidentBytes: number;
  /** Before swapoff, as the workload ended. */
  readonly loaded: Statistics;
  readonly quiet: Quiet | undefined;
  readonly end: Statistics;
}

export interface Scenario {
  readonly claim: string;
  /** The daemon's options for its disk; behind --backing-swap comes what `backing` makes. */
  readonly disk: readonly string[];
  readonly backing?: () => MadeBacking;
  readonly guest: Omit<GuestOptions, 'socketPath' | 'timeoutMs' | 'onMarker'>;
  readonly check: (outcome: Outcome) => void;
}

const KIB = 1024;
const MIB = 1024 * KIB;
/** Seconds that a guest holds still after its discard; the quiet figures are taken then. */
const HOLD = '4';

/**
 * Leaves 96 MiB of low memory and 160 MiB just above 4 GiB, of 5 GiB: q35 puts 2 GiB below 4 GiB,
 * so RAM above begins at 4 GiB and ends at 7 GiB.
 */
const ONLY_A_LITTLE_LOW_AND_HIGH = ['memmap=1952M$96M', 'memmap=2912M$4256M'];

function value(guest: GuestResult, marker: string, name: string): number {
  return Number(findMarker(guest, marker)?.values[name]);
}

/** Every page that was written and not freed is in memory, or of one pattern, or on the backing. */
function pagesSomewhere(s: Statistics): number {
  return s.pages_stored + s.pages_zero + s.pages_same + s.pages_on_backing;
}

/** True of every scenario with a backing swap, as the workload ends. */
function checkBacked({ guest, loaded, end }: Outcome): void {
  for (const figures of [loaded, end]) {
    expect(figures.pages_lost).toBe(0);
    expect(figures.compr_data_size).toBeLessThanOrEqual(figures.memlimit);
    // The header is the one page that is not the guest's doing.
    expect(pagesSomewhere(figures) - 1).toBeLessThanOrEqual(figures.num_writes);
  }
  // What the guest has swapped out now is here, and so is what it has freed and not discarded.
  const usedPages = value(guest, 'swaps', 'used_kb') / 4;
  expect(pagesSomewhere(loaded)).toBeGreaterThanOrEqual(usedPages);
  const written = loaded.num_writes - loaded.bdev_num_writes;
  expect(written).toBeGreaterThanOrEqual(loaded.pages_stored + loaded.pages_zero - 1);
}

/** True of every scenario: the workload verified its memory, and the figures of both sides agree. */
export function checkSwapped({ guest, end, loaded }: Outcome): void {
  expect(findMarker(guest, 'swapon')?.values.exit).toBe('0');
  expect(findMarker(guest, 'cmd')?.values.exit).toBe('0');
  expect(guest.markers.some((m) => m.name === 'fillverify' && m.words[0] === 'FAILED')).toBe(false);
  expect(guest.poweredOff).toBe(true);
  expect(value(guest, 'vmstat', 'pswpout')).toBeGreaterThan(1000);
  // The guest's pages written out are our pages written; the swap header is nobody's write.
  expect(loaded.num_writes).toBe(value(guest, 'vmstat', 'pswpout'));
  const reads = loaded.num_reads + loaded.bdev_num_reads;
  expect(reads).toBeGreaterThanOrEqual(value(guest, 'vmstat', 'pswpin'));
  expect(pagesSomewhere(loaded)).toBeGreaterThan(1000);
  for (const name of ['failed_reads', 'failed_writes', 'invalid_io'] as const) {
    expect(end[name], name).toBe(0);
  }
}

export const SCENARIOS: readonly Scenario[] = [
  {
    claim: 'a 128 MiB guest verifies 256 MiB, discards, and leaves nothing behind',
    disk: ['--disksize', '512M'],
    guest: { memoryMiB: 128, append: { cmd: 'fillverify 256 1', after: 'discard', hold: HOLD } },
    check: ({ guest, startResidentBytes, loaded, quiet, end }) => {
      expect(value(guest, 'disk', 'sectors')).toBe((512 * MIB) / 512);
      expect(findMarker(guest, 'disk')?.values.serial).toBe('ramzswap0');
      expect(value(guest, 'blockstat', 'discards')).toBeGreaterThan(10);
      expect(end.notify_free).toBeGreaterThan(1000);
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
    claim: 'a guest with 4 CPUs gets a queue for each without naming num-queues',
    disk: ['--disksize', '512M'],
    guest: {
      memoryMiB: 160,
      cpus: 4,
      append: { cmd: 'for seed in 1 2 3; do fillverify 64 $seed & done; wait' },
    },
    check: ({ guest, end }) => {
      expect(value(guest, 'disk', 'queues')).toBe(4);
      const verified = guest.markers.filter(
        (m) => m.name === 'fillverify' && m.words[0] === 'verified',
      );
      expect(verified).toHaveLength(3);
      expect(end.requests_write).toBeGreaterThan(0);
    },
  },
  {
    claim: 'a guest with 5 GiB swaps from memory above 4 GiB',
    disk: ['--disksize', '512M'],
    guest: {
      memoryMiB: 5120,
      kernelArgs: ONLY_A_LITTLE_LOW_AND_HIGH,
      append: { cmd: 'fillverify 256 0' },
    },
    check: ({ guest, end }) => {
      // What is left of 5 GiB; more than half of it can only lie above 4 GiB.
      const memory = value(guest, 'init', 'memory_kb') * KIB;
      expect(memory).toBeGreaterThan(150 * MIB);
      expect(memory).toBeLessThan(260 * MIB);
      expect(end.num_writes).toBeGreaterThan(1000);
    },
  },
  {
    claim: 'a swap file in a thousand pieces holds what 16 MiB of memory do not',
    disk: ['--memlimit', '16M'],
    backing: fragmentedFile,
    guest: { memoryMiB: 128, append: { cmd: 'fillverify 320 1', after: 'discard' } },
    check: (outcome) => {
      checkBacked(outcome);
      const { loaded, daemon, end } = outcome;
      // Discarded from page 1 on: of all that was anywhere, the header is left.
      expect(end).toMatchObject({
        ...{ pages_stored: 1, pages_zero: 0, pages_same: 0, pages_on_backing: 0 },
        compr_data_size: 4 * KIB,
      });
      expect(loaded.memlimit).toBe(16 * MIB);
      expect(loaded.bdev_num_writes).toBeGreaterThan(10_000);
      expect(loaded.bdev_num_reads).toBeGreaterThan(10_000);
      const extents = /: (\d+) extents/.exec(daemon.log.join('\n'))?.[1];
      expect(Number(extents)).toBeGreaterThan(1000);
    },
  },
  {
    claim: 'a loop device takes nearly all of what does not compress',
    disk: ['--memlimit', '16M'],
    backing: loopDevice,
    guest: { memoryMiB: 128, append: { cmd: 'fillverify 192 1 --kinds=random' } },
    check: (outcome) => {
      checkBacked(outcome);
      const { loaded } = outcome;
      expect(loaded.disksize).toBe(512 * MIB);
      expect(loaded.bdev_num_writes / loaded.num_writes).toBeGreaterThan(0.95);
    },
  },
  {
    claim: 'a loop device takes next to nothing of text',
    disk: ['--memlimit', '256M'],
    backing: loopDevice,
    guest: { memoryMiB: 128, append: { cmd: 'fillverify 192 1 --kinds=text' } },
    check: (outcome) => {
      checkBacked(outcome);
      // The text of this workload compresses to a little less than half, some of it to a little more.
      expect(outcome.loaded.bdev_num_writes / outcome.loaded.num_writes).toBeLessThan(0.1);
    },
  },
];
