/**
 * A queue under a dirty log: every byte of guest memory that changes lies in a page that was marked,
 * and no page is marked that was not written. All of memory is compared, after each step.
 */

import { afterEach, describe, expect, it } from 'vitest';
import {
  VIRTQ_DESC_F_NEXT as NEXT,
  usedRingBytes,
  VIRTQ_DESC_F_WRITE as WRITE,
} from '../../src/virtio/split-ring.ts';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/virtio-blk/protocol.ts';
import { DirtyTracker, pagesOf } from '../driver/dirty-tracker.ts';
import { type BlockRequest, GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam, USER_BASE } from '../driver/guest-ram.ts';
import { randomLayout } from '../driver/layouts.ts';
import { LocalQueue } from '../driver/local-queue.ts';
import { PendingPageDevice } from '../driver/pending-page-device.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';

const SEED = Number(process.env.RAMZSWAP_TEST_SEED ?? 20090901);
const KIB = 1024;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const PAGE = 4096;
const SLOTS = 64;
const BATCHES = 60;
/** Ring and headers lie low, with data among them; two regions above 4 GiB that adjoin. */
const REGIONS = [
  { guestAddress: MIB, userAddress: USER_BASE, bytes: 128 * KIB, mmapOffset: 2 * MIB },
  { guestAddress: 5 * GIB, userAddress: USER_BASE + GIB, bytes: MIB, mmapOffset: 0 },
  { guestAddress: 5 * GIB + MIB, userAddress: USER_BASE + 9 * GIB, bytes: MIB, mmapOffset: MIB },
];
const cleanUps: (() => void)[] = [];

afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

/** What the driver fills memory with beforehand: data without it changes every byte. */
const UNTOUCHED = 0xa5;

function pageOf(random: Random): Uint8Array {
  return random.page().map((byte) => (byte === UNTOUCHED ? 0 : byte));
}

function setUp(isSlow: boolean) {
  const random = new Random(SEED);
  const device = new PendingPageDevice(SLOTS);
  device.isSlow = () => isSlow && random.oneIn(2);
  for (let slot = 0; slot < SLOTS; slot++) device.pages.bytes.set(pageOf(random), slot * PAGE);
  device.pages.bad.add(SLOTS - 1);
  const ram = new GuestRam(2 * MIB + 128 * KIB, REGIONS);
  const local = new LocalQueue(device, { ram });
  // So that requests soon lie across the seam.
  ram.allocate(MIB - 64 * PAGE, PAGE);
  const tracker = new DirtyTracker(ram);
  cleanUps.push(
    () => local.close(),
    () => tracker.close(),
  );
  local.memory.log.map(tracker.log.area, tracker.log.fd);
  local.memory.log.isOn = true;
  const { ring } = local.driver;
  local.queue.ring.logUsedAt(BigInt(ring.used));
  // An element may be written again with what it held.
  const usedPages = pagesOf(ring.used, usedRingBytes(ring.size));
  return { random, device, ram, local, tracker, usedPages };
}

function someRequest(random: Random): BlockRequest {
  const count = random.between(1, 6);
  const page = random.below(SLOTS - count + 1);
  const range = { sector: page * 8 + random.below(8), sectors: random.between(1, 20) };
  switch (random.below(8)) {
    case 0:
      return { type: VIRTIO_BLK_T_FLUSH, sector: 0 };
    case 1:
      return { type: VIRTIO_BLK_T_GET_ID, sector: 0, inBytes: random.between(1, 24) };
    case 2:
      return write(page, pageOf(random));
    case 3:
      return clear(random.pick([VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES]), [range]);
    case 4:
      // Beyond the end: its data stays as it is.
      return read(SLOTS - 1, 2);
    default:
      return read(page, count);
  }
}

