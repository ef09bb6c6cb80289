/**
 * Wake-ups, against the built daemon in a process of its own: short bursts with pauses between them,
 * so that the device is found polling, falling asleep and sleeping, and the driver likewise. A kick
 * or an interrupt lost in either direction is a request that never comes back.
 */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { monotonicMicros } from '../../src/native/clock.ts';
import {
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt } from '../driver/daemon.ts';
import { sleepMillis } from '../driver/front-end.ts';
import { Random } from '../driver/random.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const ROUNDS = 100_000;
/** What one configuration may take; the rounds that fit are run, and a minimum is demanded. */
const MILLIS_MAX = 12_000;
const ROUNDS_MIN = 20_000;
/**
 * A request must come back within this. The device's upkeep looks at the rings too, 400 to 500 ms
 * after the last request: waiting longer would let it hide a kick that was lost.
 */
const LOST_MILLIS = 350;
const PAGES = 256;

let daemon: Daemon | undefined;

beforeAll(async () => {
  if (!isBuilt) return;
  daemon = await Daemon.start(['--log-level', 'warn']);
});

afterAll(() => daemon?.stop());

function pause(random: Random): void {
  if (random.oneIn(2)) return;
  if (random.oneIn(2000)) sleepMillis(2);
  const micros = random.oneIn(4) ? random.below(200) : random.below(30);
  const start = monotonicMicros();
  while (((monotonicMicros() - start) | 0) < micros);
}

if (!isBuilt) console.warn('reactor.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('no wake-up is lost', () => {
  it.each([true, false])('over bursts of 1 to 4 requests, event index %s', async (eventIdx) => {
    const seed = SEED + (eventIdx ? 1 : 0);
    const random = new Random(seed);
    const attached = AttachedDriver.connect(daemon!, { size: 16, eventIdx, startIndex: 65000 });
    const { driver } = attached;
    const page = random.page();
    const end = Date.now() + MILLIS_MAX;
    let round = 0;
    try {
      for (; round < ROUNDS && (round % 256 !== 0 || Date.now() < end); round++) {
        const depth = random.between(1, 4);
        for (let i = 0; i < depth; i++) {
          const sector = 8 * random.below(PAGES);
          const kind = random.below(8);
          if (kind === 0) driver.submit({ type: VIRTIO_BLK_T_IN, sector, inBytes: 4096 });
          else if (kind === 1) driver.submit({ type: VIRTIO_BLK_T_OUT, sector, data: page });
          else driver.submit({ type: VIRTIO_BLK_T_FLUSH, sector: 0 });
          // Kicks in the middle of a burst as well as at its end.
          if (random.oneIn(3)) driver.flush();
        }
        driver.flush();
        if (random.oneIn(4)) pause(random);
        for (const { status } of attached.completeAll(LOST_MILLIS)) {
          if (status !== 0) throw new Error(`status ${status}`);
        }
        pause(random);
        // Let the child's output and the test runner through now and then.
        if (round % 4096 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      throw new Error(`round ${round}, seed ${seed}: ${(error as Error).message}`);
    } finally {
      attached.close();
    }
    expect(round).toBeGreaterThan(ROUNDS_MIN);
    // Both ways of waiting must have happened, or the test has shown nothing.
    expect(attached.kicks, 'kicks').toBeGreaterThan(round / 100);
    expect(attached.sleeps, 'sleeps of the driver').toBeGreaterThan(round / 100);
  });
});
