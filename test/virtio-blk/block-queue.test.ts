/** Block requests from the driver's side: what each does, its status, its used length, its count. */

import { describe, expect, it } from 'vitest';
import { PageStore } from '../../src/store/page-store.ts';
import {
  VIRTQ_DESC_F_NEXT as NEXT,
  VIRTQ_DESC_F_WRITE as WRITE,
} from '../../src/virtio/split-ring.ts';
import { REQUESTS } from '../../src/virtio-blk/page-device.ts';
import {
  VIRTIO_BLK_S_IOERR as IOERR,
  VIRTIO_BLK_S_OK as OK,
  VIRTIO_BLK_S_UNSUPP as UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/virtio-blk/protocol.ts';
import { expectBytes } from '../driver/bytes.ts';
import { type BlockRequest, GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam, USER_BASE } from '../driver/guest-ram.ts';
import {
  indirect,
  joined,
  type Layout,
  type Sizes,
  separate,
  splitHeader,
  stepped,
} from '../driver/layouts.ts';
import type { LocalQueue } from '../driver/local-queue.ts';
import { openArray, openQueue, SLOTS } from '../driver/open-queues.ts';
import { Random } from '../driver/random.ts';

import { clear, read, write } from '../driver/requests.ts';

const layouts: [string, (sizes: Sizes) => Layout][] = [
  ['every part in descriptors of its own', separate],
  ['header and data in one descriptor, data and status in one', joined],
  ['segments of 1000 bytes at odd addresses', (s) => stepped(s, 1000, 1000)],
  ['segments of 4095 and 4097 bytes', (s) => stepped(s, 4095, 4097)],
  ['the header in 16 descriptors', (s) => splitHeader(s, 16)],
  ['the header in 7 descriptors', (s) => splitHeader(s, 7)],
  ['an indirect table', (s) => indirect(separate(s))],
  ['an indirect table at an odd address', (s) => indirect(stepped(s, 700, 900), 4093)],
  ['direct descriptors, then an indirect table', (s) => indirect(splitHeader(s, 3), 9, 2)],
];

describe('IN and OUT', () => {
  describe.each(layouts)('with %s', (_title, layout) => {
    it.each([1, 2, 3, 17, 64])('%i pages are written, and read back', (pages) => {
      const { device, local } = openArray({ size: 1024 });
      const random = new Random(pages);
      const data = random.bytes(pages * 4096);
      const before = device.bytes.slice();
      const out = write(5, data);
      const written = local.run(out, layout(GuestDriver.sizes(out)));
      expect([written.status, written.len]).toEqual([OK, 1]);
      expectBytes(device.bytes.subarray(5 * 4096, (5 + pages) * 4096), data);
      before.set(data, 5 * 4096);
      expectBytes(device.bytes, before);
      const back = local.run(read(5, pages), layout(GuestDriver.sizes(read(5, pages))));
      expect([back.status, back.len]).toEqual([OK, pages * 4096 + 1]);
      expectBytes(back.data, data);
      expectBytes(device.bytes, before);
      expect(local.invalid).toBe(0);
    });
  });

  it('headers 17 bytes apart are read where they lie', () => {
    const { device, local } = openArray();
    for (let i = 0; i < 40; i++) {
      const request = read(i, 1);
      const skewed = {
        readable: [{ bytes: 16, align: 4096, skew: (17 * i) % 4096 }],
        writable: separate(GuestDriver.sizes(request)).writable,
      };
      expectBytes(local.run(request, skewed).data, device.page(i), `header ${i}`);
    }
  });

  it('data may cross into a region that lies elsewhere in host memory', () => {
    // Two regions that no window of the smallest size holds together.
    const half = 48 << 20;
    const ram = new GuestRam(2 * half, [
      { guestAddress: 2 ** 32, userAddress: USER_BASE, bytes: half, mmapOffset: half },
      {
        guestAddress: 2 ** 32 + half,
        userAddress: USER_BASE + 2 ** 32,
        bytes: half,
        mmapOffset: 0,
      },
    ]);
    const { device, local } = openArray({ ram });
    const { ring } = local.driver;
    const border = 2 ** 32 + half;
    const header = ram.allocate(16, 16);
    ram.write(header, new Uint8Array(16).fill(1, 0, 1));
    const status = ram.allocate(1);
    for (const start of [border - 1, border - 4000, border - 4096, border - 4097, border - 8191]) {
      const data = new Random(start).bytes(8192);
      ram.write(start, data);
      ring.setDescriptor(0, { address: header, bytes: 16, flags: NEXT, next: 1 });
      ring.setDescriptor(1, { address: start, bytes: 8192, flags: NEXT, next: 2 });
      ring.setDescriptor(2, { address: status, bytes: 1, flags: WRITE, next: 0 });
      ring.offer(0);
      ring.publish();
      local.serveAll();
      expect(ring.takeUsed()).toEqual({ id: 0, len: 1 });
      expect(ram.read(status, 1)[0]).toBe(OK);
      expectBytes(device.bytes.subarray(0, 8192), data);
    }
  });

  it('the real store keeps pages of every kind, through every layout', () => {
    const store = PageStore.make({ slots: SLOTS });
    const local = openQueue(store, { size: 1024 });
    const random = new Random(3);
    for (const [title, layout] of layouts) {
      const pages = Array.from({ length: 20 }, () => random.page());
      const data = new Uint8Array(Buffer.concat(pages));
      const out = write(100, data);
      expect(local.run(out, layout(GuestDriver.sizes(out))).status, title).toBe(OK);
      const back = local.run(read(100, 20), layout(GuestDriver.sizes(read(100, 20))));
      expect([back.status, back.len], title).toEqual([OK, 20 * 4096 + 1]);
      expectBytes(back.data, data, title);
    }
    expectBytes(local.run(read(500, 2)).data, new Uint8Array(8192));
  });

  it('a chain may be as long as a ring of 4096, longer than any indirect table', () => {
    const { device, local } = openArray({ size: 4096 });
    const request = read(7, 2);
    const done = local.run(request, stepped(GuestDriver.sizes(request), 1, 3));
    expect([done.status, done.len]).toEqual([OK, 8193]);
    expectBytes(done.data, device.bytes.subarray(7 * 4096, 9 * 4096));
  });

  it('no pages at all is a request that succeeds, also at the very end', () => {
    const { device, local } = openArray();
    expect(local.run(read(SLOTS, 0))).toMatchObject({ status: OK, len: 1 });
    expect(local.run(write(SLOTS, new Uint8Array(0)))).toMatchObject({ status: OK, len: 1 });
    expect(device.calls).toEqual([]);
  });

  it('the last page can be written and read', () => {
    const { device, local } = openArray();
    const data = new Random(1).bytes(4096);
    expect(local.run(write(SLOTS - 1, data)).status).toBe(OK);
    expectBytes(local.run(read(SLOTS - 1, 1)).data, data);
    expect(device.calls).toEqual([`write ${SLOTS - 1}`, `read ${SLOTS - 1}`]);
  });

  it('a page that the device cannot store fails the request; the others are stored', () => {
    const { device, local } = openArray();
    device.bad.add(11);
    const old = device.page(11).slice();
    const data = new Random(1).bytes(3 * 4096);
    expect(local.run(write(10, data))).toMatchObject({ status: IOERR, len: 1 });
    expectBytes(device.page(10), data.subarray(0, 4096));
    expectBytes(device.page(11), old);
    expectBytes(device.page(12), data.subarray(8192));
    expect(local.invalid).toBe(0);
  });

  it.each([
    ['whole pages', separate],
    ['scattered', (s: Sizes) => stepped(s, 16, 1000)],
  ] as const)(
    'a failed read of %s reports no written bytes and is no invalid request',
    (_t, layout) => {
      const { device, local } = openArray();
      device.bad.add(11);
      const failed = local.run(read(10, 3), layout(GuestDriver.sizes(read(10, 3))));
      expect(failed).toMatchObject({ status: IOERR, len: 0 });
      expectBytes(failed.data.subarray(0, 4096), device.page(10), 'the page before');
      expectBytes(failed.data.subarray(8192), device.page(12), 'the page behind');
      const untouched = new Set(failed.data.subarray(4096, 8192));
      expect(untouched.size, 'of the bad page nothing was written').toBe(1);
      expect(local.invalid).toBe(0);
      expectBytes(local.run(read(12, 1)).data, device.page(12));
    },
  );

  it('requests are counted by kind', () => {
    const { local } = openArray();
    local.run(read(0, 1));
    local.run(write(0, new Uint8Array(4096)));
    local.run(write(0, new Uint8Array(4096)));
    local.run(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 0, sectors: 8 }]));
    local.run({ type: VIRTIO_BLK_T_FLUSH, sector: 0 });
    local.run({ type: 99, sector: 0 });
    expect([...local.counts]).toEqual([1, 2, 1, 2, 0]);
    expect(REQUESTS.COUNT).toBe(5);
  });
});

