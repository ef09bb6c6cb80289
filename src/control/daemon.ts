/**
 * The control thread: plans, starts, tells what happens, answers questions, stops. It owns the process:
 * signals, logs (pino), sockets; devices are managed-device.ts's, and served by reactor threads.
 *
 *   start: devices made, disks of those that have them from the start → kept by the service manager,
 *          where that is asked for → control socket → vhost-user sockets (the last to appear)
 *          → the service manager is told, where there is one
 *   stop:  sockets removed → reactors ordered to end, 200 ms at most
 *          → what is kept of stores that nobody can come back for removed → the process ends
 */

import { resolve } from 'node:path';
import { type Logger, pino } from 'pino';
import { about, RefusedError, SystemError } from '../base/errors.ts';
import { formatBytes } from '../base/units.ts';
import { abortWith, exitNow, type ListeningSocket, listeningSocket } from '../device/endpoint.ts';
import { FdStore } from '../device/fd-store.ts';
import type { DeviceState as HandedOver } from '../device/handover.ts';
import type { LogReport } from '../device/reactor-thread.ts';
import { ServiceManager } from '../device/service-manager.ts';
import { Budget } from '../store/budget.ts';
import { keptSettings } from '../store/store-files.ts';
import { Devices } from './devices.ts';
import type { ManagedDevice } from './managed-device.ts';
import { controlMethods, type DaemonActions, faultMethods } from './methods.ts';
import type { MetricsServer } from './metrics-server.ts';
import { checkedSettings, checkName, checkSettingsOf, type DeviceSettings } from './options.ts';
import {
  type DaemonPlan,
  type GivenSettings,
  makePlan,
  merged,
  type PlannedDevice,
} from './plan.ts';
import type { DaemonStatus, ReloadResult } from './protocol.ts';
import { type ReloadStep, reloadSteps } from './reload.ts';
import { serveControl } from './server.ts';
import {
  hasPassedSockets,
  makeSocketDirectory,
  openControlSocket,
  openDeviceSocket,
  takenOverSocket,
  unusedSockets,
} from './sockets.ts';
import { TakeOver } from './take-over.ts';
import { VERSION } from './version.ts';

export { exitNow };

const STOP_MILLIS_MAX = 200;
/** A process that hands over has its port until it has ended. */
const PORT_MILLIS_MAX = 5000;

/** Whether tests may make threads throw (see CONTRIBUTING.md, "Faults"). */
const HAS_FAULT_INJECTION = process.env.RAMZSWAP_FAULT_INJECTION === '1';

/** Runs until SIGTERM; throws UsageError, RefusedError or SystemError when it cannot start. */
export async function runDaemon(given: GivenSettings): Promise<void> {
  process.on('uncaughtException', (error) => abortWith('the control thread', error));
  process.on('unhandledRejection', (error) => abortWith('the control thread', error));
  const manager = new ServiceManager(process.env);
  const plan = await planned(given, manager);
  const daemon = new Daemon(plan, given, manager);
  process.once('SIGTERM', () => daemon.stop('SIGTERM'));
  process.once('SIGINT', () => daemon.stop('SIGINT'));
  // Also where there is no file: else it would end the process, and with that all pages.
  process.on('SIGHUP', () => daemon.reloadOnSignal());
  await daemon.start();
}

/** The file's parser and schema are loaded where there is a file. */
async function planned(given: GivenSettings, manager: ServiceManager): Promise<DaemonPlan> {
  const path = given.daemon.config as string | undefined;
  const file = path && (await import('./config-file.ts')).readConfigFile(resolve(path));
  return makePlan(given, file || undefined, hasPassedSockets(manager));
}

class Daemon implements DaemonActions {
  #plan: DaemonPlan;
  readonly #given: GivenSettings;
  readonly #log: Logger;
  readonly #manager: ServiceManager;
  readonly #budget: Budget | undefined;
  readonly #devices: Devices;
  /** Devices that the configuration file has asked for. */
  readonly #fromFile = new Set<string>();
  #control: ListeningSocket | undefined;
  #metrics: MetricsServer | undefined;
  #isStarting = true;
  #isStopping = false;
  #reloading: Promise<unknown> = Promise.resolve();
  /** Another process is about to have the device, or not. */
  #handingOver: Promise<unknown> | undefined;