function submit({ random, local }: ReturnType<typeof setUp>): void {
  for (let i = random.between(1, 10); i > 0; i--) {
    const request = someRequest(random);
    const layout = randomLayout(random, GuestDriver.sizes(request), 24, true);
    if (local.driver.hasRoom(layout)) local.driver.submit(request, layout);
  }
  local.driver.flush();
}

describe.each([
  ['whose pages end at once', false],
  ['with pages that end later', true],
])('requests %s', (_, isSlow) => {
  it(`mark what they write, all of it and nothing else, over ${BATCHES} batches (seed ${SEED})`, () => {
    const bench = setUp(isSlow);
    const { random, device, local, tracker, usedPages } = bench;
    let marked = 0;
    let returned = 0;
    for (let batch = 0; batch < BATCHES; batch++) {
      submit(bench);
      tracker.snapshot();
      for (let isOver = false; !isOver; ) {
        local.queue.ring.disableKicks();
        if (device.pending > 0) device.settleOne(random);
        // Elements are marked when they are published.
        local.serveAll(random.between(1, 64));
        if (random.oneIn(3)) local.queue.ring.enableKicks();
        isOver = device.pending === 0 && !local.queue.hasWork;
        marked += tracker.check(usedPages);
        tracker.snapshot();
      }
      returned += local.driver.complete().length;
      expect(local.driver.inFlight).toBe(0);
    }
    expect(returned).toBeGreaterThan(BATCHES);
    expect(marked).toBeGreaterThan(10 * BATCHES);
  });
});

it('bytes are there before they are marked, and all is marked before it is returned', () => {
  const { local, device, ram } = setUp(false);
  const seen: { address: number; bytes: Uint8Array; usedIdx: number }[] = [];
  local.queue.ring.logUsedAt(undefined);
  local.memory.log.mark = (lo, hi, count) => {
    const address = (hi >>> 0) * 2 ** 32 + (lo >>> 0);
    const bytes = ram.read(address, count);
    seen.push({ address, bytes, usedIdx: local.driver.ring.usedIdx });
  };
  local.run(read(3, 2));
  expect(seen.map(({ usedIdx }) => usedIdx)).toEqual([0, 0, 0]);
  expect(seen.map(({ bytes }) => bytes)).toEqual([
    device.pages.bytes.slice(3 * PAGE, 4 * PAGE),
    device.pages.bytes.slice(4 * PAGE, 5 * PAGE),
    Uint8Array.of(0),
  ]);
});

it('a page that runs out of memory half-way is marked as far as it was written', () => {
  const { local, ram, tracker, usedPages } = setUp(false);
  const { ring } = local.driver;
  const end = 5 * GIB + 2 * MIB;
  const header = ram.allocate(16, 16);
  const status = ram.allocate(1);
  ram.write(header, new Uint8Array(16));
  ring.setDescriptor(0, { address: header, bytes: 16, flags: NEXT, next: 1 });
  ring.setDescriptor(1, { address: end - 5000, bytes: 3000, flags: NEXT | WRITE, next: 2 });
  ring.setDescriptor(2, { address: end - 100, bytes: 1096, flags: NEXT | WRITE, next: 3 });
  ring.setDescriptor(3, { address: status, bytes: 1, flags: WRITE, next: 0 });
  ram.write(status, Uint8Array.of(0xee));
  ram.fill(end - 5000, 5000, UNTOUCHED);
  ring.offer(0);
  ring.publish();
  tracker.snapshot();
  local.serveAll();
  expect(ram.read(status, 1)).toEqual(Uint8Array.of(IOERR));
  expect(ram.read(end - 1, 1)).not.toEqual(Uint8Array.of(UNTOUCHED));
  expect(tracker.check(usedPages)).toBeGreaterThan(2);
});

it('with the log off nothing is marked', () => {
  const bench = setUp(false);
  bench.local.memory.log.isOn = false;
  for (let batch = 0; batch < 10; batch++) {
    submit(bench);
    bench.local.serveAll();
    bench.local.driver.complete();
  }
  expect(bench.tracker.log.take()).toEqual([]);
});
