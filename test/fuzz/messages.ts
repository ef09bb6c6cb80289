/**
 * What a hostile front end says: vhost-user messages mostly as QEMU sends them, with damaged
 * payloads, wrong, missing and superfluous descriptors, in any order. Says nothing itself: targets
 * send the steps, over one connection each.
 */

import { writeSync } from 'node:fs';
import { signalEventFd } from '../../src/native/eventfd.ts';
import { createMemfd } from '../../src/native/fd.ts';
import { FDS_PER_MESSAGE_MAX } from '../../src/native/socket.ts';
import {
  encodeConfig,
  encodeMemTable,
  encodeMessage,
  encodeSingleRegion,
  encodeU64,
  encodeVringAddress,
  encodeVringState,
  FLAG_NEED_REPLY,
  HEADER,
  type MemoryRegion,
  PROTOCOL_FEATURES,
  VHOST_USER,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F,
  VRING_NOFD_MASK,
} from '../../src/vhost-user-ts/index.ts';
import type { RingAddresses } from '../../src/virtio/virtqueue.ts';
import type { Random } from '../driver/random.ts';
import type { OddFds } from './odd-fds.ts';

export const RING_SIZE = 16;
const EVENT_IDX = 1n << 29n;
export const FEATURES = (1n << 32n) | (1n << 28n) | EVENT_IDX;
/** A request that is not offered ends the session: then it is rare. */
const HAS_INFLIGHT = (PROTOCOL_FEATURES & VHOST_USER_PROTOCOL_F.INFLIGHT_SHMFD) !== 0n;
const HAS_LOG = (PROTOCOL_FEATURES & VHOST_USER_PROTOCOL_F.LOG_SHMFD) !== 0n;
const NOT_OFFERED_RARITY = 6;
/** Requests that have neither payload nor descriptors. */
const PLAIN_REQUESTS = [
  VHOST_USER.GET_FEATURES,
  VHOST_USER.GET_PROTOCOL_FEATURES,
  VHOST_USER.GET_QUEUE_NUM,
  VHOST_USER.GET_MAX_MEM_SLOTS,
  VHOST_USER.SET_OWNER,
];
const SCRIBBLE_BYTES_MAX = 256;

export interface Step {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
  /** Where its end is, or whether it has one, is not what its header says. */
  readonly isUnframed?: boolean;
}

export interface MakerOptions {
  readonly queues: number;
  /** What memory the front end may truly give, and its file. */
  readonly regions: readonly MemoryRegion[];
  readonly memoryFd: number;
  /** The file of regions that are varied. */
  readonly variedFd: number;
  /** Where ring `index` lies: user addresses. */
  readonly place: (index: number) => RingAddresses;
}

/** What the device has answered to GET_INFLIGHT_FD. */
interface InflightArea {
  readonly payload: Uint8Array;
  readonly fd: number;
}

export class MessageMaker {
  readonly #random: Random;
  readonly #fds: OddFds;
  readonly #options: MakerOptions;
  /** Half of the sessions say nothing that must end them: they come farther. */
  readonly #isRough: boolean;
  readonly #areas: InflightArea[] = [];
  /** Eventfds sent to be kicked. */
  readonly #kicks: number[] = [];
  #wantsReplies = false;

  constructor(random: Random, fds: OddFds, options: MakerOptions) {
    this.#random = random;
    this.#isRough = random.oneIn(2);
    this.#fds = fds;
    this.#options = options;
  }

