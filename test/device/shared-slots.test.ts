/**
 * Several queues at the same slots of a device, by several threads: each slot is one register, no
 * page is torn or another slot's, and what is counted at the end is what was done.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { Daemon, isBuilt } from '../driver/daemon.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { SEED } from '../models/random.ts';
import { SharedSlots } from '../models/shared-slots.ts';

const RAM_BYTES = 16 << 20;
const RING_SIZE = 256;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

if (!isBuilt) console.warn('shared-slots.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)(`slots are registers (SEED=${SEED})`, () => {
  it.each([
    [1, 4, 40, 20_000],
    // So few that the same locks are always wanted: without them it fails within seconds.
    [2, 4, 8, 60_000],
    [4, 8, 8, 60_000],
    [4, 4, 300, 60_000],
  ])(
    'by %i threads, from %i queues, at %i slots, %i pages',
    async (threads, queueCount, slots, operations) => {
      const daemon = await Daemon.start(['--queue-threads', `${threads}`, '--log-level', 'warn']);
      cleanUps.push(() => daemon.stop());
      const queues = Array.from({ length: queueCount }, () => ({ size: RING_SIZE }));
      const ram = new GuestRam(RAM_BYTES);
      const guest = MultiQueueGuest.connect(daemon.socketPath, { queues, ram });
      cleanUps.push(() => guest.close());
      const load = new SharedSlots({ seed: SEED + threads, slots, depth: 32 });
      load.run(guest, operations);
      expect(load.impossible()).toEqual([]);
      expect(load.racing).toBeGreaterThan(0.01);
      expect(load.restarts).toBeGreaterThan(0);

      const control = await ControlClient.connect(daemon.controlPath);
      cleanUps.push(() => control.close());
      const figures = await control.call<Statistics>('statistics', { device: 'ramzswap0' });
      expect(figures).toMatchObject({ failed_reads: 0, failed_writes: 0, invalid_io: 0 });
      const { pages_stored, pages_zero, pages_same } = figures;
      // The swap header is one more.
      expect(pages_stored + pages_zero + pages_same).toBeLessThanOrEqual(slots + 1);
      expect(daemon.stderr).toBe('');
    },
    60_000,
  );
});
