/**
 * The warmed data path allocates nothing: 100,000 requests of all kinds, at depths 1 and 32, on
 * several queues, in memory above 4 GiB, cause no garbage collection in the reactor. V8 itself says
 * so (--trace-gc), with a young generation so small that eleven bytes a request fill it.
 *
 * Each line names its isolate. Which is the control thread's and which the reactor's is found out by
 * making each of them allocate while the other rests; after the measurement the reactor is made to
 * allocate again, so that silence was not deafness.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import { Daemon, isBuilt, sleep } from '../driver/daemon.ts';
import { endOf, SharedLog } from '../driver/dirty-tracker.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { makeFolder } from '../driver/sockets.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { MixedLoad } from '../models/mixed-load.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const WARM_UP_REQUESTS = 20_000;
const REQUESTS = 100_000;
const DISK_SLOTS = 4096;
/** In MiB, the least there is; without it V8 lets the space grow to sixteen. */
const NODE_FLAGS = ['--trace-gc', '--min-semi-space-size=1', '--max-semi-space-size=1'];
const ARGS = ['--num-queues', '4', '--log-level', 'warn'];
const DISK_BYTES = DISK_SLOTS * 4096;
const QUEUES = [{ size: 1024 }, { size: 256 }, { size: 1024 }, { size: 1024 }];
const TRIES_MAX = 400;

const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Collection {
  readonly isolate: string;
  readonly line: string;
}

/** `[1234:0x5581c0de0000]     1234 ms: Scavenge 4.1 (5.2) -> …` */
function collections(daemon: Daemon): Collection[] {
  return [...daemon.stdout.matchAll(/^\[\d+:(0x[0-9a-f]+)[^\]]*\].*$/gm)].map((match) => ({
    isolate: match[1]!,
    line: match[0],
  }));
}

/** Does `work` over and over until it has caused a collection in some other isolate than `not`. */
async function isolateThatCollects(daemon: Daemon, work: () => unknown, not?: string) {
  await sleep(100);
  const before = collections(daemon).length;
  for (let i = 0; i < TRIES_MAX; i++) {
    await work();
    await sleep(0);
    const found = collections(daemon)
      .slice(before)
      .find(({ isolate }) => isolate !== not);
    if (found !== undefined) return found.isolate;
  }
  throw new Error(`no collection was reported: ${daemon.stdout.slice(-500)}`);
}

if (!isBuilt) console.warn('allocation.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

/** Where pages go: memory; or memory and a swap file, or little else than that. And a dirty log. */
const DISKS: readonly [string, number, () => string[], 'logged'?][] = [
  ['in memory', REQUESTS, () => ['--disksize', `${DISK_BYTES}`]],
  [
    'in memory, by two threads',
    REQUESTS / 4,
    () => ['--disksize', `${DISK_BYTES}`, '--queue-threads', '2'],
  ],
  [
    'in sectors',
    REQUESTS / 4,
    () => ['--disksize', `${DISK_BYTES}`, '--logical-block-size', '512'],
  ],
  ['in memory, under a dirty log', REQUESTS / 4, () => ['--disksize', `${DISK_BYTES}`], 'logged'],
  ['half on a backing swap', REQUESTS / 4, () => backed('8M')],
  [
    'half on a backing swap, in sectors',
    REQUESTS / 4,
    () => [...backed('8M'), '--logical-block-size', '512'],
  ],
  [
    'by Linux AIO, all on a backing swap',
    REQUESTS / 4,
    () => [...backed('4K'), '--backing-io', 'aio'],
  ],
];

function backed(memlimit: string): string[] {
  const { path, remove } = makeSwapFile(DISK_BYTES);
  cleanUps.push(remove);
  return ['--backing-swap', path, '--memlimit', memlimit];
}

describe.skipIf(!isBuilt)('the warmed data path', () => {
  it.each(DISKS)(
    `%s, causes no garbage collection over %i requests (seed ${SEED})`,
    async (_, requests, disk, isLogged) => {
      const args = disk();
      const daemon = await Daemon.start([...ARGS, ...args], {}, makeFolder(), NODE_FLAGS);
      cleanUps.push(() => daemon.stop());
      const client = await ControlClient.connect(daemon.controlPath);
      cleanUps.push(() => client.close());
      const askControl = async () => {
        for (let i = 0; i < 50; i++) await client.call('statistics', { device: 'ramzswap0' });
      };
      const control = await isolateThatCollects(daemon, askControl);

      const guest = MultiQueueGuest.connect(daemon.socketPath, { queues: QUEUES });
      cleanUps.push(() => guest.close());
      const log = new SharedLog(endOf(guest.ram));
      cleanUps.push(() => log.close());
      if (isLogged === 'logged') guest.beginLog(log);
      const askReactor = () => {
        for (let i = 0; i < 50; i++) guest.frontEnd.getConfig(0, 60);
      };
      const reactor = await isolateThatCollects(daemon, askReactor, control);

      const load = new MixedLoad(SEED, DISK_SLOTS, args.includes('512'));
      load.run(guest, WARM_UP_REQUESTS / 2, 1);
      load.run(guest, WARM_UP_REQUESTS / 2, 32);
      await sleep(300);
      // A queue thread's too.
      const ofServing = () => collections(daemon).filter(({ isolate }) => isolate !== control);
      const before = ofServing().length;
      for (const depth of [32, 1]) {
        load.run(guest, requests / 2, depth);
        // What the child has printed is read between the runs; so is what it does when it falls idle.
        await sleep(300);
      }
      // One may be of what came before: the last one's room is not empty when the count begins.
      expect(ofServing().slice(before + 1)).toEqual([]);
      expect(log.take().length > 0).toBe(isLogged === 'logged');

      expect(await isolateThatCollects(daemon, askReactor, control)).toBe(reactor);
    },
    180_000,
  );
});
