/**
 * A device on its way from one process to another: what is said on the socket between them, and how
 * descriptors go with it. The new process has made itself ready before it asks, so that the pause is
 * short.
 *
 *   new: listens ──────────── asks, by the control socket, for the device
 *   old: pauses its rings ─── connects, sends state and descriptors
 *   new: maps everything ──── TAKEN          (or closes: the old one goes on)
 *   old: ─────────────────── YOURS, and ends (or closes, when it has gone on: the new one ends)
 *   new: serves
 *
 * On the wire, in this machine's byte order: u32 bytes of the text, u32 number of descriptors; then as
 * many single bytes as it takes to bring the descriptors, some with each; then the text, JSON.
 *
 * Cold path: calls block, for a bounded time.
 */

import { RefusedError } from '../base/errors.ts';
import type { GuestRegion } from '../memory/guest-memory.ts';
import { sleepMillis } from '../native/clock.ts';
import { closeFd } from '../native/fd.ts';
import {
  FDS_PER_MESSAGE_MAX,
  receiveWithFds,
  sendWithFds,
  waitReadable,
} from '../native/socket.ts';
import type { StoreFiles } from '../store/store-files.ts';
import type { Inflight, SessionState } from '../vhost-user-ts/index.ts';
import type { BackingOptions } from './backing.ts';
import type { LogState } from './dirty-log.ts';
import type { RingFeatures, RingState } from './ring.ts';

/** Of everything said here, and of what DeviceState means. */
export const HANDOVER_VERSION = 2;
export const HANDOVER_MILLIS_MAX = 5000;
export const TAKEN = 0x54;
export const YOURS = 0x59;

const HEADER_BYTES = 8;
const TEXT_BYTES_MAX = 2 ** 26;
const FDS_MAX = 4096;
/** A socket takes so much whole or not at all. */
const PIECE_BYTES = 4096;
const EAGAIN = 11;

/** A device without its pages, which lie in the store's files: all that another process needs. */
export interface DeviceState {
  readonly version: number;
  readonly process: number;
  /** What a guest or the store knows the device by: must be the same. */
  readonly name: string;
  readonly slotsMax: number;
  readonly queueCount: number;
  readonly guestPageBytes: number;
  readonly logicalBlockBytes: number;
  readonly files: StoreFiles;
  readonly backing: BackingOptions | undefined;
  readonly listenFd: number | undefined;
  readonly controlFd: number | undefined;
  readonly session: SessionDeviceState | undefined;
}

/** Of a device with a front end: the session, and what it has told the device. */
export interface SessionDeviceState {
  readonly session: SessionState;
  readonly features: RingFeatures;
  /** All that SET_FEATURES said last. */
  readonly accepted: bigint | undefined;
  readonly log: LogState;
  readonly isLegacy: boolean;
  readonly isWriteback: boolean;
  readonly isConfigNews: boolean;
  readonly regions: readonly { readonly region: GuestRegion; readonly fd: number }[];
  readonly inflight: { readonly inflight: Inflight; readonly fd: number } | undefined;
  readonly rings: readonly RingState[];
}

/** JSON, in which a descriptor (`fd`, `…Fd`, an element of `fds`) is its place in the list. */
export function encodeState(state: DeviceState): { text: string; fds: number[] } {
  const fds: number[] = [];
  const text = JSON.stringify(state, (key, value: unknown) => {
    if (isFdName(key) && typeof value === 'number') return fds.push(value) - 1;
    if (key === 'fds') return (value as number[]).map((fd) => fds.push(fd) - 1);
    if (typeof value === 'bigint') return { bigint: `${value}` };
    if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString('base64') };
    return value;
  });
  return { text, fds };
}

