/**
 * Fuzzes rings and chains: a block queue over the memory of a guest that makes mostly valid chains
 * and damages some of them, also while they are being served. Whatever it does, nothing is thrown,
 * a turn stays within its budget, used elements name the available heads in order and once, the
 * ring is broken or everything is completed, no canary is touched, and no slot changes but by a
 * request.
 */

import type { PageWindow } from '../../src/store/page-window.ts';
import {
  availRingBytes,
  descTableBytes,
  usedRingBytes,
  VIRTQ_ALIGN,
  VIRTQ_AVAIL,
  VIRTQ_DESC,
} from '../../src/virtio/split-ring.ts';
import { BlockQueue } from '../../src/virtio-blk/block-queue.ts';
import { DriverRing, encodeDescriptor } from '../driver/driver-ring.ts';
import { type Layout, randomLayout, type Segment } from '../driver/layouts.ts';
import type { Random } from '../driver/random.ts';
import { makeFigures } from '../driver/request-figures.ts';
import { type Budget, check, runCases } from './budget.ts';
import { CheckedStore, HostileGuest, PLAN_COUNT } from './hostile-guest.ts';

const SLOTS = 64;
const TURNS_MAX = 60;
const FREES_PER_PAGE = 16;
const F_NEXT = 1;
const F_WRITE = 2;
const F_INDIRECT = 4;

let store: CheckedStore | undefined;
const guests: (HostileGuest | undefined)[] = new Array(PLAN_COUNT).fill(undefined);

export function fuzzRings(seed: number, budget: Budget): number {
  return runCases('rings', seed, budget, (random) => {
    store ??= new CheckedStore(SLOTS);
    const plan = random.below(PLAN_COUNT);
    guests[plan] ??= new HostileGuest(plan);
    const guest = guests[plan];
    store.guest = guest;
    new RingCase(random, guest, store).run();
    guest.checkCanaries();
    store.guest = undefined;
    store.compareSlots(random.below(SLOTS), random.oneIn(32) ? SLOTS : 4);
  });
}

class RingCase {
  readonly #random: Random;
  readonly #guest: HostileGuest;
  readonly #store: CheckedStore;
  readonly #ring: DriverRing;
  readonly #queue: BlockQueue<PageWindow>;
  readonly #indirect: boolean;
  readonly #blockBytes: number;
  /** Descriptors of the ring that no chain has. */
  readonly #free: number[];
  /** Guest addresses of all descriptors written, and of all headers. */
  readonly #descriptors: number[] = [];
  readonly #headers: number[] = [];
  /** Heads popped and not yet returned. */
  readonly #popped: number[] = [];
  /** The rings are buffers too, so what they say means nothing any more. */
  #ringsAreBuffers = false;
  #offered: number;

