/**
 * `make demo`: the main job, seen. An unmodified Debian guest with 128 MiB of RAM runs a workload
 * of 320 MiB, first without swap (it is killed), then on a ramzswap disk (it finishes, and every
 * byte is verified). Prints what that cost on the host. Exit status 0 only if all of it came true.
 */

import { stdout } from 'node:process';
import Table from 'cli-table3';
import { GuestDaemon } from '../guest/daemon.ts';
import { DEFAULT_GUEST, GUESTS } from '../guest/guests.ts';
import type { Marker } from '../guest/markers.ts';
import { findMarker, type GuestResult, runGuest } from '../guest/qemu.ts';
import { formatBytes } from '../src/base/units.ts';
import type { Statistics } from '../src/store/statistics.ts';
import { fetchGuest } from './fetch.ts';

const MEMORY_MIB = 128;
const WORKLOAD_MIB = 320;
const DISK = '512M';
const SEED = 1;
/** What the guest reports when the kernel killed the workload for lack of memory: 128 + SIGKILL. */
const KILLED = '137';
const TIMEOUT_MILLIS = 10 * 60_000;
const SAMPLE_MILLIS = 500;

/** No colours, no rule between rows. */
const PLAIN = { head: [], border: [], compact: true };

const WORKLOAD = `fillverify ${WORKLOAD_MIB} ${SEED}`;

interface Observed {
  readonly guest: GuestResult;
  /** When most pages were held. */
  readonly peak: Statistics;
  /** After the guest had swapped off and discarded the disk. */
  readonly end: Statistics;
  readonly startResident: number;
  readonly endResident: number;
}

function say(text: string): void {
  stdout.write(`${text}\n`);
}

function seconds(millis: number): string {
  return `${(millis / 1000).toFixed(1)} s`;
}

function narrate(marker: Marker): void {
  const { name, words, values, atMs } = marker;
  const at = seconds(atMs).padStart(8);
  if (name === 'init') say(`${at}  guest is up: Linux ${values.kernel}`);
  if (name === 'swapon') say(`${at}  swapon /dev/vda: ${values.exit === '0' ? 'done' : 'FAILED'}`);
  if (name === 'cmd' && words[0] === 'start') say(`${at}  workload starts: ${WORKLOAD}`);
  if (name === 'fillverify' && words[0] === 'filled') say(`${at}  ${WORKLOAD_MIB} MiB filled`);
  if (name === 'fillverify' && words[0] === 'round')
    say(`${at}  touched at random, a third rewritten`);
  if (name === 'fillverify' && words[0] === 'verified') say(`${at}  every byte verified`);
  if (name === 'fillverify' && words[0] === 'FAILED')
    say(`${at}  WRONG DATA: ${JSON.stringify(values)}`);
  if (name === 'cmd' && values.exit === KILLED) say(`${at}  workload killed: out of memory`);
  if (name === 'swapoff') say(`${at}  swapoff`);
  if (name === 'discard') say(`${at}  disk discarded from page 1 on`);
  if (name === 'poweroff') say(`${at}  guest powers off`);
}

async function withoutSwap(): Promise<GuestResult> {
  return runGuest({
    memoryMiB: MEMORY_MIB,
    commands: [WORKLOAD],
    timeoutMs: TIMEOUT_MILLIS,
    onMarker: narrate,
  });
}

async function withSwap(daemon: GuestDaemon): Promise<Observed> {
  const startResident = daemon.residentBytes();
  let peak = await daemon.statistics();
  const sampler = setInterval(() => {
    void daemon.statistics().then((now) => {
      if (now.pages_stored > peak.pages_stored) peak = now;
    });
  }, SAMPLE_MILLIS);
  let endResident = Number.NaN;
  const guest = await runGuest({
    memoryMiB: MEMORY_MIB,
    disks: [{ socketPath: daemon.socketPath }],
    commands: [WORKLOAD],
    // The hold leaves time to look at what the daemon keeps once nothing is on the disk.
    orders: { after: 'discard', hold: '3' },
    timeoutMs: TIMEOUT_MILLIS,
    onMarker: (marker) => {
      narrate(marker);
      if (marker.name === 'poweroff') endResident = daemon.residentBytes();
    },
  }).finally(() => clearInterval(sampler));
  return { guest, peak, end: await daemon.statistics(), startResident, endResident };
}

