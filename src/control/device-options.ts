/**
 * A device as it will be made, from what was asked for: SPEC's defaults, limits and warnings. Opens
 * the backing swap, whose size is the disk's.
 */

import { closeSync, fstatSync } from 'node:fs';
import { totalmem } from 'node:os';
import { type BackingFile, openFreeBackingFile } from '../backing/backing-file.ts';
import { about, RefusedError } from '../base/errors.ts';
import { bytesToPages, formatBytes, formatMode, PAGE_BYTES } from '../base/units.ts';
import { type BackingIoKind, backingOptions } from '../device/backing.ts';
import type { DeviceTerms } from '../device/device-terms.ts';
import type { DiskOptions } from '../device/disk.ts';
import type { FdStore } from '../device/fd-store.ts';
import type { NewGuestPolicy } from '../device/front-end-process.ts';
import type { DeviceState } from '../device/handover.ts';
import { BACKED_INCOMPRESSIBLE_BYTES } from '../store/backed-store.ts';
import type { BudgetTerms } from '../store/budget.ts';
import { BACKED_SLOTS_MAX, SLOTS_MAX } from '../store/layout.ts';
import { INCOMPRESSIBLE_BYTES } from '../store/page-store.ts';
import { openStoreFiles } from '../store/store-files.ts';
import type { DeviceOption, DeviceSettings } from './options.ts';
import { DEFAULT_QUEUES } from './plan.ts';

/** SPEC: a quarter of RAM when no size is given; and of compressed data in memory, 15%. */
const DISK_SHARE_OF_RAM = 0.25;
const MEMLIMIT_SHARE_OF_RAM = 0.15;
/** Positions in the arena are 32 bits of 4-byte words. */
const ARENA_BYTES_MAX = 2 ** 34;
/** A swap area wants its header and at least ten pages: the kernel and mkswap refuse less. */
const GUEST_PAGES_MIN = 10;

/** What may be said of a disk; sizes in bytes. */
interface DiskWishes {
  readonly name: string;
  readonly diskBytes: number | undefined;
  /** How far it may grow while the guest runs. */
  readonly diskBytesMax: number | undefined;
  readonly backingSwap: string | undefined;
  readonly backingIo: BackingIoKind;
  readonly memlimitBytes: number | undefined;
  readonly incompressibleBytes: number | undefined;
  readonly guestRamBytes: number | undefined;
  readonly guestPageBytes: number;
  readonly poolLimitBytes: number | undefined;
  readonly onNewGuest: NewGuestPolicy | undefined;
  readonly isLocked: boolean;
  readonly wipesOnFree: boolean;
}

function wishesOf(name: string, settings: DeviceSettings): DiskWishes {
  const number = (option: DeviceOption) => settings[option] as number | undefined;
  return {
    name,
    diskBytes: number('disksize'),
    diskBytesMax: number('max-disksize'),
    backingSwap: settings['backing-swap'] as string | undefined,
    backingIo: (settings['backing-io'] ?? 'auto') as BackingIoKind,
    memlimitBytes: number('memlimit'),
    incompressibleBytes: number('incompressible-bytes'),
    guestRamBytes: number('guest-ram'),
    guestPageBytes: Number(settings['guest-page-size'] ?? PAGE_BYTES),
    // 0: none.
    poolLimitBytes: number('pool-limit') || undefined,
    onNewGuest: settings['on-new-guest'] as NewGuestPolicy | undefined,
    isLocked: settings.mlock === true,
    wipesOnFree: settings['wipe-on-free'] === true,
  };
}

/** What a front end knows the device by from the first moment. */
export function deviceTerms(
  name: string,
  settings: DeviceSettings,
  queueThreads: number,
): DeviceTerms {
  return {
    name,
    logicalBlockBytes: Number(settings['logical-block-size'] ?? PAGE_BYTES),
    numQueues: (settings['num-queues'] as number | undefined) ?? DEFAULT_QUEUES,
    // One thread does all I/O of a backing swap.
    queueThreads: settings['backing-swap'] === undefined ? queueThreads : 1,
  };
}

