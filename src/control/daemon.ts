/**
 * The daemon's control thread: starts the reactor thread with its device, opens the sockets, serves
 * the control protocol, ends on SIGTERM.
 *
 *   start: reactor thread → device ready → kept by the service manager, where that is asked for
 *          → control socket → vhost-user socket (the last to appear)
 *          → the service manager is told, where there is one
 *   stop:  sockets removed → reactors ordered to end, 200 ms at most
 *          → what is kept of the store removed, if nobody can come back for it → the process ends
 */

import { resolve } from 'node:path';
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
  listeningSocket,
  openListeningSocket,
} from '../device/endpoint.ts';
import { FdStore } from '../device/fd-store.ts';
import { type DeviceState, HANDOVER_VERSION } from '../device/handover.ts';
import { ReactorThread } from '../device/reactor-thread.ts';
import { ServiceManager } from '../device/service-manager.ts';
import { removeStoreFiles } from '../store/store-files.ts';
import {
  changedMemlimit,
  type DeviceWishes,
  deviceOptions,
  grownDiskSize,
  takenOverOptions,
} from './device-options.ts';
import type { DeviceStatus } from './protocol.ts';
import type { Methods } from './server.ts';
import { serveControl } from './server.ts';
import { TakeOver } from './take-over.ts';

const STOP_MILLIS_MAX = 200;
const OBEY_MILLIS_MAX = 1000;

export interface DaemonOptions extends DeviceWishes {
  /** Where the front end connects: a path to listen at, or an inherited descriptor. */
  readonly socket: { readonly path: string; readonly group?: string } | { readonly fd: number };
  readonly controlPath: string;
  /** The control path was not asked for: failure to create it is a warning. */
  readonly isControlOptional: boolean;
  readonly logLevel: string;
  /** Goes on with what the daemon at the control socket does. */
  readonly isTakeOver?: boolean;
  /** The service manager keeps the store. */
  readonly usesFdStore?: boolean;
}

/** Whether tests may make threads throw (see CONTRIBUTING.md, "Faults"). */
const HAS_FAULT_INJECTION = process.env.RAMZSWAP_FAULT_INJECTION === '1';

/** Runs until SIGTERM; throws RefusedError or SystemError when it cannot start. */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  process.on('uncaughtException', (error) => abortWith('the control thread', error));
  process.on('unhandledRejection', (error) => abortWith('the control thread', error));
  const log = openLog(options.logLevel);
  const daemon = new Daemon(options, log);
  process.once('SIGTERM', () => daemon.stop('SIGTERM'));
  process.once('SIGINT', () => daemon.stop('SIGINT'));
  await daemon.start();
}

class Daemon {
  readonly #options: DaemonOptions;
  readonly #log: Logger;
  readonly #manager = new ServiceManager(process.env);
  readonly #fdStore: FdStore;
  readonly #sockets: ListeningSocket[] = [];
  #thread: ReactorThread | undefined;
  #device: BlockDeviceOptions | undefined;
  #isConnected = false;
  /** Where front ends connect; undefined: one is there, and when it leaves this process ends. */
  #listening: { readonly fd: number; readonly path: string | undefined } | undefined;
  /** Another process is about to have the device, or not. */
  #handingOver: Promise<unknown> | undefined;

  constructor(options: DaemonOptions, log: Logger) {
    this.#options = options;
    this.#log = log;
    this.#fdStore = new FdStore(this.#manager, options.name, (message) => log.warn(message));
  }

  async start(): Promise<void> {
    const { isTakeOver } = this.#options;
    const device = isTakeOver ? await this.#takeOver() : await this.#open();
    for (const name of this.#manager.closeRest()) {
      this.#log.warn(`the service manager has passed ${name}, which is of no use: closed`);
    }
    const size = `${device.name}: ${formatBytes(device.diskBytes)}`;
    const { socket } = this.#options;
    this.#log.info({ device: device.name, disksize: device.diskBytes, socket }, `${size} ready`);
    // Whoever took over is the service now.
    this.#tell(`READY=1\nMAINPID=${process.pid}\nSTATUS=${size}`);
  }

  stop(why: string): void {
    void this.#stop(why);
  }

