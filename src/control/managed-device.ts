/**
 * One device as the control thread has it: its settings, its state, where it listens, and the orders
 * that its reactor thread is given. What is asked of it is done one after the other.
 *
 *   uninitialised ── init ──► initialised ── a front end starts queues ──► active
 *        ▲                        │  ▲                                        │
 *        └──────── reset ─────────┘  └──────────── stops them ────────────────┘
 */

import { fstatSync, type Stats } from 'node:fs';
import type { Faults } from '../backing/fault-io.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { formatBytes } from '../base/units.ts';
import type { DeviceTerms } from '../device/device-terms.ts';
import type { DiskOptions } from '../device/disk.ts';
import { closeFd } from '../device/endpoint.ts';
import type { FdStore } from '../device/fd-store.ts';
import type { DeviceState as HandedOver } from '../device/handover.ts';
import type { HandedOverSockets, Order } from '../device/orders.ts';
import type { ReactorThread } from '../device/reactor-thread.ts';
import type { Budget, BudgetTerms, DeviceShare } from '../store/budget.ts';
import type { Statistics } from '../store/statistics.ts';
import { removeStoreFiles } from '../store/store-files.ts';
import {
  changedMemlimit,
  closeDiskOptions,
  deviceTerms,
  diskOptions,
  grownDiskSize,
  type Log,
  takenOverOptions,
} from './device-options.ts';
import {
  asAdded,
  CHANGEABLE,
  checkSettingsOf,
  type DeviceOption,
  type DeviceSettings,
} from './options.ts';
import { merged } from './plan.ts';
import type { DeviceStatus, ShareStatus } from './protocol.ts';

/** A turn takes a few milliseconds; an order before it, such as a store to be found, up to seconds. */
const OBEY_MILLIS_MAX = 5000;

/** What all devices of the daemon have in common. */
export interface DeviceHost {
  readonly hasFaults: boolean;
  /** Directory on a tmpfs where stores are kept. */
  readonly storeDirectory: string | undefined;
  readonly queueThreads: number;
  /** There is one, and no other will come. */
  readonly hasOneDevice: boolean;
  /** Of host memory, for all devices together. */
  readonly budget: Budget | undefined;
  /** Devices come back, with what they hold already: none is refused for what others hold. */
  isStarting(): boolean;
  /** Some device has more or less of it now, or may have. */
  sharesChanged(): void;
  logOf(device: string): Log;
  /** Which of the daemon's devices has its backing swap there, if one does. */
  userOfSwap(path: string): string | undefined;
  /** Where the service manager keeps the device's store, if it does. */
  fdStore(device: string): FdStore | undefined;
}

/** Where front ends connect; `path` undefined: an inherited descriptor, or one connection that is. */
export interface DeviceSocket {
  readonly fd: number;
  readonly path: string | undefined;
  readonly isListening: boolean;
  /** Removes the socket file, if there is one that is ours. */
  remove(): void;
}

