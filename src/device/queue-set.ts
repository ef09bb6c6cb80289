/**
 * The rings of one device that one thread serves, and its maps of the guest memory they lie in. With
 * several queue threads each has a set of its own, over its own object of the same store; nothing of
 * a set is shared. It knows no session: block-device.ts tells it what the front end's messages mean.
 *
 * Life: made → memory and rings set up → served by a reactor → closed with the session → set up
 * again by the next. Beside that, at any time: no disk → openDisk → closeDisk.
 */

import { assert } from '../base/assert.ts';
import { errnoText, RefusedError } from '../base/errors.ts';
import { sooner } from '../base/wait.ts';
import type { LogArea } from '../memory/dirty-log.ts';
import { GuestMemory, type GuestRegion } from '../memory/guest-memory.ts';
import { monotonicMicros, turnClock } from '../native/clock.ts';
import { closeFd } from '../native/fd.ts';
import type { BackedStore } from '../store/backed-store.ts';
import type { PageStore } from '../store/page-store.ts';
import { PageWindow } from '../store/page-window.ts';
import { COUNTER, REQUEST_LATENCY_DOUBLES } from '../store/statistics.ts';
import type { Inflight, VringAddress } from '../vhost-user-ts/index.ts';
import type { InflightRegion } from '../virtio/inflight.ts';
import { BlockQueue } from '../virtio-blk/block-queue.ts';
import { NO_PAGES } from '../virtio-blk/no-pages.ts';
import { type PageDevice, REQUESTS } from '../virtio-blk/page-device.ts';
import { REQUEST_LATENCIES, type RequestFigures } from '../virtio-blk/request-times.ts';
import { InflightArea } from './inflight-area.ts';
import type { Report } from './reports.ts';
import { type KickWatcher, Ring, type RingFeatures, type RingState } from './ring.ts';

/**
 * Pages that all rings together may cost in one turn, about 200 µs of compression: a guest of many
 * queues has no more of the thread than one with a single queue.
 */
const TURN_PAGES = 64;
/**
 * Time is counted when so much has come together: counters are doubles, and in code that is not
 * compiled yet each addition to one allocates.
 */
const COUNTED_MICROS = 1000;
/** How long guest memory stays mapped in after the last request. */
const FORGET_AFTER_MICROS = 500_000;
/** Between two turns it is dropped for so long, and a step. */
const FORGET_MICROS = 100;

/** A ring that is stopped: pages of its requests between two looks at the clock, ... */
const FINISH_PAGES = 64;
/** ... how long its requests may take, and between two looks at the backing swap. */
const FINISH_MICROS = 2_000_000;
const FINISH_LOOK_MILLIS = 50;

assert(
  REQUESTS.write + COUNTER.requestsRead === COUNTER.requestsWrite &&
    REQUESTS.discard + COUNTER.requestsRead === COUNTER.requestsDiscard &&
    REQUESTS.other + COUNTER.requestsRead === COUNTER.requestsOther &&
    REQUESTS.invalid + COUNTER.requestsRead === COUNTER.invalidIo,
  "the queues' counters lie in the store's",
);
assert(REQUEST_LATENCIES === REQUEST_LATENCY_DOUBLES, 'and so do their latencies');

/** What was negotiated for all rings of a session. */
export interface RingTerms extends RingFeatures {
  /** Without SET_VRING_ENABLE. */
  readonly startsEnabled: boolean;
}

/**
 * What a device asks of the thread that serves some of its rings. When a method returns, it is done:
 * no ring is served any more, no memory is touched any more. Errors and the ownership of descriptors
 * are as in BackendHandler.
 */
