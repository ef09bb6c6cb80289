/**
 * A device put together: its disk while it is initialised (disk.ts), rings (queue-set.ts), configuration
 * space, and the meaning of a vhost-user session's messages for them. Belongs to one reactor.
 *
 * Two lives beside each other:
 *   made (uninitialised: capacity 0) → init (a disk) → reset (uninitialised) → init …
 *   attach a connection → messages, serving → detach (the disk stays) → attach again …
 */

import type { Faults } from '../backing/fault-io.ts';
import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { formatBytes, PAGE_BYTES } from '../base/units.ts';
import { REGIONS_MAX } from '../memory/guest-memory.ts';
import { monotonicMicros } from '../native/clock.ts';
import { closeFd, discardFds, duplicateFd, isShrinkSealed } from '../native/fd.ts';
import { isPeerGone } from '../native/socket.ts';
import type { PageStore } from '../store/page-store.ts';
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
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH } from '../virtio-blk/protocol.ts';
import type { BlockDeviceEvents, DeviceTerms } from './device-terms.ts';
import { SessionLog } from './dirty-log.ts';
import { type CompletionWatcher, Disk, type DiskOptions, needDisk } from './disk.ts';
import { type DeviceState, heldState, type SessionDeviceState } from './handover.ts';
import { checkInflightArea, makeInflightArea, type TrackedInflight } from './inflight-area.ts';
import { KeptRegions } from './kept-regions.ts';
import { Meeting } from './meeting.ts';
import type { HandedOverSockets, QueueCall } from './orders.ts';
import { UnsettledError } from './page-owner.ts';
import type { DeviceQueues, QueueSet } from './queue-set.ts';
import { QueueSets } from './queue-sets.ts';
import type { Report } from './reports.ts';
import type { KickWatcher, RingFeatures, RingState } from './ring.ts';
import type { ThreadCaller } from './thread-call.ts';

const DEVICE_FEATURES =
  VIRTIO_F_VERSION_1 | VIRTIO_RING_F_INDIRECT_DESC | VIRTIO_RING_F_EVENT_IDX | BLOCK_FEATURES;

const NO_FEATURES: RingFeatures = { eventIdx: false, indirect: false };

export class BlockDevice implements BackendHandler {
  readonly name: string;
  readonly features = DEVICE_FEATURES | VHOST_F_LOG_ALL;
  readonly queueCount: number;
  readonly memorySlots = REGIONS_MAX;

  readonly #terms: DeviceTerms;
  readonly #watcher: KickWatcher & CompletionWatcher;
  readonly #events: BlockDeviceEvents;
  readonly #report: Report;
  readonly #config: BlockConfig;
  #disk: Disk | undefined;
  readonly #sets: QueueSets;
  #session: BackendSession | undefined;
  #ringFeatures: RingFeatures = NO_FEATURES;
  #isLegacy = true;
  /** What SET_FEATURES said last. */
  #accepted: bigint | undefined;
  readonly #log: SessionLog;
  /**
   * The front end has not read configuration space since it changed, or in this session: one that
   * comes again, perhaps to another process than before, does not read it on its own.
   */
  #isConfigNews = true;
  #warnedOfShrinking = false;
  /** Rings between SET_VRING_KICK and GET_VRING_BASE: a driver has them, whatever state they are in. */
  readonly #started = new Set<number>();
  #wasRunning = false;
  readonly #meeting = new Meeting(() => this.#sets.isServing());
  readonly #regions = new KeptRegions();
  #inflight: TrackedInflight | undefined;
  /** Made for the front end: until it has a descriptor of its own. */
  #madeInflightFd: number | undefined;

  constructor(
    terms: DeviceTerms,
    watcher: KickWatcher & CompletionWatcher,
    events: BlockDeviceEvents,
    threads: readonly ThreadCaller<QueueCall>[] = [],
  ) {
    const { name, numQueues, queueThreads = 1, logicalBlockBytes = PAGE_BYTES } = terms;
    assert(queueThreads <= threads.length + 1, 'the reactor has the threads that its devices want');
    this.name = name;
    this.queueCount = numQueues;
    this.#terms = terms;
    this.#watcher = watcher;
    this.#events = events;
    this.#report = (...said) => events.report(...said);
    this.#config = new BlockConfig(0, numQueues, logicalBlockBytes);
    const options = { name, queueCount: numQueues, logicalBlockBytes };
    const helpers = threads.slice(0, queueThreads - 1);
    this.#sets = new QueueSets(options, watcher, this.#report, helpers);
    this.#log = new SessionLog(this.#sets.all);
  }

