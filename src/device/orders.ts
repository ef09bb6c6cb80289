/**
 * What passes between threads: orders from the control thread to a reactor thread, calls from that to
 * its queue threads, reports from all of them to the control thread. Plain data; file descriptors are
 * numbers, valid everywhere, because threads share them.
 */

import type { Faults } from '../backing/fault-io.ts';
import type { StoreShare } from '../store/page-store.ts';
import type { DeviceTerms } from './device-terms.ts';
import type { DiskOptions } from './disk.ts';
import type { DeviceState } from './handover.ts';
import type { DeviceQueues, QueueSetOptions } from './queue-set.ts';
import type { ReportLevel } from './reports.ts';
import type { LineEnd } from './thread-call.ts';

/** How a reactor thread begins. */
export interface ReactorOptions {
  /** eventfd by which orders are announced. */
  readonly wakeFd: number;
  /** Of one word: how many orders have been obeyed (wrapping). */
  readonly obeyed: Int32Array;
  readonly discarded: Discarded;
  /** The daemon has one device, and one front end at a time: nobody else would be kept waiting. */
  readonly isAlone: boolean;
  /** To the queue threads that help it. */
  readonly lines: readonly LineEnd[];
}

/** Listening sockets that go with a device to another process. */
export type HandedOverSockets = Pick<DeviceState, 'listenFd' | 'listenPath' | 'controlFd'>;

/** Of one word: descriptors that threads have discarded, and that the control thread has yet to close. */
export type Discarded = Int32Array;

/** How a queue thread begins. */
export interface QueueWorkerOptions {
  readonly line: LineEnd;
  /** As ReactorOptions.isAlone; default: it is not. */
  readonly isAlone?: boolean;
}

/** What a reactor thread calls a queue thread for. */
export type QueueCall =
  /** Loads and compiles what a device needs. */
  | { readonly kind: 'warmUp' }
  | { readonly kind: 'open'; readonly options: QueueSetOptions }
  | {
      readonly kind: 'openDisk';
      readonly device: string;
      readonly share: StoreShare;
      /** Which of the store's threads it is. */
      readonly thread: number;
    }
  | {
      readonly kind: 'queues';
      readonly device: string;
      readonly method: keyof DeviceQueues;
      readonly args: readonly unknown[];
    }
  | { readonly kind: 'remove'; readonly device: string }
  | { readonly kind: 'stop' }
  /** Fault injection for tests: throw in that thread. */
  | { readonly kind: 'fail' };

export type Order =
  /** Loads and compiles what a device needs. */
  | { readonly kind: 'warmUp' }
  /** Makes a device, uninitialised. */
  | { readonly kind: 'open'; readonly terms: DeviceTerms }
  /** Makes its disk; one that was taken over stays paused. */
  | { readonly kind: 'init'; readonly device: string; readonly options: DiskOptions }
  /** Hands a device over to the process that listens at `path`, and ends this one if it takes it. */
  | {
      readonly kind: 'handOver';
      readonly device: string;
      readonly path: string;
      readonly sockets: HandedOverSockets;
      /** Where the service manager is told who the service is from then on. */
      readonly managerPath: string | undefined;
    }
  /** Begins to serve what was taken over. */
  | { readonly kind: 'resume'; readonly device: string; readonly listenFd: number | undefined }
  | { readonly kind: 'listen'; readonly device: string; readonly fd: number }
  | { readonly kind: 'adopt'; readonly device: string; readonly fd: number }
  /** The limit on compressed bytes in memory of a device with a backing swap. */
  | { readonly kind: 'memlimit'; readonly device: string; readonly bytes: number }
  /** The limit of host memory for stored pages; undefined: none. */
  | { readonly kind: 'poolLimit'; readonly device: string; readonly bytes: number | undefined }
  | { readonly kind: 'grow'; readonly device: string; readonly bytes: number }
  /** Takes the disk of a device that no front end has running: uninitialised again. */
  | { readonly kind: 'reset'; readonly device: string }
  /** Takes the device away, and its disk, if no front end has it running. */
  | { readonly kind: 'remove'; readonly device: string }
  /** Wakes the reactor for a step of upkeep. */
  | { readonly kind: 'look' }
  | { readonly kind: 'stop' }
  /** Fault injection for tests: throw in the reactor, or in a queue thread. */
  | { readonly kind: 'fail'; readonly where: 'reactor' | 'queue thread' }
  | { readonly kind: 'faults'; readonly device: string; readonly faults: Faults };

export type ReactorReport =
  /** The thread has begun, and what the kernel calls it. */
  | { readonly kind: 'thread'; readonly id: number | undefined }
  | { readonly kind: 'warm' }
  /** The disk exists; `figuresFd` is the file whose first pages hold its figures. */
  | { readonly kind: 'ready'; readonly device: string; readonly figuresFd: number }
  /** `isPassing`: for I/O that is under way; the same order may be obeyed a moment later. */
  | { readonly kind: 'refused'; readonly reason: string; readonly isPassing: boolean }
  | { readonly kind: 'done' }
  /** The thread has ended in order, and nobody can come back for the device's pages. */
  | { readonly kind: 'released'; readonly device: string }
  /** They are the control thread's to close: what that frees may take seconds. */
  | { readonly kind: 'discarded'; readonly fds: readonly number[] }
  | { readonly kind: 'kept'; readonly device: string; readonly reason: string }
  | { readonly kind: 'connection'; readonly device: string; readonly isConnected: boolean }
  /** Whether a front end has queues running. */
  | { readonly kind: 'running'; readonly device: string; readonly isRunning: boolean }
  | {
      readonly kind: 'log';
      readonly device: string;
      readonly level: ReportLevel;
      readonly message: string;
    };
