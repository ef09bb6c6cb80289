/**
 * A swap disk put together: store, rings (queue-set.ts), configuration space, and the meaning of a
 * vhost-user session's messages for them. Belongs to one reactor.
 *
 * Life: made (empty store, swap header in page 0) → attach a connection → messages, serving →
 * detach (the store stays) → attach again.
 */

import type { Faults } from '../backing/fault-io.ts';
import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { formatBytes, PAGE_BYTES } from '../base/units.ts';
import { isSameRegion, REGIONS_MAX } from '../memory/guest-memory.ts';
import { monotonicMicros } from '../native/clock.ts';
import { closeFd, duplicateFd, isShrinkSealed } from '../native/fd.ts';
import { isPeerGone } from '../native/socket.ts';
import type { PageStore } from '../store/page-store.ts';
import { COUNTER } from '../store/statistics.ts';
import type { StoreFiles } from '../store/store-files.ts';
import type { ProcessIdentity } from '../store/store-header.ts';
import {
  type BackendHandler,
  BackendSession,
  type ConfigMessage,
  type Inflight,
  type LogDescription,
  type MemoryRegion,
  RequestError,
  type SessionState,
  VHOST_F_LOG_ALL,
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
import { goOnWithStore, openStore } from './device-store.ts';
import { SessionLog } from './dirty-log.ts';
import { frontEndOf, type NewGuestPolicy } from './front-end-process.ts';
import { type DeviceState, heldState, type SessionDeviceState } from './handover.ts';
import { checkInflightArea, makeInflightArea, type TrackedInflight } from './inflight-area.ts';
import type { HandedOverSockets, QueueCall } from './orders.ts';
import { PageOwner } from './page-owner.ts';
import { type DeviceQueues, QueueSet, type Report } from './queue-set.ts';
import { RemoteQueues } from './remote-queues.ts';
import type { KickWatcher, RingFeatures, RingState } from './ring.ts';
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

const NO_FEATURES: RingFeatures = { eventIdx: false, indirect: false };

/** How long a guest may wait for I/O before its device is handed over: else it is not, now. */
const PAUSE_SETTLE_MILLIS = 1000;

export interface BlockDeviceOptions {
  /** Also the virtio-blk serial (GET_ID) and the label of the swap area. */
  readonly name: string;
  readonly diskBytes: number;
  /** How far grow() may go. Default: not at all. */
  readonly diskBytesMax?: number;
  readonly guestPageBytes: number;
  /** What requests are whole numbers of, 512 or a page. Default: a page. */
  readonly logicalBlockBytes?: number;
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
  /** Goes on with what another process has handed over: its store is in `files`. */
  readonly takenOver?: DeviceState;
}

/** What the reactor does for a device's backing swap: watch for the end of I/O. */
export interface CompletionWatcher {
  watchCompletions(fd: number, onReadable: () => void): void;
}

export class BlockDevice implements BackendHandler {
  readonly name: string;
  /** What is in memory. */
  readonly store: PageStore;
  readonly features = DEVICE_FEATURES | VHOST_F_LOG_ALL;
  readonly queueCount: number;
  readonly memorySlots = REGIONS_MAX;

  readonly #options: BlockDeviceOptions;
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
  /** What SET_FEATURES said last. */
  #accepted: bigint | undefined;
  readonly #log: SessionLog;
  /** Configuration space has changed, and the front end has not read it since. */
  #isConfigNews = false;
  #warnedOfShrinking = false;
  #frontEnd: ProcessIdentity | undefined;
  /** From a process that may yet go on: nothing is changed before resume(). */
  #isTakenOver: boolean;
  /** A ring was started in this session; and for the guest that it now has. */
  #hasMetFrontEnd = false;
  #hasMetGuest = false;
  readonly #owner: PageOwner;
  /** As the front end has described them: for another process, should one take over. */
  #regions: { readonly region: MemoryRegion; readonly fd: number }[] = [];
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
    this.#options = options;
    this.#report = report;
    const { backing, guestPageBytes, queueThreads = 1 } = options;
    const { logicalBlockBytes = PAGE_BYTES } = options;
    assert(
      backing === undefined || queueThreads === 1,
      'one thread does all I/O of a backing swap',
    );
    assert(queueThreads <= threads.length + 1, 'the reactor has the threads that its devices want');
    this.store = openStore(options, report);
    this.#isTakenOver = options.takenOver !== undefined;
    this.#config = new BlockConfig(this.store.slots, options.numQueues, logicalBlockBytes);
    this.store.onTrouble = (what) => report('error', what);
    if (backing !== undefined) {
      this.#backing = makeBacking(backing, this.store, guestPageBytes / PAGE_BYTES);
      const { store, ioName } = this.#backing;
      watcher.watchCompletions(store.wakeFd, () => store.woken());
      report('info', `backing swap ${backing.path}: ${backing.extents.length} extents, ${ioName}`);
    }
    const { store } = this;
    this.#owner = new PageOwner(options, store, this.#backing, report);
    const terms = { name: this.name, queueCount: this.queueCount, logicalBlockBytes };
    const backed = this.#backing?.store;
    this.#queues = new QueueSet({ ...terms, store, backed }, watcher, report);
    const remote = threads.slice(0, queueThreads - 1).map((thread, i) => {
      return new RemoteQueues(thread, { ...terms, share: store.share, thread: i + 1 });
    });
    this.#sets = [this.#queues, ...remote];
    this.#log = new SessionLog(this.#sets);
    const session = options.takenOver?.session;
    if (session !== undefined) this.#takeOverSession(session);
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

  /**
   * Frees all pages: the disk is as new, of the size that it has. Throws RefusedError while a front
   * end has rings running, or where I/O of the backing swap does not end.
   */
  reset(): void {
    if (this.#sets.some((set) => set.isStarted())) {
      throw new RefusedError(`${this.name}: in use: a front end has its queues running`);
    }
    this.#owner.reset();
    // A guest that goes on after a pause finds that its pages were in another store.
    this.#hasMetGuest = false;
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
    this.#openSession(fd);
    this.#frontEnd = frontEndOf(fd);
    this.#hasMetFrontEnd = false;
    this.#hasMetGuest = false;
  }

  #openSession(begun: number | SessionState): void {
    this.#session = new BackendSession(begun, this);
    this.#session.onRefusal = (reason) => this.#report('warn', `refused: ${reason}`);
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
    this.#dropRegions();
    this.#session?.close();
    this.#session = undefined;
    this.#isLegacy = true;
    this.#forgetFeatures();
    this.#log.drop();
  }

  // ── To another process, and from it ───────────────────────────────────────────────────────────

  /**
   * Lets everything that has begun come to its end, and pauses: what another process needs to go on,
   * the descriptors still this one's. Then resume(), or the end of the process. Throws RefusedError
   * when it cannot be now; nothing is paused then.
   */
  pause(sockets: HandedOverSockets): DeviceState {
    const pausedMicros = monotonicMicros();
    try {
      const rings = this.#sets.flatMap((set) => set.pause());
      this.#owner.mustSettle(PAUSE_SETTLE_MILLIS);
      this.store.mapped.header.close();
      const { shared } = this.store.mapped;
      const held = heldState(this.#options, shared, this.#backing?.store.memlimitBytes);
      return { ...held, ...sockets, pausedMicros, session: this.#sessionState(rings) };
    } catch (error) {
      this.resume();
      throw error;
    }
  }

  #sessionState(rings: readonly RingState[]): SessionDeviceState | undefined {
    if (this.#session === undefined) return undefined;
    return {
      session: this.#session.state,
      features: this.#ringFeatures,
      accepted: this.#accepted,
      log: this.#log.state,
      isLegacy: this.#isLegacy,
      isWriteback: this.#config.isWriteback,
      isConfigNews: this.#isConfigNews,
      hasMetFrontEnd: this.#hasMetFrontEnd,
      hasMetGuest: this.#hasMetGuest,
      regions: this.#regions,
      inflight: this.#inflight,
      rings,
    };
  }

  /** Serves on after pause(), of this process or of the one that was taken over from. */
  resume(): void {
    const isFirst = this.#isTakenOver;
    if (isFirst) goOnWithStore(this.store, this.#options, this.#report);
    else this.store.mapped.header.open(this.#options.queueThreads ?? 1);
    this.#isTakenOver = false;
    for (const set of this.#sets) set.resume();
    this.#tellOfConfig();
    if (!isFirst) return;
    const { process: from, pausedMicros } = this.#options.takenOver!;
    const millis = (((monotonicMicros() - pausedMicros) | 0) / 1000).toFixed(1);
    this.#report('info', `taken over from process ${from}: the guest waited ${millis} ms`);
  }

  /** What a session of another process was; it is paused until resume(). */
  #takeOverSession(state: SessionDeviceState): void {
    this.#openSession(state.session);
    this.#ringFeatures = state.features;
    this.#accepted = state.accepted;
    this.#log.restore(state.log);
    this.#isLegacy = state.isLegacy;
    this.#config.setWriteback(state.isWriteback);
    this.#isConfigNews = state.isConfigNews;
    this.#frontEnd = frontEndOf(state.session.connection.fd);
    for (const { region, fd } of state.regions) {
      for (const set of this.#sets) set.addMemoryRegion(region, fd);
    }
    this.#regions = [...state.regions];
    if (state.inflight !== undefined) {
      const { inflight, fd } = state.inflight;
      for (const set of this.#sets) set.setInflight(inflight, fd);
      this.#inflight = state.inflight;
    }
    this.#hasMetFrontEnd = state.hasMetFrontEnd;
    this.#hasMetGuest = state.hasMetGuest;
    this.#sets.forEach((set, i) => {
      const own = state.rings.filter(({ index }) => index % this.#sets.length === i);
      set.restore(own);
    });
  }

  get sessionFd(): number | undefined {
    return this.#session?.fd;
  }

  /** Somebody may come back for its pages: who is there, or was there last and may be again. */
  get isWanted(): boolean {
    const isThere = this.#session !== undefined && !isPeerGone(this.#session.fd);
    return isThere || this.#owner.mayComeBack;
  }

  /** The process ends in order: the store is left as whoever finds it would make it. */
  close(): void {
    // Not of another process, which may have gone on.
    if (!this.#isTakenOver) this.store.mapped.header.close();
  }

  // ── BackendHandler ────────────────────────────────────────────────────────────────────────────

  setFeatures(features: bigint, isLegacy: boolean): void {
    // A legacy driver acknowledges bits that were never offered (FACTS: bit 27); they mean nothing.
    const accepted = features & this.features;
    this.#isLegacy = isLegacy;
    const before = this.#accepted;
    this.#accepted = accepted;
    this.#log.switch((accepted & VHOST_F_LOG_ALL) !== 0n);
    // Logging begins or ends while rings run: what the guest has set since they started stays.
    if (before !== undefined && (before ^ accepted) === VHOST_F_LOG_ALL) return;
    this.#ringFeatures = {
      eventIdx: (accepted & VIRTIO_RING_F_EVENT_IDX) !== 0n,
      indirect: (accepted & VIRTIO_RING_F_INDIRECT_DESC) !== 0n,
    };
    const hasWce = (accepted & VIRTIO_BLK_F_CONFIG_WCE) !== 0n;
    this.#config.setWriteback(!hasWce || (accepted & VIRTIO_BLK_F_FLUSH) !== 0n);
  }

  setMemoryTable(regions: readonly MemoryRegion[], fds: readonly number[]): void {
    // Refused or not, what was there before is gone.
    this.#dropRegions();
    this.#inAll(
      (set) => set.setMemoryTable(regions, fds),
      (set) => set.setMemoryTable([], []),
    );
    regions.forEach((region, i) => {
      this.#keepRegion(region, fds[i]!);
    });
  }

  addMemoryRegion(region: MemoryRegion, fd: number): void {
    this.#inAll(
      (set) => set.addMemoryRegion(region, fd),
      (set) => set.removeMemoryRegion(region),
    );
    this.#keepRegion(region, fd);
  }

  #keepRegion(region: MemoryRegion, fd: number): void {
    this.#regions.push({ region, fd: duplicateFd(fd) });
    this.#warnOfShrinking('guest memory file', fd);
  }

  removeMemoryRegion(region: MemoryRegion): void {
    // All have the same regions: none knows it, or all do.
    this.#inAll(
      (set) => set.removeMemoryRegion(region),
      () => {},
    );
    const at = this.#regions.findIndex((each) => isSameRegion(each.region, region));
    for (const { fd } of this.#regions.splice(at, 1)) closeFd(fd);
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
    this.#inflight = { inflight, fd: duplicateFd(fd) };
    try {
      for (const set of this.#sets) set.setInflight(inflight, fd);
    } catch (error) {
      this.#dropInflight();
      throw error;
    }
    // It says whose requests it is about: this may be another guest, or the same one rebooted.
    this.#hasMetGuest = false;
  }

  setLogBase(log: LogDescription, fd: number): void {
    this.#log.setBase(log, fd);
    this.#warnOfShrinking('dirty log', fd);
  }

  setLogFd(fd: number): void {
    this.#log.setFd(fd);
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
    if (!this.#hasMetGuest) this.#meet(fd);
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
    this.#forgetFeatures();
    this.#log.drop();
  }

  // ── What belongs to the session ───────────────────────────────────────────────────────────────

  /** A ring is about to start. Throws RequestError, RefusedError; `kickFd` is then closed. */
  #meet(kickFd: number | undefined): void {
    try {
      this.#owner.meet({
        frontEnd: this.#frontEnd,
        tracked: this.#inflight,
        isKnown: this.#hasMetFrontEnd,
        isServing: () => this.#sets.some((set) => set.isServing()),
      });
      this.#hasMetFrontEnd = true;
      this.#hasMetGuest = true;
    } catch (error) {
      if (kickFd !== undefined) closeFd(kickFd);
      throw error;
    }
  }

  #dropRegions(): void {
    for (const { fd } of this.#regions) closeFd(fd);
    this.#regions = [];
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

  #forgetFeatures(): void {
    this.#accepted = undefined;
    this.#ringFeatures = NO_FEATURES;
    this.#config.setWriteback(true);
  }

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

  #warnOfShrinking(what: string, fd: number): void {
    if (this.#warnedOfShrinking || isShrinkSealed(fd)) return;
    this.#warnedOfShrinking = true;
    this.#report(
      'warn',
      `${what} is not sealed against shrinking: if it is truncated, this process ends`,
    );
  }
}
