/**
 * Requests below a page, where the logical block is 512 bytes: every begin and end inside a page, in
 * any pieces, with pages that end at once or later; what is refused, what fails, and that nothing but
 * the bytes named is read, written or changed.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { PageStore } from '../../src/store/page-store.ts';
import type { PageWindow } from '../../src/store/page-window.ts';
import { COUNTER } from '../../src/store/statistics.ts';
import type { PageDevice } from '../../src/virtio-blk/page-device.ts';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_S_OK as OK,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/virtio-blk/protocol.ts';
import { ArrayPageDevice } from '../driver/array-page-device.ts';
import { expectBytes } from '../driver/bytes.ts';
import { type BlockRequest, GuestDriver } from '../driver/guest-driver.ts';
import { joined, type Layout, type Sizes, separate, stepped } from '../driver/layouts.ts';
import { LocalQueue, type LocalQueueOptions } from '../driver/local-queue.ts';
import { PendingPageDevice } from '../driver/pending-page-device.ts';
import { Random } from '../driver/random.ts';
import { SectorProgram } from '../models/sector-program.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const SLOTS = 64;
const SECTOR = 512;
const PAGE = 4096;
const open: LocalQueue[] = [];

afterEach(() => {
  for (const queue of open.splice(0)) queue.close();
});

function openQueue(device: PageDevice<PageWindow>, options: LocalQueueOptions = {}): LocalQueue {
  const local = new LocalQueue(device, { size: 1024, logicalBlockBytes: SECTOR, ...options });
  open.push(local);
  return local;
}

/** A queue over an array of pages in which every sector differs. */
function setUp() {
  const device = new ArrayPageDevice<PageWindow>(SLOTS);
  const random = new Random(7);
  for (let i = 0; i < device.bytes.length; i += 7) device.bytes[i] = random.u32();
  return { device, local: openQueue(device) };
}

const readSectors = (sector: number, sectors: number): BlockRequest => ({
  type: VIRTIO_BLK_T_IN,
  sector,
  inBytes: sectors * SECTOR,
});
const writeSectors = (sector: number, data: Uint8Array): BlockRequest => ({
  type: VIRTIO_BLK_T_OUT,
  sector,
  data,
});
const bytesOf = (device: ArrayPageDevice, sector: number, sectors: number) =>
  device.bytes.slice(sector * SECTOR, (sector + sectors) * SECTOR);

const layouts: [string, (sizes: Sizes) => Layout][] = [
  ['every part in descriptors of its own', separate],
  ['header and data in one descriptor, data and status in one', joined],
  ['segments of 1000 bytes at odd addresses', (s) => stepped(s, 1000, 1000)],
  ['segments of 511 and 513 bytes', (s) => stepped(s, 511, 513)],
  ['segments of 7 bytes', (s) => stepped(s, 37, 37)],
];

describe.each(layouts)('with %s', (_title, layout) => {
  it.each([0, 1, 2, 3, 4, 5, 6, 7])(
    'what begins at sector %i of a page, of any length, is written there and read back',
    (inPage) => {
      const { device, local } = setUp();
      for (let sectors = 1; sectors <= 18; sectors++) {
        const sector = 24 + inPage;
        const expected = device.bytes.slice();
        const data = new Random(sectors).bytes(sectors * SECTOR);
        expected.set(data, sector * SECTOR);
        const out = writeSectors(sector, data);
        const written = local.run(out, layout(GuestDriver.sizes(out)));
        expect([written.status, written.len]).toEqual([OK, 1]);
        expectBytes(device.bytes, expected, `${sectors} sectors`);
        // Other bytes than were just written beside it: a neighbour's would be seen.
        const from = sector - (sectors % 3);
        const request = readSectors(from, sectors + 2);
        const back = local.run(request, layout(GuestDriver.sizes(request)));
        expect([back.status, back.len]).toEqual([OK, (sectors + 2) * SECTOR + 1]);
        expectBytes(back.data, bytesOf(device, from, sectors + 2), `${sectors} sectors`);
      }
      expect(local.invalid).toBe(0);
    },
  );
});