describe('a request that cannot be is refused, counted and changes nothing', () => {
  const page = () => new Uint8Array(4096).fill(1);
  const cases: [string, BlockRequest][] = [
    ['a read beyond the end', read(SLOTS, 1)],
    ['a read across the end', read(SLOTS - 1, 2)],
    ['a write beyond the end', write(SLOTS, page())],
    ['a write across the end', write(SLOTS - 1, new Uint8Array(8192))],
    ['no pages beyond the end', read(SLOTS + 1, 0)],
    ...[1, 4, 7].map((sector): [string, BlockRequest] => [
      `sector ${sector}`,
      { type: VIRTIO_BLK_T_OUT, sector, data: page() },
    ]),
    ...[2n ** 63n, 2n ** 64n - 8n, 2n ** 53n, 2n ** 32n * 8n, 2n ** 35n].map(
      (sector): [string, BlockRequest] => [
        `sector ${sector}`,
        { type: VIRTIO_BLK_T_OUT, sector, data: page() },
      ],
    ),
    ...[1, 511, 512, 4095, 4097].flatMap((bytes): [string, BlockRequest][] => [
      [
        `a write of ${bytes} bytes`,
        { type: VIRTIO_BLK_T_OUT, sector: 0, data: new Uint8Array(bytes) },
      ],
      [`a read of ${bytes} bytes`, { type: VIRTIO_BLK_T_IN, sector: 0, inBytes: bytes }],
    ]),
    ['a discard without a segment', clear(VIRTIO_BLK_T_DISCARD, [])],
    [
      'a discard of one and a half segments',
      { type: VIRTIO_BLK_T_DISCARD, sector: 0, data: new Uint8Array(24) },
    ],
    [
      'a discard of 17 segments',
      clear(VIRTIO_BLK_T_DISCARD, new Array(17).fill({ sector: 0, sectors: 8 })),
    ],
    ['a discard of 8193 sectors', clear(VIRTIO_BLK_T_DISCARD, [{ sector: 0, sectors: 8193 }])],
    [
      'a discard of 2^32 − 1 sectors',
      clear(VIRTIO_BLK_T_DISCARD, [{ sector: 0, sectors: 2 ** 32 - 1 }]),
    ],
    [
      'a discard across the end',
      clear(VIRTIO_BLK_T_DISCARD, [{ sector: SLOTS * 8 - 8, sectors: 9 }]),
    ],
    ['a discard at sector 2^63', clear(VIRTIO_BLK_T_DISCARD, [{ sector: 2n ** 63n, sectors: 8 }])],
    [
      'a discard whose end wraps',
      clear(VIRTIO_BLK_T_DISCARD, [{ sector: 2n ** 64n - 8n, sectors: 16 }]),
    ],
    [
      'zeroes across the end',
      clear(VIRTIO_BLK_T_WRITE_ZEROES, [{ sector: SLOTS * 8 - 1, sectors: 2 }]),
    ],
    [
      'zeroes over 2^31 sectors',
      clear(VIRTIO_BLK_T_WRITE_ZEROES, [{ sector: 0, sectors: 2 ** 31 }]),
    ],
  ];

  it.each(cases)('%s', (_title, request) => {
    const { device, local } = openArray({ size: 1024 });
    const before = device.bytes.slice();
    const isRead = (request.inBytes ?? 0) > 0;
    expect(local.run(request)).toMatchObject({ status: IOERR, len: isRead ? 0 : 1 });
    expect(local.invalid).toBe(1);
    expect(device.calls).toEqual([]);
    expectBytes(device.bytes, before);
    expectBytes(local.run(read(3, 1)).data, device.page(3));
  });

  it.each([0, 1, 15])('a header of %i bytes', (bytes) => {
    const { device, local } = openArray();
    const { ring, ram } = local.driver;
    const status = ram.allocate(1);
    ring.setDescriptor(0, { address: 0x9000, bytes, flags: NEXT, next: 1 });
    ring.setDescriptor(1, { address: status, bytes: 1, flags: WRITE, next: 0 });
    ring.offer(0);
    ring.publish();
    local.serveAll();
    expect(ring.takeUsed()).toEqual({ id: 0, len: 1 });
    expect(ram.read(status, 1)[0]).toBe(IOERR);
    expect(local.invalid).toBe(1);
    expect(device.calls).toEqual([]);
  });

  it('a header that is all in the writable part', () => {
    const { device, local } = openArray();
    const { ring, ram } = local.driver;
    const status = ram.allocate(17);
    ring.setDescriptor(0, { address: status, bytes: 17, flags: WRITE, next: 0 });
    ring.offer(0);
    ring.publish();
    local.serveAll();
    expect(ram.read(status + 16, 1)[0]).toBe(IOERR);
    expect(local.invalid).toBe(1);
    expect(device.calls).toEqual([]);
  });
});

