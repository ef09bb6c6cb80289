/**
 * The daemon's control thread: starts the reactor thread with its device, opens the sockets, serves
 * the control protocol, ends on SIGTERM.
 *
 *   start: reactor thread → device ready → control socket → vhost-user socket (the last to appear)
 *   stop:  sockets removed → reactors ordered to end, 200 ms at most → the process ends
 */

import { totalmem } from 'node:os';
import { type Logger, pino } from 'pino';
import { RefusedError, SystemError } from '../base/errors.ts';
import { formatBytes, PAGE_BYTES } from '../base/units.ts';
import type { BlockDeviceOptions } from '../device/block-device.ts';
import {
  abortWith,
  exitNow,
  isListening,
  type ListeningSocket,
  openListeningSocket,
} from '../device/endpoint.ts';
import { ReactorThread } from '../device/reactor-thread.ts';
import { SLOTS_MAX } from '../store/layout.ts';
import type { DeviceStatus } from './protocol.ts';
import type { Methods } from './server.ts';
import { serveControl } from './server.ts';

const STOP_MILLIS_MAX = 200;
/** SPEC: a quarter of RAM when no size is given. */
const DISK_SHARE_OF_RAM = 0.25;
/** Positions in the arena are 32 bits of 4-byte words. */
const ARENA_BYTES_MAX = 2 ** 34;

export interface DaemonOptions {
  readonly name: string;
  /** Where the front end connects: a path to listen at, or an inherited descriptor. */
  readonly socket: { readonly path: string } | { readonly fd: number };
  readonly controlPath: string;
  /** The control path was not asked for: failure to create it is a warning. */
  readonly isControlOptional: boolean;
  readonly diskBytes?: number;
  readonly guestRamBytes?: number;
  readonly guestPageBytes: number;
  readonly numQueues: number;
  readonly poolLimitBytes?: number;
  readonly logLevel: string;
}

/** Whether tests may make threads throw (see CONTRIBUTING.md, "Faults"). */
const HAS_FAULT_INJECTION = process.env.RAMZSWAP_FAULT_INJECTION === '1';

/** Runs until SIGTERM; throws RefusedError or SystemError when it cannot start. */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  process.on('uncaughtException', (error) => abortWith('the control thread', error));
  process.on('unhandledRejection', (error) => abortWith('the control thread', error));
  const log = openLog(options.logLevel);
  const device = deviceOptions(options, log);
  const { socket } = options;
  const isConnected = 'fd' in socket && !isListening(socket.fd);
  let connections = 0;
  const sockets: ListeningSocket[] = [];
  let thread: ReactorThread | undefined;
  const stop = (why: string) => void stopDaemon(thread, sockets, log, why);
  process.once('SIGTERM', () => stop('SIGTERM'));
  process.once('SIGINT', () => stop('SIGINT'));
  thread = await ReactorThread.start([device], {
    log: ({ device: name, level, message }) => log[level]({ device: name }, message),
    connection: (_, isNow) => {
      connections = isNow ? 1 : 0;
      if (!isNow && isConnected) stop('the inherited connection has ended');
    },
  });
  openControl(
    options,
    sockets,
    log,
    methods(thread, device.name, () => connections > 0),
  );
  if (isConnected) {
    thread.order({ kind: 'adopt', device: device.name, fd: (socket as { fd: number }).fd });
  } else {
    const fd = 'fd' in socket ? socket.fd : listenAt(socket.path, sockets);
    thread.order({ kind: 'listen', device: device.name, fd });
  }
  log.info(
    { device: device.name, disksize: device.diskBytes, socket },
    `${device.name}: ${formatBytes(device.diskBytes)} ready`,
  );
}

function openLog(level: string): Logger {
  const destination = pino.destination({ fd: 2, sync: true });
  // Whoever read the log is gone: the devices go on.
  destination.on('error', () => {});
  return pino({ name: 'ramzswapd', level }, destination);
}

function listenAt(path: string, sockets: ListeningSocket[]): number {
  const listening = openListeningSocket(path);
  sockets.push(listening);
  return listening.fd;
}

function openControl(
  options: DaemonOptions,
  sockets: ListeningSocket[],
  log: Logger,
  methods: Methods,
): void {
  try {
    serveControl(listenAt(options.controlPath, sockets), methods);
  } catch (error) {
    const isExpected = error instanceof RefusedError || error instanceof SystemError;
    if (!isExpected || !options.isControlOptional) throw error;
    log.warn(`no control socket: ${error.message}`);
  }
}

function methods(thread: ReactorThread, name: string, isConnected: () => boolean): Methods {
  const status = (): DeviceStatus => ({
    device: name,
    connected: isConnected(),
    statistics: thread.statistics(name),
  });
  return {
    devices: () => [status()],
    statistics: (params) => {
      const wanted = (params as { device?: unknown } | undefined)?.device;
      if (wanted !== name) throw new RefusedError(`no device '${wanted}': this daemon has ${name}`);
      return thread.statistics(name);
    },
    ...(HAS_FAULT_INJECTION ? faultMethods(thread) : {}),
  };
}

function faultMethods(thread: ReactorThread): Methods {
  return {
    fault: (params) => {
      if ((params as { thread: string }).thread === 'reactor') thread.order({ kind: 'fail' });
      else setImmediate(() => throwFault());
      return null;
    },
  };
}

function throwFault(): never {
  throw new Error('fault injected into the control thread');
}

async function stopDaemon(
  thread: ReactorThread | undefined,
  sockets: readonly ListeningSocket[],
  log: Logger,
  why: string,
): Promise<void> {
  log.info(`ending: ${why}`);
  for (const socket of sockets) socket.remove();
  await thread?.stop(STOP_MILLIS_MAX);
  exitNow(0);
}

/** The device as asked for, with SPEC's defaults and warnings. */
function deviceOptions(options: DaemonOptions, log: Logger): BlockDeviceOptions {
  const { name, guestPageBytes, numQueues, poolLimitBytes } = options;
  const ramBytes = options.guestRamBytes ?? totalmem();
  const whose = options.guestRamBytes === undefined ? "the host's" : "the guest's";
  const ram = `${formatBytes(ramBytes)} of RAM (${whose})`;
  const asked = options.diskBytes ?? ramBytes * DISK_SHARE_OF_RAM;
  const diskBytes = Math.floor(asked / guestPageBytes) * guestPageBytes;
  if (options.diskBytes === undefined) {
    log.info(`disksize not given: ${formatBytes(diskBytes)}, a quarter of ${ram}`);
  }
  // A swap area wants its header and at least ten pages: the kernel and mkswap refuse less.
  if (diskBytes < guestPageBytes * 10) {
    throw new RefusedError(`disksize: expected ten pages at least, got ${asked} bytes`);
  }
  if (diskBytes / PAGE_BYTES > SLOTS_MAX) {
    const most = formatBytes(SLOTS_MAX * PAGE_BYTES);
    throw new RefusedError(`disksize: expected ${most} at most, got ${formatBytes(diskBytes)}`);
  }
  if (diskBytes > 2 * ramBytes) {
    log.warn(`disksize ${formatBytes(diskBytes)} is more than twice ${ram}: 2:1 is what to expect`);
  }
  if (diskBytes > ARENA_BYTES_MAX) {
    log.warn(`at most ${formatBytes(ARENA_BYTES_MAX)} of compressed data will be held`);
  }
  const common = { name, diskBytes, guestPageBytes, numQueues };
  return poolLimitBytes === undefined ? common : { ...common, poolLimitBytes };
}
