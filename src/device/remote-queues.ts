/**
 * The queues of a device that another thread serves (queue-worker.ts): each method is a call to that
 * thread, which has carried it out when the method returns. Descriptors pass as numbers, and so does
 * their ownership: they are the process's.
 */

import type { LogArea } from '../memory/dirty-log.ts';
import type { GuestRegion } from '../memory/guest-memory.ts';
import type { StoreShare } from '../store/page-store.ts';
import type { Inflight, VringAddress } from '../vhost-user-ts/index.ts';
import type { QueueCall } from './orders.ts';
import type { DeviceQueues, QueueSetOptions, RingTerms } from './queue-set.ts';
import type { RingState } from './ring.ts';
import type { ThreadCaller } from './thread-call.ts';

export class RemoteQueues implements DeviceQueues {
  readonly #thread: ThreadCaller<QueueCall>;
  readonly #device: string;
  /** A ring may have been enabled since none was: before that nobody needs to ask. */
  #mayServe = false;

  /** Makes the set in that thread. */
  constructor(thread: ThreadCaller<QueueCall>, options: QueueSetOptions) {
    this.#thread = thread;
    this.#device = options.name;
    thread.call({ kind: 'open', options });
  }

  /** From now on rings are served from it, by thread `thread` of it. Throws RefusedError. */
  openDisk(share: StoreShare, thread: number): void {
    this.#thread.call({ kind: 'openDisk', device: this.#device, share, thread });
  }

  /** The set is gone; its session has ended. */
  remove(): void {
    this.#thread.call({ kind: 'remove', device: this.#device });
  }

  closeDisk(): void {
    this.#call('closeDisk');
  }

  setMemoryTable(regions: readonly GuestRegion[], fds: readonly number[]): void {
    this.#call('setMemoryTable', regions, fds);
  }

  addMemoryRegion(region: GuestRegion, fd: number): void {
    this.#call('addMemoryRegion', region, fd);
  }

  removeMemoryRegion(region: GuestRegion): void {
    this.#call('removeMemoryRegion', region);
  }

  setInflight(inflight: Inflight | undefined, fd: number): void {
    this.#call('setInflight', inflight, fd);
  }

  setLogBase(log: LogArea, fd: number): void {
    this.#call('setLogBase', log, fd);
  }

  dropLog(): void {
    this.#call('dropLog');
  }

  setLogFd(fd: number | undefined): void {
    this.#call('setLogFd', fd);
  }

  setLogging(isOn: boolean): void {
    this.#call('setLogging', isOn);
  }

  setVringNum(index: number, num: number): void {
    this.#call('setVringNum', index, num);
  }

  setVringBase(index: number, base: number): void {
    this.#call('setVringBase', index, base);
  }

  setVringAddress(address: VringAddress): void {
    this.#call('setVringAddress', address);
  }

  isAtRest(index: number): boolean {
    return this.#call('isAtRest', index);
  }

  getVringBase(index: number): number {
    return this.#call('getVringBase', index);
  }

  setVringKick(index: number, fd: number | undefined, terms: RingTerms): void {
    if (terms.startsEnabled) this.#mayServe = true;
    this.#call('setVringKick', index, fd, terms);
  }

  setVringCall(index: number, fd: number | undefined): void {
    this.#call('setVringCall', index, fd);
  }

  setVringErr(index: number, fd: number | undefined): void {
    this.#call('setVringErr', index, fd);
  }

  setVringEnable(index: number, isEnabled: boolean): void {
    if (isEnabled) this.#mayServe = true;
    this.#call('setVringEnable', index, isEnabled);
  }

  disableRings(): void {
    this.#call('disableRings');
    this.#mayServe = false;
  }

  resetRings(): void {
    this.#call('resetRings');
  }

  isServing(): boolean {
    return this.#mayServe && this.#call('isServing');
  }

  grow(slots: number): void {
    this.#call('grow', slots);
  }

  pause(): RingState[] {
    return this.#call('pause');
  }

  resume(): void {
    this.#call('resume');
  }

  restore(rings: readonly RingState[]): void {
    this.#mayServe = true;
    this.#call('restore', rings);
  }

  close(): void {
    this.#call('close');
    this.#mayServe = false;
  }

  #call<M extends keyof DeviceQueues>(
    method: M,
    ...args: Parameters<DeviceQueues[M]>
  ): ReturnType<DeviceQueues[M]> {
    const call = { kind: 'queues', device: this.#device, method, args } as const;
    return this.#thread.call(call) as ReturnType<DeviceQueues[M]>;
  }
}
