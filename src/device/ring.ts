/**
 * One virtqueue of a device as vhost-user drives it: its size, addresses, base, descriptors for
 * kick, call and error, and whether it is started and enabled.
 *
 * States (vhost-user.rst, "Ring states"):
 *   stopped → SET_VRING_KICK → started → SET_VRING_ENABLE 1 → served
 *   served → SET_VRING_ENABLE 0 → started → GET_VRING_BASE → stopped
 *   served → broken by the guest → started, not served, until it is stopped and started again
 */

import { SystemError } from '../base/errors.ts';
import { closeFd } from '../native/fd.ts';
import { signalPeerEventFd } from '../native/peer-eventfd.ts';
import type { PageWindow } from '../store/page-window.ts';
import { RequestError, VHOST_VRING_F_LOG, type VringAddress } from '../vhost-user-ts/index.ts';
import type { InflightRegion } from '../virtio/inflight.ts';
import { VIRTQ_ALIGN, VIRTQ_SIZE_MAX } from '../virtio/split-ring.ts';
import type { RingAddresses } from '../virtio/virtqueue.ts';
import type { BlockQueue } from '../virtio-blk/block-queue.ts';
import { takeEventFd } from './event-fds.ts';

/** What the reactor does for a ring: watch its kick descriptor. */
export interface KickWatcher {
  watchKick(fd: number): void;
  unwatchKick(fd: number): void;
}

/** What the driver has accepted, as far as it concerns a ring. */
export interface RingFeatures {
  readonly eventIdx: boolean;
  readonly indirect: boolean;
}

/** A ring on its way to another process. Descriptors are its own. */
export interface RingState {
  readonly index: number;
  readonly num: number;
  readonly addresses: RingAddresses | undefined;
  /** Guest address by which writes to the used ring are logged, if they are. */
  readonly usedLog: bigint | undefined;
  readonly base: number;
  /** Those that it was started with last. */
  readonly features: RingFeatures;
  readonly isEnabled: boolean;
  readonly isStarted: boolean;
  /** Its popped chains are noted in the in-flight area that the device has now. */
  readonly isTracked: boolean;
  readonly brokenReason: string | undefined;
  readonly kickFd: number | undefined;
  readonly callFd: number | undefined;
  readonly errFd: number | undefined;
}

export class Ring {
  readonly index: number;
  readonly queue: BlockQueue<PageWindow>;

  readonly #watcher: KickWatcher;
  #num = 0;
  #addresses: RingAddresses | undefined;
  #usedLog: bigint | undefined;
  #base = 0;
  #features: RingFeatures = { eventIdx: false, indirect: false };
  #isEnabled = false;
  #isStarted = false;
  /** About to stop, and begins nothing new, since then (wrapping microseconds). */
  endsSince: number | undefined;
  #kickFd: number | undefined;
  #callFd: number | undefined;
  #errFd: number | undefined;
  /** What goOn() is to begin. */
  #restored:
    | { readonly state: RingState; readonly inflight: InflightRegion | undefined }
    | undefined;

  constructor(
    index: number,
    watcher: KickWatcher,
    makeQueue: (ring: Ring) => BlockQueue<PageWindow>,
  ) {
    this.index = index;
    this.#watcher = watcher;
    this.queue = makeQueue(this);
  }

  /** To be served: started, enabled, not about to stop, in mapped memory and not broken. */
  get isServed(): boolean {
    return (
      this.#isStarted &&
      this.#isEnabled &&
      this.endsSince === undefined &&
      this.queue.ring.isAttached &&
      this.queue.ring.brokenReason === undefined
    );
  }

  /** Between SET_VRING_KICK and GET_VRING_BASE: a driver has it, enabled or not, broken or not. */
  get isStarted(): boolean {
    return this.#isStarted;
  }

  /** Nobody will kick: it must be looked at from time to time. */
  get mustPoll(): boolean {
    return this.#kickFd === undefined;
  }

