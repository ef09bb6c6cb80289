/**
 * Fuzzes vhost-user sessions: a whole device in this process and a front end that speaks mostly as
 * QEMU does, with damaged payloads, wrong and superfluous descriptors, messages cut anywhere, and
 * ring traffic in between. A session ends by the peer's leaving or by ProtocolError and no other
 * way; descriptors are all given back; few are held meanwhile; a front end that behaves is served
 * afterwards and finds every page that nobody asked to change; memory does not grow.
 */

import { EPOLLIN, EPOLLRDHUP, Epoll } from '../../src/native/epoll.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { receiveWithFds, sendWithFds, socketPair } from '../../src/native/socket.ts';
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
  ProtocolError,
  VHOST_USER,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VRING_NOFD_MASK,
} from '../../src/vhost-user-ts/index.ts';
import { openFds } from '../driver/descriptors.ts';
import { DriverRing, type DriverRingOptions } from '../driver/driver-ring.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice } from '../driver/local-device.ts';
import type { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { type Budget, check, runCases } from './budget.ts';
import { OddFds } from './odd-fds.ts';

const QUEUES = 4;
const DISK_PAGES = 256;
/** Slots that no request of a hostile session names. */
const SENTINELS = [3, 4, 100, 101, 254, 255];
const RING_SIZE = 16;
/** What a session may hold: a message's descriptors twice over, three a ring, sockets. */
const HELD_FDS_MAX = 2 * 32 + 3 * QUEUES + 8;
const GROWTH_BYTES_MAX = 400 << 20;
/** Memory is looked at every so many cases; the first look is when all is warm. */
const CASES_PER_LOOK = 200;
const EVENT_IDX = 1n << 29n;
const FEATURES = (1n << 32n) | (1n << 28n) | EVENT_IDX;

/** As in the reactor: the kernel decides what can be watched. */
class WatchedDevice extends LocalDevice {
  readonly epoll = new Epoll();

  override watchKick(fd: number): void {
    this.epoll.add(fd, EPOLLIN | EPOLLRDHUP, fd);
    super.watchKick(fd);
  }

  override unwatchKick(fd: number): void {
    this.epoll.remove(fd);
    super.unwatchKick(fd);
  }
}

interface Bench {
  readonly local: WatchedDevice;
  /** Ring places, one a queue, and room for requests behind them. */
  readonly places: readonly DriverRingOptions[];
  readonly goodPlace: DriverRingOptions;
  readonly buffers: number;
}

let bench: Bench | undefined;
let cases = 0;
let baseline = 0;

export function fuzzVhostUser(seed: number, budget: Budget): number {
  bench ??= makeBench();
  return runCases('vhost-user', seed, budget, (random) => {
    for (let i = random.between(2, 6); i > 0; i--) new HostileSession(random, bench!).run();
    goodSession(random, bench!, false);
    lookAtMemory();
  });
}

function makeBench(): Bench {
  const local = new WatchedDevice({ diskBytes: DISK_PAGES * 4096, numQueues: QUEUES });
  const place = (): DriverRingOptions => {
    const { desc, avail, used } = new DriverRing(local.ram, RING_SIZE);
    return { desc, avail, used };
  };
  const places = Array.from({ length: QUEUES }, place);
  const buffers = local.ram.allocate(16 * 4096, 4096);
  local.device.detach();
  local.frontEnd.close();
  const made = { local, places, goodPlace: place(), buffers };
  goodSession(undefined, made, true);
  return made;
}

function lookAtMemory(): void {
  if (++cases % CASES_PER_LOOK !== 0) return;
  const { rss } = process.memoryUsage();
  if (cases === CASES_PER_LOOK) baseline = rss;
  const growth = rss - baseline;
  check(growth < GROWTH_BYTES_MAX, `${cases} cases: ${growth >> 20} MiB more than at first`);
}

/** A front end that behaves: writes the sentinels, or finds them as they were written. */
function goodSession(random: Random | undefined, made: Bench, isFirst: boolean): void {
  const { local, goodPlace } = made;
  const before = openFds();
  const fd = createEventFd();
  const frontEnd = local.connect();
  try {
    local.negotiate(FEATURES);
    frontEnd.setMemoryTable(local.ram);
    const index = random?.below(QUEUES) ?? 0;
    const driver = new GuestDriver(local.ram, RING_SIZE, goodPlace);
    frontEnd.startRing(index, driver.ring, { kick: fd, call: fd, err: fd });
    frontEnd.setEnabled(index, true);
    for (const slot of SENTINELS) {
      const page = new Uint8Array(4096).map((_, i) => (i * slot) >> 3);
      driver.submit(isFirst ? write(slot, page) : read(slot, 1));
      driver.flush();
      local.serve();
      const [done, more] = driver.complete();
      check(done?.status === 0 && more === undefined, `well-behaved: slot ${slot} not served`);
      const isSame = isFirst || Buffer.compare(done.data, page) === 0;
      check(isSame, `sentinel ${slot} has changed`);
    }
    check(frontEnd.getBase(index) === SENTINELS.length, 'well-behaved: wrong base');
  } finally {
    local.device.detach();
    frontEnd.close();
    closeFd(fd);
  }
  check(local.watched.size === 0, 'a kick descriptor is still watched');
  check(openFds() === before, () => `well-behaved: ${openFds() - before} descriptors leak`);
}

interface Step {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
}

class HostileSession {
  readonly #random: Random;
  readonly #bench: Bench;
  readonly #fd: number;
  readonly #fds: OddFds;
  readonly #rings: (DriverRing | undefined)[] = [];
  readonly #regions: readonly MemoryRegion[];
  readonly #before = openFds();
  #wantsReplies = false;

  constructor(random: Random, made: Bench) {
    this.#random = random;
    this.#bench = made;
    const [client, server] = socketPair();
    this.#fd = client;
    this.#fds = new OddFds(client);
    made.local.device.attach(server);
    this.#regions = randomRegions(random, made.local.ram.regions[0]!);
  }

  run(): void {
    const { local } = this.#bench;
    try {
      this.#talk();
    } finally {
      local.device.detach();
      closeFd(this.#fd);
      this.#fds.closeAll();
    }
    check(local.watched.size === 0, 'a kick descriptor is still watched');
    const leaked = openFds() - this.#before;
    check(leaked === 0, `${leaked} descriptors leak`);
  }

  /** Until the device drops the connection, or this side has nothing more to say. */
  #talk(): void {
    const random = this.#random;
    for (const step of this.#steps()) {
      const pieces = random.oneIn(6) ? random.between(2, 5) : 1;
      if (!this.#send(step, pieces)) return;
      if (random.oneIn(3)) this.#traffic();
      this.#serveSome();
      if (!random.oneIn(20)) this.#drain();
      const held = openFds() - this.#before - this.#fds.count - 2;
      check(held <= HELD_FDS_MAX, `the device holds ${held} descriptors of one session`);
    }
  }

  /** Sends a message in pieces, polled between them. False: dropped. */
  #send({ bytes, fds }: Step, pieces: number): boolean {
    const size = Math.ceil(bytes.length / pieces);
    const carrier = this.#random.oneIn(8) ? this.#random.below(pieces) : 0;
    for (let i = 0; i * size < bytes.length; i++) {
      const piece = Uint8Array.from(bytes.subarray(i * size, (i + 1) * size));
      const withFds = i === carrier || this.#random.oneIn(60);
      // A peer that no longer takes anything is about to be dropped, or has been.
      if (sendWithFds(this.#fd, piece, withFds ? fds : []) < 0) return false;
      if (!this.#poll()) return false;
    }
    return true;
  }

  #poll(): boolean {
    try {
      return this.#bench.local.device.pollSession();
    } catch (error) {
      if (error instanceof ProtocolError) return false;
      throw error;
    }
  }

  #serveSome(): void {
    const { queues } = this.#bench.local.device;
    for (let turn = this.#random.below(6); turn > 0 && queues.serve(); turn--);
    if (this.#random.oneIn(4)) queues.enableKicks();
    if (this.#random.oneIn(4)) queues.disableKicks();
    queues.hasWork();
    if (this.#random.oneIn(16)) queues.maintain(this.#random.u32() | 0);
    queues.mustPoll();
  }

  /** Takes replies, so that the device is not stopped by a full socket. */
  #drain(): void {
    const scratch = new Uint8Array(new ArrayBuffer(8192));
    const received: number[] = [];
    while (receiveWithFds(this.#fd, scratch, 0, scratch.length, received) > 0);
    for (const fd of received) closeFd(fd);
  }

  // ── What is said ────────────────────────────────────────────────────────────────────────────

  *#steps(): Generator<Step> {
    const random = this.#random;
    for (const message of this.#opening()) {
      if (random.oneIn(25)) continue;
      const step = message();
      yield random.oneIn(25) ? this.#damage(step) : step;
      if (random.oneIn(40)) yield step;
      if (random.oneIn(40)) yield this.#anything();
    }
    for (let i = random.below(24); i > 0; i--) {
      const step = this.#anything();
      yield random.oneIn(16) ? this.#damage(step) : step;
    }
    if (random.oneIn(20)) yield* this.#dribble();
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
      () => this.#memory(),
    ];
    for (let index = 0; index < random.between(1, QUEUES); index++) {
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
    const index = random.oneIn(12) ? random.pick([QUEUES, 255, 0xffffffff]) : random.below(QUEUES);
    const makers: (() => Step)[] = [
      () => this.#message(random.pick(Object.values(VHOST_USER))),
      () => this.#features(),
      () => this.#protocolFeatures(),
      () => this.#memory(),
      () => this.#oneRegion(VHOST_USER.ADD_MEM_REG),
      () => this.#oneRegion(VHOST_USER.REM_MEM_REG),
      () => this.#state(VHOST_USER.SET_VRING_NUM, index, this.#ringSize()),
      () => this.#state(VHOST_USER.SET_VRING_BASE, index, random.oneIn(9) ? random.u32() : 0),
      () => this.#state(VHOST_USER.SET_VRING_ENABLE, index, random.below(random.oneIn(9) ? 9 : 2)),
      () => this.#state(VHOST_USER.GET_VRING_BASE, index, 0),
      () => this.#address(index),
      () => this.#ringFd(VHOST_USER.SET_VRING_KICK, index),
      () => this.#ringFd(VHOST_USER.SET_VRING_CALL, index),
      () => this.#ringFd(VHOST_USER.SET_VRING_ERR, index),
      () => this.#config(random.oneIn(2) ? VHOST_USER.GET_CONFIG : VHOST_USER.SET_CONFIG),
      () => this.#message(VHOST_USER.SET_BACKEND_REQ_FD, [], [this.#fds.any(random)]),
      () => this.#message(random.pick([VHOST_USER.RESET_OWNER, VHOST_USER.RESET_DEVICE])),
    ];
    return random.pick(makers)();
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
    this.#wantsReplies = !this.#random.oneIn(10);
    const features = this.#random.oneIn(30) ? (1n << 40n) - 1n : PROTOCOL_FEATURES;
    const bytes = encodeU64(this.#wantsReplies ? features : 0n);
    return this.#message(VHOST_USER.SET_PROTOCOL_FEATURES, bytes);
  }

  #memory(): Step {
    const regions = this.#regions.map((region) => this.#vary(region));
    if (this.#random.oneIn(12)) regions.push(...regions);
    const fds = regions.map(() => this.#memoryFd());
    if (this.#random.oneIn(20)) fds.push(this.#fds.any(this.#random));
    if (this.#random.oneIn(20)) fds.pop();
    return this.#message(VHOST_USER.SET_MEM_TABLE, encodeMemTable(regions), fds);
  }

  #oneRegion(request: number): Step {
    const region = this.#vary(this.#random.pick(this.#regions));
    const fds = request === VHOST_USER.ADD_MEM_REG ? [this.#memoryFd()] : [];
    if (this.#random.oneIn(12)) fds.push(this.#memoryFd());
    return this.#message(request, encodeSingleRegion(region), fds);
  }

  #memoryFd(): number {
    return this.#random.oneIn(12) ? this.#fds.any(this.#random) : this.#bench.local.ram.fd;
  }

  #vary(region: MemoryRegion): MemoryRegion {
    const random = this.#random;
    if (!random.oneIn(8)) return region;
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
      2 ** 53,
      2 ** 63,
      random.u32(),
    ];
    return { ...region, [field]: random.pick(values) };
  }

  #ringSize(): number {
    const u32 = this.#random.u32();
    return this.#random.pick([RING_SIZE, RING_SIZE, 1, 1024, 32768, 0, 3, 65536, 0x80000000, u32]);
  }

  #state(request: number, index: number, num: number): Step {
    return this.#message(request, encodeVringState({ index, num }));
  }

  #address(index: number): Step {
    const random = this.#random;
    const { ram } = this.#bench.local;
    const place = this.#bench.places[index] ?? this.#bench.places[0]!;
    const ring = new DriverRing(ram, RING_SIZE, place);
    this.#rings[index % QUEUES] = ring;
    const addresses = { ...ring.userAddresses };
    if (random.oneIn(8)) {
      const part = random.pick(['desc', 'avail', 'used'] as const);
      const end = this.#regions[0]!.userAddress + this.#regions[0]!.bytes;
      const near = [addresses[part] + 2, addresses[part] + 16, end - 16, end - 256, end, 0];
      addresses[part] = random.pick([...near, 2 ** 53 - 2, 2 ** 53, ring.desc]);
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
    let fds = [random.oneIn(6) ? this.#fds.any(random) : this.#fds.eventFd()];
    if (random.oneIn(10)) {
      value |= VRING_NOFD_MASK;
      if (!random.oneIn(8)) fds = [];
    }
    if (random.oneIn(25)) fds = Array.from({ length: random.between(2, 32) }, () => fds[0]!);
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

  /** The same message a little or very wrong. */
  #damage({ bytes, fds }: Step): Step {
    const random = this.#random;
    const damaged = Uint8Array.from(bytes);
    const view = new DataView(damaged.buffer);
    switch (random.below(8)) {
      case 0:
        return { bytes: damaged.slice(0, random.between(1, damaged.length)), fds };
      case 1:
        view.setUint32(HEADER.size, random.pick([0, 1, 4107, 4108, 4109, 0xffffffff]), true);
        return { bytes: damaged, fds };
      case 2:
        view.setUint32(HEADER.request, random.oneIn(2) ? random.below(50) : random.u32(), true);
        return { bytes: damaged, fds };
      case 3:
        view.setUint32(HEADER.flags, random.oneIn(2) ? random.below(16) : random.u32(), true);
        return { bytes: damaged, fds };
      case 4:
        return { bytes: damaged, fds: [] };
      case 5:
        return { bytes: damaged, fds: [...fds, this.#fds.any(random)] };
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
        return { bytes: damaged, fds };
    }
  }

  /** One long message a byte at a time, each with as many descriptors as it carries. */
  *#dribble(): Generator<Step> {
    const message = this.#config(VHOST_USER.SET_CONFIG).bytes;
    const fd = this.#fds.eventFd();
    const count = this.#random.between(1, 32);
    for (let at = 0; at < Math.min(message.length, 40); at++) {
      yield { bytes: message.subarray(at, at + 1), fds: new Array(count).fill(fd) };
    }
  }

  // ── Rings ───────────────────────────────────────────────────────────────────────────────────

  /** A chain of three descriptors on each ring there is; sentinels are never asked for. */
  #traffic(): void {
    const random = this.#random;
    const { ram } = this.#bench.local;
    this.#rings.forEach((ring, index) => {
      if (ring === undefined || random.oneIn(3)) return;
      const at = this.#bench.buffers + index * 3 * 4096;
      const type = random.pick([0, 0, 1, 1, 4, 8]);
      const header = new Uint8Array(16);
      const view = new DataView(header.buffer);
      view.setUint32(0, type, true);
      view.setUint32(8, 8 * random.between(8, 90), true);
      ram.write(at, header);
      if (type === 1) ram.write(at + 4096, random.page());
      const next = random.oneIn(40) ? random.below(RING_SIZE + 2) : 2;
      const flags = type === 1 ? 1 : 3;
      ring.setDescriptor(0, { address: at, bytes: 16, flags: 1, next: 1 });
      ring.setDescriptor(1, { address: at + 4096, bytes: 4096, flags, next });
      ring.setDescriptor(2, { address: at + 16, bytes: 1, flags: 2, next: 0 });
      for (let i = random.between(1, 4); i > 0; i--) ring.offer(0);
      ring.publish();
      if (random.oneIn(60)) ring.setAvailIdx(random.below(0x10000));
    });
  }
}

/** All of memory in one region, or cut in two, the file's halves swapped. */
function randomRegions(random: Random, whole: MemoryRegion): MemoryRegion[] {
  if (random.oneIn(2)) return [whole];
  const half = whole.bytes / 2;
  const [first, second] = [0, half].map((start) => ({
    guestAddress: whole.guestAddress + start,
    userAddress: whole.userAddress + start,
    mmapOffset: whole.mmapOffset + start,
    bytes: half,
  }));
  return random.oneIn(2) ? [first!, second!] : [second!, first!];
}
