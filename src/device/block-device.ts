/**
 * A swap disk put together: store, guest memory, rings, configuration space, and the meaning of a
 * vhost-user session's messages for them. Belongs to one reactor; nothing here is shared.
 *
 * Life: made (empty store, swap header in page 0) → attach a connection → messages, serving →
 * detach (the store stays) → attach again.
 */

import { randomBytes } from 'node:crypto';
import type { Faults } from '../backing/fault-io.ts';
import { makeSwapHeader, takeOverSwapHeader } from '../backing/swap-header.ts';
import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { formatBytes, PAGE_BYTES } from '../base/units.ts';
import { GuestMemory, type GuestRegion, REGIONS_MAX } from '../memory/guest-memory.ts';
import { isShrinkSealed } from '../native/fd.ts';
import { PageStore } from '../store/page-store.ts';
import { PageWindow } from '../store/page-window.ts';
import { COUNTER } from '../store/statistics.ts';
import {
  type BackendHandler,
  BackendSession,
  type ConfigMessage,
  type MemoryRegion,
  RequestError,
  type VringAddress,
} from '../vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../virtio/features.ts';
import { BlockQueue } from '../virtio-blk/block-queue.ts';
import { BLOCK_FEATURES, BlockConfig } from '../virtio-blk/config-space.ts';
import { type PageDevice, REQUESTS } from '../virtio-blk/page-device.ts';
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH } from '../virtio-blk/protocol.ts';
import { type Backing, type BackingOptions, makeBacking } from './backing.ts';
import { type KickWatcher, Ring } from './ring.ts';

const DEVICE_FEATURES =
  VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX | BLOCK_FEATURES;

assert(
  REQUESTS.write + COUNTER.requestsRead === COUNTER.requestsWrite &&
    REQUESTS.discard + COUNTER.requestsRead === COUNTER.requestsDiscard &&
    REQUESTS.other + COUNTER.requestsRead === COUNTER.requestsOther &&
    REQUESTS.invalid + COUNTER.requestsRead === COUNTER.invalidIo,
  "the queues' counters lie in the store's",
);

/** Pages a ring may cost in one turn: about 200 µs of compression. */
const TURN_PAGES = 64;
/** How long guest memory stays mapped in after the last request. */
const FORGET_AFTER_MICROS = 500_000;

export interface BlockDeviceOptions {
  /** Also the virtio-blk serial (GET_ID) and the label of the swap area. */
  readonly name: string;
  readonly diskBytes: number;
  /** How far grow() may go. Default: not at all. */
  readonly diskBytesMax?: number;
  readonly guestPageBytes: number;
  readonly numQueues: number;
  readonly poolLimitBytes?: number;
  /** A page that compresses to more is incompressible. */
  readonly incompressibleBytes?: number;
  readonly backing?: BackingOptions;
}

/** What the reactor does for a device's backing swap: watch for the end of I/O. */
export interface CompletionWatcher {
  watchCompletions(fd: number, onReadable: () => void): void;
}

/** What a device tells the control thread: once per change of state, never per request. */
export type Report = (level: ReportLevel, message: string) => void;
export type ReportLevel = 'info' | 'warn' | 'error';

export class BlockDevice implements BackendHandler {
  readonly name: string;
  /** What is in memory. */
  readonly store: PageStore;
  readonly features = DEVICE_FEATURES;
  readonly queueCount: number;
  readonly memorySlots = REGIONS_MAX;

  readonly #report: Report;
  readonly #watcher: KickWatcher;
  readonly #config: BlockConfig;
  readonly #backing: Backing | undefined;
  /** What requests are executed against. */
  readonly #pages: PageDevice<PageWindow>;
  readonly #memory = new GuestMemory<PageWindow>((bytes) => new PageWindow(bytes));
  /** By ring index; made when the front end first names them. */
  readonly #rings: (Ring | undefined)[];
  /** Those to be served, in order. */
  #served: Ring[] = [];
  #session: BackendSession | undefined;
  #ringFeatures = { eventIdx: false, indirect: false };
  #isLegacy = true;
  /** Configuration space has changed, and the front end has not read it since. */
  #isConfigNews = false;
  #warnedOfShrinking = false;
  /** Requests were served since the last maintain(). */
  #hasWorked = false;
  /** When maintain() last found that they were; resident guest pages are dropped some time after. */
  #lastWork = 0;
  #isGuestResident = false;

