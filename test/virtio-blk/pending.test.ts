/**
 * Requests whose pages end later: held, completed in any order, returned in order; given up and
 * popped again; and a driver that makes more of them than can be.
 */

import { describe, expect, it } from 'vitest';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_S_OK as OK,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/virtio-blk/protocol.ts';
import { expectBytes } from '../driver/bytes.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { joined, randomLayout } from '../driver/layouts.ts';
import type { LocalQueueOptions } from '../driver/local-queue.ts';
import { openPending } from '../driver/open-queues.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';
import { DeviceProgram, STRIPE_SLOTS } from '../models/device-program.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const SLOTS = 256;
const PAGE = 4096;

function setUp(options: LocalQueueOptions = {}) {
  return { ...openPending(SLOTS, options), random: new Random(SEED) };
}

/** Serves and settles until nothing is pending and nothing is left to serve. */
function finish({ device, local, random }: ReturnType<typeof setUp>, budget = 64): void {
  local.serveAll(budget);
  while (device.pending > 0 || local.queue.hasWork) {
    if (device.pending > 0) device.settleOne(random);
    local.serveAll(budget);
  }
}

describe('a request with pending pages', () => {
  it('is returned when the last of them has ended, and not before', () => {
    const bench = setUp();
    const { device, local, random } = bench;
    local.driver.submit(read(3, 4));
    local.driver.flush();
    local.serveAll();
    for (let left = 4; left > 0; left--) {
      expect(local.queue.outstanding).toBe(1);
      expect(local.driver.ring.usedCount).toBe(0);
      device.settleOne(random);
      expect(local.queue.hasWork).toBe(left === 1);
      local.serveAll();
    }
    const [done] = local.driver.complete();
    expect(done).toMatchObject({ status: OK, len: 4 * PAGE + 1 });
    expectBytes(done!.data, device.pages.bytes.subarray(3 * PAGE, 7 * PAGE));
    expect(local.queue.outstanding).toBe(0);
  });

  it('fails when one of them does, whichever it is, and the others are carried out', () => {
    for (const bad of [10, 11, 12]) {
      const bench = setUp();
      const data = new Random(3).bytes(3 * PAGE);
      bench.device.pages.bad.add(bad);
      bench.local.driver.submit(write(10, data));
      bench.local.driver.flush();
      finish(bench);
      expect(bench.local.driver.complete()).toMatchObject([{ status: IOERR, len: 1 }]);
      for (const slot of [10, 11, 12].filter((each) => each !== bad)) {
        const from = (slot - 10) * PAGE;
        expectBytes(bench.device.pages.page(slot), data.subarray(from, from + PAGE));
      }
    }
  });

  it('lets the driver wait for those behind it that are done, and returns them in order', () => {
    const bench = setUp();
    const { device, local, random } = bench;
    device.isSlow = (slot) => slot === 5;
    const numbers = [read(5, 1), read(6, 1), write(7, new Uint8Array(PAGE)), read(8, 2)].map(
      (request) => local.driver.submit(request).number,
    );
    local.driver.flush();
    local.serveAll();
    expect(device.pages.calls).toEqual(['read 6', 'write 7', 'read 8', 'read 9']);
    expect(local.driver.ring.usedCount).toBe(0);
    device.settleAll(random);
    local.serveAll();
    const done = local.driver.complete();
    expect(done.map(({ ticket }) => ticket.number)).toEqual(numbers);
    expect(done.every(({ status }) => status === OK)).toBe(true);
  });

  it('of discards and write-zeroes are waited for as well', () => {
    const bench = setUp();
    const ranges = [
      { sector: 16, sectors: 24 },
      { sector: 51, sectors: 3 },
    ];
    bench.local.driver.submit(clear(VIRTIO_BLK_T_DISCARD, ranges));
    bench.local.driver.submit(clear(VIRTIO_BLK_T_WRITE_ZEROES, ranges));
    bench.local.driver.flush();
    bench.local.serveAll();
    expect(bench.device.pending).toBe(7);
    expect(bench.local.driver.ring.usedCount).toBe(0);
    finish(bench);
    expect(bench.local.driver.complete()).toMatchObject([
      { status: OK, len: 1 },
      { status: OK, len: 1 },
    ]);
    expectBytes(bench.device.pages.page(2), new Uint8Array(PAGE));
    expectBytes(bench.device.pages.page(6).subarray(3 * 512, 6 * 512), new Uint8Array(3 * 512));
  });
});

