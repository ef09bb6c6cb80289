/** What a block device is made with, and what it tells: types only. */

import type { Report } from './reports.ts';

/** What a front end knows a device by, initialised or not; the name is its serial (GET_ID). */
export interface DeviceTerms {
  readonly name: string;
  /** What requests are whole numbers of, 512 or a page. Default: a page. */
  readonly logicalBlockBytes?: number;
  readonly numQueues: number;
  /** Threads that serve the queues: the reactor's, and so many less one of its queue threads. */
  readonly queueThreads?: number;
}

export interface BlockDeviceEvents {
  report: Report;
  /** A front end has started its first ring, or stopped its last. */
  running?(isRunning: boolean): void;
}