/** What a disk is made with, besides its settings. */
export interface DiskSurroundings {
  readonly log: Log;
  /** Faults of the backing swap can be ordered. */
  readonly hasFaults: boolean;
  /** Directory on a tmpfs where stores are kept. */
  readonly storeDirectory: string | undefined;
  /** Where the service manager keeps its store. */
  readonly fdStore: FdStore | undefined;
  /** Its share of the daemon's budget. */
  readonly budget: BudgetTerms | undefined;
}

export interface Log {
  info(message: string): void;
  warn(message: string): void;
}

interface Ram {
  readonly bytes: number;
  /** For people: how much it is, and whose. */
  readonly text: string;
}

/**
 * The disk of a device, as its settings say. Opens its backing swap and its files, which are the
 * caller's. Rejects with RefusedError for what cannot be, with the device's name, after a while where
 * another process has them.
 */
export async function diskOptions(
  terms: DeviceTerms,
  settings: DeviceSettings,
  surroundings: DiskSurroundings,
): Promise<DiskOptions> {
  try {
    return await openedOptions(terms, settings, surroundings);
  } catch (error) {
    throw about(terms.name, error);
  }
}

async function openedOptions(
  terms: DeviceTerms,
  settings: DeviceSettings,
  { log, hasFaults, storeDirectory, fdStore, budget }: DiskSurroundings,
): Promise<DiskOptions> {
  const wishes = wishesOf(terms.name, settings);
  const { guestPageBytes, backingSwap } = wishes;
  if (backingSwap !== undefined && (terms.queueThreads ?? 1) > 1) {
    throw new RefusedError(
      `backing-swap: expected --queue-threads 1: one thread keeps the order of its I/O`,
    );
  }
  const ram = ramOf(wishes);
  const file =
    backingSwap === undefined ? undefined : await openFreeBackingFile(backingSwap, guestPageBytes);
  try {
    const diskBytes = diskSize(wishes, file, ram, log);
    const diskBytesMax = diskSizeMax(wishes, diskBytes);
    if (file !== undefined) warnOfMode(file, log);
    warnOfSize(diskBytesMax, file === undefined, ram, log);
    const memlimitBytes = file === undefined ? 0 : memlimit(wishes, diskBytes, ram, log);
    const identity = {
      name: terms.name,
      slots: diskBytesMax / PAGE_BYTES,
      backing: file?.identity,
    };
    const files =
      storeDirectory === undefined
        ? fdStore?.open(identity)
        : openStoreFiles(storeDirectory, identity);
    const io = wishes.backingIo;
    return {
      ...optionsOf(terms, wishes, file !== undefined),
      diskBytes,
      diskBytesMax,
      settings: JSON.stringify(settings),
      ...(budget === undefined ? {} : { budget }),
      ...(files === undefined ? {} : { files }),
      ...(file === undefined
        ? {}
        : { backing: backingOptions(file, { memlimitBytes, io, hasFaults }) }),
    };
  } catch (error) {
    if (file !== undefined) closeSync(file.fd);
    throw error;
  }
}

/** Closes what diskOptions() has opened: the disk is gone. */
export function closeDiskOptions({ files, backing }: DiskOptions): void {
  if (backing !== undefined) closeSync(backing.fd);
  if (files === undefined) return;
  closeSync(files.fd);
  closeSync(files.arenaFd);
}

/** As swapon(8) does: what guests have swapped out lies there, compressed or not. */
function warnOfMode({ fd, path }: BackingFile, log: Log): void {
  const status = fstatSync(fd);
  if (!status.isFile() || (status.mode & 0o077) === 0) return;
  const mode = formatMode(status.mode & 0o777);
  log.warn(`backing swap ${path}: insecure permissions ${mode}, 0600 suggested`);
}

