/**
 * The long versions of tests, for a whole afternoon or a new machine. Each prints its seed; the same
 * seed gives the same requests again.
 *
 *   tsx scripts/stress.ts model --operations 1000000 [--seed N]   random requests against a model
 *   tsx scripts/stress.ts reconnects --operations 1000000   the same while connections end and daemons are killed
 *   tsx scripts/stress.ts races --seconds 300        rings stopped, front ends gone, under load
 *   tsx scripts/stress.ts kicks --rounds 10000000    both sides of a ring, kicks and interrupts
 *   tsx scripts/stress.ts bursts --rounds 1000000    the same with a daemon, eventfds and sleeps
 *   tsx scripts/stress.ts slots --operations 1000000 all queues at the same few slots
 *
 * --queue-threads N: daemons serve with so many threads.
 */

import { parseArgs } from 'node:util';
import { Daemon, sleep } from '../test/driver/daemon.ts';
import { GuestRam } from '../test/driver/guest-ram.ts';
import { MultiQueueGuest } from '../test/driver/multi-queue.ts';
import { runBursts } from '../test/models/kick-bursts.ts';
import { runDuel } from '../test/models/kick-duel.ts';
import { MODEL_DAEMON_ARGS, runModel } from '../test/models/model-run.ts';
import {
  memoryOf,
  openFdsOf,
  RACE_DAEMON_ARGS,
  runReconnects as runRaceReconnects,
  runRingRaces,
} from '../test/models/race-run.ts';
import { MortalDaemon, runReconnects } from '../test/models/reconnect-run.ts';
import { SharedSlots } from '../test/models/shared-slots.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    operations: { type: 'string', default: '1000000' },
    seconds: { type: 'string', default: '60' },
    rounds: { type: 'string', default: '10000000' },
    seed: { type: 'string', default: `${Date.now() >>> 0}` },
    'queue-threads': { type: 'string', default: '1' },
  },
});
const seed = Number(values.seed);
const start = Date.now();
const elapsed = () => `${((Date.now() - start) / 1000).toFixed(1)} s`;

async function withDaemon<T>(args: readonly string[], use: (daemon: Daemon) => Promise<T>) {
  const daemon = await Daemon.start([...args, '--queue-threads', values['queue-threads']]);
  try {
    return await use(daemon);
  } finally {
    await daemon.stop();
  }
}

/** A line every 100,000 operations. */
function progress(): (operations: number) => void {
  let told = 0;
  return (operations) => {
    if (operations - told < 100_000) return;
    told = operations;
    console.log(`${operations} operations, ${elapsed()}`);
  };
}

async function model(): Promise<string> {
  const options = { seed, operations: Number(values.operations), onProgress: progress() };
  const { operations, statistics } = await withDaemon(MODEL_DAEMON_ARGS, (daemon) =>
    runModel(daemon, options),
  );
  console.log(JSON.stringify(statistics));
  return `${operations} operations without a difference`;
}

/** A quarter each: with and without an in-flight area, connections that end, and kills as well. */
async function reconnects(): Promise<string> {
  const operations = Number(values.operations) / 4;
  const args = [...MODEL_DAEMON_ARGS, '--queue-threads', values['queue-threads']];
  for (const cutsPerKill of [Number.POSITIVE_INFINITY, 20]) {
    for (const hasInflight of [true, false]) {
      const daemon = await MortalDaemon.start(args);
      try {
        const options = { seed, operations, hasInflight, cutsPerKill, onProgress: progress() };
        const figures = await runReconnects(daemon, options);
        const area = hasInflight ? 'in-flight area' : 'used indices alone';
        console.log(`${area}: ${JSON.stringify(figures)}, ${elapsed()}`);
      } finally {
        await daemon.stop();
      }
    }
  }
  return `${4 * operations} operations without a difference`;
}

/** Half of the time for rings that change in a session, half for sessions that end. */
async function races(): Promise<string> {
  const millis = Number(values.seconds) * 500;
  return withDaemon(RACE_DAEMON_ARGS, async (daemon) => {
    const end = Date.now() + millis;
    console.log(JSON.stringify(runRingRaces(daemon, seed, () => Date.now() > end)));
    return `${JSON.stringify(await raceReconnects(millis))}, nothing lost`;
  });
}

/** On a daemon of its own: pages of the ring races would be none of the versions expected. */
function raceReconnects(millis: number) {
  return withDaemon(RACE_DAEMON_ARGS, async (daemon) => {
    const before = openFdsOf(daemon.pid);
    const end = Date.now() + millis;
    const figures = runRaceReconnects(daemon, seed, () => Date.now() > end);
    await sleep(500);
    const rssMiB = Math.round(memoryOf(daemon.pid, 'VmRSS') / 2 ** 20);
    const vszGiB = Math.round(memoryOf(daemon.pid, 'VmSize') / 2 ** 30);
    return { ...figures, fds: [before, openFdsOf(daemon.pid)], rssMiB, vszGiB };
  });
}

/** Half of the rounds with event indices, half with flags. */
async function kicks(): Promise<string> {
  const rounds = Number(values.rounds) / 2;
  for (const eventIdx of [true, false]) {
    const result = await runDuel({ seed, rounds, eventIdx });
    console.log(`event index ${eventIdx}: ${JSON.stringify(result)}`);
    if (result.lost !== undefined) throw new Error(`${result.lost} lost, round ${result.rounds}`);
  }
  return `${2 * rounds} rounds, no wake-up lost`;
}

async function bursts(): Promise<string> {
  const rounds = Number(values.rounds) / 2;
  return withDaemon(['--log-level', 'warn'], async (daemon) => {
    for (const eventIdx of [true, false]) {
      const index = Number(values['queue-threads']) - 1;
      const figures = await runBursts(daemon, { seed, eventIdx, index, rounds });
      console.log(`event index ${eventIdx}: ${JSON.stringify(figures)}`);
    }
    return `${2 * rounds} rounds, no wake-up lost`;
  });
}

async function slots(): Promise<string> {
  return withDaemon(['--log-level', 'warn'], async (daemon) => {
    const queues = Array.from({ length: 8 }, () => ({ size: 256 }));
    const ram = new GuestRam(16 << 20);
    const guest = MultiQueueGuest.connect(daemon.socketPath, { queues, ram });
    const load = new SharedSlots({ seed, slots: 8, depth: 32 });
    load.run(guest, Number(values.operations));
    guest.close();
    const [impossible] = load.impossible();
    if (impossible !== undefined) throw new Error(`impossible: ${JSON.stringify(impossible)}`);
    return `${load.operations} pages, ${load.restarts} rings stopped, nothing impossible`;
  });
}

const PROGRAMS: Record<string, () => Promise<string>> = {
  ...{ model, reconnects, races, kicks, bursts, slots },
};

const program = PROGRAMS[positionals[0] ?? ''];
if (program === undefined) {
  console.error(`expected one of ${Object.keys(PROGRAMS).join(', ')}`);
  process.exit(2);
}
console.log(`${positionals[0]}, --seed ${seed}`);
console.log(`${await program()}, ${elapsed()}`);
