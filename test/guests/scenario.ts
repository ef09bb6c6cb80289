/**
 * One guest scenario: what boots, what it runs, what is done to it meanwhile, and what must be true
 * afterwards on both sides. The tables are rows of this; here they are played.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { expect, it } from 'vitest';
import { GuestDaemon } from '../../guest/daemon.ts';
import { DEFAULT_GUEST, GUESTS, type GuestName } from '../../guest/guests.ts';
import type { Marker } from '../../guest/markers.ts';
import {
  findMarker,
  type GuestOptions,
  type GuestResult,
  type RunningGuest,
  runGuest,
} from '../../guest/qemu.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { sleep } from '../driver/daemon.ts';
import { canMakeDisks } from '../driver/file-systems.ts';
import type { MadeBacking } from './backings.ts';

/** What was seen on the host while the guest held still, after its workload, swapoff and discard. */
export interface Quiet {
  readonly statistics: Statistics;
  readonly residentBytes: number;
  /** Processor time of the daemon over one second. */
  readonly cpuMillis: number;
}

export interface Outcome {
  readonly guest: GuestResult;
  /** One for each disk. */
  readonly daemons: readonly GuestDaemon[];
  readonly startResidentBytes: number;
  /** Before swapoff, as the workload ended; of each disk. */
  readonly loaded: readonly Statistics[];
  readonly quiet: Quiet | undefined;
  readonly end: readonly Statistics[];
  /** What the scenario noted meanwhile. */
  readonly notes: ReadonlyMap<string, Statistics>;
  readonly pageBytes: number;
}

export interface Stage {
  readonly marker: Marker;
  /** Of the markers with this name and first word: 1 is the first. */
  readonly nth: number;
  readonly guest: RunningGuest;
  readonly daemons: readonly GuestDaemon[];
  /** Notes the first disk's figures, for the check to find under this name. */
  note(name: string): Promise<void>;
}

export interface Scenario {
  readonly claim: string;
  /** The guests that it is played in, one after the other. Default: amd64 alone. */
  readonly guests?: readonly GuestName[];
  /** Played in these too with RAMZSWAP_GUESTS=all: what `make test` has no time for. */
  readonly moreGuests?: readonly GuestName[];
  /** The daemons' options, one list for each disk; behind --backing-swap comes what `backing` makes. */
  readonly daemons?: readonly (readonly string[])[];
  readonly backing?: () => MadeBacking;
  /** The stores are files in a directory on a tmpfs: daemons may be killed and started again. */
  readonly isStoreKept?: boolean;
  /** The disks' own options, the same for all. `absent`: the scenario plugs them itself. */
  readonly disk?: Omit<NonNullable<GuestOptions['disks']>[number], 'socketPath'>;
  readonly attached?: 'at boot' | 'later';
  readonly hardware: Pick<
    GuestOptions,
    'memoryMiB' | 'cpus' | 'extraArgs' | 'kernelArgs' | 'hasFileSystemTools'
  >;
  readonly orders?: GuestOptions['orders'];
  readonly commands: readonly string[];
  /** Called once, as QEMU starts: before the firmware has found the disk. */
  readonly atStart?: (daemons: readonly GuestDaemon[]) => Promise<void>;
  /** Called at each marker, in their order but not one after the other. */
  readonly act?: (stage: Stage) => Promise<void> | void;
  readonly check: (outcome: Outcome) => void;
}

const PLAYS_ALL = process.env.RAMZSWAP_GUESTS === 'all';

const TIMEOUT_MILLIS = 240_000;
/** Upkeep of a device that has gone quiet is done within a second; a second one is then measured. */
const SETTLE_MILLIS = 1_800;
const IDLE_MILLIS = 1_000;

const STORES = '/dev/shm/ramzswap-guest-';

export const DISK_512M: readonly string[] = ['--disksize', '512M'];

/**
 * Declares a test for each row and each of its guests. Guests of one processor play several at once
 * (maxConcurrency in vitest.config.ts). Those of more have the host to themselves, after the others:
 * a processor waits for another's lock by spinning, for as long as the host runs something else.
 */
export function playAll(scenarios: readonly Scenario[]): void {
  const mayMakeDisks = canMakeDisks();
  const isAlone = ({ hardware }: Scenario) => (hardware.cpus ?? 1) > 1;
  for (const scenario of scenarios.toSorted((a, b) => Number(isAlone(a)) - Number(isAlone(b)))) {
    const { guests = [DEFAULT_GUEST], moreGuests = [] } = scenario;
    // Said loudly by canMakeDisks().
    const skip = scenario.backing !== undefined && !mayMakeDisks;
    const options = { skip, concurrent: !isAlone(scenario) };
    for (const guest of PLAYS_ALL ? [...guests, ...moreGuests] : guests) {
      it(`${guest}: ${scenario.claim}`, options, async () => {
        scenario.check(await play(scenario, guest));
      });
    }
  }
}

