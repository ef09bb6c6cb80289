/**
 * The device's side of a split virtqueue (VIRTIO 1.2 §2.7): pop descriptor chains, push used
 * elements, suppress notifications. It checks everything the driver writes; what it cannot accept
 * breaks the ring (`brokenReason`), never the process. It knows no kind of device, no socket.
 *
 * Life: attach (addresses resolved and checked) → start (indices) → pop / push / publish, any
 * number → stop (the index to resume from) → attach again, or detach.
 */

import { readHalf } from '../base/u64.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { Window } from '../memory/window.ts';
import { CHAIN_BYTES_MAX, type DescriptorChain } from './chain.ts';
import type { InflightRegion } from './inflight.ts';
import {
  availRingBytes,
  descTableBytes,
  usedRingBytes,
  VIRTQ_ALIGN,
  VIRTQ_AVAIL,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED,
  VIRTQ_USED_F_NO_NOTIFY,
} from './split-ring.ts';

/** Drivers make indirect tables of up to 1024 entries on smaller rings too (QEMU's limit). */
export const INDIRECT_ENTRIES_MAX = 1024;

export const POP_EMPTY = 0;
export const POP_CHAIN = 1;
export const POP_BROKEN = 2;

const NONE: readonly number[] = [];

/** A part of the ring: its window and byte offset there. */
interface RingPart<W extends Window> {
  window: W;
  offset: number;
}

/** User (front-end process) addresses of a ring's parts, as vhost gives them. */
export interface RingAddresses {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
}

export class Virtqueue<W extends Window = Window> {
  /** Why the ring is broken; undefined while it is sound. */
  brokenReason: string | undefined;

  readonly #memory: GuestMemory<W>;
  #size = 0;
  #desc: RingPart<W> | undefined;
  #avail: RingPart<W> | undefined;
  #used: RingPart<W> | undefined;
  #hasEventIdx = false;
  #hasIndirect = false;
  #lastAvail = 0;
  /** Used elements written so far; published up to #published. */
  #nextUsed = 0;
  #published = 0;
  /** The used index at the last notification; meaningless until the first. */
  #signalled = 0;
  #hasSignalled = false;
  /** Where popped chains are noted; undefined: nowhere. */
  #inflight: InflightRegion | undefined;
  /** Heads of chains to pop again before any new one, from #nextAgain on. */
  #again: readonly number[] = NONE;
  #nextAgain = 0;
  /** Writes to the used ring are marked in the dirty log as if it lay at this guest address. */
  #logsUsed = false;
  #usedLogLo = 0;
  #usedLogHi = 0;

  constructor(memory: GuestMemory<W>) {
    this.#memory = memory;
  }

  get isAttached(): boolean {
    return this.#used !== undefined;
  }

  get size(): number {
    return this.#size;
  }

  /** The available index to resume from: what GET_VRING_BASE answers. */
  get lastAvail(): number {
    return this.#lastAvail;
  }

