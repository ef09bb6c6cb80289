/**
 * A device on its way from one process to another: what is said on the socket between them, and how
 * descriptors go with it. The new process has made itself ready before it asks, so that the pause is
 * short.
 *
 *   new: listens ──────────── asks, by the control socket, for the device
 *   old: pauses its rings ─── connects, sends state and descriptors
 *   new: maps everything, changes nothing ─ TAKEN
 *   old: ─────────────────── YOURS, and ends; or KEPT, when it goes on
 *   new: serves, or ends
 *
 * One of them serves, whatever fails: the old one until it has said YOURS, and it says KEPT before it
 * goes on. So an end of the stream without either is the old process's own end: what has been sent
 * is then nobody's but the new one's. That waits for the answer for as long as the old one lives, for
 * YOURS may be on its way.
 *
 * On the wire, in this machine's byte order: u32 bytes of the text, u32 number of descriptors; then as
 * many single bytes as it takes to bring the descriptors, some with each; then the text, JSON.
 *
 * Cold path: calls block, until a deadline.
 */

import { errnoText, RefusedError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import type { GuestRegion } from '../memory/guest-memory.ts';
import { closeFd } from '../native/fd.ts';
import {
  FDS_PER_MESSAGE_MAX,
  receiveWithFds,
  sendWithFds,
  waitReadable,
  waitWritable,
} from '../native/socket.ts';
import type { StoreFiles } from '../store/store-files.ts';
import type { SessionState } from '../vhost-user-ts/index.ts';
import type { BackingOptions } from './backing.ts';
import type { DeviceTerms } from './device-terms.ts';
import type { LogState } from './dirty-log.ts';
import type { DiskOptions } from './disk.ts';
import type { TrackedInflight } from './inflight-area.ts';
import type { MeetingState } from './meeting.ts';
import type { RingFeatures, RingState } from './ring.ts';

/** Of everything said here, and of what DeviceState means. */
export const HANDOVER_VERSION = 3;
/** The guest waits no longer than this for a new process that hangs. */
export const HANDOVER_MILLIS_MAX = 5000;
export const TAKEN = 0x54;
export const YOURS = 0x59;
export const KEPT = 0x4b;

const HEADER_BYTES = 8;
const TEXT_BYTES_MAX = 2 ** 26;
const FDS_MAX = 4096;
/** A socket takes so much whole or not at all. */
const PIECE_BYTES = 4096;
const EAGAIN = 11;
const ECONNRESET = 104;
const HANGS = `take-over: the other process hangs: nothing for ${HANDOVER_MILLIS_MAX} ms`;

/** A device without its pages, which lie in the store's files: all that another process needs. */
export interface DeviceState {
  readonly version: number;
  readonly process: number;
  /** When its guest began to wait, by the clock that all processes share. */
  readonly pausedMicros: number;
  /** What a guest or the store knows the device by: must be the same. */
  readonly name: string;
  readonly slotsMax: number;
  readonly queueCount: number;
  readonly guestPageBytes: number;
  readonly logicalBlockBytes: number;
  readonly files: StoreFiles;
  /** Whether what was freed has been zeroed. */
  readonly wipesOnFree: boolean;
  readonly backing: BackingOptions | undefined;
  readonly listenFd: number | undefined;
  /** Where that listens, if at a path. */
  readonly listenPath: string | undefined;
  readonly controlFd: number | undefined;
  readonly session: SessionDeviceState | undefined;
}

/** Of a device with a front end: the session, and what it has told the device. */
export interface SessionDeviceState extends MeetingState {
  readonly session: SessionState;
  readonly features: RingFeatures;
  /** All that SET_FEATURES said last. */
  readonly accepted: bigint | undefined;
  readonly log: LogState;
  readonly isLegacy: boolean;
  readonly isWriteback: boolean;
  readonly isConfigNews: boolean;
  readonly regions: readonly { readonly region: GuestRegion; readonly fd: number }[];
  readonly inflight: TrackedInflight | undefined;
  readonly rings: readonly RingState[];
}

/** Of a device, whether or not a front end is there; descriptors stay the caller's. */
export function heldState(
  { name, numQueues, logicalBlockBytes = PAGE_BYTES }: DeviceTerms,
  options: DiskOptions,
  { fd, arenaFd }: Pick<StoreFiles, 'fd' | 'arenaFd'>,
  memlimitBytes = 0,
): Omit<DeviceState, 'pausedMicros' | 'session' | 'listenFd' | 'listenPath' | 'controlFd'> {
  const { diskBytes, diskBytesMax = diskBytes, guestPageBytes } = options;
  const { backing, files, wipesOnFree = false } = options;
  return {
    ...{ version: HANDOVER_VERSION, process: process.pid, name, guestPageBytes, logicalBlockBytes },
    slotsMax: diskBytesMax / PAGE_BYTES,
    queueCount: numQueues,
    files: { ...files, fd, arenaFd, isKept: true },
    wipesOnFree,
    backing: backing && { ...backing, memlimitBytes },
  };
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

/** Throws RefusedError for what is no state, or one of another version. */
export function decodeState(text: string, fds: readonly number[]): DeviceState {
  const fdAt = (place: number) => {
    const fd = fds[place];
    if (fd !== undefined) return fd;
    throw new RefusedError(`take-over: expected ${fds.length} descriptors, got one at ${place}`);
  };
  const state = parsed(text, (key, value) => {
    if (isFdName(key) && typeof value === 'number') return fdAt(value);
    if (key === 'fds') return (value as number[]).map(fdAt);
    const { bigint, bytes } = (value ?? {}) as { bigint?: string; bytes?: string };
    if (typeof bigint === 'string') return BigInt(bigint);
    if (typeof bytes === 'string') return new Uint8Array(Buffer.from(bytes, 'base64'));
    return value;
  });
  const { version } = (state ?? {}) as { version?: unknown };
  if (version === HANDOVER_VERSION) return state as DeviceState;
  throw new RefusedError(`take-over: expected version ${HANDOVER_VERSION}, got ${version}`);
}

function parsed(text: string, revive: (key: string, value: unknown) => unknown): unknown {
  try {
    return JSON.parse(text, revive);
  } catch (error) {
    if (error instanceof RefusedError) throw error;
    throw new RefusedError(`take-over: expected a device's state, got ${(error as Error).message}`);
  }
}

function isFdName(key: string): boolean {
  return key === 'fd' || key.endsWith('Fd');
}

/** When to give up on the other process, if the guest is to wait no longer than it may. */
export function handoverDeadline(): number {
  return performance.now() + HANDOVER_MILLIS_MAX;
}

/** Sends a text and descriptors, which stay the caller's. Throws RefusedError. */
export function sendState(
  socket: number,
  { text, fds }: { readonly text: string; readonly fds: readonly number[] },
  deadline: number,
): void {
  const bytes = Buffer.from(text);
  const header = new Uint8Array(new ArrayBuffer(HEADER_BYTES));
  const view = new DataView(header.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, fds.length, true);
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
export function receiveState(socket: number, deadline: number): { text: string; fds: number[] } {
  const fds: number[] = [];
  try {
    const header = receiveAll(socket, HEADER_BYTES, fds, deadline);
    const view = new DataView(header.buffer);
    const [bytes, count] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (bytes > TEXT_BYTES_MAX || count > FDS_MAX) {
      const most = `${TEXT_BYTES_MAX} bytes and ${FDS_MAX} descriptors`;
      throw new RefusedError(`take-over: expected up to ${most}, got ${bytes} and ${count}`);
    }
    for (let before = -1; fds.length < count && fds.length > before; ) {
      before = fds.length;
      receiveAll(socket, 1, fds, deadline);
    }
    const text = Buffer.from(receiveAll(socket, bytes, fds, deadline)).toString();
    if (fds.length === count) return { text, fds };
    throw new RefusedError(`take-over: expected ${count} descriptors, got ${fds.length}`);
  } catch (error) {
    for (const fd of fds) closeFd(fd);
    throw error;
  }
}

/** Throws RefusedError when the other process does not take it in time. */
export function sendWord(socket: number, word: number, deadline: number): void {
  const byte = new Uint8Array(new ArrayBuffer(1));
  byte[0] = word;
  sendAll(socket, byte, [], deadline);
}

/**
 * The word that the other process has said; 'gone': it has closed the socket without one; undefined:
 * nothing yet. Throws RefusedError.
 */
export function receivedWord(socket: number): number | 'gone' | undefined {
  const byte = new Uint8Array(new ArrayBuffer(1));
  const fds: number[] = [];
  const count = receiveWithFds(socket, byte, 0, 1, fds);
  for (const fd of fds) closeFd(fd);
  if (count === 1) return byte[0]!;
  // Reset: it has closed the socket with something of ours unread.
  if (count === 0 || count === -ECONNRESET) return 'gone';
  if (count === -EAGAIN) return undefined;
  throw new RefusedError(`take-over: the other process cannot be heard: ${errnoText(-count)}`);
}

/** The same, waited for. Throws RefusedError when nothing comes in time. */
export function awaitWord(socket: number, deadline: number): number | 'gone' {
  for (;;) {
    const word = receivedWord(socket);
    if (word !== undefined) return word;
    awaitReadable(socket, deadline);
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
    if (result !== -EAGAIN) {
      throw new RefusedError(`take-over: the other process is gone: ${errnoText(-result)}`);
    }
    const left = deadline - performance.now();
    if (left <= 0) throw new RefusedError(HANGS);
    waitWritable(socket, Math.ceil(left));
  }
}

function receiveAll(socket: number, bytes: number, fds: number[], deadline: number): Uint8Array {
  const all = new Uint8Array(new ArrayBuffer(bytes));
  for (let got = 0; got < bytes; ) {
    const count = receiveWithFds(socket, all, got, bytes - got, fds);
    if (count > 0) got += count;
    else if (count === -EAGAIN) awaitReadable(socket, deadline);
    else {
      const why = count === 0 ? 'end of stream' : errnoText(-count);
      throw new RefusedError(`take-over: the other process is gone: ${why}`);
    }
  }
  return all;
}

function awaitReadable(socket: number, deadline: number): void {
  const left = deadline - performance.now();
  if (left <= 0) throw new RefusedError(HANGS);
  waitReadable(socket, Math.ceil(left));
}
