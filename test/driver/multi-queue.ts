/**
 * A guest with several queues on one connection to a daemon: a driver a queue, kick, call and err
 * descriptors for each, one wait for all of their interrupts. What the model, race and allocation
 * tests put their load through; daemon.ts has the simpler driver of one queue.
 */

import { EPOLLIN, Epoll } from '../../src/native/epoll.ts';
import { createEventFd, drainEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  type Inflight,
  PROTOCOL_FEATURES,
  VHOST_F_LOG_ALL,
} from '../../src/vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import type { SharedLog } from './dirty-tracker.ts';
import type { DriverRing } from './driver-ring.ts';
import { FrontEnd } from './front-end.ts';
import { type Completion, GuestDriver } from './guest-driver.ts';
import { GuestRam, type RamRegion, USER_BASE } from './guest-ram.ts';

const SLICE_MILLIS = 50;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const FOUR_GIB = 2 ** 32;
const ROOM_BYTES = 3 * MIB;

/**
 * Sparse memory around the seams: a little below 4 GiB; then, from 5 GiB on, a region longer than
 * one window's part, and right behind it another in a window of its own. User addresses are in the
 * other order.
 */
const HIGH_REGIONS: readonly RamRegion[] = [
  { guestAddress: MIB, userAddress: USER_BASE + 4 * GIB, bytes: MIB, mmapOffset: 1.5 * GIB },
  {
    guestAddress: FOUR_GIB + GIB,
    userAddress: USER_BASE + GIB,
    bytes: GIB + 64 * MIB,
    mmapOffset: 0,
  },
  {
    guestAddress: FOUR_GIB + 2 * GIB + 64 * MIB,
    userAddress: USER_BASE,
    bytes: 32 * MIB,
    mmapOffset: 1.25 * GIB,
  },
];

/** Guest memory whose free room lies across each seam of HIGH_REGIONS, so that requests do too. */
export function makeHighRam(): GuestRam {
  const ram = new GuestRam(1.5 * GIB + MIB, HIGH_REGIONS);
  const [, long, last] = HIGH_REGIONS as [RamRegion, RamRegion, RamRegion];
  const seams = [long.guestAddress + GIB, last.guestAddress];
  // What was taken and freed has joined with its neighbours, also those of another region.
  for (const { bytes } of HIGH_REGIONS) ram.allocate(bytes);
  ram.free(MIB, MIB / 4);
  for (const seam of seams) ram.free(seam - ROOM_BYTES, 2 * ROOM_BYTES);
  ram.free(last.guestAddress + ROOM_BYTES, last.bytes - ROOM_BYTES);
  return ram;
}

export interface QueueSetup {
  readonly size: number;
  readonly startIndex?: number;
}

export class QueueDriver {
  readonly index: number;
  readonly driver: GuestDriver;
  readonly kickFd = createEventFd();
  readonly callFd = createEventFd();
  readonly errFd = createEventFd();
  kicks = 0;

  constructor(index: number, ram: GuestRam, setup: QueueSetup, eventIdx: boolean) {
    this.index = index;
    this.driver = new GuestDriver(ram, setup.size, { ...setup, eventIdx }, () => {
      this.kicks++;
      signalEventFd(this.kickFd);
    });
  }

  get fds(): { kick: number; call: number; err: number } {
    return { kick: this.kickFd, call: this.callFd, err: this.errFd };
  }

  close(): void {
    for (const fd of [this.kickFd, this.callFd, this.errFd]) closeFd(fd);
  }
}

export interface MultiQueueOptions {
  readonly queues: readonly QueueSetup[];
  readonly eventIdx?: boolean;
  /** Taken over: closed with the guest. */
  readonly ram?: GuestRam;
  /** Requests are tracked in an in-flight area, for the next connection. */
  readonly hasInflight?: boolean;
}

export class MultiQueueGuest {
  /** Of the present connection. */
  frontEnd: FrontEnd;
  readonly ram: GuestRam;
  readonly queues: readonly QueueDriver[];
  /** What was negotiated. */
  readonly #features: bigint;
  readonly #hasInflight: boolean;
  #isCut = false;
  #area: { inflight: Inflight; fd: number } | undefined;
  readonly #epoll = new Epoll();
  /** Times that the driver went to sleep for an interrupt. */
  sleeps = 0;

  constructor(frontEnd: FrontEnd, options: MultiQueueOptions) {
    this.frontEnd = frontEnd;
    this.ram = options.ram ?? makeHighRam();
    const isEvent = options.eventIdx ?? true;
    this.queues = options.queues.map(
      (setup, index) => new QueueDriver(index, this.ram, setup, isEvent),
    );
    const eventIdx = isEvent ? VIRTIO_RING_F_EVENT_IDX : 0n;
    this.#features = BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | eventIdx;
    this.#hasInflight = options.hasInflight ?? false;
    for (const queue of this.queues) this.#epoll.add(queue.callFd, EPOLLIN, queue.index);
    this.#begin(({ startIndex }) => startIndex);
  }

