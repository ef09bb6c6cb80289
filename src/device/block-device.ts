/**
 * A swap disk put together: store, rings (queue-set.ts), configuration space, and the meaning of a
 * vhost-user session's messages for them. Belongs to one reactor.
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
import { REGIONS_MAX } from '../memory/guest-memory.ts';
import { closeFd, duplicateFd, isShrinkSealed } from '../native/fd.ts';
import { makeStore, mapStore } from '../store/mapped-store.ts';
import { PageStore, type PageStoreOptions, storeShape } from '../store/page-store.ts';
import { COUNTER } from '../store/statistics.ts';
import type { StoreFiles } from '../store/store-files.ts';
import type { ProcessIdentity } from '../store/store-header.ts';
import {
  type BackendHandler,
  BackendSession,
  type ConfigMessage,
  type Inflight,
  type MemoryRegion,
  RequestError,
  type VringAddress,
} from '../vhost-user-ts/index.ts';
import {
  VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC,
} from '../virtio/features.ts';
import { BLOCK_FEATURES, BlockConfig } from '../virtio-blk/config-space.ts';
import { REQUESTS } from '../virtio-blk/page-device.ts';
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH } from '../virtio-blk/protocol.ts';
import { type Backing, type BackingOptions, makeBacking } from './backing.ts';
import {
  frontEndOf,
  isSameProcess,
  type NewGuestPolicy,
  UNKNOWN_PROCESS,
} from './front-end-process.ts';
import { checkInflightArea, makeInflightArea, markedStore, markStore } from './inflight-area.ts';
import type { QueueCall } from './orders.ts';
import { type DeviceQueues, QueueSet, type Report } from './queue-set.ts';
import { RemoteQueues } from './remote-queues.ts';
import type { KickWatcher, RingFeatures } from './ring.ts';
import type { ThreadCaller } from './thread-call.ts';

const DEVICE_FEATURES =
  VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX | BLOCK_FEATURES;

assert(
  REQUESTS.write + COUNTER.requestsRead === COUNTER.requestsWrite &&
    REQUESTS.discard + COUNTER.requestsRead === COUNTER.requestsDiscard &&
    REQUESTS.other + COUNTER.requestsRead === COUNTER.requestsOther &&
    REQUESTS.invalid + COUNTER.requestsRead === COUNTER.invalidIo,
  "the queues' counters lie in the store's",
);

/** The in-flight area in use; the descriptor is the device's. */
interface TrackedInflight {
  readonly inflight: Inflight;
  readonly fd: number;
}

const NO_FEATURES: RingFeatures = { eventIdx: false, indirect: false };

/** How long a new guest may wait for the last one's I/O. */
const SETTLE_MILLIS = 5000;

export interface BlockDeviceOptions {
  /** Also the virtio-blk serial (GET_ID) and the label of the swap area. */
  readonly name: string;
  readonly diskBytes: number;
  /** How far grow() may go. Default: not at all. */
  readonly diskBytesMax?: number;
  readonly guestPageBytes: number;
  readonly numQueues: number;
  /** Threads that serve the queues: the reactor's, and so many less one of its queue threads. */
  readonly queueThreads?: number;
  readonly poolLimitBytes?: number;
  /** The store's memory is never swapped out. */
  readonly isLocked?: boolean;
  /** Nothing of a page stays in the store's memory when it is freed, overwritten or moved. */
  readonly wipesOnFree?: boolean;
  /** A page that compresses to more is incompressible. */
  readonly incompressibleBytes?: number;
  readonly backing?: BackingOptions;
  /** What a front end finds that the store did not serve before. Default: nothing. */
  readonly onNewGuest?: NewGuestPolicy;
  /** Where the store lies. Default: in memory, gone with the process. */
  readonly files?: StoreFiles;
}

/** What the reactor does for a device's backing swap: watch for the end of I/O. */
export interface CompletionWatcher {
  watchCompletions(fd: number, onReadable: () => void): void;
}

export class BlockDevice implements BackendHandler {
  readonly name: string;
  /** What is in memory. */
  readonly store: PageStore;
  readonly features = DEVICE_FEATURES;
  readonly queueCount: number;
  readonly memorySlots = REGIONS_MAX;

