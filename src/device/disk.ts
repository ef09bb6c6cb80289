/**
 * What a device has while it is initialised: the store, the backing swap if there is one, and who owns
 * the pages. Belongs to one reactor; its descriptors (`files`, `backing`) stay the control thread's.
 *
 * Life: opened (new, found again, or taken over from a process that may yet go on) → served →
 * closed, when all its memory is free.
 */

import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import type { PageStore } from '../store/page-store.ts';
import type { StoreFiles } from '../store/store-files.ts';
import type { PageStoreOptions } from '../store/store-options.ts';
import { type Backing, type BackingOptions, makeBacking } from './backing.ts';
import { freeStore, goOnWithStore, openStore } from './device-store.ts';
import type { NewGuestPolicy } from './front-end-process.ts';
import type { DeviceState } from './handover.ts';
import { PageOwner } from './page-owner.ts';
import type { ThreadDisk } from './queue-set.ts';
import { releaseAll } from './releases.ts';
import type { Report } from './reports.ts';

/** How long a guest may wait for I/O before its device is handed over: else it is not, now. */
const PAUSE_SETTLE_MILLIS = 1000;
/** How long all guests of the thread may wait for another's disk to be closed: it is tried again. */
const CLOSE_SETTLE_MILLIS = 20;

export interface DiskOptions extends Pick<PageStoreOptions, 'budget'> {
  /** The device's; also the label of the swap area. */
  readonly name: string;
  readonly diskBytes: number;
  /** How far grow() may go. Default: not at all. */
  readonly diskBytesMax?: number;
  readonly guestPageBytes: number;
  /** Threads that serve the device's queues. Default 1. */
  readonly queueThreads?: number;
  readonly poolLimitBytes?: number;
  /** The store's memory is never swapped out. */
  readonly isLocked?: boolean;
  /** Nothing of a page stays in the store's memory when it is freed, overwritten or moved. */
  readonly wipesOnFree?: boolean;
  /** A page that compresses to more is incompressible. */
  readonly incompressibleBytes?: number;
  readonly backing?: BackingOptions;
  /** What a front end finds that the store did not serve before. Default: nothing. */
  readonly onNewGuest?: NewGuestPolicy;
  /** Where the store lies. Default: in memory, gone with the process. */
  readonly files?: StoreFiles;
  /** What its operator has said of it, for the next process to find with a kept store. */
  readonly settings?: string;
  /** Goes on with what another process has handed over: its store is in `files`. */
  readonly takenOver?: DeviceState;
}

/** What the reactor does for a device's backing swap: watch for the end of I/O. */
export interface CompletionWatcher {
  watchCompletions(fd: number, onReadable: () => void): void;
  unwatchCompletions(fd: number): void;
}

export class Disk {
  readonly options: DiskOptions;
  /** What is in memory. */
  readonly store: PageStore;
  readonly owner: PageOwner;
  readonly #backing: Backing | undefined;
  readonly #watcher: CompletionWatcher;
  readonly #report: Report;
  /** From a process that may yet go on: nothing is changed before goOn(). */
  #isTakenOver: boolean;

  /** Throws RefusedError or SystemError. */
  constructor(options: DiskOptions, watcher: CompletionWatcher, report: Report) {
    const slots = options.diskBytes / PAGE_BYTES;
    assert(Number.isInteger(slots) && slots >= 2, 'a disk is whole pages, two at least');
    const { backing, guestPageBytes, queueThreads = 1 } = options;
    assert(
      backing === undefined || queueThreads === 1,
      'one thread does all I/O of a backing swap',
    );
    this.options = options;
    this.#watcher = watcher;
    this.#report = report;
    this.store = openStore(options, report);
    this.#isTakenOver = options.takenOver !== undefined;
    this.store.onTrouble = (what) => report('error', what);
    try {
      this.#backing = backing && makeBacking(backing, this.store, guestPageBytes / PAGE_BYTES);
    } catch (error) {
      freeStore(options, this.store.mapped);
      throw error;
    }
    const ofGuest: Report = (level, message) => report(level, message, 'new guest');
    this.owner = new PageOwner(options, this.store, this.#backing, ofGuest);
    if (this.#backing !== undefined) this.#watch(this.#backing);
  }

  /** Throws SystemError where the kernel has no watch left; nothing of the disk stays then. */
  #watch({ store, ioName, close }: Backing): void {
    try {
      this.#watcher.watchCompletions(store.wakeFd, () => store.woken());
    } catch (error) {
      releaseAll(this.#report, [close, () => freeStore(this.options, this.store.mapped)]);
      throw error;
    }
    const { path, extents } = this.options.backing!;
    this.#report('info', `backing swap ${path}: ${extents.length} extents, ${ioName}`);
  }

  /** As the reactor's own thread serves it. */
  get ofThread(): ThreadDisk {
    return { store: this.store, backed: this.#backing?.store };
  }

  get backing(): Backing | undefined {
    return this.#backing;
  }

  /** Before another process maps it. Throws RefusedError where I/O does not end; nothing is changed. */
  pause(): void {
    this.owner.mustSettle(PAUSE_SETTLE_MILLIS);
    this.owner.mustBeWhole();
    this.store.mapped.header.close();
  }

  /** Goes on after pause(), of this process or of the one that it was taken over from. */
  goOn(): void {
    if (this.#isTakenOver) goOnWithStore(this.store, this.options, this.#report);
    else this.store.mapped.header.open(this.options.queueThreads ?? 1);
    this.#isTakenOver = false;
  }

  get isTakenOver(): boolean {
    return this.#isTakenOver;
  }

  /** The process ends in order: the store is left as whoever finds it would make it. */
  leave(): void {
    // Not of another process, which may have gone on.
    if (!this.#isTakenOver) this.store.mapped.header.close();
  }

  /** Throws UnsettledError while I/O is under way, and it cannot be closed. */
  mustSettle(): void {
    this.owner.mustSettle(CLOSE_SETTLE_MILLIS);
  }

  /** All memory of it is free, as far as this thread had it; after the queues have let go of it. */
  close(): void {
    const backing = this.#backing;
    releaseAll(this.#report, [
      () => backing && this.#watcher.unwatchCompletions(backing.store.wakeFd),
      () => backing?.close(),
      // The queues have unmapped it; where they never had it, nobody has.
      () => freeStore(this.options, this.store.mapped),
    ]);
  }
}

/** Refuses what only a disk can do. */
export function needDisk(disk: Disk | undefined, name: string): Disk {
  if (disk === undefined) throw new RefusedError(`${name}: not initialised`);
  return disk;
}
