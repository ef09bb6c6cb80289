/**
 * The driver's side of a split virtqueue (VIRTIO 1.2 §2.7), raw: descriptors, the available ring,
 * the used ring, both kinds of notification suppression. It builds what it is told to, also what no
 * driver may: guest-driver.ts is the well-behaved one.
 */

import {
  availRingBytes,
  descTableBytes,
  usedRingBytes,
  VIRTQ_ALIGN,
  VIRTQ_AVAIL,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC,
  VIRTQ_USED,
  VIRTQ_USED_F_NO_NOTIFY,
} from '../../src/virtio/split-ring.ts';
import type { RingAddresses } from '../../src/virtio/virtqueue.ts';
import type { GuestRam } from './guest-ram.ts';

export interface Descriptor {
  readonly address: number | bigint;
  readonly bytes: number;
  readonly flags: number;
  readonly next: number;
}

export interface DriverRingOptions {
  /** Guest addresses; allocated where not given. */
  readonly desc?: number;
  readonly avail?: number;
  readonly used?: number;
  readonly eventIdx?: boolean;
  /** Both indices begin here. */
  readonly startIndex?: number;
}

export interface UsedElement {
  readonly id: number;
  readonly len: number;
}

/** A descriptor as its 16 bytes. */
export function encodeDescriptor(descriptor: Descriptor): Uint8Array {
  const bytes = new Uint8Array(VIRTQ_DESC.SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(VIRTQ_DESC.addr, BigInt.asUintN(64, BigInt(descriptor.address)), true);
  view.setUint32(VIRTQ_DESC.len, descriptor.bytes, true);
  view.setUint16(VIRTQ_DESC.flags, descriptor.flags, true);
  view.setUint16(VIRTQ_DESC.next, descriptor.next, true);
  return bytes;
}

export class DriverRing {
  readonly size: number;
  readonly ram: GuestRam;
  /** Guest addresses of the parts. */
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  readonly eventIdx: boolean;
  readonly startIndex: number;

  readonly #view: DataView;
  readonly #descAt: number;
  readonly #availAt: number;
  readonly #usedAt: number;
  /** Entries written to the available ring, and what the device has been shown of them. */
  #nextAvail: number;
  #publishedAvail: number;
  #lastUsed: number;

  constructor(ram: GuestRam, size: number, options: DriverRingOptions = {}) {
    this.ram = ram;
    this.size = size;
    this.eventIdx = options.eventIdx ?? true;
    this.startIndex = options.startIndex ?? 0;
    const place = (part: keyof typeof VIRTQ_ALIGN, bytes: number) =>
      options[part] ?? ram.allocate(bytes, Math.max(64, VIRTQ_ALIGN[part]));
    this.desc = place('desc', descTableBytes(size));
    this.avail = place('avail', availRingBytes(size));
    this.used = place('used', usedRingBytes(size));
    this.#view = new DataView(ram.window.memory.buffer);
    this.#descAt = ram.offsetOf(this.desc);
    this.#availAt = ram.offsetOf(this.avail);
    this.#usedAt = ram.offsetOf(this.used);
    this.#nextAvail = this.startIndex;
    this.#publishedAvail = this.startIndex;
    this.#lastUsed = this.startIndex;
    this.ram.fill(this.desc, descTableBytes(size), 0);
    this.ram.fill(this.avail, availRingBytes(size), 0);
    this.ram.fill(this.used, usedRingBytes(size), 0);
    this.setAvailIdx(this.startIndex);
    this.#store(this.#usedAt + VIRTQ_USED.idx, this.startIndex);
  }

  /** As SET_VRING_ADDR gives them. */
  get userAddresses(): RingAddresses {
    return {
      desc: this.ram.userAddressOf(this.desc),
      avail: this.ram.userAddressOf(this.avail),
      used: this.ram.userAddressOf(this.used),
    };
  }

  // ── Descriptors and the available ring ──────────────────────────────────────────────────────

  setDescriptor(index: number, descriptor: Descriptor): void {
    this.ram.window.u8.set(encodeDescriptor(descriptor), this.#descAt + VIRTQ_DESC.SIZE * index);
  }

  /** Puts a chain's head into the available ring; the device sees it after publish(). */
  offer(head: number): void {
    const slot = this.#nextAvail & (this.size - 1);
    this.#view.setUint16(this.#availAt + VIRTQ_AVAIL.ring + 2 * slot, head, true);
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
  }

  /** Shows the offered chains to the device. Returns whether it wants a kick for them (§2.7.10). */
  publish(): boolean {
    const old = this.#publishedAvail;
    const now = this.#nextAvail;
    if (old === now) return false;
    this.#publishedAvail = now;
    this.setAvailIdx(now);
    if (!this.eventIdx) {
      return (this.#load(this.#usedAt + VIRTQ_USED.flags) & VIRTQ_USED_F_NO_NOTIFY) === 0;
    }
    const event = this.availEvent;
    return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  /** Writes the available index itself: publish() does it properly. */
  setAvailIdx(index: number): void {
    this.#store(this.#availAt + VIRTQ_AVAIL.idx, index & 0xffff);
  }

  get availIdx(): number {
    return this.#load(this.#availAt + VIRTQ_AVAIL.idx);
  }

  /** When the device wants to be kicked: the index it is waiting for. */
  get availEvent(): number {
    return this.#load(this.#usedAt + VIRTQ_USED.ring + VIRTQ_USED.ELEMENT * this.size);
  }

  get usedFlags(): number {
    return this.#load(this.#usedAt + VIRTQ_USED.flags);
  }

  // ── The used ring ───────────────────────────────────────────────────────────────────────────

  get usedIdx(): number {
    return this.#load(this.#usedAt + VIRTQ_USED.idx);
  }

  /** Chains that the device has returned and takeUsed() has not. */
  get usedCount(): number {
    return (this.usedIdx - this.#lastUsed) & 0xffff;
  }

  takeUsed(): UsedElement | undefined {
    if (this.usedCount === 0) return undefined;
    const slot = this.#lastUsed & (this.size - 1);
    const at = this.#usedAt + VIRTQ_USED.ring + VIRTQ_USED.ELEMENT * slot;
    this.#lastUsed = (this.#lastUsed + 1) & 0xffff;
    return { id: this.#view.getUint32(at, true), len: this.#view.getUint32(at + 4, true) };
  }

  /** Asks for an interrupt for the next used element. True: there is one already, look again. */
  enableInterrupts(): boolean {
    this.setUsedEvent(this.#lastUsed);
    this.#store(this.#availAt + VIRTQ_AVAIL.flags, 0);
    return this.usedCount > 0;
  }

  /** With EVENT_IDX the flag must stay 0: used_event, left behind, suppresses. */
  disableInterrupts(): void {
    if (this.eventIdx) this.setUsedEvent(this.#lastUsed - 1);
    else this.#store(this.#availAt + VIRTQ_AVAIL.flags, VIRTQ_AVAIL_F_NO_INTERRUPT);
  }

  setUsedEvent(index: number): void {
    this.#store(this.#availAt + VIRTQ_AVAIL.ring + 2 * this.size, index & 0xffff);
  }

  #load(at: number): number {
    return Atomics.load(this.ram.window.u16, at >> 1);
  }

  #store(at: number, value: number): void {
    Atomics.store(this.ram.window.u16, at >> 1, value);
  }
}
