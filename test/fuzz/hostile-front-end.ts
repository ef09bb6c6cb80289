/**
 * One session of a hostile front end with a device of another process: a conversation
 * (messages.ts) with ring traffic in between, cut anywhere; then, if it can still be understood, a
 * reset and rings that must work, be broken, and work again, while descriptors change under them.
 */

import { EPOLLIN, Epoll } from '../../src/native/epoll.ts';
import { createEventFd, drainEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { connectUnix, sendWithFds } from '../../src/native/socket.ts';
import {
  decodeConfig,
  encodeConfig,
  encodeMessage,
  encodeU64,
  PROTOCOL_FEATURES,
  requestName,
  VHOST_USER,
  VHOST_USER_F_PROTOCOL_FEATURES,
} from '../../src/vhost-user-ts/index.ts';
import { VIRTQ_DESC } from '../../src/virtio/split-ring.ts';
import type { RingAddresses } from '../../src/virtio/virtqueue.ts';
import { DriverRing, type DriverRingOptions } from '../driver/driver-ring.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import type { GuestRam } from '../driver/guest-ram.ts';
import { randomLayout } from '../driver/layouts.ts';
import type { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { check } from './budget.ts';
import { FEATURES, MessageMaker, RING_SIZE, type Step } from './messages.ts';
import { OddFds } from './odd-fds.ts';
import { type Reply, ReplyReader } from './replies.ts';
import {
  DISK_PAGES,
  type HostileDevice,
  QUEUES,
  type SessionBench,
  waitUntil,
} from './session-bench.ts';

const PAGE = 4096;
const RING_PLACE_BYTES = 8192;
const SEGMENTS_MAX = 12;
/** Of a session that went wrong. */
const TOLD_MESSAGES = 5;
const STORM_WRITES_MAX = 60;
/** Its flags name a question, which the answer repeats. */
const QUESTION = 0x5eed0000;
const F_NEXT = 1;
const F_WRITE = 2;
const F_INDIRECT = 4;

/** What has happened since this process began, or sessions have shown nothing. */
export const SESSION_FIGURES = {
  sessions: 0,
  messages: 0,
  dropped: 0,
  answered: 0,
  requests: 0,
  broken: 0,
  stormsServed: 0,
  stormsBroken: 0,
};

export class HostileFrontEnd {
  readonly #random: Random;
  readonly #bench: SessionBench;
  readonly #path: string;
  readonly #ram: GuestRam;
  readonly #fd: number;
  readonly #fds: OddFds;
  readonly #maker: MessageMaker;
  readonly #replies: ReplyReader;
  readonly #rings: (DriverRing | undefined)[] = [];
  /** The last messages said, for people. */
  readonly #last: string[] = [];
  #questions = 0;
  #isFramed = true;

  constructor(random: Random, bench: SessionBench, device: HostileDevice, ram: GuestRam) {
    this.#random = random;
    this.#bench = bench;
    this.#ram = ram;
    this.#path = bench.pathOf(device);
    this.#fd = connectUnix(this.#path);
    this.#fds = new OddFds(this.#fd);
    this.#maker = new MessageMaker(random, this.#fds, {
      queues: QUEUES,
      regions: ram.regions,
      memoryFd: ram.fd,
      variedFd: this.#fds.memory(2 ** 22),
      place: (index) => this.#place(index),
    });
    this.#replies = new ReplyReader(this.#fd, this.#fds, this.#maker);
  }

  run(): void {
    SESSION_FIGURES.sessions++;
    try {
      if (!this.#talk()) SESSION_FIGURES.dropped++;
      else if (this.#isFramed) this.#goOn();
    } finally {
      closeFd(this.#fd);
      this.#fds.closeAll();
    }
  }

  /** The device can still understand what is said. */
  #goOn(): void {
    if (!this.#isAnswered()) {
      SESSION_FIGURES.dropped++;
      return;
    }
    SESSION_FIGURES.answered++;
    if (this.#random.oneIn(10)) this.#intrude();
    if (!this.#random.oneIn(4)) this.#useRings();
  }

  // ── The conversation ────────────────────────────────────────────────────────────────────────

  /** False: the connection was dropped. */
  #talk(): boolean {
    const random = this.#random;
    for (const step of this.#maker.steps()) {
      SESSION_FIGURES.messages++;
      this.#last.push(describe(step));
      if (this.#last.length > TOLD_MESSAGES) this.#last.shift();
      if (!this.#send(step, random.oneIn(6) ? random.between(2, 5) : 1)) return false;
      if (step.isUnframed === true || this.#fds.hasGivenSelf) this.#isFramed = false;
      if (random.oneIn(3)) this.#traffic();
      if (random.oneIn(8)) this.#maker.scribble();
      if (random.oneIn(3)) this.#maker.kick();
      if (random.oneIn(4)) this.#bench.good.pulse();
      if (!random.oneIn(20)) this.#replies.take();
      if (this.#replies.isClosed) return false;
      if (this.#isFramed && random.oneIn(8) && !this.#isAnswered()) return false;
    }
    return true;
  }

  #send({ bytes, fds }: Step, pieces: number): boolean {
    const size = Math.ceil(bytes.length / pieces);
    const carrier = this.#random.oneIn(8) ? this.#random.below(pieces) : 0;
    for (let i = 0; i * size < bytes.length; i++) {
      const piece = Uint8Array.from(bytes.subarray(i * size, (i + 1) * size));
      const withFds = i === carrier || this.#random.oneIn(60);
      if (sendWithFds(this.#fd, piece, withFds ? fds : []) < 0) return false;
      if (pieces > 1) this.#bench.good.pulse();
    }
    return true;
  }

  /** Asks a question, and waits for its answer; false: the connection was dropped. */
  #isAnswered(): boolean {
    const flags = QUESTION + this.#questions++;
    const question = encodeConfig({ offset: 0, flags, payload: new Uint8Array(8) });
    const bytes = Uint8Array.from(encodeMessage(VHOST_USER.GET_CONFIG, 0, question));
    if (sendWithFds(this.#fd, bytes) < 0) return false;
    let isThere = false;
    const isAnswer = (reply: Reply) =>
      reply.request === VHOST_USER.GET_CONFIG &&
      reply.payload.length > 0 &&
      decodeConfig({ ...reply, fds: [] }).flags === flags;
    const millis = waitUntil(() => {
      isThere ||= this.#replies.take().some(isAnswer);
      return isThere || this.#replies.isClosed;
    });
    const said = () => this.#last.join('\n  ');
    check(millis !== undefined, () => `neither answered nor dropped after\n  ${said()}`);
    return isThere;
  }

  /** Another connection to the same device ends at once, and this one goes on. */
  #intrude(): void {
    const intruder = new FrontEnd(connectUnix(this.#path));
    try {
      check(intruder.isDropped(), 'a second connection was not refused');
    } finally {
      intruder.close();
    }
    check(this.#isAnswered(), 'a second connection ended the first');
  }

  /** As hostile-looking ring memory as there is time for: a chain of three on each ring. */
  #traffic(): void {
    const random = this.#random;
    this.#rings.forEach((ring, index) => {
      if (ring === undefined || random.oneIn(3)) return;
      const at = this.#ram.regions[1]!.guestAddress + index * 3 * PAGE;
      this.#ram.write(at, this.#header(random.pick([0, 0, 1, 1, 4, 8, 11, 13])));
      if (random.oneIn(2)) this.#ram.write(at + PAGE, random.page());
      const next = random.oneIn(40) ? random.below(RING_SIZE + 2) : 2;
      const flags = random.oneIn(2) ? F_NEXT : F_NEXT | F_WRITE;
      ring.setDescriptor(0, { address: at, bytes: 16, flags: F_NEXT, next: 1 });
      ring.setDescriptor(1, { address: at + PAGE, bytes: PAGE, flags, next });
      ring.setDescriptor(2, { address: at + 16, bytes: 1, flags: F_WRITE, next: 0 });
      for (let i = random.between(1, 4); i > 0; i--) ring.offer(0);
      ring.publish();
      if (random.oneIn(60)) ring.setAvailIdx(random.below(0x10000));
    });
  }

  #header(type: number): Uint8Array {
    const header = new Uint8Array(16);
    const view = new DataView(header.buffer);
    view.setUint32(0, type, true);
    view.setUint32(8, 8 * this.#random.below(DISK_PAGES), true);
    return header;
  }

  #place(index: number): RingAddresses {
    const ring = new DriverRing(this.#ram, RING_SIZE, this.#ringAt(index % QUEUES));
    this.#rings[index % QUEUES] = ring;
    return ring.userAddresses;
  }

  /** Rings lie in the first region, out of the way of buffers. */
  #ringAt(index: number): DriverRingOptions {
    const desc = this.#ram.regions[0]!.guestAddress + index * RING_PLACE_BYTES;
    return { desc, avail: desc + 2048, used: desc + 4096 };
  }

  // ── Rings that must work ────────────────────────────────────────────────────────────────────

  #useRings(): void {
    const random = this.#random;
    const frontEnd = new FrontEnd(this.#fd);
    frontEnd.send(VHOST_USER.SET_PROTOCOL_FEATURES, encodeU64(PROTOCOL_FEATURES));
    frontEnd.protocolFeatures = PROTOCOL_FEATURES;
    frontEnd.order(VHOST_USER.RESET_DEVICE, new Uint8Array(0));
    const eventIdx = random.oneIn(2);
    const features = (FEATURES & ~(1n << 29n)) | (eventIdx ? 1n << 29n : 0n);
    frontEnd.order(VHOST_USER.SET_FEATURES, encodeU64(features | VHOST_USER_F_PROTOCOL_FEATURES));
    frontEnd.setMemoryTable(this.#ram);
    const ring = new WorkingRing(random, this.#bench, {
      frontEnd,
      ram: this.#ram,
      index: random.below(QUEUES),
      eventIdx,
      at: this.#ringAt(random.below(QUEUES)),
    });
    try {
      ring.start();
      for (let i = random.between(1, 3); i > 0; i--) ring.work();
      if (random.oneIn(2)) {
        ring.breakIt();
        ring.stop();
        ring.start();
        ring.work();
      }
      if (random.oneIn(2)) ring.storm(() => this.#maker.scribble());
    } finally {
      ring.close();
    }
  }
}

function describe({ bytes, fds }: Step): string {
  const name = bytes.length < 4 ? 'part' : requestName(bytes[0]! | (bytes[1]! << 8));
  return `${name} ${Buffer.from(bytes).toString('hex').slice(0, 160)} ${fds.length} descriptors`;
}

interface WorkingRingOptions {
  readonly frontEnd: FrontEnd;
  readonly ram: GuestRam;
  readonly index: number;
  readonly eventIdx: boolean;
  readonly at: DriverRingOptions;
}

/** A ring that is set up as it should be: what it is asked is answered, or it says that it cannot. */
class WorkingRing {
  readonly #random: Random;
  readonly #bench: SessionBench;
  readonly #options: WorkingRingOptions;
  readonly #kickFd = createEventFd();
  readonly #callFd = createEventFd();
  readonly #errFd = createEventFd();
  readonly #errs = new Epoll();
  readonly #model = new Map<number, Uint8Array>();
  #driver: GuestDriver;

  constructor(random: Random, bench: SessionBench, options: WorkingRingOptions) {
    this.#random = random;
    this.#bench = bench;
    this.#options = options;
    this.#driver = this.#makeDriver();
    this.#errs.add(this.#errFd, EPOLLIN, 0);
  }

  /** With a ring as new. */
  start(): void {
    const { frontEnd, index } = this.#options;
    this.#driver = this.#makeDriver();
    const fds = { kick: this.#kickFd, call: this.#callFd, err: this.#errFd };
    frontEnd.startRing(index, this.#driver.ring, fds);
    frontEnd.setEnabled(index, true);
  }

  stop(): void {
    this.#options.frontEnd.getBase(this.#options.index);
    drainEventFd(this.#errFd);
  }

  close(): void {
    this.#errs.close();
    for (const fd of [this.#kickFd, this.#callFd, this.#errFd]) closeFd(fd);
  }

  /** Requests in any layout, each slot once; all are done, and reads bring what was written. */
  work(): void {
    const random = this.#random;
    const driver = this.#driver;
    const slots = new Set<number>();
    for (let i = random.between(1, 6); i > 0; i--) {
      const slot = random.between(1, DISK_PAGES - 1);
      if (slots.has(slot)) continue;
      const request = random.oneIn(2) ? write(slot, random.page()) : read(slot, 1);
      const sizes = GuestDriver.sizes(request);
      const layout = randomLayout(random, sizes, Math.max(4, driver.freeDescriptors / 2), true);
      if (!driver.hasRoom(layout)) break;
      slots.add(slot);
      driver.submit(request, layout);
    }
    driver.flush();
    this.#bench.good.pulse();
    if (random.oneIn(3)) this.#meddle();
    const millis = waitUntil(() => {
      this.#take();
      return driver.inFlight === 0 || this.#isBroken();
    });
    check(!this.#isBroken(), 'a ring that is in order was said to be broken');
    check(millis !== undefined, () => `${driver.inFlight} requests are not answered`);
  }

  /** One of the things that break a ring: its error descriptor says so. */
  breakIt(): void {
    const { ring, ram } = this.#driver;
    const what = this.#random.below(8);
    const at = ram.regions[1]!.guestAddress;
    const one = { address: at, bytes: 16, flags: F_NEXT, next: 1 };
    const status = { address: at + 64, bytes: 1, flags: F_WRITE, next: 0 };
    ring.setDescriptor(0, one);
    ring.setDescriptor(1, status);
    if (what === 0) ring.setDescriptor(1, { ...status, flags: F_NEXT });
    if (what === 1) ring.setDescriptor(0, { ...one, next: RING_SIZE });
    if (what === 2) ring.setDescriptor(1, { ...status, flags: F_INDIRECT | F_NEXT });
    if (what === 3) ring.setDescriptor(1, { ...status, flags: F_INDIRECT, bytes: 24 });
    if (what === 4) ring.setDescriptor(1, { ...status, flags: 0 });
    if (what === 5) ring.setDescriptor(0, { ...one, flags: F_NEXT | F_WRITE, next: 2 });
    if (what === 5) ring.setDescriptor(2, { ...one, flags: 0 });
    if (what === 6) ring.setDescriptor(1, { ...status, bytes: 0x80000000 });
    ring.offer(0);
    if (what === 7) ring.setAvailIdx(ring.availIdx + RING_SIZE + 1);
    else ring.publish();
    signalEventFd(this.#kickFd);
    const millis = waitUntil(() => this.#isBroken());
    SESSION_FIGURES.broken++;
    check(millis !== undefined, `ring broken (${what}): its error descriptor does not say so`);
  }

  /** Descriptors, entries and buffers change while they are served: all come back, or it is broken. */
  storm(between: () => void): void {
    const random = this.#random;
    const driver = this.#driver;
    for (let i = random.between(2, 6); i > 0; i--) {
      const slot = random.between(1, DISK_PAGES - 8);
      const request = random.oneIn(2)
        ? write(slot, random.page())
        : read(slot, random.between(1, 3));
      const layout = randomLayout(random, GuestDriver.sizes(request), SEGMENTS_MAX, true);
      if (driver.hasRoom(layout)) driver.submit(request, layout);
    }
    const { ring } = driver;
    for (let i = random.between(1, STORM_WRITES_MAX); i > 0; i--) {
      this.#scatterDamage();
      if (random.oneIn(10)) driver.flush();
      if (random.oneIn(20)) between();
    }
    driver.flush();
    signalEventFd(this.#kickFd);
    const millis = waitUntil(() => ring.usedIdx === ring.availIdx || this.#isBroken());
    if (this.#isBroken()) SESSION_FIGURES.stormsBroken++;
    else SESSION_FIGURES.stormsServed++;
    const state = () => `used ${ring.usedIdx} of ${ring.availIdx}`;
    check(millis !== undefined, () => `a stormy ring is neither done nor broken: ${state()}`);
  }

  /** What a front end may do to a ring at work: the requests are answered all the same. */
  #meddle(): void {
    const { frontEnd, index, ram } = this.#options;
    const other = { guestAddress: 2 ** 42, userAddress: 2 ** 45, bytes: 65536, mmapOffset: 0 };
    switch (this.#random.below(3)) {
      case 0:
        frontEnd.addRegion({ ...other, mmapOffset: ram.regions[1]!.mmapOffset }, ram.fd);
        frontEnd.removeRegion(other);
        break;
      case 1:
        frontEnd.setEnabled(index, false);
        frontEnd.setEnabled(index, true);
        break;
      default: {
        const base = frontEnd.getBase(index);
        const fds = { kick: this.#kickFd, call: this.#callFd, err: this.#errFd };
        frontEnd.startRing(index, this.#driver.ring, fds, base);
      }
    }
  }

  #scatterDamage(): void {
    const random = this.#random;
    const { ring, ram } = this.#driver;
    const kind = random.below(10);
    if (kind === 0) {
      const { guestAddress, bytes } = ram.regions[random.between(1, 2)]!;
      ram.write(guestAddress + random.below(bytes - 4), random.bytes(4));
      return;
    }
    if (kind === 1) {
      ram.write(ring.avail + 4 + 2 * random.below(RING_SIZE), Uint8Array.of(random.below(18), 0));
      return;
    }
    const at = ring.desc + VIRTQ_DESC.SIZE * random.below(RING_SIZE);
    const bytes = ram.read(at, VIRTQ_DESC.SIZE);
    const view = new DataView(bytes.buffer);
    if (kind < 5) view.setBigUint64(VIRTQ_DESC.addr, this.#wildAddress(), true);
    else if (kind < 7) {
      const near = view.getUint32(VIRTQ_DESC.len, true) + random.pick([-1, 1, 16, 4096, -4096]);
      view.setUint32(VIRTQ_DESC.len, random.oneIn(3) ? random.u32() : near >>> 0, true);
    } else if (kind < 8) view.setUint16(VIRTQ_DESC.flags, random.below(8), true);
    else view.setUint16(VIRTQ_DESC.next, random.below(RING_SIZE + 1), true);
    ram.write(at, bytes);
  }

  /** At an edge of the regions for buffers, or nobody's; never the rings' own. */
  #wildAddress(): bigint {
    const random = this.#random;
    const { guestAddress, bytes } = this.#driver.ram.regions[random.between(1, 2)]!;
    const edge = BigInt(random.oneIn(2) ? guestAddress : guestAddress + bytes);
    const off = BigInt(random.pick([0, 1, -1, 16, -16, 511, -512, 4096, -4096, -4097]));
    const wild = [edge + off, edge + off, edge + off, 0n, 1n << 53n, -4096n, 1n << 63n];
    return BigInt.asUintN(64, random.pick(wild));
  }

  #take(): void {
    for (const { ticket, status, data } of this.#driver.complete()) {
      SESSION_FIGURES.requests++;
      const { request } = ticket;
      const slot = Number(request.sector) / 8;
      check(status === 0, `slot ${slot}: status ${status}`);
      const known = this.#model.get(slot);
      if (request.data !== undefined) this.#model.set(slot, request.data);
      else if (known !== undefined) {
        check(Buffer.compare(data, known) === 0, `slot ${slot}: other bytes than were written`);
      }
    }
  }

  #isBroken(): boolean {
    return this.#errs.wait(0) > 0;
  }

  #makeDriver(): GuestDriver {
    const { ram, eventIdx, at } = this.#options;
    return new GuestDriver(ram, RING_SIZE, { ...at, eventIdx }, () => signalEventFd(this.#kickFd));
  }
}
