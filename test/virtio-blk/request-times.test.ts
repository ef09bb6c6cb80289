/**
 * How long requests take, told exactly by a clock that the test moves: pages take a time each, and
 * whatever else happens takes none.
 */

import { describe, expect, it } from 'vitest';
import { LATENCY, LATENCY_BUCKETS } from '../../src/base/latency.ts';
import type { PageResult } from '../../src/base/page-operation.ts';
import type { PageWindow } from '../../src/store/page-window.ts';
import { InflightRegion } from '../../src/virtio/inflight.ts';
import { REQUESTS } from '../../src/virtio-blk/page-device.ts';
import { VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES } from '../../src/virtio-blk/protocol.ts';
import { RequestTimes } from '../../src/virtio-blk/request-times.ts';
import { ArrayPageDevice } from '../driver/array-page-device.ts';
import { indirect, separate } from '../driver/layouts.ts';
import type { LocalQueue, LocalQueueOptions } from '../driver/local-queue.ts';
import { openPending, openQueue } from '../driver/open-queues.ts';
import { Random } from '../driver/random.ts';
import { type FakeClock, makeFigures } from '../driver/request-figures.ts';
import { clear, read, write } from '../driver/requests.ts';

const PAGE = 4096;
const PAGE_MICROS = 5;
const SLOTS = 512;

/** Each page read or written takes PAGE_MICROS. */
class SlowDevice extends ArrayPageDevice<PageWindow> {
  clock: FakeClock | undefined;

  override writePage(slot: number, window: PageWindow, offset: number): PageResult {
    this.clock!.now += PAGE_MICROS;
    return super.writePage(slot, window, offset);
  }

  override readPage(slot: number, window: PageWindow, offset: number): PageResult {
    this.clock!.now += PAGE_MICROS;
    return super.readPage(slot, window, offset);
  }
}

function openSlow(options: LocalQueueOptions = {}): LocalQueue {
  const device = new SlowDevice(SLOTS);
  const local = openQueue(device, options);
  device.clock = local.figures.clock;
  return local;
}

interface Times {
  /** Those with any, as [bucket, count]. */
  readonly buckets: [bucket: number, count: number][];
  readonly micros: number;
}

function timesOf({ figures }: LocalQueue, kind: keyof typeof REQUESTS): Times {
  const first = REQUESTS[kind] * LATENCY.DOUBLES;
  const counts = [...figures.latencies.subarray(first, first + LATENCY_BUCKETS)];
  const buckets = counts.flatMap((count, i) =>
    count === 0 ? [] : [[i, count] as [number, number]],
  );
  return { buckets, micros: figures.latencies[first + LATENCY.sum]! };
}

/** Of a read of one page, so that a ring holds as many as it is long. */
const ONE_DESCRIPTOR = indirect(separate({ readable: 16, writable: PAGE + 1 }));
const NOTHING: Times = { buckets: [], micros: 0 };

/** Time passes, and the reactor reads the clock before it serves. */
function serveAt(local: LocalQueue, now: number): void {
  local.figures.clock.now = now | 0;
  local.figures.clock.read();
  local.serveAll();
}

function submitAll(local: LocalQueue, requests: readonly Parameters<LocalQueue['run']>[0][]): void {
  for (const request of requests) local.driver.submit(request);
  local.driver.flush();
}

describe('a request that is done at once', () => {
  it('has taken as long as its pages', () => {
    const local = openSlow();
    submitAll(local, [read(3, 4)]);
    serveAt(local, 1000);
    expect(timesOf(local, 'read')).toEqual({ buckets: [[4, 1]], micros: 20 });
    expect(timesOf(local, 'write')).toEqual(NOTHING);
    expect(local.figures.clock.reads).toBe(2);
  });

  it('is counted by its kind; discards and write-zeroes are one, others none', () => {
    const local = openSlow();
    const ranges = [{ sector: 8, sectors: 16 }];
    local.run(write(1, new Uint8Array(2 * PAGE)));
    local.run(clear(VIRTIO_BLK_T_DISCARD, ranges));
    local.run(clear(VIRTIO_BLK_T_WRITE_ZEROES, ranges));
    local.run({ type: 8, sector: 0, inBytes: 20 });
    local.run({ type: 4, sector: 0 });
    local.run({ type: 99, sector: 0 });
    expect(timesOf(local, 'write')).toEqual({ buckets: [[3, 1]], micros: 10 });
    expect(timesOf(local, 'discard')).toEqual({ buckets: [[0, 2]], micros: 0 });
    expect(timesOf(local, 'read')).toEqual(NOTHING);
    expect(local.counts[REQUESTS.other]).toBe(3);
  });

  it('is counted when it is refused, too', () => {
    const local = openSlow();
    local.run(read(SLOTS, 1));
    expect(local.invalid).toBe(1);
    expect(timesOf(local, 'read').buckets).toEqual([[0, 1]]);
  });

  it('is counted right while the clock wraps', () => {
    const local = openSlow();
    submitAll(local, [read(3, 4)]);
    serveAt(local, 2 ** 31 - 10);
    expect(timesOf(local, 'read')).toEqual({ buckets: [[4, 1]], micros: 20 });
  });
});

