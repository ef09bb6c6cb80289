/**
 * Fuzzes whole sessions against a process of its own: a hostile front end and guest on a device with
 * one queue thread, three, or a backing swap, over a real socket, while a guest that behaves works on
 * another device of the same threads and a control client asks. Whatever they do: the process lives;
 * the other guest's requests are answered in time with its own data; a front end that can still be
 * understood is answered, and its device works again after a reset; a ring is served or its error
 * descriptor says that it is broken; nothing outside the regions is written, or turns up in what was
 * stored; descriptors are given back; memory does not grow.
 */

import { GuestRam } from '../driver/guest-ram.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { Random } from '../driver/random.ts';
import { read } from '../driver/requests.ts';
import { type Budget, check, runAsyncCases } from './budget.ts';
import { HostileFrontEnd } from './hostile-front-end.ts';
import {
  ANSWER_MILLIS_MAX,
  DISK_PAGES,
  GuardedRam,
  HOSTILE_DEVICES,
  SessionBench,
} from './session-bench.ts';

/** Sessions before descriptors and memory are what they will be. */
const WARM_CASES = 8;
const CASES_PER_LOOK = 40;
const PAGES_PER_READ = 16;

let bench: SessionBench | undefined;
let cases = 0;

export function fuzzSessions(seed: number, budget: Budget): Promise<number> {
  return runAsyncCases('sessions', seed, budget, async (random) => {
    bench ??= await startBench();
    try {
      await runCase(random, bench);
      if (++cases % CASES_PER_LOOK === 0) bench.checkMemory();
    } catch (error) {
      await closeSessions();
      throw error;
    }
  });
}

/** Ends the attacked process, if there is one. */
export async function closeSessions(): Promise<void> {
  const ending = bench;
  bench = undefined;
  await ending?.close();
}

async function startBench(): Promise<SessionBench> {
  const made = await SessionBench.start();
  made.remember();
  // Every device once, with seeds that are always the same.
  for (let i = 0; i < WARM_CASES; i++) await runCase(new Random(i), made);
  made.remember();
  return made;
}

async function runCase(random: Random, made: SessionBench): Promise<void> {
  const device = random.pick(HOSTILE_DEVICES);
  const guarded = new GuardedRam();
  try {
    for (let i = random.between(1, 3); i > 0; i--) {
      made.good.pulse();
      new HostileFrontEnd(new Random(random.u32()), made, device, guarded.ram).run();
      made.checkAlive();
      guarded.check();
      made.checkDescriptors();
    }
    if (random.oneIn(3)) checkStored(made.pathOf(device));
    if (random.oneIn(20)) made.good.reconnect();
    made.good.settle();
    await made.checkControl();
    made.checkDescriptors();
  } finally {
    guarded.ram.close();
  }
}

/** Reads the whole disk: no byte of it is from outside the regions. */
function checkStored(path: string): void {
  const ram = new GuestRam(2 << 20);
  const guest = MultiQueueGuest.connect(path, { queues: [{ size: 64 }], ram });
  try {
    const { driver } = guest.queues[0]!;
    for (let page = 0; page < DISK_PAGES; page += PAGES_PER_READ) {
      driver.submit(read(page, PAGES_PER_READ));
      driver.flush();
      guest.completeAll((_, { status, data }) => {
        check(status === 0, `page ${page} of a hostile guest's disk: status ${status}`);
        GuardedRam.checkStored(data, `page ${page} of a hostile guest's disk`);
      }, ANSWER_MILLIS_MAX);
    }
  } finally {
    guest.close();
  }
}
