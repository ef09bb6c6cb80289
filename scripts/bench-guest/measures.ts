/**
 * What is measured in guests, one boot each: the ancestor's scan, documents and file cache on every
 * kind of swap, and stale slots on ours. Runs and returns figures; main.ts repeats and reports.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestOrders } from '../../guest/command-line.ts';
import { GuestDaemon } from '../../guest/daemon.ts';
import type { GuestName } from '../../guest/guests.ts';
import type { Marker } from '../../guest/markers.ts';
import { findMarker, type GuestResult, runGuest } from '../../guest/qemu.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { CACHE_DIR } from '../fetch.ts';
import type { SwapKind } from './swaps.ts';

export type Figures = Readonly<Record<string, number>>;

export interface Measure {
  readonly name: string;
  readonly memoryMiB: number;
  readonly swapMiB: number;
  readonly command: string;
  /** A disk of this size with a file system in it, mounted at /files. */
  readonly filesMiB?: number;
  readonly figures: (guest: GuestResult) => Figures;
}

const OOM_KILLED = '137';
const TIMEOUT_MILLIS = 15 * 60_000;

export const SCAN: Measure = {
  name: 'scan',
  memoryMiB: 128,
  swapMiB: 256,
  command: 'scan 136 3',
  figures: (guest) => ({
    seconds: value(findMarker(guest, 'scan'), 'ms') / 1000,
    ...swapTimes(guest),
  }),
};

/** The thin client of 124 MiB; four seconds to come back to a document is not usable any more. */
export const DOCUMENTS: Measure = {
  name: 'documents',
  memoryMiB: 124,
  swapMiB: 128,
  command: 'documents 16 40 4000',
  figures: (guest) => ({ documents: value(lastOf(guest, 'documents', 'done'), 'count') }),
};

export const FILE_CACHE: Measure = {
  name: 'file cache',
  memoryMiB: 128,
  swapMiB: 256,
  filesMiB: 256,
  command: 'filecache /files/file 128 2',
  figures: (guest) => ({
    seconds: value(lastOf(guest, 'filecache', 'done'), 'ms') / 1000,
    swappedPages: value(findMarker(guest, 'vmstat'), 'pswpout'),
  }),
};

/** Undefined: there was not memory enough, and the workload was killed. */
export async function measure(what: Measure, kind: SwapKind): Promise<Figures | undefined> {
  const files = what.filesMiB === undefined ? undefined : new FilesDisk(what.filesMiB);
  const swap = await kind.start(what.swapMiB);
  try {
    const guest = await runGuest({
      memoryMiB: what.memoryMiB,
      disks: swap.disks,
      orders: swap.orders,
      extraArgs: [...swap.extraArgs, ...(files?.args ?? [])],
      commands: [[swap.prepare, ...(files?.commands ?? []), what.command].join(' && ')],
      timeoutMs: TIMEOUT_MILLIS,
    });
    if (findMarker(guest, 'cmd')?.values.exit === OOM_KILLED) return undefined;
    checkEnded(guest, `${what.name}, ${kind.name}`);
    return what.figures(guest);
  } finally {
    await swap.stop();
    files?.remove();
  }
}

/** A figure of a run that did not come to its end is none. */
function checkEnded(guest: GuestResult, what: string): void {
  const exit = findMarker(guest, 'cmd')?.values.exit;
  if (exit === '0') return;
  throw new Error(`${what}: exit ${exit ?? 'unknown'}\n${guest.console.join('\n')}`);
}

/** Of the one device that was swapped on; what swapon did is left out, but not of zram's. */
function swapTimes(guest: GuestResult): Figures {
  const end = findMarker(guest, 'blockstat');
  const start = guest.markers.find(
    ({ name, values }) => name === 'blockstat' && values.device === end?.values.device,
  );
  const between = (name: string) => value(end, name) - (start === end ? 0 : value(start, name));
  const pages = (sectors: string) => between(sectors) / 8;
  return {
    readMillis: between('read_ms') / between('reads'),
    readPages: pages('read_sectors') / between('reads'),
    writeMillis: between('write_ms') / between('writes'),
    writePages: pages('write_sectors') / between('writes'),
    pagesRead: pages('read_sectors'),
    pagesWritten: pages('write_sectors'),
  };
}