describe('the clock', () => {
  it('is read once a batch: all of it began when the last one had been published', () => {
    const local = openSlow();
    submitAll(
      local,
      Array.from({ length: 32 }, (_, i) => read(i, 1)),
    );
    const { clock } = local.figures;
    clock.reads = 0;
    local.serveAll();
    // Half of what waits, 16, then again.
    expect(clock.reads).toBe(2);
    const batch = 16 * PAGE_MICROS;
    expect(timesOf(local, 'read')).toEqual({ buckets: [[6, 32]], micros: 32 * batch });
  });

  it('is read again in a batch of large requests, so that the last are not as old as the first', () => {
    const local = openSlow();
    submitAll(
      local,
      Array.from({ length: 3 }, (_, i) => read(16 * i, 16)),
    );
    local.serveAll();
    // After two of them: they have cost more than a batch of single pages.
    const one = 16 * PAGE_MICROS;
    expect(timesOf(local, 'read').micros).toBe(3 * one + 3 * one + one);
  });

  it('is read at the end of a turn that has published nothing, and not where nothing was done', () => {
    const local = openSlow();
    const { clock } = local.figures;
    submitAll(local, [read(0, 32)]);
    expect(local.queue.serve(8)).toBeLessThanOrEqual(0);
    expect([clock.reads, clock.micros]).toEqual([1, 7 * PAGE_MICROS]);
    local.serveAll();
    const { reads } = clock;
    expect(local.queue.serve(64)).toBe(64);
    expect(clock.reads).toBe(reads);
  });
});

describe('a request that waits for its pages', () => {
  function openWaiting(options: LocalQueueOptions = {}) {
    return { ...openPending(SLOTS, options), random: new Random(1) };
  }

  it('is as old as it is when the driver can see it, some turns later', () => {
    const { device, local, random } = openWaiting();
    submitAll(local, [read(3, 2)]);
    serveAt(local, 1000);
    serveAt(local, 3000);
    device.settleOne(random);
    serveAt(local, 7000);
    expect(timesOf(local, 'read')).toEqual(NOTHING);
    device.settleOne(random);
    serveAt(local, 11_000);
    expect(timesOf(local, 'read')).toEqual({ buckets: [[13, 1]], micros: 10_000 });
  });

  it('makes those older that are done and come behind it', () => {
    const { device, local, random } = openWaiting();
    device.isSlow = (slot) => slot === 5;
    submitAll(local, [read(5, 1)]);
    serveAt(local, 0);
    submitAll(local, [write(6, new Uint8Array(PAGE)), read(7, 1)]);
    serveAt(local, 100);
    expect([timesOf(local, 'read'), timesOf(local, 'write')]).toEqual([NOTHING, NOTHING]);
    device.settleAll(random);
    serveAt(local, 500);
    expect(timesOf(local, 'read').micros).toBe(500 + 400);
    expect(timesOf(local, 'write').micros).toBe(400);
  });

  it('does not where an in-flight area lets them be returned out of order', () => {
    const { device, local, random } = openWaiting();
    const { ring } = local.driver;
    const area = new Uint8Array(1 << 16);
    const view = { u8: area, u16: new Uint16Array(area.buffer), i32: new Int32Array(area.buffer) };
    const region = new InflightRegion(view as never, 64, ring.size);
    local.queue.ring.start(ring.startIndex, { eventIdx: false, indirect: true }, region);
    local.queue.begin();
    device.isSlow = (slot) => slot === 5;
    submitAll(local, [read(5, 1), write(6, new Uint8Array(PAGE))]);
    serveAt(local, 0);
    expect(timesOf(local, 'write').buckets).toEqual([[0, 1]]);
    device.settleAll(random);
    serveAt(local, 500);
    expect(timesOf(local, 'read').micros).toBe(500);
  });

  it('that is given up begins anew when it is popped again', () => {
    const { device, local, random } = openWaiting();
    submitAll(local, [read(5, 1), read(6, 1)]);
    serveAt(local, 0);
    local.queue.suspend();
    serveAt(local, 900);
    device.settleAll(random);
    serveAt(local, 1000);
    expect(timesOf(local, 'read')).toEqual({ buckets: [[6, 2]], micros: 200 });
  });

  it('is one of as many as the ring holds, and of the next, that are published together', () => {
    const { device, local, random } = openWaiting({ size: 4 });
    for (let round = 1; round <= 3; round++) {
      for (let i = 0; i < 4; i++) local.driver.submit(read(i, 1), ONE_DESCRIPTOR);
      local.driver.flush();
      serveAt(local, round * 1000);
      local.figures.clock.now += 10;
      device.settleAll(random);
      local.serveAll();
      expect(local.driver.complete()).toHaveLength(4);
      expect(timesOf(local, 'read')).toEqual({ buckets: [[3, 4 * round]], micros: 40 * round });
    }
  });
});

it('what was pushed is forgotten with the ring, and what is published counts once', () => {
  const figures = makeFigures();
  const times = new RequestTimes(figures);
  times.reset(2);
  times.pushed(REQUESTS.read, 0);
  times.reset(2);
  times.pushed(REQUESTS.write, 0);
  times.pushed(REQUESTS.other, 0);
  figures.clock.now = 3;
  times.published();
  times.published();
  expect(figures.latencies[REQUESTS.read * LATENCY.DOUBLES + LATENCY.sum]).toBe(0);
  expect(figures.latencies[REQUESTS.write * LATENCY.DOUBLES + LATENCY.sum]).toBe(3);
  expect(figures.latencies.reduce((sum, one) => sum + one)).toBe(1 + 3);
});