describe('a device that is full', () => {
  it('stops the ring where it is, without work to do, and goes on when there is room', () => {
    const bench = setUp();
    const { device, local, random } = bench;
    device.capacity = 3;
    local.driver.submit(read(0, 8));
    local.driver.submit(read(20, 2));
    local.driver.flush();
    expect(local.queue.serve(64)).toBeGreaterThan(0);
    expect(local.queue.isActive).toBe(true);
    expect(local.queue.hasWork).toBe(false);
    device.settleOne(random);
    expect(local.queue.hasWork).toBe(true);
    finish(bench);
    const done = local.driver.complete();
    expect(done).toMatchObject([{ status: OK }, { status: OK }]);
    expectBytes(done[0]!.data, device.pages.bytes.subarray(0, 8 * PAGE));
  });

  it('stops a discard too', () => {
    const bench = setUp();
    bench.device.capacity = 2;
    bench.local.driver.submit(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 0, sectors: 160 }]));
    bench.local.driver.flush();
    finish(bench);
    expect(bench.local.driver.complete()).toMatchObject([{ status: OK }]);
    expect(bench.device.pages.calls).toHaveLength(20);
  });
});

describe('giving up', () => {
  it('puts back every request from the oldest that was not returned', () => {
    const bench = setUp({ startIndex: 65534 });
    const { device, local, random } = bench;
    device.isSlow = (slot) => slot === 9;
    const data = new Random(4).bytes(PAGE);
    local.driver.submit(read(1, 1));
    local.driver.submit(read(9, 1));
    local.driver.submit(write(30, data));
    local.driver.submit(read(31, 1));
    local.driver.flush();
    local.serveAll();
    expect(local.driver.complete()).toHaveLength(1);
    local.queue.suspend();
    expect(local.queue.ring.lastAvail).toBe(65535);
    expect([local.queue.outstanding, device.pending]).toEqual([0, 0]);
    finish({ device, local, random });
    expect(local.driver.complete()).toMatchObject([{ status: OK }, { status: OK }, { status: OK }]);
    expectBytes(device.pages.page(30), data);
  });

  it('a request half begun and half pending is given up whole', () => {
    const bench = setUp();
    const { device, local } = bench;
    const data = new Random(4).bytes(20 * PAGE);
    local.driver.submit(write(0, data));
    local.driver.flush();
    local.queue.serve(7);
    expect([local.queue.isActive, device.pending > 0]).toEqual([true, true]);
    local.queue.suspend();
    expect([local.queue.isActive, device.pending]).toEqual([false, 0]);
    finish(bench, 3);
    expect(local.driver.complete()).toMatchObject([{ status: OK }]);
    expectBytes(device.pages.bytes.subarray(0, data.length), data);
  });
});

describe('giving up a queue', () => {
  it('regression: shows the driver what has ended since it was served', () => {
    const { device, local, random } = setUp();
    local.driver.submit(read(9, 1));
    local.driver.flush();
    local.serveAll();
    // As with the operations of another queue that is given up: no turn follows.
    device.settleAll(random);
    local.queue.suspend();
    expect(local.queue.ring.lastAvail).toBe(1);
    expect(local.driver.complete()).toMatchObject([{ status: OK }]);
  });

  it('regression: with a broken chain behind it resumes at the oldest that was not returned', () => {
    const { local } = setUp();
    local.driver.submit(read(9, 1));
    local.driver.submit({ type: 0, sector: 0, inBytes: 4096 });
    local.driver.flush();
    const { ring } = local.driver;
    // The second one's only writable descriptors are no longer in memory.
    for (const index of [4, 5]) {
      ring.setDescriptor(index, { address: 2 ** 40, bytes: 1, flags: 2, next: 0 });
    }
    local.serveAll();
    expect(local.queue.ring.brokenReason).toMatch(/status/);
    local.queue.suspend();
    expect(local.queue.ring.lastAvail).toBe(0);
  });
});