  /** The connection ends, and nothing else. */
  cut(): void {
    if (!this.#isCut) this.frontEnd.close();
    this.#isCut = true;
  }

  /**
   * Another connection takes up where the last has ended, in the middle of requests perhaps, as QEMU
   * does: rings begin at their used index, the in-flight area is brought again.
   */
  reconnect(frontEnd: FrontEnd): void {
    this.cut();
    this.frontEnd = frontEnd;
    this.#isCut = false;
    this.#begin(({ usedIdx }) => usedIdx);
  }

  /** The guest is reset: what was in flight is nobody's. The next connection gets a new area. */
  dropInflight(): void {
    if (this.#area !== undefined) closeFd(this.#area.fd);
    this.#area = undefined;
  }

  #begin(baseOf: (ring: DriverRing) => number): void {
    const { frontEnd, queues } = this;
    frontEnd.negotiate(this.#features, PROTOCOL_FEATURES);
    if (this.#hasInflight) {
      this.#area ??= frontEnd.getInflight(queues.length, queues[0]!.driver.ring.size);
      frontEnd.setInflight(this.#area.inflight, this.#area.fd);
    }
    frontEnd.setMemoryTable(this.ram);
    for (const { index, driver, fds } of queues) {
      frontEnd.startRing(index, driver.ring, fds, baseOf(driver.ring));
      frontEnd.setEnabled(index, true);
    }
  }

  static connect(socketPath: string, options: MultiQueueOptions): MultiQueueGuest {
    return new MultiQueueGuest(FrontEnd.connect(socketPath), options);
  }

  /** From now on writes to guest memory are logged there; rings run on. In QEMU's order. */
  beginLog({ area, fd }: SharedLog): void {
    this.frontEnd.setLogBase(area, fd);
    this.frontEnd.setFeatures(this.#features | VHOST_F_LOG_ALL);
    for (const { index, driver } of this.queues) {
      this.frontEnd.setAddress(index, driver.ring, true);
    }
  }

  get inFlight(): number {
    return this.queues.reduce((sum, { driver }) => sum + driver.inFlight, 0);
  }

  /**
   * Takes back everything in flight on all queues, sleeping for interrupts as a guest does. Throws
   * when none comes within `millis`; only time that passed as it should is counted.
   */
  completeAll(take: (queue: QueueDriver, done: Completion) => void, millis = 5000): void {
    let waited = 0;
    while (this.inFlight > 0) {
      if (this.takeCompleted(take) > 0) {
        waited = 0;
        continue;
      }
      if (waited >= millis) throw new Error(`no interrupt for ${millis} ms: ${this.state()}`);
      if (!this.waitForCall(SLICE_MILLIS)) waited += SLICE_MILLIS;
    }
  }

  /** Takes back what is completed by now; the count. */
  takeCompleted(take: (queue: QueueDriver, done: Completion) => void): number {
    let count = 0;
    for (const queue of this.queues) {
      if (queue.driver.ring.usedCount === 0) continue;
      for (const done of queue.driver.complete()) {
        count++;
        take(queue, done);
      }
    }
    return count;
  }

  /** Sleeps until a queue has something to take back. False: nothing was signalled in `millis`. */
  waitForCall(millis: number): boolean {
    let isThere = false;
    for (const { driver } of this.queues) {
      if (driver.inFlight > 0 && driver.ring.enableInterrupts()) isThere = true;
    }
    if (!isThere) {
      this.sleeps++;
      const count = this.#epoll.wait(millis);
      for (let i = 0; i < count; i++) drainEventFd(this.queues[this.#epoll.token(i)]!.callFd);
      isThere = count > 0;
    }
    for (const { driver } of this.queues) driver.ring.disableInterrupts();
    return isThere;
  }

  /** What each queue waits for: chains that were not returned, or an interrupt for those that were. */
  state(): string {
    const states = this.queues
      .filter(({ driver }) => driver.inFlight > 0)
      .map(({ index, driver: { ring, inFlight } }) => {
        const used = `${inFlight} in flight, ${ring.usedCount} used elements without a call`;
        return `queue ${index}: ${used}, avail.idx ${ring.availIdx}, avail_event ${ring.availEvent}`;
      });
    return states.join('; ');
  }

  /** Stops a ring (GET_VRING_BASE) and starts it again where it stopped; the base. */
  restart(index: number): number {
    const base = this.frontEnd.getBase(index);
    this.startAt(index, base);
    return base;
  }

  startAt(index: number, base: number): void {
    const queue = this.queues[index]!;
    this.frontEnd.startRing(index, queue.driver.ring, queue.fds, base);
  }

  close(): void {
    this.cut();
    this.dropInflight();
    for (const queue of this.queues) queue.close();
    this.#epoll.close();
    this.ram.close();
  }
}
