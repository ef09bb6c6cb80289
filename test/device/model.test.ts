/**
 * The whole device against a trivially correct model: random requests of all kinds, 32 deep on four
 * queues, in memory above 4 GiB; every byte read and every figure compared. Through the real socket
 * against the built daemon, and in process with a store whose positions are beyond 2^31.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { closeFd } from '../../src/native/fd.ts';
import { arenaState, storeLayout } from '../../src/store/layout.ts';
import { readStatistics } from '../../src/store/statistics.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { Daemon, isBuilt } from '../driver/daemon.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { makeHighRam } from '../driver/multi-queue.ts';
import { withdrawBlocksBelow } from '../models/arena-harness.ts';
import { DeviceProgram, STRIPE_SLOTS } from '../models/device-program.ts';
import { MODEL_DAEMON_ARGS, runModel } from '../models/model-run.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const OPERATIONS = 20_000;
const LOCAL_OPERATIONS = 12_000;
const GIB = 2 ** 30;
const PAGE_BYTES = 4096;
/** Positions count words of 4 bytes: page 2^21 is where they reach 2^31. */
const BLOCK_BEYOND_2_31 = 2 ** 17;
const FEATURES =
  BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX;

const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

if (!isBuilt) console.warn('model.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('the daemon, through its socket,', () => {
  it.each([
    [OPERATIONS, 1],
    [OPERATIONS / 2, 4],
  ])(
    `does what the model says over %i operations, with exact statistics; %i queue threads (seed ${SEED})`,
    async (operations, threads) => {
      const daemon = await Daemon.start([...MODEL_DAEMON_ARGS, '--queue-threads', `${threads}`]);
      cleanUps.push(() => daemon.stop());
      const { statistics } = await runModel(daemon, { seed: SEED, operations });
      // Each kind of page and request took part.
      for (const name of ['num_reads', 'num_writes', 'notify_free', 'invalid_io'] as const) {
        expect(statistics[name], name).toBeGreaterThan(operations / 100);
      }
      for (const name of ['pages_zero', 'pages_same', 'pages_stored'] as const) {
        expect(statistics[name], name).toBeGreaterThan(100);
      }
      expect(statistics).toMatchObject({ failed_reads: 0, failed_writes: 0 });
    },
    180_000,
  );
});

/** A disk of 16 GiB whose arena hands out only pages in its upper half. */
function makeHighDevice(): LocalDevice {
  const local = new LocalDevice({ diskBytes: 16 * GIB, numQueues: 4 }, makeHighRam());
  const { store } = local.device;
  const layout = storeLayout({ slots: store.slots });
  const { buffer } = store.mapped.table;
  const state = arenaState({ memory: { buffer } } as Parameters<typeof arenaState>[0], layout);
  // What the swap header's block has to spare goes back first: it lies low.
  for (let now = 0; store.maintain(now) >= 0; now += 400_001) {
    if (now > 1e8) throw new Error('the store never comes to rest');
  }
  withdrawBlocksBelow(
    { arena: store.mapped.arena, fd: store.mapped.shared.fd, state },
    BLOCK_BEYOND_2_31,
  );
  return local;
}

/** Everywhere on the disk, both ends included. */
function spreadStripes(slots: number, count: number): number[] {
  const stripes = slots / STRIPE_SLOTS;
  return Array.from(
    { length: count },
    (_, i) => Math.floor((i * (stripes - 1)) / (count - 1)) * STRIPE_SLOTS,
  );
}

describe('a device whose table words are beyond 2^31', () => {
  it(`does what the model says over ${LOCAL_OPERATIONS} operations (seed ${SEED})`, () => {
    const local = makeHighDevice();
    cleanUps.push(() => {
      local.close();
      closeFd(local.device.store.mapped.shared.fd);
    });
    local.negotiate(FEATURES);
    local.frontEnd.setMemoryTable(local.ram);
    const drivers = [1024, 256, 128, 32].map((size, i) => {
      const driver = local.makeRing(size, { startIndex: 65_500 + i });
      local.frontEnd.startRing(i, driver.ring, { kick: local.eventFd() });
      local.frontEnd.setEnabled(i, true);
      return driver;
    });
    const { store } = local.device;
    const program = new DeviceProgram({
      seed: SEED,
      slots: store.slots,
      name: local.device.name,
      header: firstPageOf(local),
      stripes: spreadStripes(store.slots, 24),
    });
    while (program.operations < LOCAL_OPERATIONS) {
      program.submit(drivers);
      for (const driver of drivers) driver.flush();
      local.serve();
      drivers.forEach((driver, queue) => {
        for (const done of driver.complete()) program.take(queue, done);
        expect(driver.inFlight).toBe(0);
      });
      const identity = null;
      program.compareStatistics(readStatistics(identity, store.mapped));
    }
    const words = spreadStripes(store.slots, 24).flatMap((first) => [
      ...store.mapped.table.subarray(first, first + STRIPE_SLOTS),
    ]);
    const positions = words.filter((word) => word >>> 0 >= 1024);
    const beyond = positions.filter((word) => word >>> 0 >= 2 ** 31);
    expect(beyond.length).toBeGreaterThan(500);
    // The swap header's own page is the only one that was not withdrawn.
    expect(positions.length - beyond.length).toBeLessThan(50);
  }, 120_000);
});

/** Page 0 as the store keeps it: raw, in the arena's page 1. */
function firstPageOf(local: LocalDevice): Uint8Array {
  const { arena } = local.device.store.mapped;
  const words = arena.segments[0]!.slice(PAGE_BYTES / 4, PAGE_BYTES / 2);
  return new Uint8Array(words.buffer);
}
