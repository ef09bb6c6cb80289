/**
 * What passes between the control thread and a reactor thread: orders one way, reports the other.
 * Plain data; file descriptors are numbers, valid in both, because threads share them.
 */

import type { Faults } from '../backing/fault-io.ts';
import type { BlockDeviceOptions } from './block-device.ts';
import type { ReportLevel } from './queue-set.ts';

/** How a reactor thread begins. */
export interface ReactorOptions {
  /** eventfd by which orders are announced. */
  readonly wakeFd: number;
  readonly devices: readonly BlockDeviceOptions[];
}

export type Order =
  | { readonly kind: 'listen'; readonly device: string; readonly fd: number }
  | { readonly kind: 'adopt'; readonly device: string; readonly fd: number }
  /** The limit on compressed bytes in memory of a device with a backing swap. */
  | { readonly kind: 'memlimit'; readonly device: string; readonly bytes: number }
  | { readonly kind: 'grow'; readonly device: string; readonly bytes: number }
  | { readonly kind: 'stop' }
  /** Fault injection for tests: throw in the reactor. */
  | { readonly kind: 'fail' }
  | { readonly kind: 'faults'; readonly device: string; readonly faults: Faults };

export type ReactorReport =
  /** The device exists; `figuresFd` is the file whose first page holds its figures. */
  | { readonly kind: 'ready'; readonly device: string; readonly figuresFd: number }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'connection'; readonly device: string; readonly isConnected: boolean }
  | {
      readonly kind: 'log';
      readonly device: string;
      readonly level: ReportLevel;
      readonly message: string;
    };
