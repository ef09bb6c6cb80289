/** What must be true of more than one scenario, once its guest has powered off. */

import { expect } from 'vitest';
import type { Marker } from '../../guest/markers.ts';
import type { GuestResult } from '../../guest/qemu.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { type Outcome, value } from './scenario.ts';

/** Every page that was written and not freed is in memory, or of one pattern, or on the backing. */
export function pagesSomewhere(s: Statistics): number {
  return s.pages_stored + s.pages_zero + s.pages_same + s.pages_on_backing;
}

/** The counters that say that something went wrong. */
export function checkNothingFailed(figures: readonly Statistics[]): void {
  for (const disk of figures) {
    for (const name of ['failed_reads', 'failed_writes', 'invalid_io', 'pages_lost'] as const) {
      expect(disk[name], name).toBe(0);
    }
  }
}

/** Of a device that was left with nothing but its header, or whatever the guest made of page 0. */
export function checkOnlyHeaderLeft({ end, pageBytes }: Outcome): void {
  for (const disk of end) {
    expect(pagesSomewhere(disk)).toBeLessThanOrEqual(pageBytes / 4096);
    expect(disk.pages_stored).toBeGreaterThanOrEqual(1);
    expect(disk.mem_used_total).toBeLessThanOrEqual(64 * 1024);
  }
}

/** Every workload that began to verify has come to the end of it, and none met a wrong byte. */
export function checkVerified(guest: GuestResult, times = 1): void {
  const said = guest.markers.filter(({ name }) => name === 'fillverify');
  expect(said.filter(({ words }) => words[0] === 'FAILED')).toEqual([]);
  expect(said.filter(({ words }) => words[0] === 'verified')).toHaveLength(times);
}

/** A guest that booted once and swapped: the figures of both sides agree. */
export function checkSwapped(outcome: Outcome): void {
  const { guest, loaded, end, pageBytes } = outcome;
  const perGuestPage = pageBytes / 4096;
  checkNothingFailed(end);
  expect(value(guest, 'vmstat', 'pswpout') * perGuestPage).toBeGreaterThan(1000);
  const sum = (count: (disk: Statistics) => number) =>
    loaded.reduce((total, disk) => total + count(disk), 0);
  // The guest's pages written out are our pages written; the swap header is nobody's write.
  expect(sum((disk) => disk.num_writes)).toBe(value(guest, 'vmstat', 'pswpout') * perGuestPage);
  expect(sum((disk) => disk.num_reads + disk.bdev_num_reads)).toBeGreaterThanOrEqual(
    value(guest, 'vmstat', 'pswpin') * perGuestPage,
  );
}

/** Freed swap came back as discards while the workload ran, not only as swapon's sweep. */
export function checkDiscarded({ guest, loaded }: Outcome): void {
  const [first, last] = blockstats(guest);
  expect(Number(last!.values.discards)).toBeGreaterThan(Number(first!.values.discards) + 2);
  expect(loaded[0]!.notify_free).toBeGreaterThan(500);
}

/** Of the first disk: after swapon, and after the workload. */
function blockstats(guest: GuestResult): [Marker | undefined, Marker | undefined] {
  const [first, ...later] = guest.markers.filter(({ name }) => name === 'blockstat');
  const device = first?.values.device;
  return [first, later.find(({ values }) => values.device === device)];
}
