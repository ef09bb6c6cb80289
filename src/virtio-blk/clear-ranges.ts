/**
 * The segments of a discard or write-zeroes request (VIRTIO 1.2 §5.2.6): copied once, checked all
 * before the first is carried out, then walked page by page. It touches no page.
 *
 * Life: bytes copied in → decide() → next(), until it says false → the next request.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { joinU64, readHalf } from '../base/u64.ts';
import { PAGE_BYTES, SECTOR_BYTES, SECTORS_PER_PAGE } from '../base/units.ts';
import { DISCARD_SECTORS_MAX, DISCARD_SEGMENTS_MAX } from './config-space.ts';
import {
  DISCARD_SEGMENT,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
} from './protocol.ts';

export class ClearRanges {
  /** A copy of the segments: checked and used as copied. */
  readonly bytes = new Uint8Array(DISCARD_SEGMENTS_MAX * DISCARD_SEGMENT.SIZE);
  /** What next() found: a page, the part of it [from, to) in bytes, and whether it may be freed. */
  slot = 0;
  from = 0;
  to = 0;
  unmap = false;

  #type = 0;
  #segment = 0;
  #segments = 0;
  /** What is left of the current segment. */
  #sector = 0;
  #sectors = 0;

  /** Whether anything is left. */
  get isEmpty(): boolean {
    return this.#sectors === 0 && this.#segment === this.#segments;
  }

  /** Whether `bytes` of segments are what a request may have. */
  static isSize(bytes: number): boolean {
    const count = bytes / DISCARD_SEGMENT.SIZE;
    return bytes > 0 && bytes % DISCARD_SEGMENT.SIZE === 0 && count <= DISCARD_SEGMENTS_MAX;
  }

  /**
   * Takes up the segments in `bytes` for a disk of `slots` pages: the status that they deserve. Other
   * than VIRTIO_BLK_S_OK, nothing is left to walk: a refused request changes nothing.
   */
  decide(type: number, segmentBytes: number, slots: number): number {
    this.#type = type;
    this.#segment = 0;
    this.#segments = 0;
    this.#sectors = 0;
    const count = segmentBytes / DISCARD_SEGMENT.SIZE;
    for (let i = 0; i < count; i++) {
      if (!this.#hasKnownFlags(i)) return VIRTIO_BLK_S_UNSUPP;
      if (!this.#isInRange(i, slots)) return VIRTIO_BLK_S_IOERR;
    }
    this.#segments = count;
    return VIRTIO_BLK_S_OK;
  }

  /** Nothing is left to walk. */
  clear(): void {
    this.#segment = this.#segments;
    this.#sectors = 0;
  }

  /** To the next page, wholly or partly covered. False: there is none. */
  next(): boolean {
    while (this.#sectors === 0) {
      if (this.#segment === this.#segments) return false;
      this.#sector = this.#sectorOf(this.#segment);
      this.#sectors = this.#word(this.#segment, DISCARD_SEGMENT.num_sectors);
      const flags = this.#word(this.#segment, DISCARD_SEGMENT.flags);
      this.unmap = this.#type === VIRTIO_BLK_T_DISCARD || flags !== 0;
      this.#segment++;
    }
    const inPage = this.#sector % SECTORS_PER_PAGE;
    const count = Math.min(this.#sectors, SECTORS_PER_PAGE - inPage);
    this.slot = ((this.#sector - inPage) / SECTORS_PER_PAGE) | 0;
    this.from = inPage * SECTOR_BYTES;
    this.to = this.from + count * SECTOR_BYTES;
    this.#sector += count;
    this.#sectors -= count;
    return true;
  }

  /** What next() found is a whole page. */
  get isWholePage(): boolean {
    return this.to - this.from === PAGE_BYTES;
  }

  /** §5.2.6.2: UNSUPP "if any unknown flag is set", and "for discard commands if the unmap flag". */
  #hasKnownFlags(segment: number): boolean {
    const flags = this.#word(segment, DISCARD_SEGMENT.flags);
    const known = this.#type === VIRTIO_BLK_T_DISCARD ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    return (flags & ~known) === 0;
  }

  #isInRange(segment: number, slots: number): boolean {
    const sector = this.#sectorOf(segment);
    const count = this.#word(segment, DISCARD_SEGMENT.num_sectors);
    const sectors = slots * SECTORS_PER_PAGE;
    return count >= 0 && count <= DISCARD_SECTORS_MAX && sector >= 0 && sector + count <= sectors;
  }

  #word(segment: number, field: number): number {
    return readHalf(this.bytes, segment * DISCARD_SEGMENT.SIZE + field);
  }

  #sectorOf(segment: number): number {
    const field = DISCARD_SEGMENT.sector;
    return joinU64(this.#word(segment, field), this.#word(segment, field + 4));
  }
}