  constructor(random: Random, guest: HostileGuest, device: CheckedStore) {
    this.#random = random;
    this.#guest = guest;
    this.#store = device;
    guest.reset(random.pick([0, 0xcc, 0xff, 0x01]));
    const size = random.pick([1, 2, 4, 8, 16, 32, 128, 1024]);
    const eventIdx = random.oneIn(2);
    const startIndex = random.oneIn(2) ? 0 : random.below(0x10000);
    this.#ring = new DriverRing(guest.ram, size, { ...this.#places(size), eventIdx, startIndex });
    this.#offered = startIndex;
    this.#indirect = !random.oneIn(8);
    this.#free = Array.from({ length: size }, (_, i) => i);
    this.#blockBytes = random.pick([512, 4096]);
    const { memory } = guest;
    this.#queue = new BlockQueue(memory, device, makeFigures(), 'fuzz', () => {}, this.#blockBytes);
    const { ring } = this.#queue;
    const wrong = ring.attach(size, this.#ring.userAddresses);
    check(wrong === undefined, () => `attach: ${wrong}`);
    ring.start(startIndex, { eventIdx, indirect: this.#indirect });
    this.#queue.begin();
  }

  run(): void {
    const random = this.#random;
    const queue = this.#queue;
    this.#submitSome();
    if (random.oneIn(3)) this.#damage();
    for (let turn = 0; turn < TURNS_MAX; turn++) {
      const isIdle = this.#serve();
      if (queue.ring.brokenReason !== undefined) break;
      if (isIdle && random.oneIn(2)) break;
      if (random.oneIn(4)) this.#submitSome();
      if (random.oneIn(6)) this.#damage();
      if (random.oneIn(24)) this.#suspend();
      if (random.oneIn(8)) queue.ring.enableKicks();
      if (random.oneIn(8)) queue.ring.disableKicks();
    }
    this.#suspend();
    queue.ring.detach();
  }

  /** One turn, and what must hold after it. True: nothing is left to do. */
  #serve(): boolean {
    const { ring } = this.#queue;
    const before = ring.lastAvail;
    const budget = this.#random.pick([1, 2, 7, 64]);
    this.#store.startTurn();
    const left = this.#queue.serve(budget);
    const { moved, cleared } = this.#store;
    check(
      moved * FREES_PER_PAGE + cleared <= budget * FREES_PER_PAGE,
      `a turn of ${budget} pages moved ${moved} and cleared ${cleared}`,
    );
    const count = (ring.lastAvail - before) & 0xffff;
    check(count <= budget, `a turn of ${budget} pages popped ${count} chains`);
    const isBroken = ring.brokenReason !== undefined;
    const isIdle = left > 0 && !isBroken;
    if (isIdle && !this.#ringsAreBuffers) {
      check(!ring.hasAvailable() && !this.#queue.isActive, 'idle with something left to do');
    }
    this.#checkUsed(before, count, isIdle);
    return isIdle;
  }

  #checkUsed(before: number, count: number, isIdle: boolean): void {
    if (this.#ringsAreBuffers) return;
    for (let i = 0; i < count; i++) this.#popped.push(this.#availEntry(before + i));
    for (let used = this.#ring.takeUsed(); used !== undefined; used = this.#ring.takeUsed()) {
      const expected = this.#popped.shift();
      check(
        used.id === expected,
        `used element ${used.id}, expected ${expected ?? 'none: nothing was popped'}`,
      );
    }
    if (isIdle) check(this.#popped.length === 0, `${this.#popped.length} chains were swallowed`);
  }

  /** As a front end that disables the ring: the request under way will be popped again. */
  #suspend(): void {
    const { ring, isActive } = this.#queue;
    const expected = (ring.lastAvail - (isActive ? 1 : 0)) & 0xffff;
    if (isActive) this.#popped.pop();
    this.#queue.suspend();
    check(ring.lastAvail === expected, `suspended: resumes at ${ring.lastAvail}, not ${expected}`);
  }

  // ── Valid chains ────────────────────────────────────────────────────────────────────────────

  #submitSome(): void {
    const { size } = this.#ring;
    for (let i = this.#random.between(1, 6); i > 0; i--) {
      const waiting = (this.#offered - this.#queue.ring.lastAvail) & 0xffff;
      if (waiting + 1 >= size && size > 1) break;
      if (waiting >= size) break;
      this.#submit();
    }
    this.#ring.publish();
  }

  #submit(): void {
    const random = this.#random;
    // Descriptors are taken anew now and then, in any order, whoever else still uses them.
    if (this.#free.length < 1 || random.oneIn(16)) {
      this.#free.splice(0, this.#free.length);
      for (let i = 0; i < this.#ring.size; i++) {
        this.#free.splice(random.below(this.#free.length + 1), 0, i);
      }
    }
    const request = this.#request();
    const mayBeIndirect = this.#indirect || random.oneIn(32);
    const layout = randomLayout(random, request, Math.max(2, this.#free.length), mayBeIndirect);
    const readable = this.#placeAll(layout.readable);
    const writable = this.#placeAll(layout.writable);
    let done = 0;
    for (const { address, bytes } of readable) {
      this.#guest.poke(address, request.bytes.subarray(done, done + bytes));
      if (done === 0) this.#headers.push(address);
      done += bytes;
    }
    const head = this.#describe(layout, readable, writable);
    this.#ring.offer(head);
    this.#offered = (this.#offered + 1) & 0xffff;
  }

  #request(): { bytes: Uint8Array; readable: number; writable: number } {
    const random = this.#random;
    const type = random.oneIn(40) ? random.u32() : random.pick([0, 0, 0, 1, 1, 1, 4, 8, 11, 13]);
    const pages = random.oneIn(12) ? 20 : random.below(5);
    const isClear = type === 11 || type === 13;
    const blocks = 4096 / this.#blockBytes;
    const moved = random.below(pages * blocks + 1) * this.#blockBytes;
    const data = new Uint8Array(type === 1 ? moved : isClear ? 16 * (pages + 1) : 0);
    const view = new DataView(data.buffer);
    for (let at = 0; type === 1 && at < moved; at += 4096) {
      data.set(random.page().subarray(0, moved - at), at);
    }
    for (let at = 0; isClear && at < data.length; at += 16) {
      view.setUint32(at, random.below(SLOTS * 8 - 64), true);
      view.setUint32(at + 8, random.below(64), true);
    }
    const header = new Uint8Array(16);
    const headerView = new DataView(header.buffer);
    headerView.setUint32(0, type, true);
    headerView.setUint32(8, (8 / blocks) * random.below((SLOTS - 20) * blocks), true);
    const bytes = Buffer.concat([header, data]);
    const writable = 1 + (type === 0 ? moved : type === 8 ? 20 : 0);
    return { bytes, readable: bytes.length, writable };
  }

  #placeAll(segments: readonly Segment[]): { address: number; bytes: number }[] {
    return segments.map(({ bytes, align = 1, skew = 0 }) => ({
      address: this.#guest.place(this.#random, bytes, align, skew),
      bytes,
    }));
  }

  #describe(
    layout: Layout,
    readable: readonly { address: number; bytes: number }[],
    writable: readonly { address: number; bytes: number }[],
  ): number {
    const segments = [
      ...readable.map((segment) => ({ ...segment, flags: 0 })),
      ...writable.map((segment) => ({ ...segment, flags: F_WRITE })),
    ];
    const direct = segments.slice(0, layout.indirectFrom ?? segments.length);
    const inTable = segments.slice(direct.length);
    if (inTable.length > 0) {
      const bytes = inTable.length * VIRTQ_DESC.SIZE;
      const address = this.#guest.place(this.#random, bytes, 1, 0);
      this.#writeTable(address, inTable);
      direct.push({ address, bytes, flags: F_INDIRECT });
    }
    const indices = direct.map(() => this.#free.pop() ?? 0);
    direct.forEach((segment, i) => {
      const isLast = i === direct.length - 1;
      this.#writeDescriptor(this.#ring.desc + VIRTQ_DESC.SIZE * indices[i]!, {
        ...segment,
        flags: segment.flags | (isLast ? 0 : F_NEXT),
        next: isLast ? this.#random.below(4) : indices[i + 1]!,
      });
    });
    return indices[0]!;
  }

