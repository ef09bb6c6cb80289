/**
 * Figures of time of a whole daemon, against the clock of the one who asks: latencies, also of requests
 * that wait for a disk; time that was spent serving and polling; processor time; the oldest page.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { VIRTIO_BLK_T_DISCARD } from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt, sleep } from '../driver/daemon.ts';
import type { BlockRequest } from '../driver/guest-driver.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { areLatenciesCounted, checkLatencies } from '../models/known-figures.ts';

const ROUNDS = 400;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

if (!isBuilt) console.warn('figures.test.ts: SKIPPED, dist/ is missing: run "npm run build"');

async function start(args: readonly string[], index = 0, env = {}) {
  const daemon = await Daemon.start([...args, '--log-level', 'warn'], env);
  cleanUps.push(() => daemon.stop());
  const client = await ControlClient.connect(daemon.controlPath);
  cleanUps.push(() => client.close());
  const attached = AttachedDriver.connect(daemon, { index });
  cleanUps.push(() => attached.close());
  const statistics = () => client.call<Statistics>('statistics', { device: 'ramzswap0' });
  /** Once all that was answered is counted, which comes behind the answer. */
  const counted = async () => {
    for (let tries = 0; ; tries++) {
      const figures = await statistics();
      if (areLatenciesCounted(figures) || tries === 100) return figures;
      await sleep(2);
    }
  };
  const run = (request: BlockRequest) => {
    attached.driver.submit(request);
    attached.driver.flush();
    expect(attached.completeAll(10_000)).toMatchObject([{ status: 0 }]);
  };
  return { client, statistics, counted, run };
}

const microsSince = (begun: number) => (performance.now() - begun) * 1000;

describe.skipIf(!isBuilt)('figures of time', () => {
  it.each([1, 3])('are within what has passed for the guest; %i queue threads', async (threads) => {
    // The last thread's ring.
    const args = ['--queue-threads', `${threads}`];
    const { statistics, counted, run } = await start(args, threads - 1);
    const before = await statistics();
    const random = new Random(1);
    const begun = performance.now();
    for (let i = 0; i < ROUNDS; i++) {
      run(write(1 + (i % 50), random.bytes(4096)));
      run(read(1 + (i % 50), 1));
    }
    run(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 8, sectors: 80 }]));
    const after = await counted();
    const passed = microsSince(begun);
    expect(after).toMatchObject({ requests_read: ROUNDS, requests_write: ROUNDS });
    expect(after.requests_discard).toBe(1);
    checkLatencies(after);
    // One at a time: all of them together, and what was done for them, is within.
    const { read_latency_micros, write_latency_micros } = after;
    const waited = read_latency_micros + write_latency_micros + after.discard_latency_micros;
    expect(waited).toBeGreaterThan(ROUNDS);
    // Less than a millisecond of it is not counted yet.
    expect(after.serve_micros).toBeGreaterThanOrEqual(waited - 1000);
    expect(after.serve_micros).toBeLessThan(passed);
    expect(after.poll_micros).toBeLessThan(passed - after.serve_micros);
    const cpu = after.cpu_micros - before.cpu_micros;
    expect(cpu).toBeGreaterThan(ROUNDS);
    expect(cpu).toBeLessThan(passed * threads);
  });

  it('have polling in them as soon as there is any', async () => {
    const { statistics, run } = await start([]);
    const begun = performance.now();
    let polled = 0;
    // On a busy machine it gives way to others for most of the time.
    while (polled === 0 && microsSince(begun) < 20e6) {
      for (let i = 0; i < 200; i++) run(read(1, 1));
      polled = (await statistics()).poll_micros;
    }
    expect(polled).toBeGreaterThan(0);
  }, 30_000);

  it('stand still while a guest is quiet', async () => {
    const { statistics, run } = await start([]);
    run(read(1, 1));
    await sleep(1500);
    const before = await statistics();
    await sleep(500);
    const after = await statistics();
    expect(after.serve_micros).toBe(before.serve_micros);
    expect(after.poll_micros - before.poll_micros).toBeLessThan(1000);
    expect(after.cpu_micros - before.cpu_micros).toBeLessThan(50_000);
  });

  it('have requests as old as they are that wait for a disk', async () => {
    const swap = makeSwapFile(32 << 20);
    cleanUps.push(swap.remove);
    const faults = { RAMZSWAP_FAULT_INJECTION: '1' };
    const { client, counted, run } = await start(['--backing-swap', swap.path], 0, faults);
    await client.call('fault', { backing: { delayMillis: 60 } });
    const begun = performance.now();
    for (let i = 1; i <= 3; i++) run(write(i, new Random(i).bytes(4096)));
    for (let i = 1; i <= 2; i++) run(read(i, 1));
    const figures = await counted();
    const passed = microsSince(begun);
    checkLatencies(figures);
    for (const [micros, count] of [
      [figures.write_latency_micros, 3],
      [figures.read_latency_micros, 2],
      [figures.bdev_write_latency_micros, 3],
      [figures.bdev_read_latency_micros, 2],
    ] as const) {
      expect(micros).toBeGreaterThanOrEqual(count * 59_000);
    }
    expect(figures.write_latency_micros + figures.read_latency_micros).toBeLessThan(passed);
    expect(figures.bdev_write_latency_micros).toBeLessThanOrEqual(figures.write_latency_micros);
    // The disk's time is not the thread's.
    expect(figures.serve_micros).toBeLessThan(passed / 2);
  });

  it.each([1, 2])('know since when the oldest page is held; %i queue threads', async (threads) => {
    const args = ['--queue-threads', `${threads}`];
    const { statistics, run } = await start(args, threads - 1);
    // Not the swap header.
    await sleep(1100);
    expect((await statistics()).oldest_page_seconds).toBe(0);
    run(write(5, new Random(1).bytes(4096)));
    await sleep(3500);
    run(write(6, new Random(2).bytes(4096)));
    const { oldest_page_seconds } = await statistics();
    expect(oldest_page_seconds).toBeGreaterThanOrEqual(2);
    expect(oldest_page_seconds).toBeLessThan(60);
    for (const page of [5, 6]) run(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 8 * page, sectors: 8 }]));
    expect((await statistics()).oldest_page_seconds).toBe(0);
  });
});