describe('what reaches the device', () => {
  it('is whole pages for the middle of a request, parts for its ends', () => {
    const { device, local } = setUp();
    local.run(writeSectors(9, new Uint8Array(22 * SECTOR)));
    local.run(writeSectors(8, new Uint8Array(16 * SECTOR)));
    local.run(writeSectors(8, new Uint8Array(SECTOR)));
    local.run(writeSectors(10, new Uint8Array(2 * SECTOR)));
    local.run(readSectors(15, 2));
    expect(device.calls).toEqual([
      ...['part 1', 'write 2', 'part 3'],
      ...['write 1', 'write 2', 'part 1', 'part 1', 'read 1', 'read 2'],
    ]);
  });

  it('of no sectors is nothing, wherever it begins', () => {
    const { device, local } = setUp();
    for (const sector of [0, 3, SLOTS * 8]) {
      expect(local.run(readSectors(sector, 0))).toMatchObject({ status: OK, len: 1 });
      expect(local.run(writeSectors(sector, new Uint8Array(0)))).toMatchObject({ status: OK });
    }
    expect(device.calls).toEqual([]);
  });

  it('counts as a page read or written, whole or not', () => {
    const store = PageStore.make({ slots: SLOTS });
    const local = openQueue(store);
    local.run(writeSectors(9, new Random(1).bytes(22 * SECTOR)));
    local.run(readSectors(15, 2));
    expect(store.counters[COUNTER.numWrites]).toBe(3);
    expect(store.counters[COUNTER.numReads]).toBe(2);
  });

  it('is no more pages a turn than its budget, parts included', () => {
    const { device, local } = setUp();
    local.driver.submit(writeSectors(1, new Uint8Array(40 * SECTOR)));
    local.driver.flush();
    local.queue.serve(3);
    expect(device.calls).toHaveLength(2);
    local.serveAll(3);
    expect(device.calls).toHaveLength(6);
    expect(local.driver.complete()).toMatchObject([{ status: OK }]);
  });
});

describe('a request that cannot be is refused, counted and changes nothing', () => {
  const end = SLOTS * 8;
  const cases: [string, BlockRequest][] = [
    ...[1, 511, 513, 4095].flatMap((bytes): [string, BlockRequest][] => [
      [`a write of ${bytes} bytes`, writeSectors(3, new Uint8Array(bytes))],
      [`a read of ${bytes} bytes`, { type: VIRTIO_BLK_T_IN, sector: 3, inBytes: bytes }],
    ]),
    ['a read of the sector behind the end', readSectors(end, 1)],
    ['a read across the end', readSectors(end - 1, 2)],
    ['a write across the end', writeSectors(end - 7, new Uint8Array(8 * SECTOR))],
    ['no sectors behind the end', readSectors(end + 1, 0)],
    ...[2n ** 32n, 2n ** 53n - 1n, 2n ** 63n + 1n, 2n ** 64n - 1n].map(
      (sector): [string, BlockRequest] => [
        `sector ${sector}`,
        { type: VIRTIO_BLK_T_OUT, sector, data: new Uint8Array(SECTOR) },
      ],
    ),
  ];

  it.each(cases)('%s', (_title, request) => {
    const { device, local } = setUp();
    expect(local.run(request).status).toBe(IOERR);
    expect(local.invalid).toBe(1);
    expect(device.calls).toEqual([]);
    expectBytes(local.run(readSectors(end - 1, 1)).data, bytesOf(device, end - 1, 1));
  });

  it('with logical blocks of a page, one that is no whole pages', () => {
    const device = new ArrayPageDevice<PageWindow>(SLOTS);
    const local = openQueue(device, { logicalBlockBytes: PAGE });
    for (const request of [
      readSectors(1, 8),
      readSectors(0, 1),
      writeSectors(8, new Uint8Array(512)),
    ])
      expect(local.run(request).status).toBe(IOERR);
    expect(local.invalid).toBe(3);
    expect(device.calls).toEqual([]);
  });
});