  constructor(plan: DaemonPlan, given: GivenSettings, manager: ServiceManager) {
    this.#plan = plan;
    this.#given = given;
    this.#manager = manager;
    const { budgetBytes } = plan;
    this.#budget = budgetBytes === undefined ? undefined : Budget.make(budgetBytes);
    const log = openLog(plan.logLevel);
    this.#log = log;
    const host = {
      logOf: (device: string) => log.child({ device }),
      userOfSwap: (path: string) => this.#devices.userOfSwap(path),
      hasFaults: HAS_FAULT_INJECTION,
      storeDirectory: plan.storeDirectory,
      queueThreads: plan.queueThreads,
      hasOneDevice: plan.frontEnd.kind !== 'directory',
      budget: this.#budget,
      isStarting: () => this.#isStarting,
      sharesChanged: () => this.#devices.nudge(),
      fdStore: (device: string) => this.#fdStoreOf(device),
    };
    const tell = ({ device, level, message }: LogReport) => log[level]({ device }, message);
    this.#devices = new Devices(host, plan.threads, { log: tell });
    this.#devices.onConnection = (device) => {
      const isOnlyOne = device.socket?.isListening === false;
      if (isOnlyOne && !device.isConnected) this.stop('the inherited connection has ended');
    };
  }

  async start(): Promise<void> {
    if (this.#plan.isTakeOver) await this.#takeOver();
    else await this.#open();
    this.#isStarting = false;
    this.#warnOfBudget();
    for (const name of this.#manager.closeRest()) {
      this.#log.warn(`the service manager has passed ${name}, which is of no use: closed`);
    }
    // A process that takes over has its socket from the other one.
    const unused = this.#plan.isTakeOver ? [] : unusedSockets(this.#plan, this.#manager);
    for (const name of unused) {
      this.#log.warn(
        `the service manager has passed a socket called ${name}: there is no such device`,
      );
    }
    const what = this.#summary();
    this.#log.info({ devices: this.#devices.all.map(({ name }) => name) }, `${what} ready`);
    // Whoever took over is the service now.
    this.#tell(`READY=1\nMAINPID=${process.pid}\nSTATUS=${what}`);
  }

  #summary(): string {
    const { all } = this.#devices;
    const [device] = all;
    if (device === undefined || all.length > 1) return `${all.length} devices`;
    const { name, isInitialised } = device;
    return isInitialised ? `${name}: ${formatBytes(device.statistics().disksize)}` : name;
  }

  // ── Start and stop ────────────────────────────────────────────────────────────────────────────

  async #open(): Promise<void> {
    try {
      makeSocketDirectory(this.#plan);
      for (const planned of this.#plan.devices) await this.#openDevice(planned);
      if (this.#plan.frontEnd.kind === 'directory') await this.#findDevices();
      await this.#openMetrics();
      // Told to end meanwhile: what is opened from here on would be left.
      if (this.#isStopping) return await new Promise<never>(() => {});
      this.#openControl();
      for (const device of this.#devices.all) device.listen(this.#openSocket(device.name));
    } catch (error) {
      for (const device of this.#devices.all) device.removeSocket();
      this.#control?.remove();
      this.#metrics?.close();
      // The process could not end while they wait in the kernel.
      await this.#devices.stop(STOP_MILLIS_MAX);
      for (const device of this.#devices.all) device.abandonNewStore();
      throw error;
    }
  }

  async #openDevice({ name, settings, isInitialised, place }: PlannedDevice): Promise<void> {
    const device = this.#devices.add(name, settings);
    if (this.#plan.configPath !== undefined) this.#fromFile.add(name);
    if (!isInitialised) return;
    try {
      await device.init();
    } catch (error) {
      throw place === undefined ? error : placed(name, place, error);
    }
  }

  /**
   * Disks that were made by order, of a process that is no more: their guests come back, and nobody
   * gives the order again.
   */
  async #findDevices(): Promise<void> {
    const { storeDirectory, usesFdStore, defaults } = this.#plan;
    const kept = usesFdStore
      ? FdStore.keptSettings(this.#manager)
      : keptSettings(storeDirectory ?? '');
    for (const [name, text] of kept) {
      const found = this.#devices.has(name) ? this.#devices.named(name) : undefined;
      if (text === '' || found?.isInitialised === true) continue;
      try {
        const settings = merged(defaults, checkedSettings(JSON.parse(text) as object));
        checkName(name, 'store');
        const device = found ?? this.#devices.add(name, settings);
        if (found === undefined) device.describedAs(defaults);
        await device.init(settings);
        this.#log.info({ device: name }, 'goes on with the store that was kept');
      } catch (error) {
        // It may be another daemon's, or damaged: the others are served.
        this.#log.error({ device: name }, `store not taken up: ${(error as Error).message}`);
      }
    }
  }

  /** What was kept counts whether or not there is room. */
  #warnOfBudget(): void {
    const { committedBytes = 0, budgetBytes = 0 } = this.#budget?.figures() ?? {};
    if (committedBytes <= budgetBytes) return;
    const [all, budget] = [formatBytes(committedBytes), formatBytes(budgetBytes)];
    this.#log.warn(`budget ${budget}: ${all} are held by kept stores or guaranteed`);
  }

  #openSocket(name: string) {
    return openDeviceSocket(this.#plan, this.#manager, name);
  }

  #openControl(): void {
    const { controlPath, isControlOptional } = this.#plan;
    try {
      this.#control = openControlSocket(controlPath, this.#manager);
      this.#serveControl(this.#control.fd);
    } catch (error) {
      const isExpected = error instanceof RefusedError || error instanceof SystemError;
      if (!isExpected || !isControlOptional) throw error;
      this.#log.warn(`no control socket: ${error.message}`);
    }
  }

  #serveControl(fd: number): void {
    const extra = HAS_FAULT_INJECTION ? faultMethods(this.#devices) : {};
    serveControl(fd, controlMethods(this.#devices, this), extra);
  }

  /** Its libraries are loaded where it is asked for. */
  async #openMetrics(): Promise<void> {
    const { metrics, metricsSaid, isTakeOver } = this.#plan;
    if (metrics === undefined) return;
    const { serveMetrics } = await import('./metrics-server.ts');
    const source = {
      daemon: () => this.status(),
      devices: () => this.#devices.all.map((device) => device.status),
    };
    const waitMillis = isTakeOver ? PORT_MILLIS_MAX : 0;
    this.#metrics = await serveMetrics(metrics, source, { waitMillis, said: metricsSaid });
    this.#log.info(`metrics at ${this.#metrics.address}`);
  }

  stop(why: string): void {
    void this.#stop(why);
  }

  async #stop(why: string): Promise<void> {
    // An end in the middle of it would leave the device to the other process, with no socket.
    await this.#handingOver;
    this.#isStopping = true;
    this.#tell('STOPPING=1');
    this.#log.info(`ending: ${why}`);
    this.#control?.remove();
    this.#metrics?.close();
    for (const device of this.#devices.all) device.removeSocket();
    await this.#devices.stop(STOP_MILLIS_MAX);
    for (const device of this.#devices.all) device.end();
    exitNow(0);
  }

  // ── While it runs ─────────────────────────────────────────────────────────────────────────────

  status(): DaemonStatus {
    const budget = this.#budget?.figures();
    return {
      version: VERSION,
      process: process.pid,
      uptime_seconds: process.uptime(),
      threads: this.#devices.threads.length,
      budget:
        budget === undefined
          ? null
          : { limit: budget.budgetBytes, committed: budget.committedBytes },
    };
  }

  async addDevice(name: string, settings: DeviceSettings): Promise<ManagedDevice> {
    if (this.#plan.frontEnd.kind !== 'directory') {
      throw new RefusedError(`${name}: devices are added to a daemon with --socket-dir`);
    }
    const { defaults } = this.#plan;
    const all = merged(defaults, settings);
    checkSettingsOf(name, all, defaults);
    const device = this.#devices.add(name, all);
    try {
      device.listen(this.#openSocket(name));
    } catch (error) {
      await this.#devices.remove(name);
      throw error;
    }
    this.#log.info({ device: name }, 'added');
    return device;
  }

  async removeDevice(name: string): Promise<void> {
    if (this.#plan.frontEnd.kind !== 'directory') {
      throw new RefusedError(`${name}: the only device of this daemon goes when that is stopped`);
    }
    await this.#devices.remove(name);
    this.#fromFile.delete(name);
    this.#log.info({ device: name }, 'removed');
  }

  reloadOnSignal(): void {
    this.reload().catch((error: Error) => this.#log.error(`not reloaded: ${error.message}`));
  }

  /** One at a time: the second finds what the first has done. */
  reload(): Promise<ReloadResult> {
    const result = this.#reloading.then(() => this.#reload());
    this.#reloading = result.catch(() => {});
    return result;
  }

  async #reload(): Promise<ReloadResult> {
    if (this.#plan.configPath === undefined) {
      throw new RefusedError('no configuration file: this daemon was started without --config');
    }
    const plan = await planned(this.#given, this.#manager);
    const present = this.#devices.all.map(({ name, settings, isInitialised }) => {
      return { name, settings, isInitialised, isFromFile: this.#fromFile.has(name) };
    });
    const result = { done: [] as string[], refused: [] as string[] };
    for (const step of reloadSteps(this.#plan, plan, present)) {
      await this.#take(step).then(
        (done) => result.done.push(done),
        (error: Error) => result.refused.push(error.message),
      );
    }
    // What takes a restart stays as it is, and is said again by the next reload.
    const { devices, defaults } = plan;
    for (const { name, settings } of devices.filter((device) => this.#devices.has(device.name))) {
      this.#fromFile.add(name);
      this.#devices.named(name).describedAs(settings);
    }
    this.#plan = { ...this.#plan, devices, defaults };
    for (const text of result.done) this.#log.info(`reload: ${text}`);
    for (const text of result.refused) this.#log.warn(`reload: ${text}`);
    return result;
  }

  /** What was done, for people. Rejects with RefusedError. */
  async #take(step: ReloadStep): Promise<string> {
    switch (step.kind) {
      case 'refuse':
        throw new RefusedError(step.why);
      case 'remove':
        await this.removeDevice(step.device);
        return `${step.device}: removed`;
      case 'add': {
        const { name, settings, isInitialised } = step.device;
        const device = await this.addDevice(name, settings);
        this.#fromFile.add(name);
        if (isInitialised) await device.init();
        return `${name}: added`;
      }
      case 'set':
        await this.#devices.named(step.device).set(step.settings);
        return `${step.device}: ${Object.keys(step.settings).join(', ')}`;
      case 'replace':
        await this.#devices.named(step.device).replaceSettings(step.settings);
        return `${step.device}: ${Object.keys(step.settings).join(', ') || 'defaults'}`;
      case 'init':
        await this.#devices.named(step.device).init();
        return `${step.device}: initialised`;
      case 'budget':
        if (this.#budget === undefined || step.bytes === undefined) {
          throw new RefusedError('budget: to have one, or none, takes a restart');
        }
        this.#budget.resize(step.bytes);
        this.#devices.nudge();
        this.#plan = { ...this.#plan, budgetBytes: step.bytes };
        return 'budget';
    }
  }

  // ── To another process, and from it ───────────────────────────────────────────────────────────

  async handOver(device: ManagedDevice, path: string): Promise<never> {
    if (this.#handingOver !== undefined) {
      throw new RefusedError('another process is taking over already');
    }
    if (this.#devices.all.length > 1 || this.#plan.frontEnd.kind === 'directory') {
      throw new RefusedError('take-over: expected a daemon of one device, got one of many');
    }
    this.#log.info('another process takes over');
    const done = device.handOver(path, this.#control!.fd, this.#manager.path);
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
  async #takeOver(): Promise<void> {
    const [{ name, settings }] = this.#plan.devices as [DaemonPlan['devices'][0]];
    const device = this.#devices.add(name, settings);
    try {
      // The guest waits from here to the end: what can be done before is done.
      await device.thread.warmUp();
      const taking = await TakeOver.begin(this.#plan.controlPath);
      await this.#prepare(taking, device);
      await taking.commit();
      this.#goOn(taking.state, device);
      // The guest is served: nothing else may end this process now.
      await this.#openMetrics().catch((error: Error) => this.#log.error(error.message));
    } catch (error) {
      await this.#devices.stop(STOP_MILLIS_MAX);
      throw error;
    }
  }

  /** Makes the device as far as the old process can still have it back. */
  async #prepare(taking: TakeOver, device: ManagedDevice): Promise<void> {
    const { frontEnd, usesFdStore } = this.#plan;
    const { listenPath, files } = taking.state;
    try {
      if (
        frontEnd.kind === 'path' &&
        listenPath !== undefined &&
        resolve(frontEnd.path) !== listenPath
      ) {
        const paths = `expected ${listenPath}, got ${frontEnd.path}`;
        throw new RefusedError(`take-over: socket-path: ${paths}`);
      }
      if (usesFdStore && files.isInFdStore !== true) {
        throw new RefusedError('take-over: --fdstore: expected a daemon that was started with it');
      }
      await device.takeOver(taking.state);
    } catch (error) {
      // First of all the guest is served again.
      taking.giveUp();
      throw error;
    }
  }

  /** The device is this process's. */
  #goOn({ listenFd, listenPath, controlFd }: HandedOver, device: ManagedDevice): void {
    device.resume(listenFd === undefined ? undefined : takenOverSocket(listenFd, listenPath));
    if (controlFd === undefined) return;
    this.#control = listeningSocket(controlFd, this.#plan.controlPath);
    this.#serveControl(controlFd);
  }

  // ── The service manager ───────────────────────────────────────────────────────────────────────

  #fdStoreOf(device: string): FdStore | undefined {
    if (!this.#plan.usesFdStore) return undefined;
    return new FdStore(this.#manager, device, (message) => this.#log.warn(message));
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

/** An error that names a device and perhaps one of its options, with the line that is about it. */
function placed(name: string, place: (option: string) => string, error: unknown): unknown {
  const { message } = error as Error;
  const text = message.startsWith(`${name}: `) ? message.slice(name.length + 2) : '';
  // A backing swap is spoken of as such, with its path.
  const [, option = ''] = /^(backing swap|[a-z-]+)\b/.exec(text) ?? [];
  return about(place(option.replace(' ', '-')), error);
}

function openLog(level: string): Logger {
  const destination = pino.destination({ fd: 2, sync: true });
  // Whoever read the log is gone: the devices go on.
  destination.on('error', () => {});
  return pino({ name: 'ramzswapd', level }, destination);
}