  readonly #report: Report;
  readonly #config: BlockConfig;
  readonly #backing: Backing | undefined;
  /** What this thread serves. */
  readonly #queues: QueueSet;
  /** That, and what other threads serve: ring n belongs to set n modulo their number. */
  readonly #sets: readonly DeviceQueues[];
  #session: BackendSession | undefined;
  #ringFeatures: RingFeatures = NO_FEATURES;
  #isLegacy = true;
  /** Configuration space has changed, and the front end has not read it since. */
  #isConfigNews = false;
  #warnedOfShrinking = false;
  /** The front end's process, and whether a ring was started for what it runs. */
  #frontEnd: ProcessIdentity | undefined;
  #hasMet = false;
  readonly #onNewGuest: NewGuestPolicy;
  readonly #headerSlots: number;
  readonly #writeHeader: () => void;
  #inflight: TrackedInflight | undefined;
  /** Made for the front end: until it has a descriptor of its own. */
  #madeInflightFd: number | undefined;

  constructor(
    options: BlockDeviceOptions,
    watcher: KickWatcher & CompletionWatcher,
    report: Report,
    threads: readonly ThreadCaller<QueueCall>[] = [],
  ) {
    const slots = options.diskBytes / PAGE_BYTES;
    assert(Number.isInteger(slots) && slots >= 2, 'a disk is whole pages, two at least');
    this.name = options.name;
    this.queueCount = options.numQueues;
    this.#report = report;
    const { backing, guestPageBytes, queueThreads = 1 } = options;
    assert(
      backing === undefined || queueThreads === 1,
      'one thread does all I/O of a backing swap',
    );
    assert(queueThreads <= threads.length + 1, 'the reactor has the threads that its devices want');
    this.#onNewGuest = options.onNewGuest ?? 'empty';
    this.store = this.#openStore(options);
    this.#headerSlots = options.guestPageBytes / PAGE_BYTES;
    this.#writeHeader = () => writeSwapHeader(this.store, options);
    this.#config = new BlockConfig(this.store.slots, options.numQueues);
    this.store.onTrouble = (what) => report('error', what);
    if (backing !== undefined) {
      this.#backing = makeBacking(backing, this.store, guestPageBytes / PAGE_BYTES);
      const { store, ioName } = this.#backing;
      watcher.watchCompletions(store.wakeFd, () => store.woken());
      report('info', `backing swap ${backing.path}: ${backing.extents.length} extents, ${ioName}`);
    }
    const { name, store, queueCount } = this;
    const backed = this.#backing?.store;
    this.#queues = new QueueSet({ name, queueCount, store, backed }, watcher, report);
    const remote = threads.slice(0, queueThreads - 1).map((thread, i) => {
      return new RemoteQueues(thread, { name, queueCount, share: store.share, thread: i + 1 });
    });
    this.#sets = [this.#queues, ...remote];
  }

  /** For the reactor to serve. */
  get queues(): QueueSet {
    return this.#queues;
  }

  /** Makes the disk larger, at once; a guest that is there is told. */
  grow(bytes: number): void {
    assert(bytes % PAGE_BYTES === 0, 'a disk is whole pages');
    // Whoever asked may have been overtaken by somebody who asked for more.
    if (bytes / PAGE_BYTES <= this.store.slots) return;
    for (const set of this.#sets) set.grow(bytes / PAGE_BYTES);
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
    this.#frontEnd = frontEndOf(fd);
    this.#hasMet = false;
  }

  /** Handles what the front end has sent. False: it has gone. Throws ProtocolError. */
  pollSession(): boolean {
    assert(this.#session !== undefined, 'only a session is polled');
    return this.#session.poll();
  }

  /** Ends the session: rings stop, guest memory is unmapped; the store keeps every page. */
  detach(): void {
    for (const set of this.#sets) set.close();
    this.#dropInflight();
    this.#session?.close();
    this.#session = undefined;
    this.#isLegacy = true;
    this.#ringFeatures = NO_FEATURES;
    this.#config.setWriteback(true);
  }

  /** The process ends in order: the store is left as whoever finds it would make it. */
  close(): void {
    this.store.mapped.header.close();
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
    this.#inAll(
      (set) => set.setMemoryTable(regions, fds),
      (set) => set.setMemoryTable([], []),
    );
    for (const fd of fds) this.#warnOfShrinking(fd);
  }

  addMemoryRegion(region: MemoryRegion, fd: number): void {
    this.#inAll(
      (set) => set.addMemoryRegion(region, fd),
      (set) => set.removeMemoryRegion(region),
    );
    this.#warnOfShrinking(fd);
  }

  removeMemoryRegion(region: MemoryRegion): void {
    // All have the same regions: none knows it, or all do.
    this.#inAll(
      (set) => set.removeMemoryRegion(region),
      () => {},
    );
  }

