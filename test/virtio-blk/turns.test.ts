/** Serving within a budget, giving requests up and resuming them; and thousands of random requests. */

import { describe, expect, it } from 'vitest';
import { PageStore } from '../../src/store/page-store.ts';
import type { PageWindow } from '../../src/store/page-window.ts';
import { VIRTQ_DESC_F_NEXT as NEXT } from '../../src/virtio/split-ring.ts';
import {
  VIRTIO_BLK_S_OK as OK,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/virtio-blk/protocol.ts';
import { ArrayPageDevice } from '../driver/array-page-device.ts';
import { expectBytes } from '../driver/bytes.ts';
import { type BlockRequest, GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { joined, randomLayout } from '../driver/layouts.ts';
import { openArray, openQueue, SLOTS } from '../driver/open-queues.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';

describe('serving in turns', () => {
  it('a request larger than the budget is resumed, and is done exactly once', () => {
    const { device, local } = openArray();
    const data = new Random(2).bytes(64 * 4096);
    local.driver.submit(write(0, data));
    local.driver.flush();
    let turns = 0;
    while (local.queue.serve(10) <= 0) {
      turns++;
      if (turns > 20) expect.fail('never comes to an end');
      if (local.queue.isActive) expect(local.driver.ring.usedCount).toBe(0);
    }
    expect(turns).toBe(6);
    expect(device.calls).toEqual(Array.from({ length: 64 }, (_, i) => `write ${i}`));
    expectBytes(device.bytes.subarray(0, data.length), data);
    expect(local.driver.complete()).toMatchObject([{ status: OK, len: 1 }]);
  });

  it('a turn moves no more pages than its budget', () => {
    const { device, local } = openArray();
    for (let i = 0; i < 3; i++) local.driver.submit(read(i * 10, 10));
    local.driver.flush();
    for (let before = 0; local.queue.serve(4) <= 0; before = device.calls.length) {
      expect(device.calls.length - before).toBeLessThanOrEqual(4);
    }
    expect(device.calls).toHaveLength(30);
  });

  it('a large discard is worked off in slices', () => {
    const { device, local } = openArray();
    local.driver.submit(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 3, sectors: 8180 }]));
    local.driver.flush();
    let turns = 0;
    for (let before = 0; local.queue.serve(8) <= 0; before = device.calls.length) {
      turns++;
      expect(device.calls.length - before).toBeLessThanOrEqual(8 * 16);
    }
    expect(turns).toBeGreaterThan(5);
    expect(device.calls).toEqual(Array.from({ length: 1021 }, (_, i) => `free ${i + 1}`));
    expect(local.driver.complete()).toMatchObject([{ status: OK }]);
  });

  it('a page that is zeroed in part costs two of a turn, one that is not zeroed costs little', () => {
    const { device, local } = openArray();
    const sector = (i: number) => ({ sector: 8 * i + 1, sectors: 1 });
    const ranges = Array.from({ length: 16 }, (_, i) => sector(i));
    for (let i = 0; i < 8; i++) {
      local.driver.submit(clear(VIRTIO_BLK_T_WRITE_ZEROES, ranges));
    }
    local.driver.flush();
    for (let before = 0; local.queue.serve(64) <= 0; before = device.calls.length) {
      expect(device.calls.length - before).toBeLessThanOrEqual(32);
    }
    expect(device.calls.filter((call) => call.startsWith('part'))).toHaveLength(8 * 16);
    local.driver.submit(clear(VIRTIO_BLK_T_DISCARD, ranges));
    local.driver.flush();
    expect(local.queue.serve(64)).toBe(64 - 2);
    expect(local.driver.complete()).toHaveLength(9);
  });

  it('frees that give memory back to the system cost what that costs', () => {
    const { device, local } = openArray();
    device.punchedByFree = 1;
    local.driver.submit(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 0, sectors: 8000 }]));
    local.driver.flush();
    let turns = 0;
    for (let before = 0; local.queue.serve(64) <= 0; before = device.calls.length) {
      turns++;
      expect(device.calls.length - before).toBeLessThanOrEqual(64);
    }
    expect(turns).toBeGreaterThan(15);
    expect(device.calls).toHaveLength(1000);
    // A block of them at once: it is one free that ends the turn, not sixteen.
    device.punchedByFree = 16;
    local.driver.submit(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 0, sectors: 64 }]));
    local.driver.flush();
    local.queue.serve(4);
    expect(device.calls).toHaveLength(1001);
  });

  it.each([
    [2, 1],
    [63, 1],
    [64, 2],
    [1000, 16],
  ])('a request of %i segments costs %i of a turn', (segments, pages) => {
    const { local } = openArray();
    const writable = Array.from({ length: segments - 1 }, () => ({ bytes: 1 }));
    local.driver.submit(
      { type: VIRTIO_BLK_T_FLUSH, sector: 0, inBytes: segments - 2 },
      { readable: [{ bytes: 16 }], writable, indirectFrom: 0 },
    );
    local.driver.flush();
    expect(local.queue.serve(64)).toBe(64 - pages);
    expect(local.driver.complete()).toMatchObject([{ status: OK }]);
  });

  it('two rings of one device take turns', () => {
    const device = new ArrayPageDevice<PageWindow>(SLOTS);
    const queues = [openQueue(device), openQueue(device)];
    queues[0]!.driver.submit(read(0, 60));
    queues[1]!.driver.submit(read(100, 1));
    for (const { driver } of queues) driver.flush();
    for (const { queue } of queues) queue.serve(16);
    expect(queues[0]!.driver.complete()).toHaveLength(0);
    expect(queues[1]!.driver.complete()).toHaveLength(1);
  });

  it('after suspend the request is popped again and completed exactly once', () => {
    const { device, local } = openArray({ startIndex: 65535 });
    const data = new Random(2).bytes(20 * 4096);
    local.driver.submit(write(30, data));
    local.driver.submit(read(30, 20));
    local.driver.flush();
    local.queue.serve(10);
    expect(local.queue.isActive).toBe(true);
    local.queue.suspend();
    expect(local.queue.isActive).toBe(false);
    expect(local.queue.ring.lastAvail).toBe(65535);
    local.queue.suspend();
    expect(local.queue.ring.lastAvail).toBe(65535);
    local.serveAll();
    const done = local.driver.complete();
    expect(done).toMatchObject([
      { status: OK, len: 1 },
      { status: OK, len: 20 * 4096 + 1, data },
    ]);
    expectBytes(device.bytes.subarray(30 * 4096, 50 * 4096), data);
    expect(local.driver.ring.usedIdx).toBe(1);
  });

  it('suspend between requests changes nothing', () => {
    const { local } = openArray();
    local.run(read(0, 1));
    local.queue.suspend();
    expect(local.queue.ring.lastAvail).toBe(1);
  });

  it('a request refused while another was half done before does not inherit its state', () => {
    const { device, local } = openArray();
    local.driver.submit(read(0, 20));
    local.driver.flush();
    local.queue.serve(5);
    local.queue.suspend();
    local.driver.ring.setAvailIdx(0);
    expect(local.queue.serve(5)).toBe(5);
    local.driver.ring.setAvailIdx(1);
    local.serveAll();
    expect(local.driver.complete()).toMatchObject([{ status: OK }]);
    expect(device.calls.filter((call) => call === 'read 19')).toHaveLength(1);
  });

  it('completes in order, and interrupts once a batch, not once a request', () => {
    const { local } = openArray({ eventIdx: false });
    const tickets = Array.from({ length: 32 }, (_, i) => local.driver.submit(read(i, 1)).number);
    local.driver.flush();
    local.serveAll();
    expect(local.driver.complete().map(({ ticket }) => ticket.number)).toEqual(tickets);
    expect(local.notifications).toBe(2);
  });

  it.each([
    // A batch is half of what waits, four at least and sixteen at most; the rest comes at the end.
    [1, 1],
    [6, 2],
    [12, 2],
    [31, 3],
    [60, 4],
  ])('of %i requests that wait, it interrupts %i times', (count, notifications) => {
    const { local } = openArray({ eventIdx: false, size: 256 });
    for (let i = 0; i < count; i++) local.driver.submit(read(i, 1));
    local.driver.flush();
    local.queue.serve(10_000);
    expect(local.driver.complete()).toHaveLength(count);
    expect(local.notifications).toBe(notifications);
  });

  it('completions before a broken chain still reach the driver, with an interrupt', () => {
    const { local } = openArray({ eventIdx: false });
    local.driver.submit(read(0, 1));
    const { ring } = local.driver;
    ring.setDescriptor(100, { address: 0, bytes: 1, flags: NEXT, next: 100 });
    ring.offer(100);
    ring.publish();
    expect(local.queue.serve(64)).toBeGreaterThan(0);
    expect(local.queue.ring.brokenReason).toMatch(/loop/);
    expect(local.driver.complete()).toMatchObject([{ status: OK }]);
    expect(local.notifications).toBe(1);
  });
});