  /** What is in memory; there must be a disk. */
  get store(): PageStore {
    assert(this.#disk !== undefined, 'an initialised device has a store');
    return this.#disk.store;
  }

  get isInitialised(): boolean {
    return this.#disk !== undefined;
  }

  /** A front end has rings running. */
  get isRunning(): boolean {
    return this.#started.size > 0;
  }

  // ── The disk ──────────────────────────────────────────────────────────────────────────────────

  /** Makes the disk; a guest that is there is told. Throws RefusedError, SystemError. */
  init(options: DiskOptions): void {
    if (this.#disk !== undefined) throw new RefusedError(`${this.name}: already initialised`);
    const disk = new Disk(options, this.#watcher, this.#report);
    try {
      if (this.isRunning) this.#meeting.meetNew(disk.owner, this.#inflight);
      this.#sets.openDisk(disk);
    } catch (error) {
      this.#drop(disk);
      throw error;
    }
    this.#disk = disk;
    this.#resize(disk.store.slots);
    if (options.takenOver === undefined) return;
    const { session } = options.takenOver;
    if (session === undefined) for (const set of this.#sets.all) set.restore([]);
    else this.#takeOverSession(session);
  }

  #drop(disk: Disk): void {
    disk.leave();
    this.#sets.closeDisk(disk);
    this.#meeting.forgetDisk();
  }

  /** Makes the disk larger, at once; a guest that is there is told. */
  grow(bytes: number): void {
    assert(bytes % PAGE_BYTES === 0, 'a disk is whole pages');
    // Whoever asked may have been overtaken by somebody who asked for more.
    if (bytes / PAGE_BYTES <= this.store.slots) return;
    for (const set of this.#sets.all) set.grow(bytes / PAGE_BYTES);
    this.#report('info', `the disk is ${formatBytes(bytes)} now`);
    this.#resize(this.store.slots);
  }

  #resize(pages: number): void {
    this.#config.setCapacity(pages);
    this.#isConfigNews = true;
    this.#tellOfConfig();
  }

  /**
   * Frees all memory: uninitialised. Throws RefusedError while a front end has rings running,
   * UnsettledError while I/O of the backing swap is under way.
   */
  reset(): void {
    const disk = needDisk(this.#disk, this.name);
    this.mustNotRun();
    disk.mustSettle();
    this.#disk = undefined;
    this.#drop(disk);
    this.#resize(0);
    this.#report('info', 'reset: all memory was freed');
  }

  /** Throws RefusedError while a front end has rings running, with a disk or without. */
  mustNotRun(): void {
    if (!this.isRunning) return;
    throw new RefusedError(`${this.name}: in use: a front end has its queues running`);
  }

  /** The device is gone, in all threads; its session has ended and its disk was reset. */
  remove(): void {
    assert(this.#disk === undefined && this.#session === undefined, 'nobody has the device');
    this.#sets.remove();
  }

  /** Changes the limit on compressed bytes in memory; what is above it moves out by and by. */
  setMemlimit(bytes: number): void {
    const backing = this.#disk?.backing;
    assert(backing !== undefined, 'only a device with a backing swap has a memory limit');
    backing.store.memlimitBytes = bytes;
  }

  /** Changes the limit of host memory for stored pages; what is there already stays. */
  setPoolLimit(bytes: number | undefined): void {
    this.store.poolLimitBytes = bytes;
  }

  /** Faults of the backing's I/O from now on; for tests. */
  setFaults(faults: Faults): void {
    const backing = this.#disk?.backing;
    assert(backing?.faults !== undefined, 'faults were asked for at the start');
    backing.faults.faults = faults;
  }

  /** For the reactor to serve. */
  get queues(): QueueSet {
    return this.#sets.own;
  }

  get isAttached(): boolean {
    return this.#session !== undefined;
  }

  /** Takes over a connected socket; the session's descriptor is the reactor's to watch. */
  attach(fd: number): void {
    assert(this.#session === undefined, 'a device has one session at a time');
    this.#openSession(fd);
    this.#isConfigNews = true;
    this.#meeting.begin(fd);
  }

  #openSession(begun: number | SessionState): void {
    this.#session = new BackendSession(begun, this);
    this.#session.onRefusal = (reason) => {
      this.#report('warn', `refused: ${reason}`, 'refused request');
    };
  }

  /** What the front end has sent waits for I/O: pollSession() again soon. */
  get isWaiting(): boolean {
    return this.#session?.isWaiting === true;
  }

  /** Handles what the front end has sent. False: it has gone. Throws ProtocolError. */
  pollSession(): boolean {
    assert(this.#session !== undefined, 'only a session is polled');
    return this.#session.poll();
  }

  /** Ends the session: rings stop, guest memory is unmapped; the store keeps every page. */
  detach(): void {
    this.#sets.close();
    this.#dropInflight();
    this.#regions.clear();
    this.#started.clear();
    this.#tellOfRunning();
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
    const disk = needDisk(this.#disk, this.name);
    if (this.isWaiting) throw new UnsettledError(`${this.name}: a queue is about to stop or start`);
    try {
      const rings = this.#sets.all.flatMap((set) => set.pause());
      disk.pause();
      const { shared } = disk.store.mapped;
      const memlimitBytes = disk.backing?.store.memlimitBytes;
      const held = heldState(this.#terms, disk.options, shared, memlimitBytes);
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
      ...this.#meeting.state,
      regions: this.#regions.all,
      inflight: this.#inflight,
      rings,
    };
  }

  /** Serves on after pause(), of this process or of the one that was taken over from. */
  resume(): void {
    const disk = needDisk(this.#disk, this.name);
    const isFirst = disk.isTakenOver;
    disk.goOn();
    for (const set of this.#sets.all) set.resume();
    this.#tellOfConfig();
    if (!isFirst) return;
    const { process: from, pausedMicros } = disk.options.takenOver!;
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
    this.#meeting.begin(state.session.connection.fd, state);
    for (const { region, fd } of state.regions) {
      for (const set of this.#sets.all) set.addMemoryRegion(region, fd);
    }
    this.#regions.restore(state.regions);
    if (state.inflight !== undefined) {
      const { inflight, fd } = state.inflight;
      for (const set of this.#sets.all) set.setInflight(inflight, fd);
      this.#inflight = state.inflight;
    }
    this.#sets.all.forEach((set, i) => {
      const own = state.rings.filter(({ index }) => index % this.#sets.all.length === i);
      set.restore(own);
    });
    for (const { index, isStarted } of state.rings) if (isStarted) this.#started.add(index);
    this.#tellOfRunning();
  }

  get sessionFd(): number | undefined {
    return this.#session?.fd;
  }

  /** Somebody may come back for its pages: who is there, or was there last and may be again. */
  get isWanted(): boolean {
    const isThere = this.#session !== undefined && !isPeerGone(this.#session.fd);
    return this.#disk !== undefined && (isThere || this.#disk.owner.mayComeBack);
  }

  /** The process ends in order: the store is left as whoever finds it would make it. */
  close(): void {
    this.#disk?.leave();
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
    this.#regions.addWhile(regions, fds, () => {
      try {
        this.#changeMemory(
          (set) => set.setMemoryTable(regions, fds),
          (set) => set.setMemoryTable([], []),
        );
      } finally {
        // Refused or not, what was there before is gone.
        this.#regions.clear();
      }
    });
    for (const fd of fds) this.#warnOfShrinking('guest memory file', fd);
  }

  addMemoryRegion(region: MemoryRegion, fd: number): void {
    const map = () =>
      this.#changeMemory(
        (set) => set.addMemoryRegion(region, fd),
        (set) => set.removeMemoryRegion(region),
      );
    this.#regions.addWhile([region], [fd], map);
    this.#warnOfShrinking('guest memory file', fd);
  }

  removeMemoryRegion(region: MemoryRegion): void {
    // All have the same regions: none knows it, or all do.
    this.#changeMemory(
      (set) => set.removeMemoryRegion(region),
      () => {},
    );
    this.#regions.remove(region);
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
    const kept = { inflight, fd: duplicateFd(fd) };
    this.#dropInflight();
    this.#inflight = kept;
    try {
      for (const set of this.#sets.all) set.setInflight(inflight, fd);
    } catch (error) {
      this.#dropInflight();
      throw error;
    }
    this.#meeting.areaChanged();
  }

  setLogBase(log: LogDescription, fd: number): void {
    this.#log.setBase(log, fd);
    this.#warnOfShrinking('dirty log', fd);
  }

  setLogFd(fd: number): void {
    this.#log.setFd(fd);
  }

  setVringNum(index: number, num: number): void {
    this.#sets.of(index).setVringNum(index, num);
  }

  setVringBase(index: number, base: number): void {
    this.#sets.of(index).setVringBase(index, base);
  }

  setVringAddress(address: VringAddress): void {
    this.#changeRings(() => this.#sets.of(address.index).setVringAddress(address));
  }

  isAtRest(index: number): boolean {
    return this.#sets.of(index).isAtRest(index);
  }

  mayStart(): boolean {
    return this.#meeting.mayMeet(this.#disk?.owner, this.#inflight);
  }

  getVringBase(index: number): number {
    const base = this.#changeRings(() => this.#sets.of(index).getVringBase(index));
    this.#started.delete(index);
    this.#tellOfRunning();
    return base;
  }

  setVringKick(index: number, fd: number | undefined): void {
    // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts enabled."
    const terms = { ...this.#ringFeatures, startsEnabled: this.#isLegacy };
    try {
      this.#meeting.meet(this.#disk?.owner, this.#inflight);
    } catch (error) {
      if (fd !== undefined) closeFd(fd);
      throw error;
    }
    this.#changeRings(() => this.#sets.of(index).setVringKick(index, fd, terms));
    this.#started.add(index);
    this.#tellOfRunning();
  }

  setVringCall(index: number, fd: number | undefined): void {
    this.#sets.of(index).setVringCall(index, fd);
  }

  setVringErr(index: number, fd: number | undefined): void {
    this.#sets.of(index).setVringErr(index, fd);
  }

  setVringEnable(index: number, isEnabled: boolean): void {
    this.#changeRings(() => this.#sets.of(index).setVringEnable(index, isEnabled));
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
    for (const set of this.#sets.all) set.disableRings();
  }

  resetDevice(): void {
    for (const set of this.#sets.all) set.resetRings();
    this.#started.clear();
    this.#tellOfRunning();
    this.#dropInflight();
    this.#forgetFeatures();
    this.#log.drop();
  }

  // ── What belongs to the session ───────────────────────────────────────────────────────────────

  #dropInflight(): void {
    if (this.#inflight !== undefined)
      for (const set of this.#sets.all) set.setInflight(undefined, -1);
    const fds = [this.#inflight?.fd, this.#madeInflightFd].filter((fd) => fd !== undefined);
    this.#inflight = undefined;
    this.#madeInflightFd = undefined;
    // It is mapped nowhere any more.
    discardFds(...fds);
  }

  // ── Helpers ───────────────────────────────────────────────────────────────────────────────────

  #forgetFeatures(): void {
    this.#accepted = undefined;
    this.#ringFeatures = NO_FEATURES;
    this.#config.setWriteback(true);
  }

  #changeMemory(make: (set: DeviceQueues) => void, undo: (set: DeviceQueues) => void): void {
    this.#changeRings(() => this.#sets.change(make, undo));
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
    if (this.#sets.isServing()) this.#session?.sendConfigChange();
  }

  #tellOfRunning(): void {
    if (this.#wasRunning === this.isRunning) return;
    this.#wasRunning = this.isRunning;
    this.#events.running?.(this.#wasRunning);
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
