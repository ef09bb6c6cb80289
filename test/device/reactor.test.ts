/**
 * Wake-ups. Against the built daemon in a process of its own: bursts with pauses, so that both sides
 * are found polling, falling asleep and sleeping. And the two sides of a ring racing each other with
 * no kernel in between, which is how often the last nanoseconds before a sleep can be tried.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { Daemon, isBuilt } from '../driver/daemon.ts';
import { runBursts } from '../models/kick-bursts.ts';
import { runDuel } from '../models/kick-duel.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const ROUNDS = 25_000;
/** What one configuration may take; the rounds that fit are run, and a minimum is demanded. */
const MILLIS_MAX = 12_000;
const ROUNDS_MIN = 5_000;
/** Without the barrier in enableKicks, one is lost within 310,000; in publish, within 73,000. */
const DUEL_ROUNDS = 500_000;
const DUEL_ROUNDS_MIN = 20_000;

let daemon: Daemon | undefined;

afterEach(() => daemon?.stop());

if (!isBuilt) console.warn('reactor.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('no wake-up is lost', () => {
  it.each([
    [true, 1, MILLIS_MAX],
    [false, 1, MILLIS_MAX],
    // Of the ring that the last thread serves: the first looks at its own at times anyway.
    [true, 2, MILLIS_MAX / 2],
  ])('over bursts of 1 to 4 requests, event index %s, %i queue threads', async (...row) => {
    const [eventIdx, threads, millisMax] = row;
    daemon = await Daemon.start(['--log-level', 'warn', '--queue-threads', `${threads}`]);
    const index = threads - 1;
    const seed = SEED + (eventIdx ? 1 : 0);
    const options = { seed, eventIdx, index, rounds: ROUNDS, millisMax };
    const { rounds, kicks, sleeps } = await runBursts(daemon, options);
    expect(rounds).toBeGreaterThan(ROUNDS_MIN * (millisMax / MILLIS_MAX));
    // Both ways of waiting must have happened, or the test has shown nothing.
    expect(kicks, 'kicks').toBeGreaterThan(rounds / 100);
    expect(sleeps, 'sleeps of the driver').toBeGreaterThan(rounds / 100);
  });
});

describe('a driver and a queue in two processes lose no wake-up', () => {
  it.each([true, false])(`over up to ${DUEL_ROUNDS} rounds, event index %s`, async (eventIdx) => {
    const { rounds, kicks, calls, lost } = await runDuel({
      seed: SEED,
      rounds: DUEL_ROUNDS,
      eventIdx,
      millisMax: MILLIS_MAX,
    });
    expect(lost, `seed ${SEED}, round ${rounds}: lost`).toBeUndefined();
    expect(rounds).toBeGreaterThan(DUEL_ROUNDS_MIN);
    expect(kicks, 'kicks').toBeGreaterThan(rounds / 10);
    expect(calls, 'calls').toBeGreaterThan(rounds / 10);
  });
});