/** Throws RefusedError for a state of another version. */
export function decodeState(text: string, fds: readonly number[]): DeviceState {
  const state = JSON.parse(text, (key, value: unknown) => {
    if (isFdName(key) && typeof value === 'number') return fds[value];
    if (key === 'fds') return (value as number[]).map((at) => fds[at]);
    const { bigint, bytes } = (value ?? {}) as { bigint?: string; bytes?: string };
    if (typeof bigint === 'string') return BigInt(bigint);
    if (typeof bytes === 'string') return new Uint8Array(Buffer.from(bytes, 'base64'));
    return value;
  }) as DeviceState;
  if (state.version === HANDOVER_VERSION) return state;
  throw new RefusedError(`take-over: expected version ${HANDOVER_VERSION}, got ${state.version}`);
}

function isFdName(key: string): boolean {
  return key === 'fd' || key.endsWith('Fd');
}

/** Sends a text and descriptors, which stay the caller's. Throws RefusedError. */
export function sendState(socket: number, text: string, fds: readonly number[]): void {
  const bytes = Buffer.from(text);
  const header = new Uint8Array(new ArrayBuffer(HEADER_BYTES));
  const view = new DataView(header.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, fds.length, true);
  const deadline = performance.now() + HANDOVER_MILLIS_MAX;
  sendAll(socket, header, [], deadline);
  for (let at = 0; at < fds.length; at += FDS_PER_MESSAGE_MAX) {
    const some = fds.slice(at, at + FDS_PER_MESSAGE_MAX);
    sendAll(socket, new Uint8Array(new ArrayBuffer(1)), some, deadline);
  }
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    sendAll(socket, Uint8Array.from(bytes.subarray(at, at + PIECE_BYTES)), [], deadline);
  }
}

/** What sendState() has sent; the descriptors are the caller's. Throws RefusedError. */
export function receiveState(socket: number): { text: string; fds: number[] } {
  const deadline = performance.now() + HANDOVER_MILLIS_MAX;
  const fds: number[] = [];
  try {
    const header = receiveAll(socket, HEADER_BYTES, fds, deadline);
    const view = new DataView(header.buffer);
    const [bytes, count] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (bytes > TEXT_BYTES_MAX || count > FDS_MAX) {
      throw new RefusedError(`take-over: expected less than ${bytes} bytes, ${count} descriptors`);
    }
    while (fds.length < count) receiveAll(socket, 1, fds, deadline);
    const text = Buffer.from(receiveAll(socket, bytes, fds, deadline)).toString();
    return { text, fds };
  } catch (error) {
    for (const fd of fds) closeFd(fd);
    throw error;
  }
}

export function sendWord(socket: number, word: number): void {
  const byte = new Uint8Array(new ArrayBuffer(1));
  byte[0] = word;
  sendAll(socket, byte, [], performance.now() + HANDOVER_MILLIS_MAX);
}

/** Whether the other process says `word` in time. Anything else, or its end, is no. */
export function receivesWord(socket: number, word: number): boolean {
  try {
    const fds: number[] = [];
    const deadline = performance.now() + HANDOVER_MILLIS_MAX;
    return receiveAll(socket, 1, fds, deadline)[0] === word;
  } catch (error) {
    if (error instanceof RefusedError) return false;
    throw error;
  }
}

function sendAll(
  socket: number,
  bytes: Uint8Array,
  fds: readonly number[],
  deadline: number,
): void {
  for (;;) {
    const result = sendWithFds(socket, bytes, fds);
    if (result === 0) return;
    if (result !== -EAGAIN || performance.now() > deadline) {
      throw new RefusedError(`take-over: the other process is gone, or hangs (errno ${-result})`);
    }
    sleepMillis(1);
  }
}

function receiveAll(socket: number, bytes: number, fds: number[], deadline: number): Uint8Array {
  const all = new Uint8Array(new ArrayBuffer(bytes));
  for (let got = 0; got < bytes; ) {
    const count = receiveWithFds(socket, all, got, bytes - got, fds);
    if (count > 0) {
      got += count;
      continue;
    }
    const left = deadline - performance.now();
    if (count !== -EAGAIN || left <= 0) {
      throw new RefusedError('take-over: the other process is gone, or hangs');
    }
    waitReadable(socket, Math.ceil(left));
  }
  return all;
}