  async #stop(why: string): Promise<void> {
    // An end in the middle of it would leave the device to the other process, with no socket.
    await this.#handingOver;
    this.#tell('STOPPING=1');
    await this.#end(why);
  }

  async #end(why: string): Promise<void> {
    this.#log.info(`ending: ${why}`);
    for (const socket of this.#sockets) socket.remove();
    await this.#thread?.stop(STOP_MILLIS_MAX);
    const device = this.#device;
    if (device?.files !== undefined && this.#thread?.isReleased(device.name) === true) {
      this.#log.info('nobody can come back for its pages: the store is removed');
      this.#removeStore(device);
    }
    exitNow(0);
  }

  #removeStore({ name, files }: BlockDeviceOptions): void {
    if (files === undefined) return;
    try {
      if (files.isInFdStore === true) this.#fdStore.remove();
      else removeStoreFiles(files, name);
    } catch (error) {
      this.#log.warn(`the store is left: ${(error as Error).message}`);
    }
  }

  async #open(): Promise<BlockDeviceOptions> {
    const fdStore = this.#options.usesFdStore === true ? this.#fdStore : undefined;
    const device = deviceOptions(this.#options, this.#log, HAS_FAULT_INJECTION, fdStore);
    this.#device = device;
    const thread = this.#startThread(device.queueThreads);
    try {
      await thread.open(device);
      // Now it is complete, and holds nothing yet that could be lost.
      if (fdStore !== undefined && device.files?.isKept === false) fdStore.keep(device.files);
      this.#openSockets(thread, device);
      return device;
    } catch (error) {
      // The process could not end while it waits in the kernel.
      await thread.stop(STOP_MILLIS_MAX);
      // Nobody has had anything in a new store.
      if (device.files?.isKept === false) this.#removeStore(device);
      throw error;
    }
  }

  /** The control socket, then the front end's: whoever sees that may begin. */
  #openSockets(thread: ReactorThread, options: BlockDeviceOptions): void {
    this.#openControl(thread, options);
    const { socket } = this.#options;
    const device = options.name;
    if ('path' in socket) {
      const listening = openListeningSocket(socket.path, frontEndAccess(socket.group));
      this.#sockets.push(listening);
      this.#listening = { fd: listening.fd, path: resolve(socket.path) };
    } else if (isListening(socket.fd)) {
      this.#listening = { fd: socket.fd, path: undefined };
    } else {
      thread.order({ kind: 'adopt', device, fd: socket.fd });
    }
    if (this.#listening === undefined) return;
    thread.order({ kind: 'listen', device, fd: this.#listening.fd });
  }

  #openControl(thread: ReactorThread, device: BlockDeviceOptions): void {
    const { controlPath, isControlOptional } = this.#options;
    try {
      const listening = openListeningSocket(controlPath, CONTROL_ACCESS);
      this.#sockets.push(listening);
      this.#serveControl(listening.fd, thread, device);
    } catch (error) {
      const isExpected = error instanceof RefusedError || error instanceof SystemError;
      if (!isExpected || !isControlOptional) throw error;
      this.#log.warn(`no control socket: ${error.message}`);
    }
  }

  #serveControl(controlFd: number, thread: ReactorThread, device: BlockDeviceOptions): void {
    const handOver = (path: string) => this.#handOver(path, controlFd, thread, device.name);
    serveControl(
      controlFd,
      methods(thread, device, () => this.#isConnected, handOver),
    );
  }

  /** Ends this process when the one that listens at `path` has the device; else rejects. */
  async #handOver(
    path: string,
    controlFd: number,
    thread: ReactorThread,
    device: string,
  ): Promise<never> {
    if (this.#handingOver !== undefined) {
      throw new RefusedError('another process is taking over already');
    }
    this.#log.info('another process takes over');
    const { fd: listenFd, path: listenPath } = this.#listening ?? {};
    const sockets = { controlFd, listenFd, listenPath };
    const managerPath = this.#manager.path;
    const done = thread.handOver({ kind: 'handOver', device, path, sockets, managerPath });
    this.#handingOver = done.catch(() => {});
    try {
      return await done;
    } catch (error) {
      this.#log.warn(`not taken over: ${(error as Error).message}; this process serves on`);
      throw error;
    } finally {
      this.#handingOver = undefined;
    }
  }

  /** Everything of another daemon: it pauses, and goes on if this one cannot. */
  async #takeOver(): Promise<BlockDeviceOptions> {
    const { controlPath, queueThreads } = this.#options;
    const thread = this.#startThread(queueThreads);
    try {
      // The guest waits from here to the end: what can be done before is done.
      await thread.warmUp();
      const taking = await TakeOver.begin(controlPath);
      const device = await this.#prepare(taking, thread);
      await taking.commit();
      this.#goOn(taking.state, thread, device);
      return device;
    } catch (error) {
      await thread.stop(STOP_MILLIS_MAX);
      throw error;
    }
  }

  /** Makes the device as far as the old process can still have it back. */
  async #prepare(taking: TakeOver, thread: ReactorThread): Promise<BlockDeviceOptions> {
    const { socket } = this.#options;
    const { listenPath } = taking.state;
    try {
      if ('path' in socket && listenPath !== undefined && resolve(socket.path) !== listenPath) {
        const paths = `expected ${listenPath}, got ${socket.path}`;
        throw new RefusedError(`take-over: socket-path: ${paths}`);
      }
      if (this.#options.usesFdStore === true && taking.state.files.isInFdStore !== true) {
        throw new RefusedError('take-over: --fdstore: expected a daemon that was started with it');
      }
      const device = takenOverOptions(this.#options, taking.state);
      await thread.open(device);
      return device;
    } catch (error) {
      // First of all the guest is served again.
      taking.giveUp();
      throw error;
    }
  }

  /** The device is this process's. */
  #goOn(state: DeviceState, thread: ReactorThread, device: BlockDeviceOptions): void {
    const { listenFd, listenPath, controlFd } = state;
    this.#device = device;
    thread.order({ kind: 'resume', device: device.name, listenFd });
    if (listenFd !== undefined) this.#listening = { fd: listenFd, path: listenPath };
    if (listenFd !== undefined && listenPath !== undefined) {
      this.#sockets.push(listeningSocket(listenFd, listenPath));
    }
    if (controlFd !== undefined) {
      this.#sockets.push(listeningSocket(controlFd, this.#options.controlPath));
      this.#serveControl(controlFd, thread, device);
    }
  }

  #startThread(queueThreads = 1): ReactorThread {
    this.#thread = new ReactorThread(queueThreads - 1, {
      log: ({ device: name, level, message }) => this.#log[level]({ device: name }, message),
      connection: (_, isNow) => {
        this.#isConnected = isNow;
        if (!isNow && this.#listening === undefined) {
          this.stop('the inherited connection has ended');
        }
      },
    });
    return this.#thread;
  }

  #tell(state: string): void {
    try {
      this.#manager.notify(state);
    } catch (error) {
      if (!(error instanceof SystemError) && !(error instanceof RefusedError)) throw error;
      this.#log.warn(`service manager not told: ${error.message}`);
    }
  }
}

