/**
 * A front end to be killed: load on the daemon at argv[2] from slot argv[4] on, until someone does.
 * What it submits and what comes back it writes down, at once, in the file that is its descriptor 3.
 */

import { writeSync } from 'node:fs';
import { RaceLoad } from './race-load.ts';
import { connectRaceGuest, RACE_DEPTH, RACE_QUEUES } from './race-run.ts';

const JOURNAL_FD = 3;
const [socketPath, seed, firstSlot] = process.argv.slice(2);

const guest = connectRaceGuest(socketPath!);
const load = new RaceLoad({
  seed: Number(seed),
  queues: RACE_QUEUES,
  depth: RACE_DEPTH,
  firstSlot: Number(firstSlot),
  onWrite: (what, slot, version) => writeSync(JOURNAL_FD, `${what} ${slot} ${version}\n`),
});

for (;;) {
  load.fill(guest);
  if (load.take(guest) === 0) guest.waitForCall(10);
}
