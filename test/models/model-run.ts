/**
 * The random program of device-program.ts against a daemon: through the real socket, with new
 * sessions in between, statistics over the control socket after every batch. Tests run a short one,
 * scripts/stress.ts a long one.
 */

import { ControlClient } from '../../src/control/client.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import type { Daemon } from '../driver/daemon.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import { DeviceProgram } from './device-program.ts';
import { areLatenciesCounted } from './known-figures.ts';

const PAGE_BYTES = 4096;
export const MODEL_NAME = 'ramzswap0';
/** A ring as large as its table, QEMU's, and one that only just holds the depth. */
export const MODEL_RING_SIZES = [1024, 256, 128, 32];
/** Then the front end goes and another comes, with other features and other indices. */
const BATCHES_PER_SESSION = 64;

export const MODEL_DISK_BYTES = 32 << 20;
/** Without its disk: that is MODEL_DAEMON_ARGS, or a backing swap. */
export const MODEL_QUEUE_ARGS = [
  '--num-queues',
  `${MODEL_RING_SIZES.length}`,
  '--log-level',
  'warn',
];
export const MODEL_DAEMON_ARGS = ['--disksize', `${MODEL_DISK_BYTES >> 20}M`, ...MODEL_QUEUE_ARGS];

export interface ModelRunOptions {
  readonly seed: number;
  readonly operations: number;
  /** The daemon has a backing swap as large as MODEL_DISK_BYTES. */
  readonly hasBacking?: boolean;
  readonly onProgress?: (operations: number) => void;
}

/** Runs the program on a fresh daemon; throws at the first difference. Returns what was done. */
export async function runModel(
  daemon: Daemon,
  { seed, operations, hasBacking = false, onProgress = () => {} }: ModelRunOptions,
): Promise<{ operations: number; statistics: Statistics }> {
  const control = await ControlClient.connect(daemon.controlPath);
  let guest = connect(daemon, 0, 0);
  try {
    const header = readPageZero(guest);
    const slots = MODEL_DISK_BYTES / PAGE_BYTES;
    const program = new DeviceProgram({ seed, slots, name: MODEL_NAME, header, hasBacking });
    // The read of the header counts too.
    program.model.apply({ kind: 'read', sector: 0n, pages: 1 });
    for (let batch = 1; ; batch++) {
      program.submit(guest.queues.map(({ driver }) => driver));
      for (const { driver } of guest.queues) driver.flush();
      guest.completeAll(({ index }, done) => program.take(index, done));
      const statistics = await countedStatistics(control);
      program.compareStatistics(statistics);
      onProgress(program.operations);
      if (program.operations >= operations) return { operations: program.operations, statistics };
      if (batch % BATCHES_PER_SESSION !== 0) continue;
      guest.close();
      guest = connect(daemon, batch / BATCHES_PER_SESSION, program.random.below(65536));
    }
  } finally {
    guest.close();
    control.close();
  }
}

/** Once all latencies are in them. */
async function countedStatistics(control: ControlClient): Promise<Statistics> {
  for (let tries = 1; ; tries++) {
    const statistics = await control.call<Statistics>('statistics', { device: MODEL_NAME });
    if (areLatenciesCounted(statistics) || tries === 100) return statistics;
  }
}

function connect(daemon: Daemon, session: number, startIndex: number): MultiQueueGuest {
  const queues = MODEL_RING_SIZES.map((size, i) => ({
    size,
    startIndex: (startIndex + i) & 0xffff,
  }));
  return MultiQueueGuest.connect(daemon.socketPath, { queues, eventIdx: session % 2 === 0 });
}

function readPageZero(guest: MultiQueueGuest): Uint8Array {
  const { driver } = guest.queues[0]!;
  driver.submit({ type: 0, sector: 0, inBytes: PAGE_BYTES });
  driver.flush();
  let page: Uint8Array = new Uint8Array(0);
  guest.completeAll((_, done) => {
    page = done.data;
  });
  return page;
}