  setNum(num: number): void {
    this.#refuseWhileStarted('SET_VRING_NUM');
    const isPowerOfTwo = num > 0 && (num & (num - 1)) === 0;
    if (!isPowerOfTwo || num > VIRTQ_SIZE_MAX) {
      throw this.#error(
        'SET_VRING_NUM',
        `expected a power of two up to ${VIRTQ_SIZE_MAX}, got ${num}`,
      );
    }
    this.#num = num;
  }

  setBase(base: number): void {
    this.#refuseWhileStarted('SET_VRING_BASE');
    if (base > 0xffff) {
      throw this.#error('SET_VRING_BASE', `expected an index below 65536, got ${base}`);
    }
    this.#base = base;
  }

  /**
   * Also while started: a front end sends the addresses again when it begins to log, or ends it. A
   * ring that stays where it is runs on, with all that it has under way.
   */
  setAddress(address: VringAddress, hasMemory: boolean): void {
    for (const part of ['desc', 'avail', 'used'] as const) {
      if (address[part] % VIRTQ_ALIGN[part] !== 0) {
        throw this.#error(
          'SET_VRING_ADDR',
          `${part}: expected alignment to ${VIRTQ_ALIGN[part]} bytes, ` +
            `got 0x${address[part].toString(16)}`,
        );
      }
    }
    const isLogged = (address.flags & VHOST_VRING_F_LOG) !== 0;
    if (isLogged && address.log % BigInt(VIRTQ_ALIGN.used) !== 0n) {
      throw this.#error(
        'SET_VRING_ADDR',
        `log: expected alignment to ${VIRTQ_ALIGN.used} bytes, got 0x${address.log.toString(16)}`,
      );
    }
    const before = this.#addresses;
    const addresses = { desc: address.desc, avail: address.avail, used: address.used };
    this.#addresses = addresses;
    this.#logUsedAt(isLogged ? address.log : undefined);
    const isRunning = this.#isStarted && this.queue.ring.isAttached;
    if (isRunning && isSamePlace(addresses, before)) return;
    if (hasMemory && this.#num > 0) this.#attach('SET_VRING_ADDR', addresses);
  }

  /** `inflight`: where popped chains are noted, if the front end keeps memory for that. */
  setKick(
    fd: number | undefined,
    features: RingFeatures,
    inflight: InflightRegion | undefined,
  ): void {
    if (fd !== undefined) takeEventFd(this.#where('SET_VRING_KICK'), fd);
    this.#dropKick();
    if (fd !== undefined) this.#adoptKick(fd);
    if (this.#isStarted) return;
    if (this.#num === 0 || this.#addresses === undefined) {
      throw this.#error('SET_VRING_KICK', 'expected SET_VRING_NUM and SET_VRING_ADDR before');
    }
    if (inflight !== undefined && inflight.entries < this.#num) {
      throw this.#error(
        'SET_VRING_KICK',
        `expected an in-flight area for rings of ${this.#num}, got one for ${inflight.entries}`,
      );
    }
    this.#attach('SET_VRING_KICK', this.#addresses);
    this.#start(features, inflight);
    this.signalCall();
  }

  setCall(fd: number | undefined): void {
    if (fd !== undefined) takeEventFd(this.#where('SET_VRING_CALL'), fd);
    if (this.#callFd !== undefined) closeFd(this.#callFd);
    this.#callFd = fd;
    // What was signalled on the old descriptor may be lost: one interrupt too many is harmless.
    if (fd !== undefined && this.#isStarted) this.signalCall();
  }

  setErr(fd: number | undefined): void {
    if (fd !== undefined) takeEventFd(this.#where('SET_VRING_ERR'), fd);
    if (this.#errFd !== undefined) closeFd(this.#errFd);
    this.#errFd = fd;
  }

  setEnabled(isEnabled: boolean): void {
    this.#isEnabled = isEnabled;
    this.endsSince = undefined;
    // Interrupts lost with an earlier back end are not replayed by anyone else.
    if (isEnabled && this.#isStarted) this.signalCall();
  }

  /** Stops serving; the available index to resume from. */
  stop(): number {
    if (this.#isStarted) {
      this.queue.suspend();
      this.#base = this.queue.ring.lastAvail;
      this.queue.ring.stop();
      this.#isStarted = false;
    }
    this.endsSince = undefined;
    this.#dropKick();
    return this.#base;
  }

  /** For another process to go on with: what is begun is given up, to be popped again. */
  get state(): Omit<RingState, 'isTracked'> {
    this.queue.suspend();
    return {
      index: this.index,
      num: this.#num,
      addresses: this.#addresses,
      usedLog: this.#usedLog,
      base: this.#isStarted ? this.queue.ring.lastAvail : this.#base,
      features: this.#features,
      isEnabled: this.#isEnabled,
      isStarted: this.#isStarted,
      brokenReason: this.queue.ring.brokenReason,
      kickFd: this.#kickFd,
      callFd: this.#callFd,
      errFd: this.#errFd,
    };
  }

  /**
   * Becomes what a ring of another process was, as far as that can still take it back: the ring itself
   * is not touched, and kicks are not taken, before goOn(). Guest memory is there. Throws RequestError.
   */
  restore(state: RingState, inflight: InflightRegion | undefined): void {
    this.#num = state.num;
    this.#base = state.base;
    this.#addresses = state.addresses;
    this.#logUsedAt(state.usedLog);
    this.#isEnabled = state.isEnabled;
    this.setCall(state.callFd);
    this.setErr(state.errFd);
    if (state.isStarted) this.#attach('take-over', state.addresses!);
    this.#restored = { state, inflight };
  }

  /** The other process is gone: what restore() was given begins. */
  goOn(): void {
    if (this.#restored === undefined) return;
    const { state, inflight } = this.#restored;
    this.#restored = undefined;
    if (state.kickFd !== undefined) this.#adoptOrPoll(state.kickFd);
    if (!state.isStarted) return;
    this.#start(state.features, inflight);
    this.queue.ring.brokenReason = state.brokenReason;
  }

  #start(features: RingFeatures, inflight: InflightRegion | undefined): void {
    this.#features = { eventIdx: features.eventIdx, indirect: features.indirect };
    this.queue.ring.start(this.#base, features, inflight);
    this.queue.begin();
    this.#isStarted = true;
  }

  /** Nobody is there to refuse it to: a ring without a kick descriptor is polled. */
  #adoptOrPoll(fd: number): void {
    try {
      this.#adoptKick(fd);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
    }
  }

  /** Guest memory is about to change: the ring's place in it is forgotten. */
  detach(): void {
    this.queue.suspend();
    this.queue.ring.detach();
  }

  /** Guest memory has changed. Returns what is wrong; the ring then stays unserved. */
  reattach(): string | undefined {
    if (!this.#isStarted || this.#addresses === undefined) return undefined;
    return this.queue.ring.attach(this.#num, this.#addresses);
  }

  /** HOT PATH: no allocation. */
  signalCall(): void {
    if (this.#callFd !== undefined) signalPeerEventFd(this.#callFd);
  }

  signalErr(): void {
    if (this.#errFd !== undefined) signalPeerEventFd(this.#errFd);
  }

  /** To its beginning, but for the descriptors to signal: they are sent once a session. */
  reset(): void {
    this.stop();
    this.#isEnabled = false;
    this.#num = 0;
    this.#base = 0;
    this.#addresses = undefined;
    this.#logUsedAt(undefined);
  }

  /** The session is over. */
  close(): void {
    this.reset();
    this.setCall(undefined);
    this.setErr(undefined);
  }

  #logUsedAt(address: bigint | undefined): void {
    this.#usedLog = address;
    this.queue.ring.logUsedAt(address);
  }

  #attach(request: string, addresses: RingAddresses): void {
    this.queue.suspend();
    const wrong = this.queue.ring.attach(this.#num, addresses);
    if (wrong !== undefined) throw this.#error(request, wrong);
  }

  #adoptKick(fd: number): void {
    try {
      this.#watcher.watchKick(fd);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
    this.#kickFd = fd;
  }

  #dropKick(): void {
    if (this.#kickFd === undefined) return;
    this.#watcher.unwatchKick(this.#kickFd);
    closeFd(this.#kickFd);
    this.#kickFd = undefined;
  }

  #refuseWhileStarted(request: string): void {
    if (this.#isStarted) throw this.#error(request, 'the ring is running');
  }

  #error(request: string, what: string): RequestError {
    return new RequestError(`${this.#where(request)}: ${what}`);
  }

  #where(request: string): string {
    return `${request}: ring ${this.index}`;
  }
}

function isSamePlace(one: RingAddresses, other: RingAddresses | undefined): boolean {
  return one.desc === other?.desc && one.avail === other.avail && one.used === other.used;
}
