/**
 * The control protocol: JSON-RPC 2.0, one message a line, on a Unix socket. Both ends use it from
 * here; what each method takes and gives, with a schema, is schema.ts's, and `rpc.discover` tells it.
 */

import type { Statistics } from '../store/statistics.ts';
import type { DeviceSettings } from './options.ts';

/**
 * uninitialised: capacity 0, no memory; initialised: a disk; active: the same, and a front end has its
 * queues running.
 */
export const DEVICE_STATES = ['uninitialised', 'initialised', 'active'] as const;
export type DeviceState = (typeof DEVICE_STATES)[number];

export interface DeviceStatus {
  readonly device: string;
  readonly state: DeviceState;
  /** A front end is connected. */
  readonly connected: boolean;
  /** Where front ends connect; null: an inherited descriptor. */
  readonly socket: string | null;
  /** Of the thread that serves it: from 0. */
  readonly thread: number;
  /** Null: not initialised. */
  readonly statistics: Statistics | null;
  /** Its part of the daemon's budget; null: there is none. */
  readonly share: ShareStatus | null;
}

/** A device that has just got its disk. */
export interface InitStatus extends DeviceStatus {
  /** What is unusual about the disk, for people: as the daemon has logged it. */
  readonly warnings: readonly string[];
}

/** Bytes of host memory. */
export interface ShareStatus {
  /** What no other device can take. */
  readonly guarantee: number;
  /** What it holds of the budget. */
  readonly used: number;
  /** What it may hold while memory is short. */
  readonly share: number;
  /** How often it wanted more and got nothing. */
  readonly refused: number;
}

export interface DaemonStatus {
  readonly version: string;
  readonly process: number;
  readonly uptime_seconds: number;
  readonly threads: number;
  /** All in bytes; null: the daemon has no budget. */
  readonly budget: { readonly limit: number; readonly committed: number } | null;
}

/** What a reload has done, for people, and what it could not do. */
export interface ReloadResult {
  readonly done: readonly string[];
  readonly refused: readonly string[];
}

interface OfDevice {
  readonly device: string;
}
interface WithBytes extends OfDevice {
  readonly bytes: number;
}

/** What each method takes and gives. */
export interface Methods {
  daemon: { params: object; result: DaemonStatus };
  devices: { params: object; result: readonly DeviceStatus[] };
  statistics: { params: OfDevice; result: Statistics };
  /** Remembers settings for a later init; those of a running device that may change, do. */
  set: { params: OfDevice & { settings: DeviceSettings }; result: DeviceStatus };
  init: { params: OfDevice & { settings?: DeviceSettings }; result: InitStatus };
  reset: { params: OfDevice; result: DeviceStatus };
  add: { params: OfDevice & { settings?: DeviceSettings }; result: DeviceStatus };
  remove: { params: OfDevice; result: null };
  /** Bytes in whole pages, as they are from now on. */
  setMemlimit: { params: WithBytes; result: number };
  /** Bytes in whole guest pages. */
  grow: { params: WithBytes; result: number };
  reload: { params: object; result: ReloadResult };
  handOver: { params: OfDevice & { path: string; version: number }; result: never };
}
export type MethodName = keyof Methods;

/** JSON-RPC error code for an order that is understood and refused; the message says why. */
export const REFUSED_CODE = -32000;
/** JSON-RPC 2.0 §5.1. */
export const INVALID_PARAMS_CODE = -32602;

/** No message is longer; a peer that sends more is cut off. */
export const LINE_BYTES_MAX = 1 << 20;

/**
 * Cuts a stream of text into lines and hands on each; returns false, for good, when a line
 * exceeds the limit.
 */
export function lineSplitter(onLine: (line: string) => void): (chunk: string) => boolean {
  let rest = '';
  return (chunk) => {
    rest += chunk;
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      const line = rest.slice(0, end).trim();
      rest = rest.slice(end + 1);
      if (line !== '') onLine(line);
    }
    return rest.length <= LINE_BYTES_MAX;
  };
}
