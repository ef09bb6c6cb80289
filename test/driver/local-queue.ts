/**
 * A block queue and the driver at its other end, in one thread: nothing runs by itself, so a test
 * says when the device serves. Guest memory is mapped twice, once for each side, as in life.
 */

import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { BlockQueue } from '../../src/virtio-blk/block-queue.ts';
import { type PageDevice, REQUESTS } from '../../src/virtio-blk/page-device.ts';
import type { DriverRingOptions } from './driver-ring.ts';
import { type BlockRequest, type Completion, GuestDriver } from './guest-driver.ts';
import { GuestRam } from './guest-ram.ts';
import type { Layout } from './layouts.ts';
import { makeFigures } from './request-figures.ts';

export interface LocalQueueOptions extends DriverRingOptions {
  readonly size?: number;
  readonly indirect?: boolean;
  readonly serial?: string;
  readonly logicalBlockBytes?: number;
  readonly ram?: GuestRam;
}

const RAM_BYTES = 4 << 20;

export class LocalQueue {
  readonly ram: GuestRam;
  readonly memory: GuestMemory<PageWindow>;
  readonly queue: BlockQueue<PageWindow>;
  readonly driver: GuestDriver;
  readonly figures = makeFigures();
  /** How often the queue asked for an interrupt. */
  notifications = 0;

  constructor(device: PageDevice<PageWindow>, options: LocalQueueOptions = {}) {
    this.ram = options.ram ?? new GuestRam(RAM_BYTES);
    this.memory = new GuestMemory((bytes) => new PageWindow(bytes));
    for (const region of this.ram.regions) this.memory.addRegion(region, this.ram.fd);
    const serial = options.serial ?? 'ramzswap0';
    const notify = () => {
      this.notifications++;
    };
    const { logicalBlockBytes } = options;
    const { memory, figures } = this;
    this.queue = new BlockQueue(memory, device, figures, serial, notify, logicalBlockBytes);
    this.driver = new GuestDriver(this.ram, options.size ?? 128, options);
    const { ring } = this.driver;
    const wrong = this.queue.ring.attach(ring.size, ring.userAddresses);
    if (wrong !== undefined) throw new Error(wrong);
    const features = { eventIdx: ring.eventIdx, indirect: options.indirect ?? true };
    this.queue.ring.start(ring.startIndex, features);
    this.queue.begin();
  }

  get counts(): Float64Array {
    return this.figures.counts;
  }

  get invalid(): number {
    return this.counts[REQUESTS.invalid]!;
  }

  /** Serves until nothing is left, in turns of `budget` pages. */
  serveAll(budget = 64): void {
    for (let turn = 0; this.queue.serve(budget) <= 0; turn++) {
      if (turn > 100_000) throw new Error('the queue never comes to an end');
    }
  }

  /** One request from beginning to end. */
  run(request: BlockRequest, layout?: Layout): Completion {
    this.driver.submit(request, layout);
    this.driver.flush();
    this.serveAll();
    const { brokenReason } = this.queue.ring;
    if (brokenReason !== undefined) throw new Error(`ring broken: ${brokenReason}`);
    const done = this.driver.complete();
    if (done.length !== 1) throw new Error(`expected one completion, got ${done.length}`);
    return done[0]!;
  }

  close(): void {
    this.memory.clear();
    this.ram.close();
  }
}