describe('addresses outside guest memory', () => {
  /** A request whose parts lie at any addresses: [address, bytes, writable]. */
  function runRaw(local: LocalQueue, parts: readonly [number | bigint, number, boolean][]) {
    const { ring } = local.driver;
    parts.forEach(([address, bytes, isWritable], i) => {
      const isLast = i === parts.length - 1;
      const flags = (isWritable ? WRITE : 0) | (isLast ? 0 : NEXT);
      ring.setDescriptor(i, { address, bytes, flags, next: isLast ? 0 : i + 1 });
    });
    ring.offer(0);
    ring.publish();
    local.serveAll();
  }
  const beyond = 4 << 20;

  it.each([
    ['beyond the end', beyond],
    ['across the end', beyond - 100],
    ['at 2^63', 2n ** 63n],
    ['wrapping past 2^64', 2n ** 64n - 100n],
  ] as const)('data %s fails the request, which counts as invalid', (_title, address) => {
    const { device, local } = openArray();
    const { ram, ring } = local.driver;
    const [header, status] = [ram.allocate(16, 16), ram.allocate(1)];
    for (const type of [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT]) {
      const before = device.bytes.slice();
      ram.write(header, Uint8Array.of(type));
      const isIn = type === VIRTIO_BLK_T_IN;
      runRaw(local, [
        [header, 16, false],
        [address, 4096, isIn],
        [status, 1, true],
      ]);
      expect(ring.takeUsed()).toEqual({ id: 0, len: isIn ? 0 : 1 });
      expect(ram.read(status, 1)[0]).toBe(IOERR);
      expectBytes(device.bytes, before);
    }
    expect(local.invalid).toBe(2);
    expect(local.queue.ring.brokenReason).toBeUndefined();
  });

  it('a header outside guest memory fails the request', () => {
    const { local } = openArray();
    const status = local.ram.allocate(1);
    runRaw(local, [
      [beyond - 8, 16, false],
      [status, 1, true],
    ]);
    expect(local.ram.read(status, 1)[0]).toBe(IOERR);
    expect(local.invalid).toBe(1);
  });

  it('the ranges of a discard outside guest memory fail it', () => {
    const { device, local } = openArray();
    const [header, status] = [local.ram.allocate(16), local.ram.allocate(1)];
    local.ram.write(header, Uint8Array.of(VIRTIO_BLK_T_DISCARD));
    runRaw(local, [
      [header, 16, false],
      [beyond, 16, false],
      [status, 1, true],
    ]);
    expect(local.ram.read(status, 1)[0]).toBe(IOERR);
    expect([local.invalid, device.calls.length]).toEqual([1, 0]);
  });

  it('an identification buffer outside guest memory fails the request', () => {
    const { local } = openArray();
    const [header, status] = [local.ram.allocate(16), local.ram.allocate(1)];
    local.ram.write(header, Uint8Array.of(VIRTIO_BLK_T_GET_ID));
    runRaw(local, [
      [header, 16, false],
      [beyond, 20, true],
      [status, 1, true],
    ]);
    expect(local.ram.read(status, 1)[0]).toBe(IOERR);
    expect(local.invalid).toBe(1);
  });

  it.each([
    ['nothing writable', []],
    ['a status byte outside guest memory', [[beyond, 1, true]]],
    ['a writable part without a byte', [[0x1000, 0, true]]],
  ] as [string, [number, number, boolean][]][])('%s breaks the ring', (_title, parts) => {
    const { device, local } = openArray();
    const header = local.ram.allocate(16);
    runRaw(local, [[header, 16, false], ...parts]);
    expect(local.queue.ring.brokenReason).toMatch(
      /no writable byte of guest memory for its status/,
    );
    expect(local.driver.ring.usedCount).toBe(0);
    expect(local.queue.isActive).toBe(false);
    expect(device.calls).toEqual([]);
  });
});

