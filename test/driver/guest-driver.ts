/**
 * A guest's virtio-blk driver over shared memory: block requests in any layout, a depth up to what
 * the ring has room for, completions checked for what every driver may rely on (an id that is in
 * flight, a status byte that was written, no byte beyond a segment touched).
 *
 *   const ticket = driver.submit({ type: VIRTIO_BLK_T_OUT, sector: 8, data: page });
 *   driver.flush();                      // publish, and kick if the device wants it
 *   for (const done of driver.complete()) … done.ticket === ticket, done.status, done.data
 */

import {
  VIRTQ_DESC,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
} from '../../src/virtio/split-ring.ts';
import { VIRTIO_BLK_REQ } from '../../src/virtio-blk/protocol.ts';
import { DriverRing, type DriverRingOptions, encodeDescriptor } from './driver-ring.ts';
import type { GuestRam } from './guest-ram.ts';
import { type Layout, type Segment, type Sizes, segmentCount, separate } from './layouts.ts';

/** A block request before it is laid out. */
export interface BlockRequest {
  readonly type: number;
  readonly sector: number | bigint;
  /** Data to the device, behind the header. */
  readonly data?: Uint8Array;
  /** Bytes that the device may write, without the status byte. */
  readonly inBytes?: number;
}

export interface Ticket {
  readonly number: number;
  readonly request: BlockRequest;
}

export interface Completion {
  readonly ticket: Ticket;
  readonly status: number;
  /** Of the used element: how many bytes from the first writable one were written. */
  readonly len: number;
  /** The writable bytes without the status. */
  readonly data: Uint8Array;
}

interface Placed {
  readonly address: number;
  readonly bytes: number;
}

interface InFlight {
  readonly ticket: Ticket;
  readonly readable: readonly Placed[];
  readonly writable: readonly Placed[];
  readonly table: Placed | undefined;
  readonly descriptors: readonly number[];
}

/** What the status byte holds until the device has written it. */
const STATUS_UNWRITTEN = 0xee;
/** Fills what the device may write, and a byte on each side of it. */
const UNTOUCHED = 0xa5;
/** Guard bytes before and behind each writable segment. */
const GUARD = 1;

export class GuestDriver {
  readonly ring: DriverRing;
  readonly ram: GuestRam;
  readonly #kick: () => void;
  readonly #free: number[];
  readonly #inFlight = new Map<number, InFlight>();
  #tickets = 0;

  constructor(
    ram: GuestRam,
    size: number,
    options: DriverRingOptions = {},
    kick: () => void = () => {},
  ) {
    this.ram = ram;
    this.ring = new DriverRing(ram, size, options);
    this.#kick = kick;
    this.#free = Array.from({ length: size }, (_, i) => size - 1 - i);
  }

  /** Requests submitted and not yet taken back by complete(). */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  get freeDescriptors(): number {
    return this.#free.length;
  }

  static sizes(request: BlockRequest): Sizes {
    return {
      readable: VIRTIO_BLK_REQ.HEADER_BYTES + (request.data?.length ?? 0),
      writable: (request.inBytes ?? 0) + 1,
    };
  }

  /** Whether submit() would find descriptors for this layout. */
  hasRoom(layout: Layout): boolean {
    return ringDescriptors(layout) <= this.#free.length;
  }

