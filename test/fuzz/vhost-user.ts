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
import { sendWithFds, socketPair } from '../../src/native/socket.ts';
import { type MemoryRegion, ProtocolError } from '../../src/vhost-user-ts/index.ts';
import type { RingAddresses } from '../../src/virtio/virtqueue.ts';
import { openFds } from '../driver/descriptors.ts';
import { DriverRing, type DriverRingOptions } from '../driver/driver-ring.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice } from '../driver/local-device.ts';
import type { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { type Budget, check, runCases } from './budget.ts';
import { FEATURES, MessageMaker, RING_SIZE, type Step } from './messages.ts';
import { OddFds } from './odd-fds.ts';
import { ReplyReader } from './replies.ts';

const QUEUES = 4;
const DISK_PAGES = 256;
/** Slots that no request of a hostile session names. */
const SENTINELS = [3, 4, 100, 101, 254, 255];
/** What a session may hold: a message's descriptors twice over, three a ring, sockets. */
const HELD_FDS_MAX = 2 * 32 + 3 * QUEUES + 8;
const GROWTH_BYTES_MAX = 400 << 20;
/** Memory is looked at every so many cases; the first look is when all is warm. */
const CASES_PER_LOOK = 200;

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

class HostileSession {
  readonly #random: Random;
  readonly #bench: Bench;
  readonly #fd: number;
  readonly #fds: OddFds;
  readonly #rings: (DriverRing | undefined)[] = [];
  readonly #maker: MessageMaker;
  readonly #replies: ReplyReader;
  readonly #before = openFds();

  constructor(random: Random, made: Bench) {
    this.#random = random;
    this.#bench = made;
    const [client, server] = socketPair();
    this.#fd = client;
    this.#fds = new OddFds(client);
    made.local.device.attach(server);
    const { ram } = made.local;
    this.#maker = new MessageMaker(random, this.#fds, {
      queues: QUEUES,
      regions: randomRegions(random, ram.regions[0]!),
      memoryFd: ram.fd,
      variedFd: ram.fd,
      place: (index) => this.#place(index),
    });
    this.#replies = new ReplyReader(client, this.#fds, this.#maker);
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
    for (const step of this.#maker.steps()) {
      const pieces = random.oneIn(6) ? random.between(2, 5) : 1;
      if (!this.#send(step, pieces)) return;
      if (random.oneIn(3)) this.#traffic();
      if (random.oneIn(8)) this.#maker.scribble();
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
    this.#replies.take();
  }

  // ── Rings ───────────────────────────────────────────────────────────────────────────────────

  #place(index: number): RingAddresses {
    const place = this.#bench.places[index] ?? this.#bench.places[0]!;
    const ring = new DriverRing(this.#bench.local.ram, RING_SIZE, place);
    this.#rings[index % QUEUES] = ring;
    return ring.userAddresses;
  }

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