class FilesDisk {
  readonly #folder = mkdtempSync(join(CACHE_DIR, 'bench-guest-'));
  readonly args: readonly string[];
  readonly commands = [
    '{ modprobe -q ext4; true; } && for s in /sys/block/*/serial; do if grep -qw files $s; then f=$(dirname $s); fi; done',
    'mkdir /files && f=/dev/$(basename $f) && mke2fs $f >/dev/null && mount -t ext2 $f /files',
  ];

  constructor(mib: number) {
    const file = join(this.#folder, 'files');
    writeFileSync(file, '');
    truncateSync(file, mib * 2 ** 20);
    const drive = `if=none,id=files,format=raw,cache=none,file=${file}`;
    this.args = ['-drive', drive, '-device', 'virtio-blk-pci,drive=files,serial=files'];
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true });
  }
}

// ── Stale slots ─────────────────────────────────────────────────────────────────────────────────

export interface StaleCase {
  readonly guest: GuestName;
  readonly policy: string;
  readonly orders: GuestOrders;
}

const CHURN = 'churn 160 12';

/** By kernel and by what swapon is told; `rotating`: --discard, but the flag left as it was. */
export const STALE_CASES: readonly StaleCase[] = (
  ['amd64', 'amd64-trixie', 'amd64-forky'] as const
).flatMap((guest) =>
  (
    [
      ['off', { discard: 'no' }],
      ['once', { discard: 'once' }],
      ['pages', { discard: 'pages' }],
      ['pages, rotating', { discard: 'pages', rotational: '1' }],
    ] as const
  ).map(([policy, orders]) => ({ guest, policy, orders: { ...orders, swap: '/dev/vda' } })),
);

export interface StaleSample {
  readonly usedPages: number;
  readonly heldPages: number;
}

export interface StaleResult {
  /** After each round. */
  readonly rounds: readonly StaleSample[];
  /** A second and a half after three quarters of everything were freed. */
  readonly freed: StaleSample;
}

const SETTLE_MILLIS = 1_500;

export async function measureStale({ guest, orders }: StaleCase): Promise<StaleResult> {
  const daemon = await GuestDaemon.start('--disksize', '512M');
  const rounds: StaleSample[] = [];
  let freed: StaleSample | undefined;
  try {
    const result = await runGuest({
      guest,
      memoryMiB: 128,
      disks: [{ socketPath: daemon.socketPath }],
      orders,
      commands: [CHURN],
      timeoutMs: TIMEOUT_MILLIS,
      onMarker: async (marker) => {
        if (marker.name !== 'churn') return;
        if (marker.words[0] === 'round') rounds.push(sample(marker, await daemon.statistics()));
        if (marker.words[0] !== 'freed') return;
        await new Promise((resolve) => setTimeout(resolve, SETTLE_MILLIS));
        freed = sample(marker, await daemon.statistics());
      },
    });
    checkEnded(result, `stale slots, ${guest}`);
  } finally {
    await daemon.stop();
  }
  return { rounds, freed: freed! };
}

function sample(marker: Marker, held: Statistics): StaleSample {
  return {
    usedPages: value(marker, 'used_kb') / 4,
    // Less the swap header, which is no slot.
    heldPages: held.pages_stored + held.pages_zero + held.pages_same - 1,
  };
}

function lastOf(guest: GuestResult, name: string, word: string): Marker | undefined {
  return guest.markers.findLast((marker) => marker.name === name && marker.words[0] === word);
}

function value(marker: Marker | undefined, name: string): number {
  return Number(marker?.values[name]);
}
