/**
 * What a front end may do while requests are in flight, at any moment: stop rings, disable them,
 * change memory, vanish. No page that was acknowledged is ever wrong afterwards, none is torn, every
 * request of a ring that goes on is completed, and the daemon keeps nothing of those that are gone.
 */

import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { Daemon, isBuilt, sleep, until } from '../driver/daemon.ts';
import { Random } from '../driver/random.ts';
import { RaceLoad, SLOTS_PER_QUEUE } from '../models/race-load.ts';
import {
  connectRaceGuest,
  memoryOf,
  openFdsOf,
  RACE_DAEMON_ARGS,
  RACE_DEPTH,
  RACE_QUEUES,
  runReconnects,
  runRingRaces,
} from '../models/race-run.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
/** Until each kind of race has happened so often, and for so long; a machine in want may go on. */
const RACES_MIN = 20;
const RING_MILLIS_MIN = 5000;
const RING_MILLIS_MAX = 40_000;
const RECONNECTS_WARM = 20;
const RSS_GROWTH_MAX = 32 << 20;
const KILLS = 3;
const JOURNAL_BYTES_MIN = 20_000;
const TERMINATIONS = 6;
const END_MILLIS_MAX = 500;
const CHILD = fileURLToPath(new URL('../models/race-child.ts', import.meta.url));

const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function raceDaemon(threads = 1): Promise<Daemon> {
  const daemon = await Daemon.start([...RACE_DAEMON_ARGS, '--queue-threads', `${threads}`]);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

if (!isBuilt) console.warn('races.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)(`under load (seed ${SEED})`, () => {
  it.each([1, 2, 4])(
    'rings stop, start and change at any moment, and every request is completed; %i queue threads',
    async (threads) => {
      const daemon = await raceDaemon(threads);
      const start = Date.now();
      const figures = runRingRaces(daemon, SEED, (soFar) => {
        const millis = Date.now() - start;
        const haveHappened = Object.values(soFar).every((count) => count > RACES_MIN);
        return millis > (haveHappened ? RING_MILLIS_MIN : RING_MILLIS_MAX);
      });
      // Each kind of race must have happened, or the test has shown nothing.
      for (const [name, count] of Object.entries(figures)) {
        expect(count, name).toBeGreaterThan(RACES_MIN);
      }
    },
    60_000,
  );

  it.each([
    [100, 1],
    [60, 4],
  ])(
    '%i front ends vanish, and leave whole pages, no descriptors, no memory; %i queue threads',
    async (reconnects, threads) => {
      const daemon = await raceDaemon(threads);
      const { pid } = daemon;
      const fds = openFdsOf(pid);
      let rss = 0;
      runReconnects(daemon, SEED, (connections) => {
        if (connections === RECONNECTS_WARM) rss = memoryOf(pid, 'VmRSS');
        return connections === reconnects;
      });
      await until(() => openFdsOf(pid) === fds, 'as many descriptors as at the beginning', 3000);
      expect(memoryOf(pid, 'VmRSS') - rss, 'growth').toBeLessThan(RSS_GROWTH_MAX * threads);
      expect(daemon.stderr).toBe('');
    },
    90_000,
  );

  it(`${KILLS} front ends are killed, and what was acknowledged to them is there`, async () => {
    const daemon = await raceDaemon();
    const random = new Random(SEED);
    for (let i = 0; i < KILLS; i++) {
      const firstSlot = 8 + i * RACE_QUEUES * SLOTS_PER_QUEUE;
      const journal = await killedFrontEnd(daemon, SEED + i, firstSlot, random.below(300));
      const load = new RaceLoad({ seed: SEED, queues: RACE_QUEUES, depth: RACE_DEPTH });
      for (const line of journal) {
        const [what, slot, version] = line.split(' ') as [string, string, string];
        const state = load.slots.get(Number(slot)) ?? { acknowledged: 0, submitted: 0 };
        if (what === 'done') state.acknowledged = Number(version);
        else state.submitted = Number(version);
        load.slots.set(Number(slot), state);
      }
      expect(load.slots.size).toBeGreaterThan(SLOTS_PER_QUEUE);
      const guest = connectRaceGuest(daemon.socketPath);
      load.settle(guest);
      guest.close();
    }
  }, 60_000);

  it(`SIGTERM ends it with status 0 within ${END_MILLIS_MAX} ms, ${TERMINATIONS} times, of one queue thread or several`, async () => {
    for (let i = 0; i < TERMINATIONS; i++) {
      const daemon = await raceDaemon(i % 2 === 0 ? 1 : RACE_QUEUES);
      const guest = connectRaceGuest(daemon.socketPath);
      const load = new RaceLoad({ seed: SEED + i, queues: RACE_QUEUES, depth: RACE_DEPTH });
      for (let turn = load.random.below(30); turn >= 0; turn--) {
        load.fill(guest);
        load.take(guest);
      }
      const start = Date.now();
      daemon.child.kill('SIGTERM');
      let millis: number | undefined;
      void daemon.child.then(() => {
        millis = Date.now() - start;
      });
      while (millis === undefined && Date.now() - start < 5000) {
        load.fill(guest);
        load.take(guest);
        await sleep(0);
      }
      expect((await daemon.child).exitCode).toBe(0);
      expect(millis, `termination ${i}`).toBeLessThan(END_MILLIS_MAX);
      guest.close();
    }
  }, 120_000);
});

/** Starts a front end in a process of its own and kills it under way; the whole lines it wrote. */
async function killedFrontEnd(daemon: Daemon, seed: number, firstSlot: number, millis: number) {
  const path = join(daemon.folder.path, `journal-${firstSlot}`);
  const fd = openSync(path, 'w');
  const args = ['--import', 'tsx', CHILD, daemon.socketPath, `${seed}`, `${firstSlot}`];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit', fd] });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  closeSync(fd);
  try {
    await until(() => statSync(path).size > JOURNAL_BYTES_MIN, 'the front end works', 20_000);
    await sleep(millis);
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
  expect(child.signalCode).toBe('SIGKILL');
  return readFileSync(path, 'utf8').split('\n').slice(0, -1);
}