function openLog(level: string): Logger {
  const destination = pino.destination({ fd: 2, sync: true });
  // Whoever read the log is gone: the devices go on.
  destination.on('error', () => {});
  return pino({ name: 'ramzswapd', level }, destination);
}

function methods(
  thread: ReactorThread,
  device: BlockDeviceOptions,
  isConnected: () => boolean,
  handOver: (path: string) => Promise<never>,
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
    reset: async (params) => {
      checkName(params);
      await thread.reset(name);
      return null;
    },
    handOver: (params) => {
      checkName(params);
      const { path, version } = params as { path?: unknown; version?: unknown };
      if (typeof path !== 'string' || version !== HANDOVER_VERSION) {
        const got = `${path}, version ${version}`;
        throw new RefusedError(`expected a path, version ${HANDOVER_VERSION}, got ${got}`);
      }
      return handOver(path);
    },
    ...(HAS_FAULT_INJECTION ? faultMethods(thread, name) : {}),
  };
}

function faultMethods(thread: ReactorThread, device: string): Methods {
  const orderFaults = (faults: Faults) => untilSo(thread.order({ kind: 'faults', device, faults }));
  return {
    fault: async (params) => {
      const { thread: where, backing } = params as { thread?: string; backing?: Faults };
      if (backing !== undefined) await orderFaults(backing);
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
