/** Block requests as tests write them: in pages, and lists of ranges. */

import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/virtio-blk/protocol.ts';
import type { BlockRequest } from './guest-driver.ts';

export function read(page: number, pages: number): BlockRequest {
  return { type: VIRTIO_BLK_T_IN, sector: page * 8, inBytes: pages * 4096 };
}

export function write(page: number, data: Uint8Array): BlockRequest {
  return { type: VIRTIO_BLK_T_OUT, sector: page * 8, data };
}

export interface Range {
  readonly sector: number | bigint;
  readonly sectors: number;
  readonly flags?: number;
}

/** DISCARD or WRITE_ZEROES of ranges (§5.2.6, struct virtio_blk_discard_write_zeroes). */
export function clear(type: number, ranges: readonly Range[]): BlockRequest {
  const data = new Uint8Array(16 * ranges.length);
  const view = new DataView(data.buffer);
  ranges.forEach(({ sector, sectors, flags = 0 }, i) => {
    view.setBigUint64(16 * i, BigInt(sector), true);
    view.setUint32(16 * i + 8, sectors, true);
    view.setUint32(16 * i + 12, flags, true);
  });
  return { type, sector: 0, data };
}