  constructor(
    options: BlockDeviceOptions,
    watcher: KickWatcher & CompletionWatcher,
    report: Report,
  ) {
    const slots = options.diskBytes / PAGE_BYTES;
    assert(Number.isInteger(slots) && slots >= 2, 'a disk is whole pages, two at least');
    this.name = options.name;
    this.queueCount = options.numQueues;
    this.#watcher = watcher;
    this.#report = report;
    this.#rings = new Array(options.numQueues).fill(undefined);
    this.#config = new BlockConfig(slots, options.numQueues);
    const { backing, guestPageBytes, diskBytesMax = options.diskBytes } = options;
    const { poolLimitBytes, incompressibleBytes } = options;
    this.store = PageStore.make({
      slots,
      slotsMax: diskBytesMax / PAGE_BYTES,
      hasBacking: backing !== undefined,
      ...(poolLimitBytes === undefined ? {} : { poolLimitBytes }),
      ...(incompressibleBytes === undefined ? {} : { incompressibleBytes }),
    });
    this.store.onTrouble = (what) => report('error', what);
    this.#writeSwapHeader(options);
    if (backing !== undefined) {
      this.#backing = makeBacking(backing, this.store, guestPageBytes / PAGE_BYTES);
      const { store, ioName } = this.#backing;
      watcher.watchCompletions(store.wakeFd, () => store.woken());
      report('info', `backing swap ${backing.path}: ${backing.extents.length} extents, ${ioName}`);
    }
    this.#pages = this.#backing?.store ?? this.store;
  }

  /** Makes the disk larger, at once; a guest that is there is told. */
  grow(bytes: number): void {
    assert(bytes % PAGE_BYTES === 0, 'a disk is whole pages');
    // Whoever asked may have been overtaken by somebody who asked for more.
    if (bytes / PAGE_BYTES <= this.store.slots) return;
    this.store.grow(bytes / PAGE_BYTES);
    this.#report('info', `the disk is ${formatBytes(bytes)} now`);
    this.#config.setCapacity(this.store.slots);
    this.#isConfigNews = true;
    this.#tellOfConfig();
  }