export class ManagedDevice {
  readonly name: string;
  readonly terms: DeviceTerms;
  readonly thread: ReactorThread;
  /** Which of the daemon's threads that is. */
  readonly threadNumber: number;
  readonly #host: DeviceHost;
  readonly #log: Log;
  /** For the next init, and those of the running disk that have changed since. */
  #settings: DeviceSettings;
  /** What holds when all orders are forgotten: as it was added, or as the configuration file has it. */
  #described: DeviceSettings;
  #disk: DiskOptions | undefined;
  #share: DeviceShare | undefined;
  #socket: DeviceSocket | undefined;
  #isConnected = false;
  #isRunning = false;
  #isRemoved = false;
  /** The last thing asked of it, done or not. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    name: string,
    settings: DeviceSettings,
    host: DeviceHost,
    thread: ReactorThread,
    threadNumber: number,
  ) {
    this.name = name;
    this.#settings = settings;
    this.#described = settings;
    this.#host = host;
    this.#log = host.logOf(name);
    this.thread = thread;
    this.threadNumber = threadNumber;
    this.terms = deviceTerms(name, settings, host.queueThreads);
    thread.open(this.terms);
  }

  get isInitialised(): boolean {
    return this.#disk !== undefined;
  }

  /** What the next init, or the disk that there is, was told. */
  get settings(): DeviceSettings {
    return this.#settings;
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  get socket(): DeviceSocket | undefined {
    return this.#socket;
  }

  get status(): DeviceStatus {
    const state = this.#isRunning ? 'active' : 'initialised';
    return {
      device: this.name,
      state: this.isInitialised ? state : 'uninitialised',
      connected: this.#isConnected,
      socket: this.#socket?.path ?? null,
      thread: this.threadNumber,
      statistics: this.thread.statistics(this.name) ?? null,
      share: this.#shareStatus(),
    };
  }

  #shareStatus(): ShareStatus | null {
    if (this.#share === undefined) return null;
    const { guaranteeBytes, usedBytes, shareBytes, refusals } = this.#share.figures;
    return { guarantee: guaranteeBytes, used: usedBytes, share: shareBytes, refused: refusals };
  }

  /** Throws RefusedError without a disk. */
  statistics(): Statistics {
    this.#needDisk();
    const statistics = this.thread.statistics(this.name);
    if (statistics === undefined) throw new RefusedError(`${this.name}: has no statistics`);
    return statistics;
  }

  /** The reactor has said so. */
  connectionIs(isConnected: boolean): void {
    this.#isConnected = isConnected;
  }

  runningIs(isRunning: boolean): void {
    this.#isRunning = isRunning;
  }

  /** From now on front ends connect there. */
  listen(socket: DeviceSocket): void {
    this.#socket = socket;
    const { fd } = socket;
    this.thread.order({ kind: socket.isListening ? 'listen' : 'adopt', device: this.name, fd });
  }

  /** Nobody finds it any more; who is connected stays. */
  removeSocket(): void {
    try {
      this.#socket?.remove();
    } catch (error) {
      // The directory may be somebody else's by now; that is no reason for anything not to end.
      this.#log.warn(`the socket is left: ${(error as Error).message}`);
    }
  }

  /**
   * Makes the disk, with these settings before those that it has. Resolves with what is unusual about
   * it, which is logged, too. Rejects with RefusedError.
   */
  init(settings: DeviceSettings = {}): Promise<readonly string[]> {
    return this.#inTurn(async () => {
      if (this.#disk !== undefined) throw new RefusedError(`${this.name}: already initialised`);
      const all = this.#withSettings(settings);
      checkSettingsOf(this.name, all);
      this.#checkSwapIsFree(all['backing-swap'] as string | undefined);
      const fdStore = this.#host.fdStore(this.name);
      const warnings: string[] = [];
      const log = alsoIn(warnings, this.#log);
      const options = await this.#withShare(all, (budget) => {
        return diskOptions(this.terms, all, { ...this.#host, log, fdStore, budget });
      });
      try {
        await this.thread.init(this.name, options);
      } catch (error) {
        // Nobody has had anything in a new store.
        if (options.files?.isKept === false) this.#removeStore(options);
        closeDiskOptions(options);
        this.#leaveBudget();
        throw error;
      }
      this.#disk = options;
      await this.#haveKept(options, fdStore);
      this.#settings = all;
      const { disksize = options.diskBytes } = this.thread.statistics(this.name) ?? {};
      this.#log.info(`initialised: ${formatBytes(disksize)}`);
      return warnings;
    });
  }

  /** The lock on it would say no more than that some process has it. Throws RefusedError. */
  #checkSwapIsFree(path: string | undefined): void {
    const user = path === undefined ? undefined : this.#host.userOfSwap(path);
    if (user === undefined) return;
    throw new RefusedError(`${this.name}: backing swap ${path}: ${user} of this daemon has it`);
  }

  /** Whether its backing swap is that file or device. */
  hasSwap({ dev, ino, rdev }: Stats): boolean {
    if (this.#disk?.backing === undefined) return false;
    const own = fstatSync(this.#disk.backing.fd);
    return own.isBlockDevice() ? own.rdev === rdev : own.dev === dev && own.ino === ino;
  }

  /**
   * A new store is complete now, and holds nothing yet that could be lost. Where it cannot be kept the
   * disk is taken away again, unless a guest is using it already. Rejects with RefusedError, SystemError.
   */
  async #haveKept({ files }: DiskOptions, fdStore: FdStore | undefined): Promise<void> {
    if (fdStore === undefined || files?.isKept !== false) return;
    try {
      fdStore.keep(files);
    } catch (error) {
      const isGone = await this.thread.reset(this.name).then(
        () => true,
        () => false,
      );
      if (!isGone) {
        this.#log.warn(`the service manager does not keep its store: ${(error as Error).message}`);
        return;
      }
      this.#forgetDisk();
      throw error;
    }
  }

  /** Goes on, when resumed, with a disk of another process. Rejects with RefusedError. */
  async takeOver(state: HandedOver): Promise<void> {
    const options = await this.#withShare(this.#settings, (budget) => {
      return takenOverOptions(this.terms, this.#settings, state, budget);
    });
    await this.thread.init(this.name, options);
    this.#disk = options;
  }