/** Thousands of valid requests in any layout, compared with an array of pages after each. */
describe('random requests against a trivially correct model', () => {
  const pages = 96;

  function randomRequest(random: Random, model: Uint8Array): BlockRequest {
    const kind = random.below(10);
    const page = random.below(pages);
    const count = random.between(1, Math.min(random.oneIn(8) ? 64 : 4, pages - page));
    if (kind < 4) return read(page, count);
    if (kind < 8) {
      const data = new Uint8Array(count * 4096);
      for (let i = 0; i < count; i++) data.set(random.page(), i * 4096);
      model.set(data, page * 4096);
      return write(page, data);
    }
    const isDiscard = random.oneIn(2);
    const ranges = Array.from({ length: random.between(1, 4) }, () => {
      const sector = random.below(pages * 8);
      const sectors = random.below(Math.min(80, pages * 8 - sector) + 1);
      const [from, to] = isDiscard
        ? [Math.ceil(sector / 8) * 8, Math.floor((sector + sectors) / 8) * 8]
        : [sector, sector + sectors];
      if (to > from) model.fill(0, from * 512, to * 512);
      return { sector, sectors, flags: isDiscard ? 0 : random.below(2) };
    });
    return clear(isDiscard ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES, ranges);
  }

  it.each([
    [1, 1024, true, true],
    [2, 64, true, true],
    [3, 1024, false, false],
    [4, 32, false, true],
  ] as const)(
    'seed %i, ring of %i, event index %s, indirect %s',
    (seed, size, eventIdx, mayIndirect) => {
      const store = PageStore.make({ slots: pages });
      const startIndex = 65536 - 300;
      const ram = new GuestRam(8 << 20);
      const local = openQueue(store, {
        size,
        eventIdx,
        indirect: mayIndirect,
        startIndex,
        ram,
      });
      const random = new Random(seed);
      const model = new Uint8Array(pages * 4096);
      for (let step = 0; step < 1000; step++) {
        const where = `seed ${seed} step ${step}`;
        const expectations: { number: number; data: Uint8Array | undefined }[] = [];
        for (let depth = random.between(1, 6); depth > 0; depth--) {
          const trial = model.slice();
          const request = randomRequest(random, trial);
          const sizes = GuestDriver.sizes(request);
          const segments = mayIndirect ? random.between(2, 200) : local.driver.freeDescriptors;
          if (segments < 2) break;
          const layout = randomLayout(random, sizes, segments, mayIndirect);
          if (!local.driver.hasRoom(layout)) break;
          model.set(trial);
          const { number } = local.driver.submit(request, layout);
          const from = Number(request.sector) * 512;
          const isRead = request.type === VIRTIO_BLK_T_IN;
          const data = isRead ? model.slice(from, from + request.inBytes!) : undefined;
          expectations.push({ number, data });
        }
        local.driver.flush();
        local.serveAll(random.between(1, 64));
        expect(local.queue.ring.brokenReason, where).toBeUndefined();
        const done = local.driver.complete();
        expect(done.length, where).toBe(expectations.length);
        expectations.forEach(({ number, data }, i) => {
          const { ticket, status, len, data: got } = done[i]!;
          const what = `${where} request ${i} type ${ticket.request.type}`;
          expect([ticket.number, status, len], what).toEqual([
            number,
            OK,
            data === undefined ? 1 : data.length + 1,
          ]);
          if (data !== undefined && Buffer.compare(got, data) !== 0) expect.fail(`${what}: data`);
        });
      }
      expect(local.invalid).toBe(0);
      const all = local.run(read(0, pages), joined(GuestDriver.sizes(read(0, pages)))).data;
      expect(Buffer.compare(all, model)).toBe(0);
    },
  );
});
