/**
 * The daemon's control thread: starts the reactor thread with its device, opens the sockets, serves
 * the control protocol, ends on SIGTERM.
 *
 *   start: reactor thread → device ready → control socket → vhost-user socket (the last to appear)
 *          → the service manager is told, where there is one
 *   stop:  sockets removed → reactors ordered to end, 200 ms at most → the process ends
 */

import { type Logger, pino } from 'pino';
import type { Faults } from '../backing/fault-io.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { formatBytes } from '../base/units.ts';
import type { BlockDeviceOptions } from '../device/block-device.ts';
import {
  abortWith,
  CONTROL_ACCESS,
  exitNow,
  frontEndAccess,
  isListening,
  type ListeningSocket,
  openListeningSocket,
} from '../device/endpoint.ts';
import { ReactorThread } from '../device/reactor-thread.ts';
import { ServiceManager } from '../device/service-manager.ts';
import {
  changedMemlimit,
  type DeviceWishes,
  deviceOptions,
  grownDiskSize,
} from './device-options.ts';
import type { DeviceStatus } from './protocol.ts';
import type { Methods } from './server.ts';
import { serveControl } from './server.ts';

const STOP_MILLIS_MAX = 200;
const OBEY_MILLIS_MAX = 1000;

export interface DaemonOptions extends DeviceWishes {
  /** Where the front end connects: a path to listen at, or an inherited descriptor. */
  readonly socket: { readonly path: string; readonly group?: string } | { readonly fd: number };
  readonly controlPath: string;
  /** The control path was not asked for: failure to create it is a warning. */
  readonly isControlOptional: boolean;
  readonly logLevel: string;
}

/** Whether tests may make threads throw (see CONTRIBUTING.md, "Faults"). */
const HAS_FAULT_INJECTION = process.env.RAMZSWAP_FAULT_INJECTION === '1';

/** Runs until SIGTERM; throws RefusedError or SystemError when it cannot start. */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  process.on('uncaughtException', (error) => abortWith('the control thread', error));
  process.on('unhandledRejection', (error) => abortWith('the control thread', error));
  const log = openLog(options.logLevel);
  const device = deviceOptions(options, log, HAS_FAULT_INJECTION);
  const manager = new ServiceManager(process.env);
  const tell = (state: string) => tellManager(manager, state, log);
  const { socket } = options;
  const isConnected = 'fd' in socket && !isListening(socket.fd);
  let connections = 0;
  const sockets: ListeningSocket[] = [];
  let thread: ReactorThread | undefined;
  const stop = (why: string) => {
    tell('STOPPING=1');
    void stopDaemon(thread, sockets, log, why);
  };
  process.once('SIGTERM', () => stop('SIGTERM'));
  process.once('SIGINT', () => stop('SIGINT'));
  thread = await ReactorThread.start([device], {
    log: ({ device: name, level, message }) => log[level]({ device: name }, message),
    connection: (_, isNow) => {
      connections = isNow ? 1 : 0;
      if (!isNow && isConnected) stop('the inherited connection has ended');
    },
  });
  try {
    openSockets(
      options,
      sockets,
      log,
      thread,
      methods(thread, device, () => connections > 0),
    );
  } catch (error) {
    // The process could not end while they wait in the kernel.
    await thread.stop(STOP_MILLIS_MAX);
    throw error;
  }
  log.info(
    { device: device.name, disksize: device.diskBytes, socket },
    `${device.name}: ${formatBytes(device.diskBytes)} ready`,
  );
  tell(`READY=1\nSTATUS=${device.name}: ${formatBytes(device.diskBytes)}`);
}

/** The control socket, then the front end's: whoever sees that may begin. */
function openSockets(
  options: DaemonOptions,
  sockets: ListeningSocket[],
  log: Logger,
  thread: ReactorThread,
  methods: Methods,
): void {
  openControl(options, sockets, log, methods);
  const { name: device, socket } = options;
  if ('path' in socket) {
    const listening = openListeningSocket(socket.path, frontEndAccess(socket.group));
    sockets.push(listening);
    thread.order({ kind: 'listen', device, fd: listening.fd });
  } else {
    thread.order({ kind: isListening(socket.fd) ? 'listen' : 'adopt', device, fd: socket.fd });
  }
}

/** A manager that does not listen is its own trouble: the device serves. */
function tellManager(manager: ServiceManager, state: string, log: Logger): void {
  try {
    manager.notify(state);
  } catch (error) {
    if (!(error instanceof SystemError) && !(error instanceof RefusedError)) throw error;
    log.warn(`service manager not told: ${error.message}`);
  }
}

function openLog(level: string): Logger {
  const destination = pino.destination({ fd: 2, sync: true });
  // Whoever read the log is gone: the devices go on.
  destination.on('error', () => {});
  return pino({ name: 'ramzswapd', level }, destination);
}

function openControl(
  options: DaemonOptions,
  sockets: ListeningSocket[],
  log: Logger,
  methods: Methods,
): void {
  try {
    const listening = openListeningSocket(options.controlPath, CONTROL_ACCESS);
    sockets.push(listening);
    serveControl(listening.fd, methods);
  } catch (error) {
    const isExpected = error instanceof RefusedError || error instanceof SystemError;
    if (!isExpected || !options.isControlOptional) throw error;
    log.warn(`no control socket: ${error.message}`);
  }
}

function methods(
  thread: ReactorThread,
  device: BlockDeviceOptions,
  isConnected: () => boolean,
): Methods {
  const { name } = device;
  const status = (): DeviceStatus => ({
    device: name,
    connected: isConnected(),
    statistics: thread.statistics(name),
  });
  const checkName = (params: unknown) => {
    const wanted = (params as { device?: unknown } | undefined)?.device;
    if (wanted !== name) throw new RefusedError(`no device '${wanted}': this daemon has ${name}`);
  };
  return {
    devices: () => [status()],
    statistics: (params) => {
      checkName(params);
      return thread.statistics(name);
    },
    setMemlimit: (params) => {
      checkName(params);
      const bytes = changedMemlimit(device, (params as { bytes?: unknown }).bytes);
      thread.order({ kind: 'memlimit', device: name, bytes });
      return untilSo(() => thread.statistics(name).memlimit === bytes).then(() => bytes);
    },
    grow: (params) => {
      checkName(params);
      const now = thread.statistics(name).disksize;
      const bytes = grownDiskSize(device, now, (params as { bytes?: unknown }).bytes);
      thread.order({ kind: 'grow', device: name, bytes });
      return untilSo(() => thread.statistics(name).disksize >= bytes).then(() => bytes);
    },
    ...(HAS_FAULT_INJECTION ? faultMethods(thread, name) : {}),
  };
}

function faultMethods(thread: ReactorThread, device: string): Methods {
  return {
    fault: (params) => {
      const { thread: where, backing } = params as { thread?: string; backing?: Faults };
      if (backing !== undefined) thread.order({ kind: 'faults', device, faults: backing });
      if (where === 'reactor' || where === 'queue thread') thread.order({ kind: 'fail', where });
      if (where === 'control') setImmediate(throwFault);
      return null;
    },
  };
}

/** Orders are obeyed within a turn of the reactor: whoever asks next should see that. */
async function untilSo(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + OBEY_MILLIS_MAX;
  while (!condition() && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
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