  /** Lays the request out and offers it; the device sees it after flush() or ring.publish(). */
  submit(request: BlockRequest, layout = separate(GuestDriver.sizes(request))): Ticket {
    if (!this.hasRoom(layout)) throw new Error('driver: no free descriptors');
    const out = readableBytes(request);
    const readable = layout.readable.map((segment) => this.#place(segment));
    const writable = layout.writable.map((segment) => this.#place(segment));
    let done = 0;
    for (const { address, bytes } of readable) {
      this.ram.write(address, out.subarray(done, done + bytes));
      done += bytes;
    }
    for (const { address, bytes } of writable) {
      this.ram.fill(address - GUARD, bytes + 2 * GUARD, UNTOUCHED);
    }
    const last = lastByte(writable);
    if (last !== undefined) this.ram.fill(last, 1, STATUS_UNWRITTEN);
    const ticket = { number: this.#tickets++, request };
    const { head, descriptors, table } = this.#describe(layout, readable, writable);
    this.#inFlight.set(head, { ticket, readable, writable, table, descriptors });
    this.ring.offer(head);
    return ticket;
  }

  /** Shows submitted requests to the device and kicks it if it wants that. */
  flush(): void {
    if (this.ring.publish()) this.#kick();
  }

  /** Takes back what the device has completed, in the order of the used ring. */
  complete(): Completion[] {
    const done: Completion[] = [];
    for (let used = this.ring.takeUsed(); used !== undefined; used = this.ring.takeUsed()) {
      const flight = this.#inFlight.get(used.id);
      if (flight === undefined) throw new Error(`used element names chain ${used.id}: unknown`);
      this.#inFlight.delete(used.id);
      done.push({ ticket: flight.ticket, len: used.len, ...this.#collect(flight) });
      this.#release(flight);
    }
    return done;
  }

  #collect(flight: InFlight): { status: number; data: Uint8Array } {
    const total = flight.writable.reduce((sum, { bytes }) => sum + bytes, 0);
    const all = new Uint8Array(total);
    let at = 0;
    for (const { address, bytes } of flight.writable) {
      const around = this.ram.read(address - GUARD, bytes + 2 * GUARD);
      if (around[0] !== UNTOUCHED || around.at(-1) !== UNTOUCHED) {
        throw new Error(`request ${flight.ticket.number}: bytes beside a segment were written`);
      }
      all.set(around.subarray(GUARD, GUARD + bytes), at);
      at += bytes;
    }
    return { status: all[total - 1] ?? STATUS_UNWRITTEN, data: all.subarray(0, total - 1) };
  }

  /** Writes the chain's descriptors, direct and in a table; returns its head. */
  #describe(
    layout: Layout,
    readable: readonly Placed[],
    writable: readonly Placed[],
  ): { head: number; descriptors: number[]; table: Placed | undefined } {
    const segments = [
      ...readable.map((placed) => ({ ...placed, flags: 0 })),
      ...writable.map((placed) => ({ ...placed, flags: VIRTQ_DESC_F_WRITE })),
    ];
    const directCount = layout.indirectFrom ?? segments.length;
    const inTable = segments.slice(directCount);
    const table = this.#writeTable(inTable, layout.tableSkew ?? 0);
    const direct = segments.slice(0, directCount).map((segment) => ({ ...segment }));
    if (table !== undefined) direct.push({ ...table, flags: VIRTQ_DESC_F_INDIRECT });
    const descriptors = direct.map(() => this.#free.pop()!);
    direct.forEach((segment, i) => {
      const next = descriptors[i + 1];
      this.ring.setDescriptor(descriptors[i]!, {
        address: segment.address,
        bytes: segment.bytes,
        flags: segment.flags | (next === undefined ? 0 : VIRTQ_DESC_F_NEXT),
        next: next ?? 0,
      });
    });
    return { head: descriptors[0]!, descriptors, table };
  }

  /** Entries in reverse order of the table, linked by `next`: no device may assume they ascend. */
  #writeTable(
    segments: readonly { address: number; bytes: number; flags: number }[],
    skew: number,
  ): Placed | undefined {
    const count = segments.length;
    if (count === 0) return undefined;
    const bytes = count * VIRTQ_DESC.SIZE;
    const address = this.ram.allocate(bytes, 4096, skew);
    const entryOf = (i: number) => (i === 0 ? 0 : count - i);
    segments.forEach((segment, i) => {
      const isLast = i === count - 1;
      const entry = encodeDescriptor({
        address: segment.address,
        bytes: segment.bytes,
        flags: segment.flags | (isLast ? 0 : VIRTQ_DESC_F_NEXT),
        next: isLast ? 0 : entryOf(i + 1),
      });
      this.ram.write(address + entryOf(i) * VIRTQ_DESC.SIZE, entry);
    });
    return { address, bytes };
  }

  #place(segment: Segment): Placed {
    const { bytes, align = 1, skew = 0 } = segment;
    const wanted = (((skew - GUARD) % align) + align) % align;
    const address = this.ram.allocate(bytes + 2 * GUARD, align, wanted) + GUARD;
    return { address, bytes };
  }

  #release(flight: InFlight): void {
    for (const { address, bytes } of [...flight.readable, ...flight.writable]) {
      this.ram.free(address - GUARD, bytes + 2 * GUARD);
    }
    if (flight.table !== undefined) this.ram.free(flight.table.address, flight.table.bytes);
    this.#free.push(...flight.descriptors);
  }
}

/** Descriptors of the ring itself that a layout takes. */
export function ringDescriptors(layout: Layout): number {
  const count = segmentCount(layout);
  const { indirectFrom } = layout;
  return indirectFrom === undefined || indirectFrom >= count ? count : indirectFrom + 1;
}

/** Header (§5.2.6: u32 type, u32 reserved, u64 sector) and the data that follows it. */
function readableBytes(request: BlockRequest): Uint8Array {
  const data = request.data ?? new Uint8Array(0);
  const bytes = new Uint8Array(VIRTIO_BLK_REQ.HEADER_BYTES + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(VIRTIO_BLK_REQ.type, request.type, true);
  view.setBigUint64(VIRTIO_BLK_REQ.sector, BigInt(request.sector), true);
  bytes.set(data, VIRTIO_BLK_REQ.HEADER_BYTES);
  return bytes;
}

function lastByte(segments: readonly Placed[]): number | undefined {
  const last = segments.findLast(({ bytes }) => bytes > 0);
  return last === undefined ? undefined : last.address + last.bytes - 1;
}
