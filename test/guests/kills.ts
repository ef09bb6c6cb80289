/**
 * Guests that swap while their daemon is killed, again and again, at moments that a seed decides, and
 * started again at once: nothing that they wrote is lost, and nobody waits for ever. events.test.ts
 * runs the table; RAMZSWAP_KILLS says how many kills in all.
 */

import { expect } from 'vitest';
import type { GuestDaemon } from '../../guest/daemon.ts';
import { sleep } from '../driver/daemon.ts';
import { Random } from '../driver/random.ts';
import { checkNothingFailed, checkOnlyHeaderLeft, checkVerified } from './checks.ts';
import { type Scenario, type Stage, value } from './scenario.ts';

const MIB = 2 ** 20;
const KILLS = Number(process.env.RAMZSWAP_KILLS ?? 12);
const KILLS_PER_RUN_MAX = 13;
const RUNS = Math.ceil(KILLS / KILLS_PER_RUN_MAX);
const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
/** Of work, from one kill to the next; QEMU connects again after a second. */
const WORK_MILLIS_MAX = 1_500;
const LOOK_MILLIS = 20;
/** A guest that hangs is told of with the daemon's log, which says how far its connection came. */
const SERVING_MILLIS_MAX = 60_000;

/** The disk grows when all kills are done: so the guest learns that it may come to its end. */
const DISK = [64, 96].map((mib) => mib * 4 * MIB) as [number, number];
const DISK_OPTIONS = ['--disksize', `${DISK[0]}`, '--max-disksize', `${DISK[1]}`];
const WORK = [
  'n=0; set -e',
  `until grep -qx ${DISK[1] / 512} /sys/block/vda/size; do n=$((n + 1)); fillverify 112 $n 0; done`,
  'fillverify 112 $((n + 1)) 0',
].join('; ');

/** Before the guest's kernel has a driver for the disk; QEMU 7.2 then goes on without a handshake. */
async function killAtStart(daemon: GuestDaemon): Promise<void> {
  while (!(await daemon.status()).connected) await sleep(LOOK_MILLIS);
  await daemon.killAndRestart();
}

/**
 * QEMU before 9.1 may never connect again once it lost the connection in the middle of its handshake:
 * so the daemon is killed when it serves requests.
 */
async function untilServing(daemon: GuestDaemon): Promise<void> {
  const requests = async () => {
    const { requests_read, requests_write, requests_discard } = await daemon.statistics();
    return requests_read + requests_write + requests_discard;
  };
  const before = await requests();
  const deadline = Date.now() + SERVING_MILLIS_MAX;
  while ((await requests()) === before) {
    if (Date.now() > deadline) {
      const { connected } = await daemon.status();
      const log = daemon.log.slice(-12).join('\n');
      throw new Error(`no request for ${SERVING_MILLIS_MAX} ms, connected: ${connected}\n${log}`);
    }
    await sleep(LOOK_MILLIS);
  }
}

/** All kills but the first. */
async function killInStorm({ marker, nth, daemons }: Stage, run: number): Promise<void> {
  const [daemon] = daemons;
  if (marker.name !== 'fillverify' || marker.words[0] !== 'filled' || nth !== 1) return;
  const random = new Random(SEED + run);
  const kills = Math.floor((KILLS + run) / RUNS) - 1;
  for (let i = 0; i < kills; i++) {
    await untilServing(daemon!);
    await sleep(random.below(WORK_MILLIS_MAX));
    await daemon!.killAndRestart();
  }
  await daemon!.grow(DISK[1]);
}

export const KILLING: readonly Scenario[] = Array.from({ length: RUNS }, (_, run) => ({
  claim: `a daemon killed under a swapping guest loses nothing (run ${run + 1}, seed ${SEED + run})`,
  daemons: [DISK_OPTIONS],
  isStoreKept: true,
  disk: { reconnectSeconds: 1 },
  hardware: { memoryMiB: 128 },
  orders: { after: 'discard' },
  commands: [WORK],
  atStart: ([daemon]) => killAtStart(daemon!),
  act: (stage) => killInStorm(stage, run),
  check: (outcome) => {
    const { guest, end, daemons } = outcome;
    const begun = guest.markers.filter(
      ({ name, words }) => name === 'fillverify' && words[0] === 'start',
    );
    checkVerified(guest, begun.length);
    checkNothingFailed(end);
    checkOnlyHeaderLeft(outcome);
    expect(value(guest, 'vmstat', 'pswpin')).toBeGreaterThan(1000);
    const found = daemons[0]!.log.filter((line) =>
      line.includes('left by a process that was killed'),
    );
    expect(found.length).toBe(Math.floor((KILLS + run) / RUNS));
    expect(daemons[0]!.log.filter((line) => /"level":(50|60)/.test(line))).toEqual([]);
  },
}));