  /** What was taken over is this process's. */
  resume(socket: DeviceSocket | undefined): void {
    this.#socket = socket;
    this.thread.order({ kind: 'resume', device: this.name, listenFd: socket?.fd });
  }

  handOver(path: string, controlFd: number, managerPath: string | undefined): Promise<never> {
    const socket = this.#socket?.isListening === true ? this.#socket : undefined;
    const sockets: HandedOverSockets = {
      controlFd,
      listenFd: socket?.fd,
      listenPath: socket?.path,
    };
    const device = this.name;
    return this.thread.handOver({ kind: 'handOver', device, path, sockets, managerPath });
  }

  /** These are what a reset goes back to; what a front end knows already stays. */
  describedAs(settings: DeviceSettings): void {
    this.#described = asAdded(settings, this.#described);
  }

  /** Frees the disk and all its memory, and forgets what was ordered. Rejects with RefusedError while it is in use. */
  reset(): Promise<void> {
    return this.#inTurn(async () => {
      this.#needDisk();
      await this.thread.reset(this.name);
      this.#forgetDisk();
      this.#settings = this.#described;
    });
  }

  /** The device is gone. Rejects with RefusedError while it is in use. */
  remove(): Promise<void> {
    return this.#inTurn(async () => {
      await this.thread.remove(this.name);
      this.#isRemoved = true;
      this.#forgetDisk();
      this.removeSocket();
      // Whoever waits there to be accepted is told by that, too.
      if (this.#socket?.isListening === true) closeFd(this.#socket.fd);
      this.#socket = undefined;
    });
  }

  #forgetDisk(): void {
    if (this.#disk === undefined) return;
    this.#removeStore(this.#disk);
    closeDiskOptions(this.#disk);
    this.#disk = undefined;
    this.#leaveBudget();
  }

  /** Takes a share of the budget for what `make` makes. Rejects with RefusedError. */
  async #withShare(
    { guarantee }: DeviceSettings,
    make: (budget: BudgetTerms | undefined) => DiskOptions | Promise<DiskOptions>,
  ): Promise<DiskOptions> {
    const { budget } = this.#host;
    const bytes = (guarantee as number | undefined) ?? 0;
    if (budget === undefined && bytes > 0) {
      throw new RefusedError(`${this.name}: guarantee: expected a daemon with a budget`);
    }
    this.#share = budget?.add(this.name, bytes, this.#host.isStarting());
    this.#host.sharesChanged();
    try {
      return await make(this.#share?.terms);
    } catch (error) {
      this.#leaveBudget();
      throw error;
    }
  }

  #leaveBudget(): void {
    if (this.#share === undefined) return;
    this.#share.remove();
    this.#share = undefined;
    this.#host.sharesChanged();
  }

  /** Settings for the next init; where there is a disk, those of it that may change. */
  set(settings: DeviceSettings): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#disk === undefined) {
        const all = this.#withSettings(settings);
        checkSettingsOf(this.name, all, this.#settings);
        this.#settings = all;
        return;
      }
      for (const option of Object.keys(settings) as DeviceOption[]) {
        if (CHANGEABLE.has(option)) continue;
        throw new RefusedError(`${this.name}: already initialised: ${option} stays as it is`);
      }
      await this.#change(settings);
    });
  }

  /**
   * All that can be refused is, before anything changes. What others hold of the budget is known only by
   * taking it: so that is first. What has been done is what holds, whatever becomes of the rest.
   */
  async #change(settings: DeviceSettings): Promise<void> {
    const { memlimit, disksize } = settings;
    if (memlimit !== undefined) changedMemlimit(this.#needDisk(), memlimit);
    if (disksize !== undefined) this.#grownSize(disksize as number);
    const changes: [DeviceOption, (bytes: number) => unknown][] = [
      ['guarantee', (bytes) => this.#setGuarantee(bytes)],
      ['memlimit', (bytes) => this.#setMemlimit(bytes)],
      ['disksize', (bytes) => this.#grow(bytes)],
      ['pool-limit', (bytes) => this.#setPoolLimit(bytes)],
    ];
    for (const [option, change] of changes) {
      const bytes = settings[option];
      if (bytes === undefined) continue;
      await change(bytes as number);
      this.#settings = { ...this.#settings, [option]: bytes };
    }
  }

  /** These alone, for the next init. Rejects with RefusedError where there is a disk. */
  replaceSettings(settings: DeviceSettings): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#disk !== undefined) throw new RefusedError(`${this.name}: already initialised`);
      this.#checkTerms(settings);
      this.#settings = settings;
      this.#described = settings;
    });
  }

  #setGuarantee(bytes: number): void {
    if (this.#share === undefined) {
      if (bytes === 0) return;
      throw new RefusedError(`${this.name}: guarantee: expected a daemon with a budget`);
    }
    this.#share.guaranteeBytes = bytes;
    this.#host.sharesChanged();
  }

  async #setPoolLimit(bytes: number): Promise<void> {
    await this.#obeyed({ kind: 'poolLimit', device: this.name, bytes: bytes || undefined });
  }

  /** Resolves with the limit in whole pages. */
  setMemlimit(bytes: number): Promise<number> {
    return this.#inTurn(() => this.#setMemlimit(bytes));
  }

  async #setMemlimit(wanted: number): Promise<number> {
    const bytes = changedMemlimit(this.#needDisk(), wanted);
    await this.#obeyed({ kind: 'memlimit', device: this.name, bytes });
    return bytes;
  }

  /** Resolves with the size in whole guest pages. */
  grow(bytes: number): Promise<number> {
    return this.#inTurn(() => this.#grow(bytes));
  }

  async #grow(wanted: number): Promise<number> {
    const bytes = this.#grownSize(wanted);
    await this.#obeyed({ kind: 'grow', device: this.name, bytes });
    return bytes;
  }

  #grownSize(wanted: number): number {
    return grownDiskSize(this.#needDisk(), this.statistics().disksize, wanted);
  }

  async orderFaults(faults: Faults): Promise<void> {
    await this.#obeyed({ kind: 'faults', device: this.name, faults });
  }

  /**
   * Orders are obeyed within a turn of the reactor: whoever asks next should see that. Rejects with
   * RefusedError when its thread does not come by.
   */
  async #obeyed(order: Order): Promise<void> {
    const isObeyed = this.thread.order(order);
    const deadline = performance.now() + OBEY_MILLIS_MAX;
    while (!isObeyed()) {
      if (performance.now() > deadline) {
        const what = `${order.kind} was not obeyed within ${OBEY_MILLIS_MAX} ms, and may be yet`;
        throw new RefusedError(`${this.name}: its thread does not answer: ${what}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  /** The process ends: what is kept of a store that nobody can come back for goes. */
  end(): void {
    const isKept = this.#disk?.files !== undefined;
    if (!isKept || !this.thread.isReleased(this.name)) return;
    this.#log.info('nobody can come back for its pages: the store is removed');
    this.#removeStore(this.#disk!);
  }

  /** The process could not start: nobody has had anything in a store that it has made. */
  abandonNewStore(): void {
    if (this.#disk?.files?.isKept === false) this.#removeStore(this.#disk);
  }

  #removeStore({ files }: DiskOptions): void {
    if (files === undefined) return;
    try {
      if (files.isInFdStore === true) this.#host.fdStore(this.name)?.remove();
      else removeStoreFiles(files, this.name);
    } catch (error) {
      if (!(error instanceof SystemError) && !(error instanceof RefusedError)) throw error;
      this.#log.warn(`the store is left: ${error.message}`);
    }
  }

  /** Throws RefusedError without a disk. */
  #needDisk(): DiskOptions {
    if (this.#disk === undefined) throw new RefusedError(`${this.name}: not initialised`);
    return this.#disk;
  }

  /** What a front end knows already stays. */
  #withSettings(settings: DeviceSettings): DeviceSettings {
    const all = merged(this.#settings, settings);
    this.#checkTerms(all);
    return all;
  }

  #checkTerms(all: DeviceSettings): void {
    const { numQueues, logicalBlockBytes } = deviceTerms(this.name, all, 1);
    for (const [option, is, wanted] of [
      ['num-queues', this.terms.numQueues, numQueues],
      ['logical-block-size', this.terms.logicalBlockBytes, logicalBlockBytes],
    ]) {
      if (is === wanted) continue;
      throw new RefusedError(
        `${this.name}: ${option}: expected ${is}, as it was added, got ${wanted}`,
      );
    }
  }

  #inTurn<T>(operation: () => Promise<T>): Promise<T> {
    const result = this.#last.then(() => {
      // Its thread knows it no more.
      if (this.#isRemoved) throw new RefusedError(`no device '${this.name}': it was removed`);
      return operation();
    });
    this.#last = result.catch(() => {});
    return result;
  }
}

/** A log that keeps its warnings for whoever has given the order. */
function alsoIn(warnings: string[], log: Log): Log {
  return {
    info: (message) => log.info(message),
    warn: (message) => {
      warnings.push(message);
      log.warn(message);
    },
  };
}