describe('giving up at any moment', () => {
  it('carries out every request as if nothing had happened', () => {
    const bench = setUp({ size: 256, startIndex: 65_500 });
    const { device, local, random } = bench;
    device.pages.isRecording = false;
    device.isSlow = () => random.oneIn(2);
    const model = device.pages.bytes.slice();
    for (let round = 0; round < 150; round++) {
      // Requests in flight together have no order among each other: each has pages of its own.
      const expected = Array.from({ length: random.between(1, 16) }, (_, i) => {
        const pages = random.between(1, 12);
        const slot = i * 16 + random.below(4);
        const range = [slot * PAGE, (slot + pages) * PAGE] as const;
        const isRead = random.oneIn(2);
        const request = isRead ? read(slot, pages) : write(slot, random.bytes(pages * PAGE));
        if (!isRead) model.set(request.data!, range[0]);
        const layout = randomLayout(random, GuestDriver.sizes(request), 20, true);
        const { number } = local.driver.submit(request, layout);
        return { number, data: isRead ? model.slice(...range) : undefined };
      });
      local.driver.flush();
      for (let i = random.between(1, 4); i > 0; i--) {
        local.queue.serve(random.between(1, 40));
        for (let j = random.below(6); j > 0 && device.pending > 0; j--) device.settleOne(random);
        local.queue.suspend();
      }
      finish(bench, random.between(1, 64));
      const done = local.driver.complete();
      expect(done.map(({ ticket }) => ticket.number)).toEqual(expected.map(({ number }) => number));
      done.forEach(({ status, data }, i) => {
        expect(status).toBe(OK);
        if (expected[i]!.data !== undefined) expectBytes(data, expected[i]!.data);
      });
    }
    expectBytes(device.pages.bytes, model);
  });
});

describe('a driver', () => {
  it('with more requests than are held is served as they end', () => {
    const bench = setUp({ size: 1024 });
    for (let i = 0; i < 340; i++) bench.local.driver.submit(read(i % SLOTS, 1));
    bench.local.driver.flush();
    bench.local.serveAll();
    expect(bench.device.pending).toBe(256);
    expect(bench.local.queue.hasWork).toBe(false);
    finish(bench);
    expect(bench.local.driver.complete()).toHaveLength(340);
  });

  it('whose requests are of very many pieces is held to as many pieces in all', () => {
    const bench = setUp({ size: 1024 });
    const sizes = GuestDriver.sizes(read(0, 1));
    const cut = (bytes: number) => Array.from({ length: bytes }, () => ({ bytes: 1 }));
    const writable = [...cut(1000), { bytes: sizes.writable - 1000 }];
    const layout = { readable: [{ bytes: 16 }], writable, indirectFrom: 0 };
    for (let i = 0; i < 60; i++) bench.local.driver.submit(read(i, 1), layout);
    bench.local.driver.flush();
    bench.local.serveAll();
    expect(bench.device.pending).toBe(Math.ceil((256 * 128) / 1002));
    finish(bench);
    expect(bench.local.driver.complete()).toHaveLength(60);
  });

  it('that makes chains available again before they are returned breaks its ring', () => {
    const { local } = setUp({ size: 4 });
    const { driver } = local;
    driver.submit(read(0, 1), joined(GuestDriver.sizes(read(0, 1))));
    driver.flush();
    for (let i = 0; i < 6 && local.queue.ring.brokenReason === undefined; i++) {
      local.queue.serve(64);
      driver.ring.offer(0);
      driver.ring.publish();
    }
    expect(local.queue.ring.brokenReason).toMatch(/more than 4 chains not returned/);
  });
});

describe('random requests, their pages ending in any order,', () => {
  it.each([
    [1, 1024, 40],
    [2, 128, 5],
    [3, 32, 700],
  ])('equal the model (case %i, ring of %i, room for %i)', (number, size, capacity) => {
    const bench = setUp({ size, startIndex: 65_000 });
    const { device, local, random } = bench;
    device.capacity = capacity;
    device.pages.bytes.fill(0);
    device.pages.isRecording = false;
    device.isSlow = () => random.oneIn(3);
    const program = new DeviceProgram({
      seed: SEED + number,
      slots: SLOTS,
      name: 'ramzswap0',
      header: new Uint8Array(PAGE),
      stripes: [0, STRIPE_SLOTS],
    });
    const { model } = program;
    while (program.operations < 3000) {
      program.submit([local.driver]);
      local.driver.flush();
      finish(bench, random.between(1, 64));
      for (const done of local.driver.complete()) program.take(0, done);
      expect(local.driver.inFlight).toBe(0);
    }
    for (let slot = 0; slot < SLOTS; slot++) {
      expectBytes(device.pages.page(slot), model.store.page(slot));
    }
  });
});
