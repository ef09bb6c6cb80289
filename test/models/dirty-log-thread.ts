/**
 * A thread that marks every so manieth page of a dirty log, each once: a bit lost stays lost. All
 * threads begin each run of a few bytes together, so that they meet in them.
 */

import { workerData } from 'node:worker_threads';
import { DirtyLog, type LogArea } from '../../src/memory/dirty-log.ts';

/** A cache line of the log. */
const RUN_PAGES = 512;
/** Then the other thread is not running: sleep, for it may want this processor. */
const SPINS = 2_000;

interface Part {
  readonly fd: number;
  readonly area: LogArea;
  /** How often a thread has arrived at the beginning of a run. */
  readonly arrivals: Int32Array;
  /** This one of so many. */
  readonly thread: number;
  readonly threads: number;
  readonly pages: number;
}

const { fd, area, arrivals, thread, threads, pages } = workerData as Part;

function meet(run: number): void {
  Atomics.add(arrivals, 0, 1);
  Atomics.notify(arrivals, 0);
  const all = (run + 1) * threads;
  for (let spins = 0; ; spins++) {
    const now = Atomics.load(arrivals, 0);
    if (now >= all) return;
    if (spins > SPINS) Atomics.wait(arrivals, 0, now, 1);
  }
}

const log = new DirtyLog();
log.isOn = true;
log.map(area, fd);
for (let run = 0; run * RUN_PAGES < pages; run++) {
  meet(run);
  for (let i = thread; i < RUN_PAGES; i += threads) {
    const address = (run * RUN_PAGES + i) * 4096;
    log.mark(address | 0, Math.floor(address / 2 ** 32), 1);
  }
}
log.release();
