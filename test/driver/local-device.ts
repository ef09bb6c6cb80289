/**
 * A block device in this thread, with a front end on the other end of a socket and a watcher that
 * only takes notes: nothing runs by itself. The device is served when the test says so.
 */

import { BlockDevice } from '../../src/device/block-device.ts';
import type { DeviceTerms } from '../../src/device/device-terms.ts';
import type { CompletionWatcher, DiskOptions } from '../../src/device/disk.ts';
import type { QueueCall } from '../../src/device/orders.ts';
import type { KickWatcher } from '../../src/device/ring.ts';
import type { ThreadCaller } from '../../src/device/thread-call.ts';
import { turnClock } from '../../src/native/clock.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { preparePeerSignals } from '../../src/native/peer-eventfd.ts';
import { PROTOCOL_FEATURES } from '../../src/vhost-user-ts/index.ts';
import type { DriverRingOptions } from './driver-ring.ts';
import { FrontEnd } from './front-end.ts';
import { GuestDriver } from './guest-driver.ts';
import { GuestRam } from './guest-ram.ts';
import { socketPair } from './sockets.ts';

// A thread's descriptor for that is there before a test counts descriptors.
preparePeerSignals();

export type LocalDeviceOptions = Partial<DeviceTerms & DiskOptions> & {
  /** init() makes its disk. */
  readonly isUninitialised?: boolean;
};

export class LocalDevice implements KickWatcher, CompletionWatcher {
  readonly device: BlockDevice;
  readonly ram: GuestRam;
  readonly reports: string[] = [];
  readonly watched = new Set<number>();
  frontEnd: FrontEnd;
  /** What the front end has done while it waits for an answer. */
  pump = (): unknown => this.device.pollSession();
  /** What the device has said of its queues' running. */
  readonly running: boolean[] = [];
  readonly #options: DeviceTerms & DiskOptions;
  readonly #fds: number[] = [];
  readonly #undo: (() => void)[] = [];

  /** `threads`: they serve queues too, by themselves. */
  constructor(
    options: LocalDeviceOptions = {},
    ram = new GuestRam(4 << 20),
    threads: readonly ThreadCaller<QueueCall>[] = [],
  ) {
    this.ram = ram;
    const { isUninitialised = false, ...given } = options;
    const defaults = { name: 'ramzswap0', diskBytes: 1 << 20, guestPageBytes: 4096, numQueues: 4 };
    this.#options = { ...defaults, ...given, queueThreads: threads.length + 1 };
    const report = (level: string, message: string) => {
      this.reports.push(`${level}: ${message}`);
    };
    const events = { report, running: (isRunning: boolean) => this.running.push(isRunning) };
    this.device = new BlockDevice(this.#options, this, events, threads);
    if (!isUninitialised) this.init();
    this.frontEnd = this.connect();
  }

  /** Makes its disk. */
  init(options: Partial<DiskOptions> = {}): void {
    this.device.init({ ...this.#options, ...options });
  }

  connect(): FrontEnd {
    const [client, server] = socketPair();
    this.device.attach(server);
    this.frontEnd = new FrontEnd(client, () => this.pump());
    return this.frontEnd;
  }

  watchKick(fd: number): void {
    this.watched.add(fd);
  }

  /** Nothing is announced: serve() looks for itself. */
  watchCompletions(): void {}

  unwatchCompletions(): void {}

  unwatchKick(fd: number): void {
    if (!this.watched.delete(fd)) throw new Error(`fd ${fd} was not watched`);
  }

  /** An eventfd that close() closes. */
  eventFd(): number {
    const fd = createEventFd();
    this.#fds.push(fd);
    return fd;
  }

  /** What close() does first. */
  onClose(undo: () => void): void {
    this.#undo.push(undo);
  }

  /** A driver with a ring of its own in this guest's memory; its kicks go nowhere. */
  makeRing(size = 16, options: DriverRingOptions = {}): GuestDriver {
    return new GuestDriver(this.ram, size, options);
  }

  negotiate(features: bigint, protocolFeatures = PROTOCOL_FEATURES): void {
    this.frontEnd.negotiate(features, protocolFeatures);
  }

  /** Serves until nothing is left. */
  serve(): void {
    turnClock.read();
    for (let turn = 0; this.device.queues.serve(); turn++) {
      if (turn > 100_000) throw new Error('the device never comes to an end');
    }
  }

  close(): void {
    for (const undo of this.#undo.splice(0)) undo();
    if (this.device.isAttached) {
      this.device.detach();
      this.frontEnd.close();
    }
    for (const fd of this.#fds.splice(0)) closeFd(fd);
    this.ram.close();
  }
}

/** Handles messages that nobody waits for the end of: one look ends when its time is over. */
export function pollOften(device: BlockDevice): void {
  for (let i = 0; i < 64; i++) device.pollSession();
}
