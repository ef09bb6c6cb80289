/** What a back end's session hands on, noted: for its tests. */

import {
  type BackendHandler,
  BackendSession,
  type Inflight,
} from '../../src/vhost-user-ts/index.ts';
import { FrontEnd } from './front-end.ts';
import { socketPair } from './sockets.ts';

export const RECORDER_QUEUES = 4;
export const RECORDER_FEATURES = 1n << 40n;
const RECORDER_INFLIGHT = { mmapBytes: 8192, mmapOffset: 4096, queues: 4, queueSize: 128 };

/** Notes each call; keeps the descriptors it is given; fails on demand. */
export class Recorder implements BackendHandler {
  readonly features = RECORDER_FEATURES;
  readonly queueCount = RECORDER_QUEUES;
  readonly memorySlots = 509;
  readonly calls: unknown[][] = [];
  readonly kept: number[] = [];
  failure: Error | undefined;
  config: Uint8Array = Uint8Array.from({ length: 60 }, (_, i) => i);
  /** What is handed out as an in-flight area; whose it is, is the test's business. */
  areaFd = -1;
  /** So often a request has to wait. */
  notYet = 0;

  #note(...call: unknown[]): void {
    this.calls.push(call);
    if (this.failure !== undefined) throw this.failure;
  }
  #keep(what: string, index: number, fd: number | undefined): void {
    if (fd !== undefined) this.kept.push(fd);
    this.#note(what, index, fd === undefined ? 'none' : 'fd');
  }
  setFeatures(features: bigint, isLegacy: boolean): void {
    this.#note('features', features, isLegacy);
  }
  setMemoryTable(regions: readonly unknown[], fds: readonly number[]): void {
    this.#note('table', regions, fds.length);
  }
  addMemoryRegion(added: unknown): void {
    this.#note('add', added);
  }
  removeMemoryRegion(removed: unknown): void {
    this.#note('remove', removed);
  }
  getInflight(queues: number, queueSize: number): { inflight: Inflight; fd: number } {
    this.#note('get inflight', queues, queueSize);
    return { inflight: { ...RECORDER_INFLIGHT, queues, queueSize }, fd: this.areaFd };
  }
  setInflight(inflight: Inflight): void {
    this.#note('inflight', inflight);
  }
  setLogBase(log: unknown): void {
    this.#note('log', log);
  }
  setLogFd(fd: number): void {
    this.#keep('log', 0, fd);
  }
  setVringNum(index: number, num: number): void {
    this.#note('num', index, num);
  }
  setVringAddress(address: unknown): void {
    this.#note('address', address);
  }
  setVringBase(index: number, base: number): void {
    this.#note('base', index, base);
  }
  isAtRest(index: number): boolean {
    return this.#isReady('at rest', index);
  }
  mayStart(): boolean {
    return this.#isReady('start');
  }
  #isReady(...question: unknown[]): boolean {
    if (this.notYet === 0) return true;
    this.notYet--;
    this.#note(...question);
    return false;
  }
  getVringBase(index: number): number {
    this.#note('get base', index);
    return 1000 + index;
  }
  setVringKick(index: number, fd: number | undefined): void {
    this.#keep('kick', index, fd);
  }
  setVringCall(index: number, fd: number | undefined): void {
    this.#keep('call', index, fd);
  }
  setVringErr(index: number, fd: number | undefined): void {
    this.#keep('err', index, fd);
  }
  setVringEnable(index: number, isEnabled: boolean): void {
    this.#note('enable', index, isEnabled);
  }
  getConfig(offset: number, size: number): Uint8Array | undefined {
    this.#note('get config', offset, size);
    if (offset + size > this.config.length) return undefined;
    return this.config.subarray(offset, offset + size);
  }
  setConfig(config: { offset: number; flags: number; payload: Uint8Array }): void {
    this.#note('set config', config.offset, config.flags, [...config.payload]);
  }
  disableRings(): void {
    this.#note('disable');
  }
  resetDevice(): void {
    this.#note('reset');
  }
}

/** One behind a session of its own, and the front end of that; `pump`: as FrontEnd has it. */
export function recordedSession(pump: () => void) {
  const [client, server] = socketPair();
  const handler = new Recorder();
  const session = new BackendSession(server, handler);
  const frontEnd = new FrontEnd(client, pump);
  handler.areaFd = frontEnd.fd;
  return { handler, session, frontEnd };
}
