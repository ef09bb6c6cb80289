/**
 * The device configuration space, struct virtio_blk_config (VIRTIO 1.2 §5.2.4), and the features
 * that make its fields valid.
 */

import { PAGE_BYTES, SECTORS_PER_PAGE } from '../base/units.ts';
import {
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from './protocol.ts';

export const BLOCK_FEATURES =
  VIRTIO_BLK_F_SIZE_MAX |
  VIRTIO_BLK_F_SEG_MAX |
  VIRTIO_BLK_F_BLK_SIZE |
  VIRTIO_BLK_F_FLUSH |
  VIRTIO_BLK_F_TOPOLOGY |
  VIRTIO_BLK_F_CONFIG_WCE |
  VIRTIO_BLK_F_MQ |
  VIRTIO_BLK_F_DISCARD |
  VIRTIO_BLK_F_WRITE_ZEROES;

/** QEMU's ring of 128 less header and status: a request fits without indirect descriptors. */
export const SEG_MAX = 126;
export const SIZE_MAX = 1 << 20;

/** 4 MiB a segment: what a request can ask of a reactor stays bounded. */
export const DISCARD_SECTORS_MAX = 8192;
export const DISCARD_SEGMENTS_MAX = 16;

const CONFIG = {
  capacity: 0,
  size_max: 8,
  seg_max: 12,
  blk_size: 20,
  physical_block_exp: 24,
  min_io_size: 26,
  opt_io_size: 28,
  writeback: 32,
  num_queues: 34,
  max_discard_sectors: 36,
  max_discard_seg: 40,
  discard_sector_alignment: 44,
  max_write_zeroes_sectors: 48,
  max_write_zeroes_seg: 52,
  write_zeroes_may_unmap: 56,
  /**
   * Fields end at 60; clients ask for the struct as their headers have it, with later additions
   * (secure erase, zones), which read as zeros: not offered.
   */
  SIZE: 256,
} as const;

/** SET_CONFIG on the destination of a live migration may write read-only fields. */
const FLAG_LIVE_MIGRATION = 1;

export class BlockConfig {
  readonly bytes = new Uint8Array(CONFIG.SIZE);
  readonly #view = new DataView(this.bytes.buffer);

  /** `logicalBlockBytes`: what requests are whole numbers of. The physical block is a page always. */
  constructor(pages: number, numQueues: number, logicalBlockBytes = PAGE_BYTES) {
    const view = this.#view;
    this.setCapacity(pages);
    view.setUint32(CONFIG.size_max, SIZE_MAX, true);
    view.setUint32(CONFIG.seg_max, SEG_MAX, true);
    const blocksPerPage = PAGE_BYTES / logicalBlockBytes;
    view.setUint32(CONFIG.blk_size, logicalBlockBytes, true);
    view.setUint8(CONFIG.physical_block_exp, Math.log2(blocksPerPage));
    view.setUint16(CONFIG.min_io_size, blocksPerPage, true);
    view.setUint32(CONFIG.opt_io_size, blocksPerPage, true);
    this.setWriteback(true);
    view.setUint16(CONFIG.num_queues, numQueues, true);
    view.setUint32(CONFIG.max_discard_sectors, DISCARD_SECTORS_MAX, true);
    view.setUint32(CONFIG.max_discard_seg, DISCARD_SEGMENTS_MAX, true);
    view.setUint32(CONFIG.discard_sector_alignment, SECTORS_PER_PAGE, true);
    view.setUint32(CONFIG.max_write_zeroes_sectors, DISCARD_SECTORS_MAX, true);
    view.setUint32(CONFIG.max_write_zeroes_seg, DISCARD_SEGMENTS_MAX, true);
    view.setUint8(CONFIG.write_zeroes_may_unmap, 1);
  }

  setCapacity(pages: number): void {
    this.#view.setBigUint64(CONFIG.capacity, BigInt(pages) * BigInt(SECTORS_PER_PAGE), true);
  }

  /** §5.2.5.1: with CONFIG_WCE but without FLUSH negotiated the device starts as write-through. */
  setWriteback(isOn: boolean): void {
    this.#view.setUint8(CONFIG.writeback, isOn ? 1 : 0);
  }

  get isWriteback(): boolean {
    return this.#view.getUint8(CONFIG.writeback) === 1;
  }

  /**
   * A driver's write to configuration space: only `writeback` may be written (and makes no
   * difference: memory is memory). A migration's restore of the whole is accepted; what is read-only
   * keeps our own values. Returns what is wrong, or undefined.
   */
  write(offset: number, flags: number, payload: Uint8Array): string | undefined {
    const writeback = payload[CONFIG.writeback - offset];
    if (flags === FLAG_LIVE_MIGRATION) {
      if (writeback !== undefined) this.setWriteback(writeback === 1);
      return undefined;
    }
    if (offset !== CONFIG.writeback || payload.length !== 1) {
      const got = `${payload.length} bytes at ${offset}`;
      return `expected one byte at ${CONFIG.writeback} (writeback), got ${got}`;
    }
    if (writeback! > 1) return `writeback: expected 0 or 1, got ${writeback}`;
    this.setWriteback(writeback === 1);
    return undefined;
  }
}