export interface DeviceQueues {
  setMemoryTable(regions: readonly GuestRegion[], fds: readonly number[]): void;
  addMemoryRegion(region: GuestRegion, fd: number): void;
  removeMemoryRegion(region: GuestRegion): void;
  /** Where rings note their requests from their next start on; undefined: nowhere. `fd` is kept. */
  setInflight(inflight: Inflight | undefined, fd: number): void;
  /** The dirty log from now on. Where it cannot be had there is none, but for what it may not be. */
  setLogBase(log: LogArea, fd: number): void;
  dropLog(): void;
  /** Signalled when the log was written to; stays the caller's. */
  setLogFd(fd: number | undefined): void;
  /** Whether what is written to guest memory is logged. */
  setLogging(isOn: boolean): void;
  setVringNum(index: number, num: number): void;
  setVringBase(index: number, base: number): void;
  setVringAddress(address: VringAddress): void;
  /** Begins nothing new on the ring; whether what was begun has ended, or is given up. */
  isAtRest(index: number): boolean;
  getVringBase(index: number): number;
  setVringKick(index: number, fd: number | undefined, terms: RingTerms): void;
  setVringCall(index: number, fd: number | undefined): void;
  setVringErr(index: number, fd: number | undefined): void;
  setVringEnable(index: number, isEnabled: boolean): void;
  disableRings(): void;
  resetRings(): void;
  /** Whether any ring is served now. */
  isServing(): boolean;
  /** The disk is larger now. */
  grow(slots: number): void;
  /** The disk is gone: until the next one there are no pages. Without a disk it does nothing. */
  closeDisk(): void;
  /**
   * Lets what is begun come to its end and serves nothing until resume(): its rings. Throws
   * RefusedError where they cannot be another process's; it is paused all the same.
   */
  pause(): RingState[];
  resume(): void;
  /** Rings of another process, which has paused them; memory is there. Untouched until resume(). */
  restore(rings: readonly RingState[]): void;
  /** The session is over: rings stop, guest memory is unmapped. */
  close(): void;
}

export interface QueueSetOptions {
  /** The device's name, which is also its serial. */
  readonly name: string;
  /** Queues of the device; this set has some of them. */
  readonly queueCount: number;
  /** What requests are whole numbers of. Default: a page. */
  readonly logicalBlockBytes?: number;
}

/** What the rings are served from, as one thread has it. */
export interface ThreadDisk {
  readonly store: PageStore;
  /** What pages go through instead, where there is a backing swap. */
  readonly backed?: BackedStore | undefined;
}

/** Where requests are counted that no disk has seen. */
const NOBODYS_FIGURES: RequestFigures = {
  counts: new Float64Array(REQUESTS.COUNT),
  latencies: new Float64Array(REQUEST_LATENCIES),
  clock: turnClock,
};

export class QueueSet implements DeviceQueues {
  readonly #name: string;
  readonly #logicalBlockBytes: number | undefined;
  readonly #watcher: KickWatcher;
  readonly #report: Report;
  #store: PageStore | undefined;
  #backed: BackedStore | undefined;
  readonly #memory = new GuestMemory<PageWindow>((bytes) => new PageWindow(bytes));
  /** By ring index; made when the front end first names them. */
  readonly #rings: (Ring | undefined)[];
  /** Those to be served, in order. */
  #served: Ring[] = [];
  /** The last serve() found something to do. */
  hasServed = false;
  /** Of those, where the next turn begins. */
  #first = 0;
  /** Served and polled since they were counted last. */
  #serveMicros = 0;
  #pollMicros = 0;
  /** Requests were served since the last maintain(). */
  #hasWorked = false;
  /** When maintain() last found that they were; resident guest pages are dropped some time after. */
  #lastWork = 0;
  #isGuestResident = false;
  #inflight: InflightArea | undefined;
  /** Replaced ones, until no ring that runs may note in them. */
  readonly #formerAreas: InflightArea[] = [];
  /** Rings that were started, the last time, with a region of that area. */
  readonly #tracked = new Set<number>();
  #isPaused = false;
  /** What rings had begun did not end in time: their others would wait for the same disk. */
  #isFinishInVain = false;

  constructor(options: QueueSetOptions, watcher: KickWatcher, report: Report) {
    this.#name = options.name;
    this.#logicalBlockBytes = options.logicalBlockBytes;
    this.#rings = new Array(options.queueCount).fill(undefined);
    this.#watcher = watcher;
    this.#report = report;
    this.#memory.onTrouble = (what) => report('error', what, 'session');
    this.#memory.log.onTrouble = this.#memory.onTrouble;
    this.#memory.log.onMiss = (what) => report('warn', what, 'session');
  }