describe('a page that the device cannot read or store', () => {
  it('fails the write of a part of it, and the other pages are written', () => {
    const { device, local } = setUp();
    device.bad.add(1);
    const expected = device.bytes.slice();
    const data = new Random(1).bytes(12 * SECTOR);
    expected.set(data.subarray(4 * SECTOR), 16 * SECTOR);
    expect(local.run(writeSectors(12, data))).toMatchObject({ status: IOERR, len: 1 });
    expectBytes(device.bytes, expected);
    expect(local.invalid).toBe(0);
  });

  it.each(layouts)(
    'fails the read of a part of it, of which nothing is written, with %s',
    (_t, layout) => {
      const { device, local } = setUp();
      device.bad.add(2);
      const request = readSectors(13, 7);
      const done = local.run(request, layout(GuestDriver.sizes(request)));
      expect(done).toMatchObject({ status: IOERR, len: 0 });
      expectBytes(done.data.subarray(0, 3 * SECTOR), bytesOf(device, 13, 3), 'the page before');
      const untouched = new Set(done.data.subarray(3 * SECTOR));
      expect(untouched.size, 'of the bad page nothing was written').toBe(1);
    },
  );

  it('for it is damaged fails both, and stays as it is', () => {
    const store = PageStore.make({ slots: SLOTS });
    const local = openQueue(store);
    const compressible = new Uint8Array(PAGE);
    compressible.set(new Random(1).bytes(300), 700);
    local.run(writeSectors(8, compressible));
    const word = store.wordOf(1);
    const { segments } = store.mapped.arena;
    segments[0]!.fill(-1, word, word + 100);
    expect(local.run(readSectors(9, 1))).toMatchObject({ status: IOERR, len: 0 });
    expect(local.run(writeSectors(9, new Uint8Array(SECTOR))).status).toBe(IOERR);
    expect(store.wordOf(1)).toBe(word);
    expect(store.counters[COUNTER.failedReads]).toBe(1);
    expect(store.counters[COUNTER.failedWrites]).toBe(1);
  });
});

describe('pages that end later', () => {
  /** Serves and settles, in any order, until all is done. */
  function finish(device: PendingPageDevice, local: LocalQueue, random: Random): void {
    local.serveAll(random.between(1, 64));
    while (device.pending > 0 || local.queue.hasWork) {
      if (device.pending > 0) device.settleOne(random);
      local.serveAll(random.between(1, 64));
    }
  }

  it.each(layouts)('have their parts found again, with %s', (_title, layout) => {
    const device = new PendingPageDevice(SLOTS);
    const local = openQueue(device);
    const random = new Random(SEED);
    for (let i = 0; i < 60; i++) {
      const [sector, sectors] = [random.below(64), random.between(1, 30)];
      const expected = device.pages.bytes.slice();
      const data = random.bytes(sectors * SECTOR);
      expected.set(data, sector * SECTOR);
      for (const request of [writeSectors(sector, data), readSectors(sector, sectors)]) {
        local.driver.submit(request, layout(GuestDriver.sizes(request)));
      }
      local.driver.flush();
      finish(device, local, random);
      const done = local.driver.complete();
      expect(done).toMatchObject([{ status: OK }, { status: OK }]);
      expectBytes(device.pages.bytes, expected);
      expectBytes(done[1]!.data, data);
    }
  });

  it('equal the model, given up and popped again at any moment', () => {
    const device = new PendingPageDevice(SLOTS);
    device.pages.isRecording = false;
    const local = openQueue(device, { size: 256 });
    const program = new SectorProgram({ seed: SEED, first: 3, sectors: SLOTS * 8 - 5 });
    const { random } = program;
    device.isSlow = () => random.oneIn(2);
    while (program.operations < 3000) {
      program.submit([local.driver], 16, true);
      local.driver.flush();
      for (let i = random.below(3); i > 0; i--) {
        local.queue.serve(random.between(1, 40));
        for (let j = random.below(6); j > 0 && device.pending > 0; j--) device.settleOne(random);
        local.queue.suspend();
      }
      finish(device, local, random);
      for (const done of local.driver.complete()) program.take(0, done);
      expect(local.driver.inFlight).toBe(0);
    }
    const { expected } = program.readAll();
    expectBytes(device.pages.bytes.subarray(3 * SECTOR, 3 * SECTOR + expected.length), expected);
  });
});

describe('random requests at the store', () => {
  it(`equal an array of bytes, and are counted by the page (seed ${SEED})`, () => {
    const store = PageStore.make({ slots: SLOTS });
    const local = openQueue(store);
    const program = new SectorProgram({ seed: SEED, first: 5, sectors: 300 });
    while (program.operations < 5000) {
      program.submit([local.driver], 16);
      local.driver.flush();
      local.serveAll(program.random.between(1, 64));
      for (const done of local.driver.complete()) program.take(0, done);
    }
    expect(store.counters[COUNTER.numReads]).toBe(program.reads);
    expect(store.counters[COUNTER.numWrites]).toBe(program.writes);
    const { request, expected } = program.readAll();
    expectBytes(local.run(request).data, expected);
    expect(local.invalid).toBe(0);
  });
});
