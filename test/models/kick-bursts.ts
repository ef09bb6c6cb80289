/**
 * Short bursts with pauses between them against a daemon, so that the device is found polling,
 * falling asleep and sleeping, and the driver likewise. A kick or an interrupt lost in either
 * direction is a request that never comes back.
 */

import { monotonicMicros } from '../../src/native/clock.ts';
import {
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, type Daemon } from '../driver/daemon.ts';
import { sleepMillis } from '../driver/front-end.ts';
import type { GuestDriver } from '../driver/guest-driver.ts';
import { Random } from '../driver/random.ts';

/**
 * A request must come back within this. The device's upkeep looks at the rings too, 400 to 500 ms
 * after the last request: waiting longer would let it hide a kick that was lost.
 */
const LOST_MILLIS = 350;
const PAGES = 256;

export interface BurstOptions {
  readonly seed: number;
  readonly eventIdx: boolean;
  /** The ring: with several queue threads, that of its number serves it. Default 0. */
  readonly index?: number;
  readonly rounds: number;
  /** The rounds that fit into this are run. Default: all. */
  readonly millisMax?: number;
}

export interface BurstFigures {
  readonly rounds: number;
  readonly kicks: number;
  readonly sleeps: number;
}

function pause(random: Random): void {
  if (random.oneIn(2)) return;
  if (random.oneIn(2000)) sleepMillis(2);
  const micros = random.oneIn(4) ? random.below(200) : random.below(30);
  const start = monotonicMicros();
  while (((monotonicMicros() - start) | 0) < micros);
}

function submitBurst(driver: GuestDriver, random: Random, page: Uint8Array): void {
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
}

/** Runs bursts of 1 to 4 requests; throws, with round and seed, when one does not come back. */
export async function runBursts(daemon: Daemon, options: BurstOptions): Promise<BurstFigures> {
  const { seed, eventIdx, index = 0, rounds, millisMax = Number.POSITIVE_INFINITY } = options;
  const random = new Random(seed);
  const attached = AttachedDriver.connect(daemon, { size: 16, eventIdx, index, startIndex: 65000 });
  const page = random.page();
  const end = Date.now() + millisMax;
  let round = 0;
  try {
    for (; round < rounds && (round % 256 !== 0 || Date.now() < end); round++) {
      submitBurst(attached.driver, random, page);
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
  return { rounds: round, kicks: attached.kicks, sleeps: attached.sleeps };
}