  /** Changes the limit on compressed bytes in memory; what is above it moves out by and by. */
  setMemlimit(bytes: number): void {
    assert(this.#backing !== undefined, 'only a device with a backing swap has a memory limit');
    this.#backing.store.memlimitBytes = bytes;
  }

  /** Faults of the backing's I/O from now on; for tests. */
  setFaults(faults: Faults): void {
    assert(this.#backing?.faults !== undefined, 'faults were asked for at the start');
    this.#backing.faults.faults = faults;
  }

  get isAttached(): boolean {
    return this.#session !== undefined;
  }

  /** Takes over a connected socket; the session's descriptor is the reactor's to watch. */
  attach(fd: number): void {
    assert(this.#session === undefined, 'a device has one session at a time');
    this.#session = new BackendSession(fd, this);
    this.#session.onRefusal = (reason) => this.#report('warn', `refused: ${reason}`);
  }

  /** Handles what the front end has sent. False: it has gone. Throws ProtocolError. */
  pollSession(): boolean {
    assert(this.#session !== undefined, 'only a session is polled');
    return this.#session.poll();
  }

  /** Ends the session: rings stop, guest memory is unmapped; the store keeps every page. */
  detach(): void {
    for (const ring of this.#rings) ring?.close();
    this.#served = [];
    this.#memory.release();
    this.#session?.close();
    this.#session = undefined;
    this.#isLegacy = true;
    this.#ringFeatures = { eventIdx: false, indirect: false };
    this.#config.setWriteback(true);
  }

  // ── Serving ───────────────────────────────────────────────────────────────────────────────────
  // HOT PATH from here to maintain(): no allocation, no BigInt, no closures, no await.

  /** Serves each ring a bounded batch. Whether there may be more to do at once. */
  serve(): boolean {
    const backed = this.#backing?.store;
    if (backed !== undefined) backed.reap();
    let hasMore = false;
    for (let i = 0; i < this.#served.length; i++) {
      const ring = this.#served[i]!;
      if (!ring.queue.hasWork) continue;
      this.#hasWorked = true;
      if (ring.queue.serve(TURN_PAGES) <= 0) hasMore = true;
      if (ring.queue.ring.brokenReason !== undefined) this.#retire(ring);
    }
    if (backed !== undefined) backed.flush();
    return hasMore;
  }

  /** Whether serve() could do anything now. */
  hasWork(): boolean {
    if (this.#backing?.store.hasEnded() === true) return true;
    for (let i = 0; i < this.#served.length; i++) {
      if (this.#served[i]!.queue.hasWork) return true;
    }
    return false;
  }

  enableKicks(): void {
    for (let i = 0; i < this.#served.length; i++) this.#served[i]!.queue.ring.enableKicks();
  }

  disableKicks(): void {
    for (let i = 0; i < this.#served.length; i++) this.#served[i]!.queue.ring.disableKicks();
  }

  /** Whether a ring has no kick descriptor: then sleep must be short. */
  mustPoll(): boolean {
    for (let i = 0; i < this.#served.length; i++) if (this.#served[i]!.mustPoll) return true;
    return false;
  }

  /**
   * Work for quiet moments: memory goes back to the system, and a guest that has gone quiet no
   * longer counts in this process's resident size. Milliseconds until there is more: 0 now, -1
   * nothing to wait for.
   */
  maintain(now: number): number {
    const storeWait = (this.#backing?.store ?? this.store).maintain(now);
    if (this.#hasWorked) {
      this.#hasWorked = false;
      this.#isGuestResident = true;
      this.#lastWork = now;
    }
    if (!this.#isGuestResident) return storeWait;
    const wait = FORGET_AFTER_MICROS - ((now - this.#lastWork) | 0);
    if (wait > 0) {
      const millis = Math.ceil(wait / 1000);
      return storeWait < 0 || millis < storeWait ? millis : storeWait;
    }
    this.#isGuestResident = this.#memory.forgetResidentStep();
    return this.#isGuestResident ? 0 : storeWait;
  }

  // ── BackendHandler ────────────────────────────────────────────────────────────────────────────

  setFeatures(features: bigint, isLegacy: boolean): void {
    // A legacy driver acknowledges bits that were never offered (FACTS: bit 27); they mean nothing.
    const accepted = features & DEVICE_FEATURES;
    this.#isLegacy = isLegacy;
    this.#ringFeatures = {
      eventIdx: (accepted & VIRTIO_RING_F_EVENT_IDX) !== 0n,
      indirect: (accepted & VIRTIO_RING_F_INDIRECT_DESC) !== 0n,
    };
    const hasWce = (accepted & VIRTIO_BLK_F_CONFIG_WCE) !== 0n;
    this.#config.setWriteback(!hasWce || (accepted & VIRTIO_BLK_F_FLUSH) !== 0n);
  }

  setMemoryTable(regions: readonly MemoryRegion[], fds: readonly number[]): void {
    this.#changeMemory(() => {
      this.#memory.clear();
      regions.forEach((region, i) => {
        this.#addRegion(region, fds[i]!);
      });
    });
  }

  addMemoryRegion(region: MemoryRegion, fd: number): void {
    this.#changeMemory(() => this.#addRegion(region, fd));
  }

  removeMemoryRegion(region: MemoryRegion): void {
    this.#changeMemory(() => this.#memory.removeRegion(region));
  }

  setVringNum(index: number, num: number): void {
    this.#ring(index).setNum(num);
  }

  setVringBase(index: number, base: number): void {
    this.#ring(index).setBase(base);
  }

  setVringAddress(address: VringAddress): void {
    try {
      this.#ring(address.index).setAddress(address, this.#memory.regions.length > 0);
    } finally {
      this.#listServed();
    }
  }

  getVringBase(index: number): number {
    const base = this.#ring(index).stop();
    this.#listServed();
    return base;
  }

  setVringKick(index: number, fd: number | undefined): void {
    const ring = this.#ring(index);
    ring.setKick(fd, this.#ringFeatures);
    // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts enabled."
    if (this.#isLegacy) ring.setEnabled(true);
    this.#listServed();
  }

  setVringCall(index: number, fd: number | undefined): void {
    this.#ring(index).setCall(fd);
  }

  setVringErr(index: number, fd: number | undefined): void {
    this.#ring(index).setErr(fd);
  }

  setVringEnable(index: number, isEnabled: boolean): void {
    const ring = this.#ring(index);
    if (!isEnabled) ring.queue.suspend();
    ring.setEnabled(isEnabled);
    this.#listServed();
  }

  getConfig(offset: number, size: number): Uint8Array | undefined {
    if (offset + size > this.#config.bytes.length) return undefined;
    this.#isConfigNews = false;
    return this.#config.bytes.subarray(offset, offset + size);
  }

  setConfig(config: ConfigMessage): void {
    const wrong = this.#config.write(config.offset, config.flags, config.payload);
    if (wrong !== undefined) throw new RequestError(`SET_CONFIG: ${wrong}`);
  }

  disableRings(): void {
    for (const ring of this.#rings) {
      ring?.queue.suspend();
      ring?.setEnabled(false);
    }
    this.#listServed();
  }

  resetDevice(): void {
    for (const ring of this.#rings) ring?.reset();
    this.#ringFeatures = { eventIdx: false, indirect: false };
    this.#config.setWriteback(true);
    this.#listServed();
  }

  // ── Helpers ───────────────────────────────────────────────────────────────────────────────────

  #ring(index: number): Ring {
    let ring = this.#rings[index];
    if (ring === undefined) {
      const counts = this.store.counters.subarray(
        COUNTER.requestsRead,
        COUNTER.requestsRead + REQUESTS.COUNT,
      );
      ring = new Ring(index, this.#watcher, (self) => {
        const notify = () => self.signalCall();
        return new BlockQueue(this.#memory, this.#pages, counts, this.name, notify);
      });
      this.#rings[index] = ring;
    }
    return ring;
  }

  /**
   * QEMU ignores the news while the device is not started: then it waits for the first ring. And it
   * may miss it while it stops the device: so it stays news until configuration space is read.
   */
  #tellOfConfig(): void {
    if (this.#isConfigNews && this.#served.length > 0) this.#session?.sendConfigChange();
  }

  #listServed(): void {
    this.#served = this.#rings.filter((ring): ring is Ring => ring?.isServed === true);
    this.#tellOfConfig();
  }

  #addRegion(region: GuestRegion, fd: number): void {
    this.#memory.addRegion(region, fd);
    if (this.#warnedOfShrinking || isShrinkSealed(fd)) return;
    this.#warnedOfShrinking = true;
    this.#report(
      'warn',
      'guest memory file is not sealed against shrinking: if it is truncated, this process ends',
    );
  }

  /** Rings never point into memory that is being changed; those that no longer lie in it stop. */
  #changeMemory(change: () => void): void {
    for (const ring of this.#rings) ring?.detach();
    try {
      change();
    } finally {
      for (const ring of this.#rings) {
        const wrong = ring?.reattach();
        if (wrong !== undefined) this.#report('warn', `ring ${ring!.index} stopped: ${wrong}`);
      }
      this.#listServed();
    }
  }

  /** The guest broke the ring: it is not served until the driver resets it. */
  #retire(ring: Ring): void {
    this.#listServed();
    ring.signalErr();
    this.#report('warn', `ring ${ring.index} broken by the guest: ${ring.queue.ring.brokenReason}`);
  }

  #writeSwapHeader(options: BlockDeviceOptions): void {
    const header = swapHeader(options);
    for (let at = 0; at < header.length; at += PAGE_BYTES) {
      if (!this.store.writeRaw(at / PAGE_BYTES, header.subarray(at, at + PAGE_BYTES))) {
        const limit = options.poolLimitBytes;
        const cause = limit === undefined ? 'no memory' : `pool limit ${formatBytes(limit)}`;
        throw new RefusedError(`${this.name}: no room for the swap header (${cause})`);
      }
    }
  }
}

/** The backing swap's own header, or a new one: the first guest page of the device. */
function swapHeader(options: BlockDeviceOptions): Uint8Array {
  const { diskBytes, guestPageBytes, name, backing } = options;
  if (backing !== undefined) return takeOverSwapHeader(backing.start, guestPageBytes, diskBytes);
  const uuid = randomBytes(16);
  // RFC 4122 version 4, as uuidgen makes them.
  uuid[6] = (uuid[6]! & 0x0f) | 0x40;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return makeSwapHeader({ diskBytes, guestPageBytes, uuid, label: name });
}
