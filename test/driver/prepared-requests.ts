/**
 * A driver for measuring: `depth` requests of one page each, laid out once; to send one again is to
 * change its type, its sector and where its data lies. What it costs is a fraction of what the device
 * does, which guest-driver.ts, made for checking, cannot say of itself.
 */

import { EPOLLIN, Epoll } from '../../src/native/epoll.ts';
import { createEventFd, drainEventFd, signalEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { PROTOCOL_FEATURES } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX } from '../../src/virtio/features.ts';
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../../src/virtio/split-ring.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN } from '../../src/virtio-blk/protocol.ts';
import { DriverRing } from './driver-ring.ts';
import { FrontEnd } from './front-end.ts';
import { GuestRam } from './guest-ram.ts';

const PAGE = 4096;
const SECTORS_PER_PAGE = 8;
const DESCRIPTORS = 3;
const HEADER_BYTES = 16;
/** A byte that no device writes as a status. */
const NO_STATUS = 0xee;
const WAIT_MILLIS = 5000;

export class PreparedRequests {
  readonly ram: GuestRam;
  readonly depth: number;
  readonly #frontEnd: FrontEnd;
  readonly #ring: DriverRing;
  readonly #headers: number;
  readonly #statuses: number;
  readonly #pages: number;
  readonly #kickFd = createEventFd();
  readonly #callFd = createEventFd();
  readonly #epoll = new Epoll();

  /** `sourcePages`: pages of guest memory for data, which pagesView gives. */
  constructor(socketPath: string, depth: number, sourcePages: number) {
    this.depth = depth;
    this.ram = new GuestRam((sourcePages + 64) * PAGE);
    const size = 2 ** Math.ceil(Math.log2(depth * DESCRIPTORS));
    this.#ring = new DriverRing(this.ram, size);
    this.#headers = this.ram.allocate(depth * HEADER_BYTES, PAGE);
    this.#statuses = this.ram.allocate(depth, PAGE);
    this.#pages = this.ram.allocate(sourcePages * PAGE, PAGE);
    this.#layOut();
    this.#epoll.add(this.#callFd, EPOLLIN, 0);
    this.#frontEnd = FrontEnd.connect(socketPath);
    const features = BLOCK_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_RING_F_EVENT_IDX;
    this.#frontEnd.negotiate(features, PROTOCOL_FEATURES);
    this.#frontEnd.setMemoryTable(this.ram);
    this.#frontEnd.startRing(0, this.#ring, { kick: this.#kickFd, call: this.#callFd });
    this.#frontEnd.setEnabled(0, true);
  }

  /** The pages for data, one after the other. */
  get pagesView(): Uint8Array {
    const at = this.ram.offsetOf(this.#pages);
    return this.ram.window.u8.subarray(at);
  }

  /**
   * Runs `count` requests of `type`, `depth` at a time: request i is for page `pageOf(i)` of the disk
   * and moves page `sourceOf(i)` of pagesView. Throws when one fails. Returns milliseconds.
   */
  run(
    type: number,
    count: number,
    pageOf: (i: number) => number,
    sourceOf: (i: number) => number,
  ): number {
    const start = performance.now();
    let sent = 0;
    const send = (slot: number) => {
      this.#prepare(slot, type, pageOf(sent), sourceOf(sent));
      this.#ring.offer(slot * DESCRIPTORS);
      sent++;
    };
    for (let slot = 0; slot < Math.min(this.depth, count); slot++) send(slot);
    this.#publish();
    for (let done = 0; done < count; ) {
      for (let used = this.#ring.takeUsed(); used !== undefined; used = this.#ring.takeUsed()) {
        const slot = used.id / DESCRIPTORS;
        this.#check(slot);
        done++;
        if (sent < count) send(slot);
      }
      this.#publish();
      if (done < count) this.#wait();
    }
    return performance.now() - start;
  }

  close(): void {
    this.#frontEnd.close();
    for (const fd of [this.#kickFd, this.#callFd]) closeFd(fd);
    this.#epoll.close();
    this.ram.close();
  }

  #prepare(slot: number, type: number, page: number, source: number): void {
    const { i32, u8 } = this.ram.window;
    const header = this.ram.offsetOf(this.#headers + slot * HEADER_BYTES) >> 2;
    const sector = page * SECTORS_PER_PAGE;
    i32[header] = type;
    i32[header + 2] = sector | 0;
    i32[header + 3] = (sector / 2 ** 32) | 0;
    const status = this.#statuses + slot;
    u8[this.ram.offsetOf(status)] = NO_STATUS;
    const isRead = type === VIRTIO_BLK_T_IN;
    const data = (this.ram.offsetOf(this.#ring.desc) >> 2) + (slot * DESCRIPTORS + 1) * 4;
    i32[data] = this.#pages + source * PAGE;
    i32[data + 3] = (i32[data + 3]! & ~VIRTQ_DESC_F_WRITE) | (isRead ? VIRTQ_DESC_F_WRITE : 0);
  }

  /** The chains: header, page, status. What a request changes of them is the page. */
  #layOut(): void {
    for (let slot = 0; slot < this.depth; slot++) {
      const first = slot * DESCRIPTORS;
      const next = (part: number) => ({ flags: VIRTQ_DESC_F_NEXT, next: first + part + 1 });
      const header = this.#headers + slot * HEADER_BYTES;
      this.#ring.setDescriptor(first, { address: header, bytes: HEADER_BYTES, ...next(0) });
      this.#ring.setDescriptor(first + 1, { address: 0, bytes: PAGE, ...next(1) });
      const status = { address: this.#statuses + slot, bytes: 1, flags: VIRTQ_DESC_F_WRITE };
      this.#ring.setDescriptor(first + 2, { ...status, next: 0 });
    }
  }

  #check(slot: number): void {
    const status = this.ram.window.u8[this.ram.offsetOf(this.#statuses + slot)];
    if (status !== VIRTIO_BLK_S_OK) throw new Error(`a request ended with status ${status}`);
  }

  #publish(): void {
    if (this.#ring.publish()) signalEventFd(this.#kickFd);
  }

  #wait(): void {
    if (!this.#ring.enableInterrupts()) {
      if (this.#epoll.wait(WAIT_MILLIS) > 0) drainEventFd(this.#callFd);
      else if (this.#ring.usedCount === 0) throw new Error('the device does not answer');
    }
    this.#ring.disableInterrupts();
  }
}