function warnOfSize(diskBytesMax: number, isAllInMemory: boolean, ram: Ram, log: Log): void {
  if (diskBytesMax > 2 * ram.bytes && isAllInMemory) {
    const size = formatBytes(diskBytesMax);
    log.warn(`disksize ${size} is more than twice ${ram.text}: 2:1 is what to expect`);
  }
  if (diskBytesMax > ARENA_BYTES_MAX) {
    log.warn(`at most ${formatBytes(ARENA_BYTES_MAX)} of compressed data will be held in memory`);
  }
}

/** All that has nothing to do with the size. */
function optionsOf(
  { name, queueThreads = 1 }: DeviceTerms,
  wishes: DiskWishes,
  isBacked: boolean,
): Omit<DiskOptions, 'diskBytes' | 'diskBytesMax' | 'files' | 'backing'> {
  const { guestPageBytes, isLocked, wipesOnFree, poolLimitBytes, onNewGuest } = wishes;
  const fallback = isBacked ? BACKED_INCOMPRESSIBLE_BYTES : INCOMPRESSIBLE_BYTES;
  return {
    ...{ name, guestPageBytes, queueThreads, isLocked, wipesOnFree },
    incompressibleBytes: wishes.incompressibleBytes ?? fallback,
    ...(poolLimitBytes === undefined ? {} : { poolLimitBytes }),
    ...(onNewGuest === undefined ? {} : { onNewGuest }),
  };
}

/**
 * A disk that was another process's: what the guest and the store know it by stays, the rest is as
 * asked for. Throws RefusedError where the two cannot be one device.
 */
export function takenOverOptions(
  terms: DeviceTerms,
  settings: DeviceSettings,
  state: DeviceState,
  budget: BudgetTerms | undefined,
): DiskOptions {
  const wishes = wishesOf(terms.name, settings);
  for (const [what, expected, got] of [
    ['name', state.name, terms.name],
    ['num-queues', state.queueCount, terms.numQueues],
    ['guest-page-size', state.guestPageBytes, wishes.guestPageBytes],
    ['logical-block-size', state.logicalBlockBytes, terms.logicalBlockBytes],
  ]) {
    if (expected !== got)
      throw new RefusedError(`take-over: ${what}: expected ${expected}, got ${got}`);
  }
  const diskBytes = state.slotsMax * PAGE_BYTES;
  return {
    ...optionsOf(terms, wishes, state.backing !== undefined),
    diskBytes,
    diskBytesMax: diskBytes,
    files: state.files,
    takenOver: state,
    ...(budget === undefined ? {} : { budget }),
    ...(state.backing === undefined ? {} : { backing: state.backing }),
  };
}

/** A new memory limit for a running device: what was asked for, in whole pages, if it can be. */
export function changedMemlimit(device: DiskOptions, bytes: unknown): number {
  if (device.backing === undefined) {
    throw new RefusedError(`${device.name}: a memory limit needs a backing swap`);
  }
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < PAGE_BYTES) {
    throw new RefusedError(
      `${device.name}: memlimit: expected a page (${PAGE_BYTES} bytes) at least, got ${bytes}`,
    );
  }
  if (bytes > device.diskBytes) {
    const most = formatBytes(device.diskBytes);
    throw new RefusedError(
      `${device.name}: memlimit: expected the backing swap's size (${most}) at most, got ` +
        formatBytes(bytes),
    );
  }
  return bytesToPages(bytes) * PAGE_BYTES;
}

/** A new size for a running device: what was asked for, in whole guest pages, if it can be. */
export function grownDiskSize(device: DiskOptions, now: number, bytes: unknown): number {
  const { name, diskBytesMax = device.diskBytes, guestPageBytes } = device;
  if (device.backing !== undefined) {
    throw new RefusedError(`${name}: the disk is as large as its backing swap, and stays so`);
  }
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < now) {
    const got = typeof bytes === 'number' ? kilobytes(bytes) : bytes;
    const least = `${kilobytes(now)}, what it is, or more`;
    throw new RefusedError(`${name}: disksize: expected ${least}, got ${got}`);
  }
  if (bytes > diskBytesMax) {
    const [most, got] = [kilobytes(diskBytesMax), kilobytes(bytes)];
    throw new RefusedError(
      `${name}: disksize: expected ${most} (max-disksize) at most, got ${got}`,
    );
  }
  return Math.floor(bytes / guestPageBytes) * guestPageBytes;
}