  /**
   * Resolves the ring's parts in guest memory. Returns what is wrong with them, or undefined; then
   * the ring is attached. `size` is a power of two (checked by the caller).
   */
  attach(size: number, addresses: RingAddresses): string | undefined {
    this.detach();
    const parts: RingPart<W>[] = [];
    for (const [name, bytes] of [
      ['desc', descTableBytes(size)],
      ['avail', availRingBytes(size)],
      ['used', usedRingBytes(size)],
    ] as const) {
      const address = addresses[name];
      const align = VIRTQ_ALIGN[name];
      const where = `${name} ring at 0x${address.toString(16)}`;
      const found = this.#memory.resolveUser(address);
      const { window, offset } = this.#memory;
      if (address % align !== 0 || (found > 0 && offset % align !== 0)) {
        return `${where}: expected alignment to ${align} bytes`;
      }
      if (found < bytes || window === undefined) {
        return `${where}: expected ${bytes} bytes of guest memory, got ${found}`;
      }
      parts.push({ window, offset });
    }
    [this.#desc, this.#avail, this.#used] = parts;
    this.#size = size;
    return undefined;
  }

  /** Forgets the ring's place: guest memory is about to change. Indices stay. */
  detach(): void {
    this.#desc = undefined;
    this.#avail = undefined;
    this.#used = undefined;
  }

  /** Forgets the in-flight region too: the ring is started anew, if it is. Nothing popped is kept. */
  stop(): void {
    this.detach();
    this.#inflight = undefined;
    this.#again = NONE;
    this.#nextAgain = 0;
  }

  /**
   * VHOST_VRING_F_LOG: the guest address by which writes to the used ring are marked; undefined: they
   * are not. It need not lie in a region, and holds until the next call.
   */
  logUsedAt(address: bigint | undefined): void {
    this.#logsUsed = address !== undefined;
    this.#usedLogLo = Number(BigInt.asIntN(32, address ?? 0n));
    this.#usedLogHi = Number(BigInt.asIntN(32, (address ?? 0n) >> 32n));
  }

  /**
   * Begins at available index `base`; the used index goes on from what the ring says. With a region
   * of the in-flight area that another back end has used for this ring, that decides instead: first
   * what it had popped and not returned, then what comes after.
   */
  start(
    base: number,
    features: { eventIdx: boolean; indirect: boolean },
    inflight?: InflightRegion,
  ): void {
    this.#hasEventIdx = features.eventIdx;
    this.#hasIndirect = features.indirect;
    this.#lastAvail = base & 0xffff;
    this.#nextUsed = this.#usedIdx();
    this.#published = this.#nextUsed;
    this.#hasSignalled = false;
    this.brokenReason = undefined;
    this.#inflight = inflight;
    this.#again = NONE;
    this.#nextAgain = 0;
    if (inflight !== undefined) this.#resume(inflight);
  }

  /** Whether popped chains are noted, so that they may be returned in any order. */
  get hasInflight(): boolean {
    return this.#inflight !== undefined;
  }

  #resume(inflight: InflightRegion): void {
    const heads = inflight.resume(this.#size, this.#nextUsed);
    if (heads === undefined) return;
    this.#again = heads;
    this.#nextAgain = 0;
    this.#lastAvail = (this.#nextUsed + heads.length) & 0xffff;
  }

  /** HOT PATH: no allocation. Whether the driver has made chains available that were not popped. */
  hasAvailable(): boolean {
    return this.#nextAgain < this.#again.length || this.#availIdx() !== this.#lastAvail;
  }

  /** HOT PATH: no allocation. How many; a broken driver may claim any number below 2^16. */
  get available(): number {
    const again = this.#again.length - this.#nextAgain;
    return again + ((this.#availIdx() - this.#lastAvail) & 0xffff);
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * Takes the next available chain into `chain`: POP_CHAIN, POP_EMPTY or POP_BROKEN.
   */
  pop(chain: DescriptorChain): number {
    if (this.#nextAgain < this.#again.length) return this.#popAgain(chain);
    const waiting = (this.#availIdx() - this.#lastAvail) & 0xffff;
    if (waiting === 0) return POP_EMPTY;
    if (waiting > this.#size) {
      return this.#break(`avail.idx: expected at most ${this.#size} new chains, got ${waiting}`);
    }
    const slot = this.#lastAvail & (this.#size - 1);
    const { window, offset } = this.#avail!;
    const head = window.u16[(offset + VIRTQ_AVAIL.ring + 2 * slot) >> 1]!;
    chain.clear(head);
    if (!this.#walk(chain, head)) return POP_BROKEN;
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff;
    this.#inflight?.popped(head);
    return POP_CHAIN;
  }

  #popAgain(chain: DescriptorChain): number {
    const head = this.#again[this.#nextAgain]!;
    chain.clear(head);
    if (!this.#walk(chain, head)) return POP_BROKEN;
    this.#nextAgain++;
    return POP_CHAIN;
  }

  /**
   * Puts back the last `count` chains popped, none of which was pushed: they are popped again. With an
   * in-flight region all that was not pushed is, whatever the count. Everything pushed is published.
   */
  unpop(count = 1): void {
    if (this.#inflight !== undefined) this.#resume(this.#inflight);
    else this.#lastAvail = (this.#lastAvail - count) & 0xffff;
  }

  /** HOT PATH: no allocation. Writes a used element; the driver sees it after publish(). */
  push(head: number, writtenBytes: number): void {
    const { window, offset } = this.#used!;
    const slot = this.#nextUsed & (this.#size - 1);
    const element = (offset + VIRTQ_USED.ring + VIRTQ_USED.ELEMENT * slot) >> 2;
    window.i32[element] = head;
    window.i32[element + 1] = writtenBytes;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#inflight?.pushed(head);
  }

  /**
   * HOT PATH: no allocation. Shows the pushed elements to the driver (elements before index, by an
   * atomic store that is also the full barrier before the look at the driver's wish), and returns
   * whether the driver wants to be notified of them (§2.7.7.2).
   *
   * What the dirty log is concerned with: data, status and elements are marked before the index is
   * stored. Whoever sees the index, and copies its page, finds the bits of all that it publishes; so
   * should this process end here, nothing is published that would not be copied.
   */
  publish(): boolean {
    if (this.#nextUsed === this.#published) return false;
    const { window, offset } = this.#used!;
    if (this.#logsUsed) this.#markElements();
    Atomics.store(window.u16, (offset + VIRTQ_USED.idx) >> 1, this.#nextUsed);
    this.#markUsed(VIRTQ_USED.idx, 2);
    const count = (this.#nextUsed - this.#published) & 0xffff;
    this.#published = this.#nextUsed;
    this.#inflight?.published(count, this.#nextUsed);
    return this.#wantsNotification();
  }

  /**
   * HOT PATH: no allocation. Asks the driver to kick for the next chain. The caller must look at
   * hasAvailable() afterwards: the store is a full barrier, so a chain made available before the
   * driver could see the wish is seen by that look.
   */
  enableKicks(): void {
    const { window, offset } = this.#used!;
    if (this.#hasEventIdx) {
      const availEvent = VIRTQ_USED.ring + VIRTQ_USED.ELEMENT * this.#size;
      Atomics.store(window.u16, (offset + availEvent) >> 1, this.#lastAvail);
      this.#markUsed(availEvent, 2);
    } else {
      Atomics.store(window.u16, (offset + VIRTQ_USED.flags) >> 1, 0);
      this.#markUsed(VIRTQ_USED.flags, 2);
    }
  }

  /** HOT PATH: no allocation. Kicks are not needed: with EVENT_IDX avail_event just stays behind. */
  disableKicks(): void {
    if (this.#hasEventIdx) return;
    const { window, offset } = this.#used!;
    Atomics.store(window.u16, (offset + VIRTQ_USED.flags) >> 1, VIRTQ_USED_F_NO_NOTIFY);
    this.#markUsed(VIRTQ_USED.flags, 2);
  }

  /** Ring index reads: an atomic load, so ring entries are read after the index that covers them. */
  #availIdx(): number {
    const { window, offset } = this.#avail!;
    return Atomics.load(window.u16, (offset + VIRTQ_AVAIL.idx) >> 1);
  }

  #usedIdx(): number {
    const { window, offset } = this.#used!;
    return Atomics.load(window.u16, (offset + VIRTQ_USED.idx) >> 1);
  }

  /** `bytes` of the used ring have been written, `at` bytes from its beginning. */
  #markUsed(at: number, bytes: number): void {
    if (!this.#logsUsed) return;
    const lo = (this.#usedLogLo + at) | 0;
    const carry = lo >>> 0 < this.#usedLogLo >>> 0 ? 1 : 0;
    this.#memory.log.mark(lo, (this.#usedLogHi + carry) | 0, bytes);
  }

  /** Those pushed and not published: a run of the ring, or two where it begins again. */
  #markElements(): void {
    const first = this.#published & (this.#size - 1);
    const count = (this.#nextUsed - this.#published) & 0xffff;
    const run = Math.min(count, this.#size - first);
    this.#markUsed(VIRTQ_USED.ring + VIRTQ_USED.ELEMENT * first, VIRTQ_USED.ELEMENT * run);
    if (run === count) return;
    this.#markUsed(VIRTQ_USED.ring, VIRTQ_USED.ELEMENT * (count - run));
  }

  #wantsNotification(): boolean {
    const { window, offset } = this.#avail!;
    if (!this.#hasEventIdx) {
      const flags = Atomics.load(window.u16, (offset + VIRTQ_AVAIL.flags) >> 1);
      return (flags & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    }
    const usedEvent = Atomics.load(window.u16, (offset + VIRTQ_AVAIL.ring + 2 * this.#size) >> 1);
    const previous = this.#signalled;
    const isFirst = !this.#hasSignalled;
    this.#signalled = this.#published;
    this.#hasSignalled = true;
    // vring_need_event: used_event lies in [previous, published).
    const passed = (this.#published - usedEvent - 1) & 0xffff;
    return isFirst || passed < ((this.#published - previous) & 0xffff);
  }

  /** Follows the chain from `head`, through an indirect table if it ends in one. */
  #walk(chain: DescriptorChain, head: number): boolean {
    const { window, offset } = this.#desc!;
    let index = head;
    for (;;) {
      if (index >= this.#size) {
        this.#break(`descriptor index: expected below ${this.#size}, got ${index}`);
        return false;
      }
      const at = (offset + VIRTQ_DESC.SIZE * index) >> 2;
      const lo = window.i32[at]!;
      const hi = window.i32[at + 1]!;
      const length = window.i32[at + 2]!;
      const flagsAndNext = window.i32[at + 3]!;
      const flags = flagsAndNext & 0xffff;
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        return this.#walkIndirect(chain, lo, hi, length, flags);
      }
      if (!this.#append(chain, lo, hi, length, flags, this.#size)) return false;
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return true;
      index = flagsAndNext >>> 16;
    }
  }

  /** §2.7.5.3: the table is not part of the chain; its entries go on with index 0. */
  #walkIndirect(
    chain: DescriptorChain,
    lo: number,
    hi: number,
    length: number,
    flags: number,
  ): boolean {
    const entries = length >>> 4;
    if (!this.#hasIndirect || (flags & VIRTQ_DESC_F_NEXT) !== 0) {
      this.#break('indirect descriptor: not negotiated, or followed by another');
      return false;
    }
    if ((length & 15) !== 0 || entries === 0 || entries > chain.capacity) {
      this.#break(
        `indirect table: expected 1 to ${chain.capacity} entries, got ${length >>> 0} bytes`,
      );
      return false;
    }
    let index = 0;
    for (;;) {
      if (index >= entries) {
        this.#break(`indirect descriptor index: expected below ${entries}, got ${index}`);
        return false;
      }
      const at = (lo + VIRTQ_DESC.SIZE * index) | 0;
      const carry = at >>> 0 < lo >>> 0 ? 1 : 0;
      if (this.#memory.resolve(at, (hi + carry) | 0, VIRTQ_DESC.SIZE) < VIRTQ_DESC.SIZE) {
        this.#break('indirect table: outside guest memory');
        return false;
      }
      const { u8 } = this.#memory.window!;
      const { offset } = this.#memory;
      const entryFlags = u8[offset + VIRTQ_DESC.flags]! | (u8[offset + VIRTQ_DESC.flags + 1]! << 8);
      if ((entryFlags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        this.#break('indirect table: refers to another indirect table');
        return false;
      }
      const entryLo = readHalf(u8, offset + VIRTQ_DESC.addr);
      const entryHi = readHalf(u8, offset + VIRTQ_DESC.addr + 4);
      const entryLength = readHalf(u8, offset + VIRTQ_DESC.len);
      const next = u8[offset + VIRTQ_DESC.next]! | (u8[offset + VIRTQ_DESC.next + 1]! << 8);
      if (!this.#append(chain, entryLo, entryHi, entryLength, entryFlags, chain.capacity)) {
        return false;
      }
      if ((entryFlags & VIRTQ_DESC_F_NEXT) === 0) return true;
      index = next;
    }
  }

  /** Adds a segment; a chain with more than `limit` of them can only be a loop. */
  #append(
    chain: DescriptorChain,
    lo: number,
    hi: number,
    length: number,
    flags: number,
    limit: number,
  ): boolean {
    const { count } = chain;
    if (count >= limit) {
      this.#break(`descriptor chain: expected at most ${limit} descriptors, got a loop or more`);
      return false;
    }
    const isWritable = (flags & VIRTQ_DESC_F_WRITE) !== 0;
    const bytes = isWritable ? chain.writableBytes : chain.readableBytes;
    if (length < 0 || length > CHAIN_BYTES_MAX - bytes) {
      this.#break(`descriptor chain: expected less than 2 GiB, got a segment of ${length >>> 0}`);
      return false;
    }
    if (isWritable) {
      chain.writableBytes = bytes + length;
    } else if (chain.readableCount < count) {
      // §2.7.4.2: the driver "MUST place any device-writable descriptor elements after".
      this.#break('descriptor chain: device-readable descriptor after a device-writable one');
      return false;
    } else {
      chain.readableBytes = bytes + length;
      chain.readableCount = count + 1;
    }
    chain.addressLo[count] = lo;
    chain.addressHi[count] = hi;
    chain.length[count] = length;
    chain.count = count + 1;
    return true;
  }

  #break(reason: string): number {
    this.brokenReason = reason;
    return POP_BROKEN;
  }
}