  #writeTable(
    address: number,
    entries: readonly { address: number; bytes: number; flags: number }[],
  ): void {
    entries.forEach((entry, i) => {
      const isLast = i === entries.length - 1;
      this.#writeDescriptor(address + VIRTQ_DESC.SIZE * i, {
        ...entry,
        flags: entry.flags | (isLast ? 0 : F_NEXT),
        next: isLast ? 0 : i + 1,
      });
    });
  }

  #writeDescriptor(
    at: number,
    descriptor: { address: number; bytes: number; flags: number; next: number },
  ): void {
    this.#guest.poke(at, encodeDescriptor(descriptor));
    this.#descriptors.push(at);
  }

  // ── Damage ──────────────────────────────────────────────────────────────────────────────────

  #damage(): void {
    for (let i = this.#random.between(1, 2); i > 0; i--) {
      const kind = this.#random.below(20);
      if (kind < 13) this.#damageDescriptor();
      else if (kind < 17) this.#damageHeader();
      else if (kind === 17) this.#damageAvailEntry();
      else if (kind === 18) this.#damageAvailIdx();
      else this.#ring.setUsedEvent(this.#random.below(0x10000));
    }
  }

  #damageDescriptor(): void {
    const random = this.#random;
    const at = random.pick(this.#descriptors);
    let bytes: Uint8Array;
    try {
      bytes = this.#guest.ram.read(at, VIRTQ_DESC.SIZE);
    } catch {
      return;
    }
    const view = new DataView(bytes.buffer);
    switch (random.below(6)) {
      case 0:
      case 1:
        view.setBigUint64(VIRTQ_DESC.addr, this.#wildAddress(), true);
        break;
      case 2:
        view.setUint32(VIRTQ_DESC.len, this.#wildLength(), true);
        break;
      case 3:
        view.setUint16(VIRTQ_DESC.flags, random.oneIn(4) ? random.u32() : random.below(8), true);
        break;
      case 4:
        view.setUint16(VIRTQ_DESC.next, this.#wildIndex(), true);
        break;
      default:
        bytes[random.below(16)]! ^= 1 << random.below(8);
    }
    const address = view.getBigUint64(VIRTQ_DESC.addr, true);
    if (this.#guest.touchesRings(address, view.getUint32(VIRTQ_DESC.len, true))) {
      this.#ringsAreBuffers = true;
    }
    this.#guest.poke(at, bytes);
  }

  /** Also the rings themselves: a table that is the descriptor table, a status in the used ring. */
  #wildAddress(): bigint {
    const random = this.#random;
    if (!random.oneIn(12)) return this.#guest.wildAddress(random);
    return BigInt(random.pick([this.#ring.desc, this.#ring.avail, this.#ring.used]));
  }

  #wildLength(): number {
    const random = this.#random;
    return random.pick([
      0,
      1,
      15,
      16,
      17,
      4095,
      4097,
      0x4000,
      0x4010,
      0x7fffffff,
      0x80000000,
      0xffffffff,
      0xfffff000,
      random.u32(),
    ]);
  }

  #wildIndex(): number {
    const { size } = this.#ring;
    return this.#random.pick([0, 1, size - 1, size, size + 1, 0xffff, this.#random.below(size)]);
  }

  #damageHeader(): void {
    const random = this.#random;
    const at = random.pick(this.#headers) + random.below(32);
    const value = random.pick([0, 1, 4, 8, 11, 13, 0x7f, 0x80, 0xff, random.u32() & 0xff]);
    this.#guest.poke(at, Uint8Array.of(value));
  }

  #damageAvailEntry(): void {
    const slot = this.#random.below(this.#ring.size);
    const entry = new Uint8Array(2);
    new DataView(entry.buffer).setUint16(0, this.#wildIndex(), true);
    this.#guest.poke(this.#ring.avail + VIRTQ_AVAIL.ring + 2 * slot, entry);
  }

  #damageAvailIdx(): void {
    const { size } = this.#ring;
    const by = this.#random.pick([1, size - 1, size, size + 1, 0x8000, 0xffff, -size]);
    this.#ring.setAvailIdx(this.#ring.availIdx + by);
  }

  // ── The ring's place ────────────────────────────────────────────────────────────────────────

  #availEntry(index: number): number {
    const slot = index & (this.#ring.size - 1);
    const bytes = this.#guest.ram.read(this.#ring.avail + VIRTQ_AVAIL.ring + 2 * slot, 2);
    return bytes[0]! | (bytes[1]! << 8);
  }

  /** The parts in any order, the last one often at the very end of the region. */
  #places(size: number): { desc: number; avail: number; used: number } {
    const random = this.#random;
    const { start, end } = this.#guest.rings;
    const bytes = {
      desc: descTableBytes(size),
      avail: availRingBytes(size),
      used: usedRingBytes(size),
    };
    const order = random.pick([
      ['desc', 'avail', 'used'],
      ['used', 'desc', 'avail'],
      ['avail', 'used', 'desc'],
    ] as const);
    const places = { desc: 0, avail: 0, used: 0 };
    let at = start;
    for (const part of order) {
      const align = VIRTQ_ALIGN[part];
      at = Math.ceil(at / align) * align;
      places[part] = at;
      at += bytes[part];
    }
    const last = order[2];
    if (random.oneIn(2)) {
      const align = VIRTQ_ALIGN[last];
      places[last] = Math.floor((end - bytes[last]) / align) * align;
    }
    return places;
  }
}