function outcome(guest: GuestResult): string {
  const exit = findMarker(guest, 'cmd')?.values.exit;
  if (exit === KILLED) return 'killed: out of memory';
  return exit === '0' ? 'finished, every byte verified' : `failed: exit ${exit ?? 'unknown'}`;
}

function printOutcomes(without: GuestResult, observed: Observed): void {
  const table = new Table({ head: ['', 'without swap', 'with ramzswap'], style: PLAIN });
  const workload = `${WORKLOAD_MIB} MiB in ${MEMORY_MIB} MiB of RAM`;
  table.push(
    ['workload', workload, workload],
    ['outcome', outcome(without), outcome(observed.guest)],
    ['boot to power-off', seconds(without.elapsedMs), seconds(observed.guest.elapsedMs)],
  );
  say(table.toString());
}

function printFigures({ peak, end, startResident, endResident, guest }: Observed): void {
  const n = (value: number) => value.toLocaleString('en');
  const held = peak.pages_stored + peak.pages_zero + peak.pages_same;
  const heldBytes = peak.orig_data_size + (peak.pages_zero + peak.pages_same) * 4096;
  const discards = findMarker(guest, 'blockstat')?.values.discards ?? '?';
  const table = new Table({ colAligns: ['left', 'right'], style: PLAIN });
  const rows: [string, string][] = [
    ['At the peak', ''],
    ['  pages held for the guest', `${n(held)}  (${formatBytes(heldBytes)})`],
    ['  of these zero or filled with a pattern', n(held - peak.pages_stored)],
    ['  compressed to half a page or less', `${peak.good_compress_pct} %`],
    ['  compressed size', formatBytes(peak.compr_data_size)],
    ['  memory used on the host', formatBytes(peak.mem_used_total)],
    ['  guest data per host memory', `${(heldBytes / peak.mem_used_total).toFixed(2)} : 1`],
    ['In all', ''],
    ['  pages written / read', `${n(end.num_writes)} / ${n(end.num_reads)}`],
    ['  write / read requests', `${n(end.requests_write)} / ${n(end.requests_read)}`],
    ['  discards, as the guest counts', discards],
    ['  pages freed by them', n(end.notify_free)],
    ['  failed or invalid', n(end.failed_reads + end.failed_writes + end.invalid_io)],
    ['After swapoff and discard', ''],
    ['  memory used for pages', formatBytes(end.mem_used_total)],
    [
      '  daemon resident, start → end',
      `${formatBytes(startResident)} → ${formatBytes(endResident)}`,
    ],
  ];
  table.push(...rows);
  say(table.toString());
}

async function main(): Promise<number> {
  await fetchGuest(GUESTS[DEFAULT_GUEST]);

  say(`\n1. ${MEMORY_MIB} MiB guest, no swap`);
  const without = await withoutSwap();

  say(`\n2. The same guest with a ${DISK} ramzswap disk`);
  const daemon = await GuestDaemon.start('--disksize', DISK);
  const observed = await withSwap(daemon).finally(() => daemon.stop());

  say('');
  printOutcomes(without, observed);
  printFigures(observed);
  const isTrue =
    findMarker(without, 'cmd')?.values.exit === KILLED &&
    without.poweredOff &&
    findMarker(observed.guest, 'cmd')?.values.exit === '0' &&
    observed.guest.poweredOff &&
    observed.end.failed_reads === 0;
  if (!isTrue) say('\nThis is not what should have happened; please report it.');
  return isTrue ? 0 : 1;
}

process.exitCode = await main();