/** Exact, and as the tool takes it: rounded sizes may look alike. */
function kilobytes(bytes: number): string {
  return `${bytes / 1024} kB`;
}

function diskSizeMax({ diskBytesMax, guestPageBytes }: DiskWishes, diskBytes: number): number {
  if (diskBytesMax === undefined) return diskBytes;
  const bytes = Math.floor(diskBytesMax / guestPageBytes) * guestPageBytes;
  if (bytes < diskBytes) {
    const [least, got] = [formatBytes(diskBytes), formatBytes(diskBytesMax)];
    throw new RefusedError(`max-disksize: expected ${least} (disksize) at least, got ${got}`);
  }
  if (bytes / PAGE_BYTES > SLOTS_MAX) {
    const most = formatBytes(SLOTS_MAX * PAGE_BYTES);
    throw new RefusedError(`max-disksize: expected ${most} at most, got ${formatBytes(bytes)}`);
  }
  return bytes;
}

function ramOf({ guestRamBytes }: DiskWishes): Ram {
  const bytes = guestRamBytes ?? totalmem();
  const whose = guestRamBytes === undefined ? "the host's" : "the guest's";
  return { bytes, text: `${formatBytes(bytes)} of RAM (${whose})` };
}

/** SPEC: with a backing swap the disk is as large as that is usable. Whole guest pages. */
function diskSize(wishes: DiskWishes, file: BackingFile | undefined, ram: Ram, log: Log): number {
  const given = file === undefined ? wishes.diskBytes : file.map.pages * PAGE_BYTES;
  const asked = given ?? ram.bytes * DISK_SHARE_OF_RAM;
  const bytes = Math.floor(asked / wishes.guestPageBytes) * wishes.guestPageBytes;
  checkDiskSize(bytes, asked, wishes.guestPageBytes, file !== undefined);
  if (given === undefined) {
    log.info(`disksize not given: ${formatBytes(bytes)}, a quarter of ${ram.text}`);
  }
  return bytes;
}

/** `asked`: before it was rounded to pages. */
function checkDiskSize(
  diskBytes: number,
  asked: number,
  guestPageBytes: number,
  isBacked: boolean,
): void {
  const what = isBacked ? 'backing swap' : 'disksize';
  if (diskBytes < guestPageBytes * GUEST_PAGES_MIN) {
    throw new RefusedError(`${what}: expected ten pages at least, got ${formatBytes(asked)}`);
  }
  const slotsMax = isBacked ? BACKED_SLOTS_MAX : SLOTS_MAX;
  if (diskBytes / PAGE_BYTES > slotsMax) {
    const most = formatBytes(slotsMax * PAGE_BYTES);
    throw new RefusedError(`${what}: expected ${most} at most, got ${formatBytes(diskBytes)}`);
  }
}

/** SPEC: never larger than the backing swap (then the default is used), never 0, whole pages. */
function memlimit(wishes: DiskWishes, diskBytes: number, ram: Ram, log: Log): number {
  const fallback = Math.min(ram.bytes * MEMLIMIT_SHARE_OF_RAM, diskBytes);
  let bytes = wishes.memlimitBytes ?? fallback;
  if (bytes > diskBytes) {
    log.warn(
      `memlimit ${formatBytes(bytes)} is more than the backing swap has: ` +
        `the default is used, ${formatBytes(Math.floor(fallback))}`,
    );
    bytes = fallback;
  }
  const whole = Math.max(1, bytesToPages(bytes)) * PAGE_BYTES;
  if (wishes.memlimitBytes === undefined) {
    log.info(
      `memlimit not given: ${formatBytes(whole)}, the smaller of 15% of ${ram.text} and disk`,
    );
  }
  if (whole > ram.bytes / 2)
    log.warn(`memlimit ${formatBytes(whole)} is more than half ${ram.text}`);
  return whole;
}