  // ── Serving ───────────────────────────────────────────────────────────────────────────────────
  // HOT PATH from here to maintain(): no allocation, no BigInt, no closures, no await.

  /**
   * Serves a bounded batch, of the rings in turn: who comes after the one that ended it is the next
   * one's first. Whether there may be more to do at once. The thread's clock was read just before, and
   * is again when something was done.
   */
  serve(): boolean {
    const start = turnClock.micros;
    const backed = this.#backed;
    const served = this.#served;
    let left = TURN_PAGES;
    this.hasServed = backed?.hasEnded() === true;
    if (this.hasServed) left -= backed!.reap(TURN_PAGES);
    let at = this.#first;
    for (let i = 0; i < served.length && left > 0; i++) {
      if (at >= served.length) at = 0;
      const ring = served[at]!;
      at++;
      if (!ring.queue.hasWork) continue;
      this.hasServed = true;
      this.#hasWorked = true;
      left = ring.queue.serve(left);
      if (ring.queue.ring.brokenReason !== undefined) this.#retire(ring);
    }
    const hasMore = left <= 0;
    if (hasMore) this.#first = at;
    if (backed !== undefined) {
      backed.flush();
      if (this.hasServed) turnClock.read();
    }
    this.#serveMicros += (turnClock.micros - start) | 0;
    if (this.#serveMicros + this.#pollMicros >= COUNTED_MICROS) this.#countTime();
    return hasMore;
  }

  /** This thread polled for so long, because of this device's requests. */
  countPolling(micros: number): void {
    // What has no ring is polled for no more.
    if (this.#served.length > 0) this.#pollMicros += micros;
  }

  #countTime(): void {
    const counters = this.#store?.counters;
    if (counters !== undefined) {
      counters[COUNTER.serveMicros]! += this.#serveMicros;
      counters[COUNTER.pollMicros]! += this.#pollMicros;
    }
    this.#serveMicros = 0;
    this.#pollMicros = 0;
  }

  /** Whether serve() could do anything now. */
  hasWork(): boolean {
    if (this.#backed?.hasEnded() === true) return true;
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
    // Upkeep, too, is only for who has the store.
    if (this.#isPaused) return -1;
    const storeWait = (this.#backed ?? this.#store)?.maintain(now) ?? -1;
    if (this.#hasWorked) {
      this.#hasWorked = false;
      this.#isGuestResident = true;
      this.#lastWork = now;
    }
    if (!this.#isGuestResident) return storeWait;
    const wait = FORGET_AFTER_MICROS - ((now - this.#lastWork) | 0);
    if (wait > 0) return sooner(storeWait, Math.ceil(wait / 1000));
    const start = monotonicMicros();
    // Where nothing is resident a step takes next to no time, and a large guest has many.
    do this.#isGuestResident = this.#memory.forgetResidentStep();
    while (this.#isGuestResident && ((monotonicMicros() - start) | 0) < FORGET_MICROS);
    return this.#isGuestResident ? 0 : storeWait;
  }

  // ── DeviceQueues ──────────────────────────────────────────────────────────────────────────────

  /** All of it or none: a table that cannot be mapped leaves no memory at all. */
  setMemoryTable(regions: readonly GuestRegion[], fds: readonly number[]): void {
    this.#changeMemory(() => {
      this.#memory.clear();
      try {
        regions.forEach((region, i) => {
          this.#memory.addRegion(region, fds[i]!);
        });
      } catch (error) {
        this.#memory.clear();
        throw error;
      }
    });
  }

  addMemoryRegion(region: GuestRegion, fd: number): void {
    this.#changeMemory(() => this.#memory.addRegion(region, fd));
  }

  removeMemoryRegion(region: GuestRegion): void {
    this.#changeMemory(() => this.#memory.removeRegion(region));
  }

  setInflight(inflight: Inflight | undefined, fd: number): void {
    const area =
      inflight === undefined ? undefined : new InflightArea(inflight, fd, this.#rings.length);
    // Those that run go on noting in the area that they know.
    if (this.#inflight !== undefined) this.#formerAreas.push(this.#inflight);
    this.#inflight = area;
    this.#tracked.clear();
    this.#releaseAreas();
  }

  setLogBase(log: LogArea, fd: number): void {
    this.#memory.log.map(log, fd);
  }

  dropLog(): void {
    this.#memory.log.drop();
  }

  setLogFd(fd: number | undefined): void {
    this.#memory.log.eventFd = fd;
  }

  setLogging(isOn: boolean): void {
    this.#memory.log.isOn = isOn;
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

  /**
   * What the ring has begun comes to its end, for another process may be the next to serve it. What
   * takes longer, because a disk hangs or a guest asked for very much at once, is given up when the
   * ring stops, and begun again when it starts again.
   */
  isAtRest(index: number): boolean {
    const ring = this.#ring(index);
    const { queue } = ring;
    if (ring.endsSince === undefined) {
      ring.endsSince = monotonicMicros();
      this.#listServed();
    }
    if (!queue.ring.isAttached || this.#isFinishInVain) return true;
    const isDone = !queue.finish(FINISH_PAGES);
    this.#backed?.flush();
    if (isDone) return true;
    this.#isFinishInVain = ((monotonicMicros() - ring.endsSince) | 0) >= FINISH_MICROS;
    return this.#isFinishInVain;
  }

  getVringBase(index: number): number {
    const base = this.#ring(index).stop();
    this.#listServed();
    this.#releaseAreas();
    return base;
  }

  setVringKick(index: number, fd: number | undefined, terms: RingTerms): void {
    const ring = this.#ring(index);
    this.#isFinishInVain = false;
    const region = this.#inflightRegion(index, fd);
    // While it runs, only the descriptor is another.
    const isStart = !ring.isStarted;
    ring.setKick(fd, terms, region);
    if (isStart && region === undefined) this.#tracked.delete(index);
    else if (isStart) this.#tracked.add(index);
    if (terms.startsEnabled) ring.setEnabled(true);
    this.#listServed();
  }

  /** Where there is none, nobody takes over the descriptor that came for the ring. */
  #inflightRegion(index: number, kickFd: number | undefined): InflightRegion | undefined {
    try {
      return this.#inflight?.region(index);
    } catch (error) {
      if (kickFd !== undefined) closeFd(kickFd);
      throw error;
    }
  }

  setVringCall(index: number, fd: number | undefined): void {
    this.#ring(index).setCall(fd);
  }

  setVringErr(index: number, fd: number | undefined): void {
    this.#ring(index).setErr(fd);
  }

  setVringEnable(index: number, isEnabled: boolean): void {
    const ring = this.#ring(index);
    if (isEnabled) {
      this.#isFinishInVain = false;
    } else {
      ring.queue.suspend();
    }
    ring.setEnabled(isEnabled);
    this.#listServed();
  }

  disableRings(): void {
    for (const ring of this.#rings) {
      ring?.queue.suspend();
      ring?.setEnabled(false);
    }
    this.#listServed();
  }

  resetRings(): void {
    for (const ring of this.#rings) ring?.reset();
    this.#listServed();
    this.#releaseAreas();
  }

  isServing(): boolean {
    return this.#served.length > 0;
  }

  /** From now on rings are served from it. */
  openDisk({ store, backed }: ThreadDisk): void {
    assert(this.#store === undefined, 'a device has one disk at a time');
    this.#store = store;
    this.#backed = backed;
    this.#pointRings();
  }

  closeDisk(): void {
    const store = this.#store;
    this.#store = undefined;
    this.#backed = undefined;
    this.#pointRings();
    store?.mapped.release();
  }

  #pointRings(): void {
    for (const ring of this.#rings) {
      // What is half refused is popped again, and then there is a disk.
      ring?.queue.suspend();
      ring?.queue.setDevice(this.#pages, this.#figures);
    }
  }

  get #pages(): PageDevice<PageWindow> {
    return this.#backed ?? this.#store ?? NO_PAGES;
  }

  get #figures(): RequestFigures {
    if (this.#store === undefined) return NOBODYS_FIGURES;
    const { row, requestLatencyRow } = this.#store.mapped;
    const first = COUNTER.requestsRead;
    const counts = row.subarray(first, first + REQUESTS.COUNT);
    return { counts, latencies: requestLatencyRow, clock: turnClock };
  }

  grow(slots: number): void {
    assert(this.#store !== undefined, 'a disk grows');
    this.#store.grow(slots);
  }

  pause(): RingState[] {
    const rings = this.#rings.filter((ring) => ring !== undefined);
    for (const { index } of rings) this.#awaitRest(index);
    this.#isPaused = true;
    this.#listServed();
    for (const ring of rings) this.#refuseToPass(ring);
    return rings.map((ring) => ({ ...ring.state, isTracked: this.#tracked.has(ring.index) }));
  }

  /** For a take-over, for which all wait. */
  #awaitRest(index: number): void {
    while (!this.isAtRest(index)) this.#backed?.awaitEnded(FINISH_LOOK_MILLIS);
    // It is another's to end.
    this.#ring(index).endsSince = undefined;
  }

  /** What is known of some rings is in no state that could be sent. */
  #refuseToPass({ index, isStarted, queue }: Ring): void {
    if (!isStarted) return;
    if (!queue.ring.isAttached) {
      throw new RefusedError(`ring ${index} was started, and its memory is not there`);
    }
    if (queue.ring.hasInflight && !this.#tracked.has(index)) {
      throw new RefusedError(`ring ${index} was started with another in-flight area`);
    }
  }

  resume(): void {
    this.#isPaused = false;
    for (const ring of this.#rings) ring?.goOn();
    this.#listServed();
    // Whether the driver was told of what was published last is not known.
    for (const ring of this.#served) ring.signalCall();
  }

  restore(rings: readonly RingState[]): void {
    this.#isPaused = true;
    for (const state of rings) {
      const { index } = state;
      const region = state.isTracked ? this.#inflight?.region(index) : undefined;
      if (region !== undefined) this.#tracked.add(index);
      this.#ring(index).restore(state, region);
    }
  }

  close(): void {
    for (const ring of this.#rings) ring?.close();
    this.#countTime();
    this.#served = [];
    this.#isPaused = false;
    this.setInflight(undefined, -1);
    this.#memory.release();
  }

  /** When no ring runs, nobody notes in an area that was replaced. */
  #releaseAreas(): void {
    if (this.#rings.some((ring) => ring?.isStarted === true)) return;
    for (const area of this.#formerAreas.splice(0)) {
      const result = area.release();
      if (result === 0) continue;
      this.#report('error', `in-flight area stays mapped: mmap: ${errnoText(-result)}`, 'session');
    }
  }

  // ── Helpers ───────────────────────────────────────────────────────────────────────────────────

  #ring(index: number): Ring {
    let ring = this.#rings[index];
    if (ring === undefined) {
      ring = new Ring(index, this.#watcher, (self) => {
        const notify = () => self.signalCall();
        const blockBytes = this.#logicalBlockBytes;
        const [pages, figures] = [this.#pages, this.#figures];
        return new BlockQueue(this.#memory, pages, figures, this.#name, notify, blockBytes);
      });
      this.#rings[index] = ring;
    }
    return ring;
  }

  #listServed(): void {
    const isToServe = (ring: Ring | undefined) => ring?.isServed === true && !this.#isPaused;
    this.#served = this.#rings.filter((ring): ring is Ring => isToServe(ring));
  }

  /** Rings never point into memory that is being changed; those that no longer lie in it stop. */
  #changeMemory(change: () => void): void {
    for (const ring of this.#rings) ring?.detach();
    try {
      change();
    } finally {
      for (const ring of this.#rings) {
        const wrong = ring?.reattach();
        if (wrong === undefined) continue;
        this.#report('warn', `ring ${ring!.index} stopped: ${wrong}`, 'stopped ring');
      }
      this.#listServed();
    }
  }

  /** The guest broke the ring: it is not served until the driver resets it. */
  #retire(ring: Ring): void {
    this.#listServed();
    ring.signalErr();
    const why = `broken by the guest: ${ring.queue.ring.brokenReason}`;
    this.#report('warn', `ring ${ring.index} ${why}`, 'broken ring');
  }
}