  /** A whole conversation: an opening, then anything, damaged now and then. */
  *steps(): Generator<Step> {
    const random = this.#random;
    for (const message of this.#opening()) {
      if (random.oneIn(25)) continue;
      const step = message();
      yield this.#roughly(25) ? this.#damage(step) : step;
      if (random.oneIn(40)) yield step;
      if (random.oneIn(40)) yield this.#anything();
    }
    for (let i = random.below(24); i > 0; i--) {
      const step = this.#anything();
      yield this.#roughly(16) ? this.#damage(step) : step;
    }
    if (this.#roughly(20)) yield* this.#dribble();
  }

  /** A reply of the device with a descriptor, which is the session's from now on. */
  takeReply(payload: Uint8Array, fd: number): void {
    this.#fds.adopt(fd);
    this.#areas.push({ payload: payload.slice(), fd });
  }

  /** Writes into the in-flight areas that the device has made or was given, whatever runs. */
  scribble(): void {
    const random = this.#random;
    for (const { fd } of this.#areas) {
      const bytes = random.bytes(random.between(1, SCRIBBLE_BYTES_MAX));
      if (random.oneIn(3)) bytes.fill(random.pick([0, 1, 0xff]));
      try {
        writeSync(fd, bytes, 0, bytes.length, random.below(4096));
      } catch {
        // Some cannot be written: sealed, or no file at all.
      }
    }
  }

  /** Signals a kick descriptor that was sent: of a ring that uses it, or has let go of it. */
  kick(): void {
    if (this.#kicks.length > 0) signalEventFd(this.#random.pick(this.#kicks));
  }

  /** Once in `n` times, if at all: what the device drops a connection for. */
  #roughly(n: number): boolean {
    return this.#isRough && this.#random.oneIn(n);
  }

  /** As QEMU begins and starts its rings. */
  #opening(): (() => Step)[] {
    const random = this.#random;
    const messages = [
      () => this.#message(VHOST_USER.GET_FEATURES),
      () => this.#message(VHOST_USER.GET_PROTOCOL_FEATURES),
      () => this.#protocolFeatures(),
      () => this.#message(VHOST_USER.GET_QUEUE_NUM),
      () => this.#message(VHOST_USER.SET_OWNER),
      () => this.#features(),
      ...(HAS_INFLIGHT ? [() => this.#getInflight(), () => this.#setInflight()] : []),
      () => this.#memory(),
    ];
    for (let index = 0; index < random.between(1, this.#options.queues); index++) {
      messages.push(
        () => this.#ringFd(VHOST_USER.SET_VRING_CALL, index),
        () => this.#state(VHOST_USER.SET_VRING_NUM, index, RING_SIZE),
        () => this.#state(VHOST_USER.SET_VRING_BASE, index, 0),
        () => this.#address(index),
        () => this.#ringFd(VHOST_USER.SET_VRING_KICK, index),
        () => this.#state(VHOST_USER.SET_VRING_ENABLE, index, 1),
      );
    }
    return messages;
  }

  #anything(): Step {
    const random = this.#random;
    const { queues } = this.#options;
    const index = random.oneIn(12) ? random.pick([queues, 255, 0xffffffff]) : random.below(queues);
    const makers: (() => Step)[] = [
      () => this.#known(),
      () => this.#features(),
      () => this.#protocolFeatures(),
      () => this.#memory(),
      () => this.#oneRegion(VHOST_USER.ADD_MEM_REG),
      () => this.#oneRegion(VHOST_USER.REM_MEM_REG),
      () => this.#state(VHOST_USER.SET_VRING_NUM, index, this.#ringSize()),
      () => this.#state(VHOST_USER.SET_VRING_BASE, index, random.oneIn(9) ? random.u32() : 0),
      () => this.#state(VHOST_USER.SET_VRING_ENABLE, index, random.below(random.oneIn(9) ? 9 : 2)),
      () => this.#state(VHOST_USER.GET_VRING_BASE, this.#isRough ? index : index % queues, 0),
      () => this.#address(index),
      () => this.#ringFd(VHOST_USER.SET_VRING_KICK, index),
      () => this.#ringFd(VHOST_USER.SET_VRING_CALL, index),
      () => this.#ringFd(VHOST_USER.SET_VRING_ERR, index),
      () => this.#config(random.oneIn(2) ? VHOST_USER.GET_CONFIG : VHOST_USER.SET_CONFIG),
      () => this.#message(VHOST_USER.SET_BACKEND_REQ_FD, [], [this.#fds.any(random)]),
      () => this.#message(random.pick([VHOST_USER.RESET_OWNER, VHOST_USER.RESET_DEVICE])),
    ];
    const isRare = this.#roughly(NOT_OFFERED_RARITY);
    if (HAS_INFLIGHT || isRare) {
      makers.push(
        () => this.#getInflight(),
        () => this.#setInflight(),
      );
    }
    if (HAS_LOG || isRare) {
      makers.push(
        () => this.#logBase(),
        () => this.#message(VHOST_USER.SET_LOG_FD, [], [this.#fds.any(random)]),
      );
    }
    return random.pick(makers)();
  }

  /** A request without payload and descriptors, whatever it should have. */
  #known(): Step {
    if (!this.#isRough) return this.#message(this.#random.pick(PLAIN_REQUESTS));
    const offered = Object.entries(VHOST_USER).filter(([name]) => {
      if (name.includes('INFLIGHT')) return HAS_INFLIGHT;
      return !name.includes('LOG') || HAS_LOG;
    });
    return this.#message(this.#random.pick(offered)[1]);
  }

  #message(request: number, payload: ArrayLike<number> = [], fds: number[] = []): Step {
    const asks = this.#wantsReplies && !this.#random.oneIn(8);
    const bytes = encodeMessage(request, asks ? FLAG_NEED_REPLY : 0, Uint8Array.from(payload));
    return { bytes, fds };
  }

  #features(): Step {
    const features = this.#random.oneIn(10)
      ? BigInt(this.#random.u32())
      : FEATURES | VHOST_USER_F_PROTOCOL_FEATURES;
    return this.#message(VHOST_USER.SET_FEATURES, encodeU64(features));
  }

  /** Nearly always with replies: without them the first refusal ends the session. */
  #protocolFeatures(): Step {
    this.#wantsReplies = !this.#roughly(10);
    const features = this.#roughly(30) ? (1n << 40n) - 1n : PROTOCOL_FEATURES;
    const bytes = encodeU64(this.#wantsReplies ? features : 0n);
    return this.#message(VHOST_USER.SET_PROTOCOL_FEATURES, bytes);
  }

  // ── Memory ──────────────────────────────────────────────────────────────────────────────────

  #memory(): Step {
    const pairs = this.#options.regions.map((region) => this.#vary(region));
    if (this.#random.oneIn(12)) pairs.push(...pairs);
    const fds = pairs.map(({ fd }) => fd);
    if (this.#roughly(20)) fds.push(this.#fds.any(this.#random));
    if (this.#roughly(20)) fds.pop();
    const regions = pairs.map(({ region }) => region);
    return this.#message(VHOST_USER.SET_MEM_TABLE, encodeMemTable(regions), fds);
  }

  #oneRegion(request: number): Step {
    const { region, fd } = this.#vary(this.#random.pick(this.#options.regions));
    const fds = request === VHOST_USER.ADD_MEM_REG ? [fd] : [];
    if (this.#roughly(12)) fds.push(this.#options.memoryFd);
    return this.#message(request, encodeSingleRegion(region), fds);
  }

  /** A region as it is, or with a wrong field, in which case it is another file's. */
  #vary(region: MemoryRegion): { region: MemoryRegion; fd: number } {
    const random = this.#random;
    const { memoryFd, variedFd } = this.#options;
    if (!random.oneIn(8)) {
      return { region, fd: random.oneIn(12) ? this.#fds.any(random) : memoryFd };
    }
    const field = random.pick(['guestAddress', 'bytes', 'userAddress', 'mmapOffset'] as const);
    const values = [
      0,
      region[field] + 1,
      region[field] + 4096,
      Math.max(0, region[field] - 1),
      2 ** 32,
      // Not more than is mapped in a moment: a window is made for each GiB.
      2 ** 34,
      2 ** 41,
      2 ** 53 - 1,
      random.u32(),
      ...(this.#isRough ? [2 ** 53, 2 ** 63] : []),
    ];
    const fd = random.oneIn(6) ? this.#fds.any(random) : variedFd;
    return { region: { ...region, [field]: random.pick(values) }, fd };
  }

  // ── In-flight area and dirty log ────────────────────────────────────────────────────────────

  /** struct VhostUserInflight: u64 size, u64 offset, u16 queues, u16 ring size, padding. */
  #inflightPayload(bytes: number, offset: number): Uint8Array {
    const random = this.#random;
    const { queues } = this.#options;
    const payload = new Uint8Array(this.#roughly(12) ? 20 : 24);
    const view = new DataView(payload.buffer);
    view.setBigUint64(0, BigInt(bytes), true);
    view.setBigUint64(8, BigInt(offset), true);
    view.setUint16(16, random.oneIn(4) ? random.pick([0, 1, queues + 1, 0xffff]) : queues, true);
    view.setUint16(18, random.oneIn(4) ? this.#ringSize() & 0xffff : RING_SIZE, true);
    return payload;
  }

  #getInflight(): Step {
    return this.#message(VHOST_USER.GET_INFLIGHT_FD, this.#inflightPayload(0, 0));
  }

  /** What the device gave, as a front end sends it back; or a file that holds anything. */
  #setInflight(): Step {
    const random = this.#random;
    const given = random.oneIn(5) ? undefined : this.#areas.at(-1);
    if (given !== undefined) {
      return this.#message(VHOST_USER.SET_INFLIGHT_FD, given.payload, this.#oneOrOdd(given.fd));
    }
    const bytes = random.pick([0, 1, 64, 4096, 65536, 2 ** 20]);
    const fd = this.#fds.adopt(createMemfd('inflight', bytes));
    const [size, offset] = random.oneIn(3)
      ? [random.u32(), random.pick([0, 1, 4096, 2 ** 40])]
      : [bytes, 0];
    const payload = this.#inflightPayload(size, offset);
    this.#areas.push({ payload, fd });
    this.scribble();
    return this.#message(VHOST_USER.SET_INFLIGHT_FD, payload, this.#oneOrOdd(fd));
  }

  /** SET_LOG_BASE: u64 size, u64 offset, and the log's file. */
  #logBase(): Step {
    const random = this.#random;
    const bytes = random.pick([0, 4096, 65536, 2 ** 20]);
    const fd = this.#fds.adopt(createMemfd('log', bytes));
    const payload = new Uint8Array(16);
    const view = new DataView(payload.buffer);
    view.setBigUint64(0, BigInt(random.oneIn(4) ? random.u32() : bytes), true);
    view.setBigUint64(8, BigInt(random.oneIn(4) ? random.pick([1, 4096, 2 ** 53]) : 0), true);
    return this.#message(VHOST_USER.SET_LOG_BASE, payload, this.#oneOrOdd(fd));
  }

  #oneOrOdd(fd: number): number[] {
    const random = this.#random;
    if (this.#roughly(12)) return [];
    return [random.oneIn(12) ? this.#fds.any(random) : fd];
  }

  // ── Rings and configuration ─────────────────────────────────────────────────────────────────

  #ringSize(): number {
    const u32 = this.#random.u32();
    return this.#random.pick([RING_SIZE, RING_SIZE, 1, 1024, 32768, 0, 3, 65536, 0x80000000, u32]);
  }

  #state(request: number, index: number, num: number): Step {
    return this.#message(request, encodeVringState({ index, num }));
  }

  #address(index: number): Step {
    const random = this.#random;
    const addresses = { ...this.#options.place(index) };
    if (random.oneIn(8)) {
      const part = random.pick(['desc', 'avail', 'used'] as const);
      const [region] = this.#options.regions;
      const end = region!.userAddress + region!.bytes;
      const near = [addresses[part] + 2, addresses[part] + 16, end - 16, end - 256, end, 0];
      addresses[part] = random.pick([
        ...near,
        2 ** 53 - 2,
        this.#isRough ? 2 ** 53 : 8,
        region!.guestAddress,
      ]);
    }
    const log = random.oneIn(9) ? (1n << 64n) - 1n : 0n;
    const flags = random.oneIn(9) ? random.u32() : 0;
    return this.#message(
      VHOST_USER.SET_VRING_ADDR,
      encodeVringAddress({ index, flags, log, ...addresses }),
    );
  }

