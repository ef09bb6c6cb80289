/**
 * Guests whose pages are larger than ours swap in units of theirs: 16 KiB (a guest scenario boots
 * such a kernel) and 64 KiB (no kernel of Debian's has them).
 */

import { afterEach, describe, expect, it } from 'vitest';
import { COUNTER } from '../../src/store/statistics.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD } from '../../src/virtio-blk/protocol.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { clear, read, write } from '../driver/requests.ts';
import { SEED, seededRandom } from '../models/random.ts';

const PAGE = 4096;
let local: LocalDevice;
afterEach(() => local.close());

describe.each([16384, 65536])('a guest with pages of %i bytes', (guestPageBytes) => {
  const perPage = guestPageBytes / PAGE;

  function setUp() {
    local = new LocalDevice({ guestPageBytes, diskBytes: 32 * guestPageBytes });
    local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing(64);
    local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
    local.frontEnd.setEnabled(0, true);
    return (request: Parameters<typeof driver.submit>[0]) => {
      driver.submit(request);
      driver.ring.publish();
      local.serve();
      const [done] = driver.complete();
      expect(done!.status).toBe(VIRTIO_BLK_S_OK);
      return done!.data;
    };
  }

  it('finds the swap header where its kernel looks, with its count of pages', () => {
    const first = Buffer.from(setUp()(read(0, perPage)));
    expect(first.toString('latin1', guestPageBytes - 10)).toBe('SWAPSPACE2');
    // version, last_page, nr_badpages
    expect([0, 4, 8].map((at) => first.readUInt32LE(1024 + at))).toEqual([1, 31, 0]);
    expect(first.indexOf('SWAPSPACE2')).toBe(guestPageBytes - 10);
  });

  it('writes, reads back and frees whole pages of its own, one a request', () => {
    const serve = setUp();
    const random = seededRandom(SEED);
    const held = () => local.device.store.counters[COUNTER.pagesStored]!;
    const before = held();
    const pages = [1, 7, 31].map((page) => {
      const data = Uint8Array.from({ length: guestPageBytes }, (_, i) => (i >> 6) + page);
      data.set(random.bytes(600), 100);
      serve(write(page * perPage, data));
      return { page, data };
    });
    expect(held() - before).toBeGreaterThan(0);
    for (const { page, data } of pages) expect(serve(read(page * perPage, perPage))).toEqual(data);
    const sectors = guestPageBytes / 512;
    serve(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 7 * sectors, sectors }]));
    expect(serve(read(7 * perPage, perPage)).every((byte) => byte === 0)).toBe(true);
    expect(serve(read(31 * perPage, perPage))).toEqual(pages[2]!.data);
  });
});
