/**
 * One request of a queue from its parse to its completion: what it asks for, how it has gone so
 * far, and how many operations on pages it still waits for. A queue keeps a pool of these records.
 *
 * Life: taken from the pool → parsed and carried out (its chain is the queue's own) → completed; or,
 * when operations are pending, held (it keeps a copy of the chain) → the last one ends → completed.
 */

import { PAGE_BYTES } from '../base/units.ts';
import { DescriptorChain } from '../virtio/chain.ts';
import { SEG_MAX } from './config-space.ts';
import { REQUESTS } from './page-device.ts';
import { VIRTIO_BLK_S_OK } from './protocol.ts';

/** A request within the advertised limits (SEG_MAX) has no more: such copies are kept for reuse. */
const KEPT_SEGMENTS_MAX = 128;
const SEGMENTS_MIN = 8;

/** Requests held at once, each with a copy of its chain, some 1.5 KiB: enough to keep any disk busy. */
export const HELD_MAX = 256;
/** And what a driver that does not keep to it is held to. */
export const HELD_SEGMENTS_MAX = HELD_MAX * (SEG_MAX + 2);

export class BlockRequest {
  /** Its number in the queue's pool: by it pending operations name their request. */
  readonly index: number;
  /** Its place in the order of completion. */
  sequence = 0;
  type = 0;
  /** One of REQUESTS, by which it is counted. */
  kind: number = REQUESTS.other;
  /** When the clock was read last before it was popped. */
  beganAt = 0;
  status = VIRTIO_BLK_S_OK;
  /** Bytes of data that a read or write moves; of others, those that were written for the driver. */
  dataBytes = 0;
  /** Where in its first page a read or write begins: 0 unless requests may be less than pages. */
  inPage = 0;
  /** Operations on pages that have not ended. */
  pending = 0;
  isHeld = false;
  /** The copy of the chain while it is held. */
  chain = new DescriptorChain(SEGMENTS_MIN);

  constructor(index: number) {
    this.index = index;
  }

  begin(sequence: number, now: number): void {
    this.sequence = sequence;
    this.type = 0;
    this.kind = REQUESTS.other;
    this.beganAt = now;
    this.status = VIRTIO_BLK_S_OK;
    this.dataBytes = 0;
    this.inPage = 0;
    this.pending = 0;
    this.isHeld = false;
  }

  /**
   * Page number `page` of a read or write is moved from here …
   *
   *     inPage ─┬── dataBytes ───────────────────────┐
   *        ┌────┴────┬─────────┬─────────┬───────────┴─┐
   *        │ ···· 0  │    1    │    2    │    3  ····  │
   */
  partFrom(page: number): number {
    return page === 0 ? this.inPage : 0;
  }

  /** … to here, in bytes from the page's beginning. */
  partTo(page: number): number {
    return Math.min(PAGE_BYTES, this.dataBytes - this.firstByte(page) + this.partFrom(page));
  }

  /** How many bytes of its data come before those of page number `page`. */
  firstByte(page: number): number {
    return page === 0 ? 0 : page * PAGE_BYTES - this.inPage;
  }

  /** Keeps a copy of `chain`: the queue goes on to the next request with it. */
  hold(chain: DescriptorChain): void {
    if (chain.count > this.chain.capacity) {
      this.chain = new DescriptorChain(2 ** Math.ceil(Math.log2(chain.count)));
    }
    this.chain.copyFrom(chain);
    this.isHeld = true;
  }

  /** Back to the pool; what only an unusual driver needs is not hoarded. */
  release(): void {
    this.isHeld = false;
    if (this.chain.capacity > KEPT_SEGMENTS_MAX) this.chain = new DescriptorChain(SEGMENTS_MIN);
  }
}
