/** Runs the table of guest scenarios, each with a daemon of its own. */

import { describe, expect, it } from 'vitest';
import { GuestDaemon } from '../../guest/daemon.ts';
import { findMarker, runGuest } from '../../guest/qemu.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { canMakeDisks } from '../driver/file-systems.ts';
import { checkSwapped, type Outcome, type Quiet, SCENARIOS, type Scenario } from './scenarios.ts';

const TIMEOUT_MILLIS = 240_000;
/** Upkeep of a device that has gone quiet is done within a second; a second one is then measured. */
const SETTLE_MILLIS = 1_800;
const IDLE_MILLIS = 1_000;

function sleep(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis));
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

async function play(scenario: Scenario): Promise<Outcome> {
  const backing = scenario.backing?.();
  const swap = backing === undefined ? [] : ['--backing-swap', backing.path];
  const daemon = await GuestDaemon.start(...scenario.disk, ...swap).catch((error) => {
    backing?.remove();
    throw error;
  });
  try {
    // Started, but settled: the first statistics have loaded what loads late.
    await daemon.statistics();
    const startResidentBytes = daemon.residentBytes();
    const during: Promise<void>[] = [];
    let loaded: Statistics | undefined;
    let quiet: Quiet | undefined;
    const look = async () => {
      loaded = await daemon.statistics();
    };
    const lookWhenQuiet = async () => {
      quiet = await observeQuiet(daemon);
    };
    const guest = await runGuest({
      ...scenario.guest,
      socketPath: daemon.socketPath,
      timeoutMs: TIMEOUT_MILLIS,
      onMarker: ({ name }) => {
        if (name === 'swaps') during.push(look());
        if (name === 'discard') during.push(lookWhenQuiet());
      },
    });
    await Promise.all(during);
    expect(loaded, `guest console:\n${guest.console.join('\n')}`).toBeDefined();
    const end = await daemon.statistics();
    return { guest, daemon, startResidentBytes, loaded: loaded!, quiet, end };
  } finally {
    await daemon.stop();
    backing?.remove();
  }
}

describe('guests', () => {
  const mayMakeDisks = canMakeDisks();

  for (const scenario of SCENARIOS) {
    // Said loudly by canMakeDisks().
    it.skipIf(scenario.backing !== undefined && !mayMakeDisks)(scenario.claim, async () => {
      const outcome = await play(scenario);
      checkSwapped(outcome);
      scenario.check(outcome);
    });
  }

  it('without swap the same workload is killed', async () => {
    const guest = await runGuest({
      memoryMiB: 128,
      append: { cmd: 'fillverify 256 1' },
      timeoutMs: TIMEOUT_MILLIS,
    });
    expect(findMarker(guest, 'cmd')?.values.exit).toBe('137');
    expect(guest.poweredOff).toBe(true);
  });
});
