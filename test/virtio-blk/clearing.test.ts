/** DISCARD and WRITE_ZEROES through the driver: which pages, which parts of pages, what is refused. */

import { describe, expect, it } from 'vitest';
import { PageStore } from '../../src/store/page-store.ts';
import { COUNTER } from '../../src/store/statistics.ts';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_S_OK as OK,
  VIRTIO_BLK_S_UNSUPP as UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/virtio-blk/protocol.ts';
import { expectBytes } from '../driver/bytes.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { stepped } from '../driver/layouts.ts';
import { openArray, openQueue, SLOTS } from '../driver/open-queues.ts';
import { Random } from '../driver/random.ts';
import { clear, type Range, read, write } from '../driver/requests.ts';

describe('DISCARD', () => {
  const discard = (...ranges: Range[]) => clear(VIRTIO_BLK_T_DISCARD, ranges);

  it('frees the pages of every segment, in order', () => {
    const { device, local } = openArray();
    const request = discard(
      { sector: 80, sectors: 16 },
      { sector: 8, sectors: 8 },
      { sector: 0, sectors: 0 },
    );
    expect(local.run(request)).toMatchObject({ status: OK, len: 1 });
    expect(device.calls).toEqual(['free 10', 'free 11', 'free 1']);
  });

  it('passes over pages that it covers in part', () => {
    const { device, local } = openArray();
    local.run(discard({ sector: 9, sectors: 30 }));
    expect(device.calls).toEqual(['free 2', 'free 3']);
    device.calls.length = 0;
    local.run(
      discard({ sector: 17, sectors: 7 }, { sector: 24, sectors: 7 }, { sector: 33, sectors: 5 }),
    );
    expect(device.calls).toEqual([]);
  });

  it('segments may be cut anywhere', () => {
    const { device, local } = openArray();
    const request = discard({ sector: 80, sectors: 8 }, { sector: 800, sectors: 8 });
    local.run(request, stepped(GuestDriver.sizes(request), 5, 1));
    expect(device.calls).toEqual(['free 10', 'free 100']);
  });

  it('as many sectors and segments as are advertised are freed', () => {
    const { device, local } = openArray();
    const ranges = Array.from({ length: 15 }, (_, i) => ({ sector: 8192 + i * 8, sectors: 8 }));
    expect(local.run(discard({ sector: 0, sectors: 8192 }, ...ranges)).status).toBe(OK);
    expect(device.calls).toHaveLength(1024 + 15);
    expect(new Set(device.calls).size).toBe(1024 + 15);
  });

  it.each([1, 2, 3, 0x80000000])('flags %i are not supported, and nothing is freed', (flags) => {
    const { device, local } = openArray();
    const done = local.run(discard({ sector: 0, sectors: 8, flags }));
    expect(done).toMatchObject({ status: UNSUPP, len: 1 });
    expect(local.invalid).toBe(0);
    expect(device.calls).toEqual([]);
  });

  it('a bad segment refuses the request whole: nothing is freed', () => {
    const { device, local } = openArray();
    const request = discard(
      { sector: 0, sectors: 8 },
      { sector: SLOTS * 8, sectors: 8 },
      { sector: 16, sectors: 8 },
    );
    expect(local.run(request).status).toBe(IOERR);
    expect(device.calls).toEqual([]);
    expect(local.invalid).toBe(1);
  });

  it('frees the store of the pages, which then read as zeros', () => {
    const store = PageStore.make({ slots: SLOTS });
    const local = openQueue(store);
    const data = new Random(5).bytes(4 * 4096);
    local.run(write(10, data));
    local.run(discard({ sector: 81, sectors: 23 }));
    const expected = data.slice().fill(0, 4096, 3 * 4096);
    expectBytes(local.run(read(10, 4)).data, expected);
    expect(store.counters[COUNTER.notifyFree]).toBe(2);
  });
});

describe('WRITE_ZEROES', () => {
  const zeroes = (...ranges: Range[]) => clear(VIRTIO_BLK_T_WRITE_ZEROES, ranges);

  it('zeroes whole pages, and frees them with the unmap flag', () => {
    const { device, local } = openArray();
    local.run(zeroes({ sector: 80, sectors: 16 }, { sector: 160, sectors: 8, flags: 1 }));
    expect(device.calls).toEqual(['zero 10', 'zero 11', 'free 20']);
  });

  it.each([0, 1])('with flags %i zeroes exactly the sectors named, at both ends', (flags) => {
    for (const [sector, sectors] of [
      [81, 22],
      [81, 3],
      [80, 7],
      [87, 1],
      [87, 2],
      [80, 8],
      [0, 8192],
    ] as const) {
      const { device, local } = openArray();
      device.bytes.fill(0x77);
      const expected = device.bytes.slice().fill(0, sector * 512, (sector + sectors) * 512);
      expect(local.run(zeroes({ sector, sectors, flags }))).toMatchObject({ status: OK, len: 1 });
      expectBytes(device.bytes, expected);
    }
  });

  it.each([0, 1])('with flags %i the real store reads back zeros exactly there', (flags) => {
    const store = PageStore.make({ slots: SLOTS });
    const local = openQueue(store);
    const data = new Random(6).bytes(5 * 4096);
    local.run(write(10, data));
    expect(local.run(zeroes({ sector: 83, sectors: 30, flags })).status).toBe(OK);
    expectBytes(local.run(read(10, 5)).data, data.slice().fill(0, 3 * 512, 33 * 512));
  });

  it('an unknown flag is not supported', () => {
    const { device, local } = openArray();
    expect(local.run(zeroes({ sector: 0, sectors: 8, flags: 2 })).status).toBe(UNSUPP);
    expect(device.calls).toEqual([]);
  });

  it('a part that cannot be zeroed fails the request', () => {
    const { device, local } = openArray();
    device.bad.add(10);
    expect(local.run(zeroes({ sector: 81, sectors: 15 })).status).toBe(IOERR);
    expect(local.invalid).toBe(0);
    expect(device.calls).toEqual(['part 10', 'zero 11']);
  });
});