/** Of the marker that comes once, as a number. */
export function value(guest: GuestResult, marker: string, name: string): number {
  return Number(findMarker(guest, marker)?.values[name]);
}

async function play(scenario: Scenario, name: GuestName): Promise<Outcome> {
  const backing = scenario.backing?.();
  const storeDirectory = scenario.isStoreKept === true ? mkdtempSync(STORES) : undefined;
  const daemons: GuestDaemon[] = [];
  try {
    for (const args of scenario.daemons ?? [DISK_512M]) {
      daemons.push(
        await GuestDaemon.start(
          ...daemonArguments(args, daemons.length, name, backing),
          ...(storeDirectory === undefined ? [] : ['--store-dir', storeDirectory]),
        ),
      );
    }
    return await playWith(scenario, name, daemons);
  } finally {
    for (const daemon of daemons) await daemon.stop();
    backing?.remove();
    if (storeDirectory !== undefined) rmSync(storeDirectory, { recursive: true });
  }
}

function daemonArguments(
  args: readonly string[],
  index: number,
  guest: GuestName,
  backing: MadeBacking | undefined,
): string[] {
  const { pageBytes } = GUESTS[guest];
  return [
    ...args,
    ...['--name', `ramzswap${index}`, '--guest-page-size', String(pageBytes)],
    ...(backing === undefined ? [] : ['--backing-swap', backing.path]),
  ];
}

async function playWith(
  scenario: Scenario,
  name: GuestName,
  daemons: readonly GuestDaemon[],
): Promise<Outcome> {
  // Started, but settled: the first statistics have loaded what loads late.
  await statisticsOf(daemons);
  const startResidentBytes = daemons[0]!.residentBytes();
  let loaded: readonly Statistics[] | undefined;
  let quiet: Quiet | undefined;
  const disks = scenario.attached === 'later' ? [] : daemons;
  const count = counter();
  const notes = new Map<string, Statistics>();
  const note = async (name: string) => void notes.set(name, await daemons[0]!.statistics());
  const started = scenario.atStart?.(daemons);
  const guest = await runGuest({
    ...scenario.hardware,
    guest: name,
    disks: disks.map(({ socketPath }) => ({ socketPath, ...scenario.disk })),
    ...(scenario.orders && { orders: scenario.orders }),
    commands: scenario.commands,
    timeoutMs: TIMEOUT_MILLIS,
    onMarker: async (marker, running) => {
      const nth = count(marker);
      if (marker.name === 'vmstat') loaded = await statisticsOf(daemons);
      if (marker.name === 'discard') quiet = await observeQuiet(daemons[0]!);
      await scenario.act?.({ marker, nth, guest: running, daemons, note });
    },
  });
  await started;
  const seen = `guest console:\n${guest.console.join('\n')}`;
  expect(guest.poweredOff, seen).toBe(true);
  expect(findMarker(guest, 'cmd')?.values.exit, seen).toBe('0');
  expect(loaded, seen).toBeDefined();
  checkEndings(scenario, guest, seen);
  const end = await statisticsOf(daemons);
  const { pageBytes } = GUESTS[name];
  return { guest, daemons, startResidentBytes, loaded: loaded!, quiet, end, notes, pageBytes };
}

/** Of the last boot: every disk that was to be swapped on was swapped off, and discarded if ordered. */
function checkEndings(
  { orders, daemons = [DISK_512M] }: Scenario,
  guest: GuestResult,
  seen: string,
) {
  if (orders?.swap === 'none') return;
  const lastBoot = guest.markers.slice(guest.markers.findLastIndex(({ name }) => name === 'init'));
  const wanted = orders?.after === 'discard' ? ['swapoff', 'discard'] : ['swapoff'];
  for (const step of wanted) {
    const exits = lastBoot.filter(({ name }) => name === step).map(({ values }) => values.exit);
    expect(exits, `${step}\n${seen}`).toEqual(daemons.map(() => '0'));
  }
}

/** Tells of each marker the how manieth of its name and first word it is. */
function counter(): (marker: Marker) => number {
  const seen = new Map<string, number>();
  return ({ name, words }) => {
    const key = `${name} ${words[0]}`;
    const nth = (seen.get(key) ?? 0) + 1;
    seen.set(key, nth);
    return nth;
  };
}

function statisticsOf(daemons: readonly GuestDaemon[]): Promise<Statistics[]> {
  return Promise.all(daemons.map((daemon) => daemon.statistics()));
}

async function observeQuiet(daemon: GuestDaemon): Promise<Quiet> {
  await sleep(SETTLE_MILLIS);
  const before = daemon.cpuMillis();
  await sleep(IDLE_MILLIS);
  const cpuMillis = daemon.cpuMillis() - before;
  return {
    cpuMillis,
    residentBytes: daemon.residentBytes(),
    statistics: await daemon.statistics(),
  };
}