  #ringFd(request: number, index: number): Step {
    const random = this.#random;
    let value = BigInt(index);
    const isOdd = random.oneIn(6);
    let fds = [isOdd ? this.#fds.any(random) : this.#fds.eventFd()];
    if (!isOdd && request === VHOST_USER.SET_VRING_KICK) this.#kicks.push(fds[0]!);
    if (random.oneIn(10)) {
      value |= VRING_NOFD_MASK;
      if (!this.#roughly(8)) fds = [];
    }
    if (this.#roughly(25)) fds = Array.from({ length: random.between(2, 32) }, () => fds[0]!);
    if (random.oneIn(25)) value |= BigInt(random.u32()) << 16n;
    return this.#message(request, encodeU64(value), fds);
  }

  #config(request: number): Step {
    const random = this.#random;
    const size = random.oneIn(5) ? random.below(4100) : random.pick([1, 57, 60]);
    const offset = random.oneIn(3) ? random.pick([32, 1, 255, 256, 0xffffffff]) : 0;
    const flags = random.oneIn(3) ? random.below(4) : 0;
    const payload = random.bytes(Math.min(4096, size));
    return this.#message(request, encodeConfig({ offset, flags, payload }));
  }

  // ── Damage ──────────────────────────────────────────────────────────────────────────────────

  /** The same message a little or very wrong. */
  #damage({ bytes, fds }: Step): Step {
    const random = this.#random;
    const damaged = Uint8Array.from(bytes);
    const view = new DataView(damaged.buffer);
    switch (random.below(8)) {
      case 0:
        return {
          bytes: damaged.slice(0, random.between(1, damaged.length)),
          fds,
          isUnframed: true,
        };
      case 1:
        view.setUint32(HEADER.size, random.pick([0, 1, 4107, 4108, 4109, 0xffffffff]), true);
        return { bytes: damaged, fds, isUnframed: true };
      case 2:
        view.setUint32(HEADER.request, random.oneIn(2) ? random.below(50) : random.u32(), true);
        return { bytes: damaged, fds };
      case 3:
        view.setUint32(HEADER.flags, random.oneIn(2) ? random.below(16) : random.u32(), true);
        return { bytes: damaged, fds };
      case 4:
        return { bytes: damaged, fds: [] };
      case 5:
        return { bytes: damaged, fds: [...fds, this.#fds.any(random)].slice(-FDS_PER_MESSAGE_MAX) };
      case 6: {
        // Longer or shorter by whole words, and saying so.
        const by = random.pick([-8, -4, 4, 8, 32, 300]);
        const length = Math.max(HEADER.BYTES, damaged.length + by);
        const resized = new Uint8Array(length);
        resized.set(damaged.subarray(0, length));
        new DataView(resized.buffer).setUint32(HEADER.size, length - HEADER.BYTES, true);
        return { bytes: resized, fds };
      }
      default:
        for (let i = random.between(1, 3); i > 0; i--) {
          damaged[random.between(HEADER.size, damaged.length - 1)]! ^= 1 << random.below(8);
        }
        return { bytes: damaged, fds, isUnframed: true };
    }
  }

  /** One long message a byte at a time, each with as many descriptors as it carries. */
  *#dribble(): Generator<Step> {
    const message = this.#config(VHOST_USER.SET_CONFIG).bytes;
    const fd = this.#fds.eventFd();
    const count = this.#random.between(1, 32);
    for (let at = 0; at < Math.min(message.length, 40); at++) {
      const fds = new Array(count).fill(fd);
      yield { bytes: message.subarray(at, at + 1), fds, isUnframed: true };
    }
  }
}