  getInflight(queues: number, queueSize: number): TrackedInflight {
    if (queues > this.queueCount) {
      throw new RequestError(
        `GET_INFLIGHT_FD: expected up to ${this.queueCount} queues, got ${queues}`,
      );
    }
    const made = makeInflightArea(queues, queueSize);
    if (this.#madeInflightFd !== undefined) closeFd(this.#madeInflightFd);
    this.#madeInflightFd = made.fd;
    return made;
  }

  setInflight(inflight: Inflight, fd: number): void {
    checkInflightArea(inflight, fd);
    this.#dropInflight();
    for (const set of this.#sets) set.setInflight(inflight, fd);
    this.#inflight = { inflight, fd: duplicateFd(fd) };
    // It says whose requests it is about: this may be another guest, or the same one rebooted.
    this.#hasMet = false;
  }

  setVringNum(index: number, num: number): void {
    this.#setOf(index).setVringNum(index, num);
  }

  setVringBase(index: number, base: number): void {
    this.#setOf(index).setVringBase(index, base);
  }

  setVringAddress(address: VringAddress): void {
    this.#changeRings(() => this.#setOf(address.index).setVringAddress(address));
  }

  getVringBase(index: number): number {
    return this.#changeRings(() => this.#setOf(index).getVringBase(index));
  }

  setVringKick(index: number, fd: number | undefined): void {
    // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts enabled."
    const terms = { ...this.#ringFeatures, startsEnabled: this.#isLegacy };
    if (!this.#hasMet) this.#meet(fd);
    this.#changeRings(() => this.#setOf(index).setVringKick(index, fd, terms));
  }

  setVringCall(index: number, fd: number | undefined): void {
    this.#setOf(index).setVringCall(index, fd);
  }

  setVringErr(index: number, fd: number | undefined): void {
    this.#setOf(index).setVringErr(index, fd);
  }

  setVringEnable(index: number, isEnabled: boolean): void {
    this.#changeRings(() => this.#setOf(index).setVringEnable(index, isEnabled));
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
    for (const set of this.#sets) set.disableRings();
  }

  resetDevice(): void {
    for (const set of this.#sets) set.resetRings();
    this.#dropInflight();
    this.#ringFeatures = NO_FEATURES;
    this.#config.setWriteback(true);
  }

  // ── Whose pages these are ─────────────────────────────────────────────────────────────────────

  /**
   * A ring is about to start: what may this guest read? What the store holds if it is that guest's:
   * its in-flight area says so, or the front end is the process that it served last. An area that
   * names another store belongs to a guest whose pages are elsewhere or gone: then nothing is known,
   * and reads must not say zeros. Throws RequestError; `kickFd` is then closed.
   */
  #meet(kickFd: number | undefined): void {
    const { header } = this.store.mapped;
    const tracked = this.#inflight;
    const named = tracked === undefined ? undefined : markedStore(tracked.inflight, tracked.fd);
    if (named === undefined) {
      const last = header.frontEnd;
      const isNew = last !== undefined && !isSameProcess(last, this.#frontEnd);
      if (isNew && this.#onNewGuest === 'empty') this.#forget(kickFd, false);
    } else if (Buffer.compare(named, header.uuid) !== 0) {
      this.#report('error', 'this guest had its pages in another store: they read as errors here');
      this.#forget(kickFd, true);
    }
    header.frontEnd = this.#frontEnd ?? UNKNOWN_PROCESS;
    if (tracked !== undefined) markStore(tracked.inflight, tracked.fd, header.uuid);
    this.#hasMet = true;
  }

  #forget(kickFd: number | undefined, isLost: boolean): void {
    if (this.#backing !== undefined && !this.#backing.store.settle(SETTLE_MILLIS)) {
      if (kickFd !== undefined) closeFd(kickFd);
      throw new RequestError('SET_VRING_KICK: I/O for the last guest has not ended yet');
    }
    this.store.reset(this.#headerSlots, isLost);
    this.#writeHeader();
    if (!isLost) this.#report('info', 'a new front end: what the last one left was emptied');
  }

  #dropInflight(): void {
    for (const fd of [this.#inflight?.fd, this.#madeInflightFd]) {
      if (fd !== undefined) closeFd(fd);
    }
    if (this.#inflight !== undefined) for (const set of this.#sets) set.setInflight(undefined, -1);
    this.#inflight = undefined;
    this.#madeInflightFd = undefined;
  }

  // ── Helpers ───────────────────────────────────────────────────────────────────────────────────

  #setOf(ring: number): DeviceQueues {
    return this.#sets[ring % this.#sets.length]!;
  }

  /** In all threads or in none: where one of them cannot, it is undone in the others. */
  #inAll(change: (set: DeviceQueues) => void, undo: (set: DeviceQueues) => void): void {
    const done: DeviceQueues[] = [];
    const errors: unknown[] = [];
    for (const set of this.#sets) {
      try {
        change(set);
        done.push(set);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) for (const set of done) undo(set);
    this.#tellOfConfig();
    if (errors.length > 0) throw errors[0];
  }

  /** Whatever may change which rings are served. */
  #changeRings<T>(change: () => T): T {
    try {
      return change();
    } finally {
      this.#tellOfConfig();
    }
  }

  /**
   * QEMU ignores the news while the device is not started: then it waits for the first ring. And it
   * may miss it while it stops the device: so it stays news until configuration space is read.
   */
  #tellOfConfig(): void {
    if (!this.#isConfigNews) return;
    if (this.#sets.some((set) => set.isServing())) this.#session?.sendConfigChange();
  }

  #warnOfShrinking(fd: number): void {
    if (this.#warnedOfShrinking || isShrinkSealed(fd)) return;
    this.#warnedOfShrinking = true;
    this.#report(
      'warn',
      'guest memory file is not sealed against shrinking: if it is truncated, this process ends',
    );
  }

  /** The store that another process has left, or a new one with nothing but a swap header. */
  #openStore(options: BlockDeviceOptions): PageStore {
    const { files } = options;
    const wanted = storeOptions(options);
    if (files?.isKept !== true) {
      const store = PageStore.make(wanted, makeStore(storeShape(wanted), files));
      writeSwapHeader(store, options);
      store.mapped.header.complete();
      return store;
    }
    const start = performance.now();
    const mapped = mapStore(storeShape(wanted), files);
    const { isClean } = mapped.header;
    const [store, { damaged }] = PageStore.recover(wanted, mapped);
    const millis = Math.round(performance.now() - start);
    const how = isClean ? 'left in order' : 'left by a process that was killed';
    const { pagesStored, comprDataSize } = COUNTER;
    const held = `${store.counters[pagesStored]} pages in ${formatBytes(store.counters[comprDataSize]!)}`;
    this.#report('info', `store found, ${how}: ${held}, made whole in ${millis} ms`);
    if (damaged > 0) this.#report('error', `store: ${damaged} pages are damaged, and lost`);
    return store;
  }
}

function storeOptions(options: BlockDeviceOptions): PageStoreOptions {
  const { name, diskBytes, diskBytesMax = diskBytes, backing, queueThreads = 1 } = options;
  const { poolLimitBytes, incompressibleBytes, isLocked = false } = options;
  const { wipesOnFree = false } = options;
  return {
    name,
    slots: diskBytes / PAGE_BYTES,
    slotsMax: diskBytesMax / PAGE_BYTES,
    threads: queueThreads,
    isLocked,
    wipesOnFree,
    ...(backing === undefined ? {} : { hasBacking: true, backing: backing.identity }),
    ...(poolLimitBytes === undefined ? {} : { poolLimitBytes }),
    ...(incompressibleBytes === undefined ? {} : { incompressibleBytes }),
  };
}

function writeSwapHeader(store: PageStore, options: BlockDeviceOptions): void {
  const header = swapHeader(options);
  for (let at = 0; at < header.length; at += PAGE_BYTES) {
    if (!store.writeRaw(at / PAGE_BYTES, header.subarray(at, at + PAGE_BYTES))) {
      const limit = options.poolLimitBytes;
      const cause = limit === undefined ? 'no memory' : `pool limit ${formatBytes(limit)}`;
      throw new RefusedError(`${options.name}: no room for the swap header (${cause})`);
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