describe('GET_ID', () => {
  const getId = (inBytes: number): BlockRequest => ({
    type: VIRTIO_BLK_T_GET_ID,
    sector: 0,
    inBytes,
  });
  const serial = 'swap-of-a-guest';
  const padded = new Uint8Array(20);
  padded.set(Buffer.from(serial));

  it('gives 20 bytes, padded with NUL', () => {
    const { local } = openArray({ serial });
    expect(local.run(getId(20))).toMatchObject({ status: OK, len: 21, data: padded });
  });

  it.each([1, 7, 19])('a buffer of %i bytes gets what fits', (bytes) => {
    const { local } = openArray({ serial });
    const done = local.run(getId(bytes));
    expect(done).toMatchObject({ status: OK, len: bytes + 1, data: padded.subarray(0, bytes) });
  });

  it('a longer buffer gets 20 bytes, and its used length stops there', () => {
    const { local } = openArray({ serial });
    const done = local.run(getId(64));
    expect(done).toMatchObject({ status: OK, len: 20 });
    expectBytes(done.data.subarray(0, 20), padded);
    expectBytes(done.data.subarray(20), new Uint8Array(44).fill(0xa5));
  });

  it('comes out right in segments of 3 bytes', () => {
    const { local } = openArray({ serial });
    const done = local.run(getId(20), stepped({ readable: 16, writable: 21 }, 5, 3));
    expect(done).toMatchObject({ status: OK, len: 21, data: padded });
  });

  it('a serial longer than 20 bytes is cut', () => {
    const { local } = openArray({ serial: 'x'.repeat(30) });
    expectBytes(local.run(getId(20)).data, new Uint8Array(20).fill(0x78));
  });
});

describe('other requests', () => {
  it('FLUSH succeeds', () => {
    const { device, local } = openArray();
    const done = local.run({ type: VIRTIO_BLK_T_FLUSH, sector: 0 });
    expect(done).toMatchObject({ status: OK, len: 1 });
    expect(device.calls).toEqual([]);
  });

  it.each([2, 3, 5, 10, 12, 14, 17, 0x7fffffff, 0x80000000, 0xffffffff])(
    'type %i is not supported, and not invalid',
    (type) => {
      const { device, local } = openArray();
      const before = device.bytes.slice();
      const done = local.run({ type, sector: 0, data: new Uint8Array(4096) });
      expect(done).toMatchObject({ status: UNSUPP, len: 1 });
      expect(local.invalid).toBe(0);
      expectBytes(device.bytes, before);
    },
  );
});
