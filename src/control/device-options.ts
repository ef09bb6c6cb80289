/**
 * A device as it will be made, from what was asked for: SPEC's defaults, limits and warnings. Opens
 * the backing swap, whose size is the disk's.
 */

import { totalmem } from 'node:os';
import { type BackingFile, openBackingFile } from '../backing/backing-file.ts';
import { RefusedError } from '../base/errors.ts';
import { bytesToPages, formatBytes, PAGE_BYTES } from '../base/units.ts';
import { type BackingIoKind, backingOptions } from '../device/backing.ts';
import type { BlockDeviceOptions } from '../device/block-device.ts';
import type { FdStore } from '../device/fd-store.ts';
import type { NewGuestPolicy } from '../device/front-end-process.ts';
import type { DeviceState } from '../device/handover.ts';
import { BACKED_INCOMPRESSIBLE_BYTES } from '../store/backed-store.ts';
import { BACKED_SLOTS_MAX, SLOTS_MAX } from '../store/layout.ts';
import { INCOMPRESSIBLE_BYTES } from '../store/page-store.ts';
import { openStoreFiles, type StoreFiles } from '../store/store-files.ts';

/** SPEC: a quarter of RAM when no size is given; and of compressed data in memory, 15%. */
const DISK_SHARE_OF_RAM = 0.25;
const MEMLIMIT_SHARE_OF_RAM = 0.15;
/** Positions in the arena are 32 bits of 4-byte words. */
const ARENA_BYTES_MAX = 2 ** 34;
/** A swap area wants its header and at least ten pages: the kernel and mkswap refuse less. */
const GUEST_PAGES_MIN = 10;

/** What may be said of a device at start; sizes in bytes. */
export interface DeviceWishes {
  readonly name: string;
  readonly diskBytes?: number;
  /** How far it may grow while the guest runs. */
  readonly diskBytesMax?: number;
  readonly backingSwap?: string;
  readonly backingIo?: BackingIoKind;
  readonly memlimitBytes?: number;
  readonly incompressibleBytes?: number;
  readonly guestRamBytes?: number;
  readonly guestPageBytes: number;
  readonly logicalBlockBytes?: number;
  readonly numQueues: number;
  readonly queueThreads?: number;
  readonly poolLimitBytes?: number;
  readonly onNewGuest?: NewGuestPolicy;
  /** Directory on a tmpfs where the store is kept. */
  readonly storeDirectory?: string;
  readonly isLocked?: boolean;
  readonly wipesOnFree?: boolean;
}

interface Log {
  info(message: string): void;
  warn(message: string): void;
}

interface Ram {
  readonly bytes: number;
  /** For people: how much it is, and whose. */
  readonly text: string;
}

/** Throws RefusedError for what cannot be. `fdStore`: the service manager keeps its store. */
export function deviceOptions(
  wishes: DeviceWishes,
  log: Log,
  hasFaults: boolean,
  fdStore?: FdStore,
): BlockDeviceOptions {
  const { guestPageBytes, backingSwap } = wishes;
  const ram = ramOf(wishes);
  const file = backingSwap === undefined ? undefined : openBackingFile(backingSwap, guestPageBytes);
  const diskBytes = diskSize(wishes, file, ram, log);
  checkDiskSize(diskBytes, guestPageBytes, file !== undefined);
  const diskBytesMax = diskSizeMax(wishes, diskBytes);
  if (diskBytesMax > 2 * ram.bytes && file === undefined) {
    const size = formatBytes(diskBytesMax);
    log.warn(`disksize ${size} is more than twice ${ram.text}: 2:1 is what to expect`);
  }
  if (diskBytesMax > ARENA_BYTES_MAX) {
    log.warn(`at most ${formatBytes(ARENA_BYTES_MAX)} of compressed data will be held in memory`);
  }
  const io = wishes.backingIo ?? 'auto';
  const files = storeFiles(wishes, diskBytesMax, file, fdStore);
  return {
    ...optionsOf(wishes, file !== undefined),
    diskBytes,
    diskBytesMax,
    ...(files === undefined ? {} : { files }),
    ...(file === undefined
      ? {}
      : {
          backing: backingOptions(file, {
            memlimitBytes: memlimit(wishes, diskBytes, ram, log),
            io,
            hasFaults,
          }),
        }),
  };
}

/** All that has nothing to do with the size. */
function optionsOf(
  wishes: DeviceWishes,
  isBacked: boolean,
): Omit<BlockDeviceOptions, 'diskBytes' | 'diskBytesMax' | 'files' | 'backing'> {
  const { name, guestPageBytes, numQueues, queueThreads = 1 } = wishes;
  const { isLocked = false, wipesOnFree = false, poolLimitBytes, onNewGuest } = wishes;
  const { logicalBlockBytes } = wishes;
  const fallback = isBacked ? BACKED_INCOMPRESSIBLE_BYTES : INCOMPRESSIBLE_BYTES;
  return {
    ...{ name, guestPageBytes, numQueues, queueThreads, isLocked, wipesOnFree },
    incompressibleBytes: wishes.incompressibleBytes ?? fallback,
    ...(logicalBlockBytes === undefined ? {} : { logicalBlockBytes }),
    ...(poolLimitBytes === undefined ? {} : { poolLimitBytes }),
    ...(onNewGuest === undefined ? {} : { onNewGuest }),
  };
}

/**
 * A device that was another process's: what the guest and the store know it by stays, the rest is as
 * asked for. Throws RefusedError where the two cannot be one device.
 */
export function takenOverOptions(wishes: DeviceWishes, state: DeviceState): BlockDeviceOptions {
  const { name, numQueues, guestPageBytes } = wishes;
  for (const [what, expected, got] of [
    ['name', state.name, name],
    ['num-queues', state.queueCount, numQueues],
    ['guest-page-size', state.guestPageBytes, guestPageBytes],
    ['logical-block-size', state.logicalBlockBytes, wishes.logicalBlockBytes ?? PAGE_BYTES],
  ]) {
    if (expected !== got)
      throw new RefusedError(`take-over: ${what}: expected ${expected}, got ${got}`);
  }
  const diskBytes = state.slotsMax * PAGE_BYTES;
  return {
    ...optionsOf(wishes, state.backing !== undefined),
    diskBytes,
    diskBytesMax: diskBytes,
    files: state.files,
    takenOver: state,
    ...(state.backing === undefined ? {} : { backing: state.backing }),
  };
}

function storeFiles(
  { name, storeDirectory }: DeviceWishes,
  diskBytesMax: number,
  file: BackingFile | undefined,
  fdStore: FdStore | undefined,
): StoreFiles | undefined {
  const identity = { name, slots: diskBytesMax / PAGE_BYTES, backing: file?.identity };
  if (storeDirectory !== undefined) return openStoreFiles(storeDirectory, identity);
  return fdStore?.open(identity);
}

/** A new memory limit for a running device: what was asked for, in whole pages, if it can be. */
export function changedMemlimit(device: BlockDeviceOptions, bytes: unknown): number {
  if (device.backing === undefined) {
    throw new RefusedError(`${device.name}: a memory limit needs a backing swap`);
  }
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < PAGE_BYTES) {
    throw new RefusedError(
      `memlimit: expected a page (${PAGE_BYTES} bytes) at least, got ${bytes}`,
    );
  }
  if (bytes > device.diskBytes) {
    const most = formatBytes(device.diskBytes);
    throw new RefusedError(
      `memlimit: expected the backing swap's size (${most}) at most, got ${formatBytes(bytes)}`,
    );
  }
  return bytesToPages(bytes) * PAGE_BYTES;
}

/** A new size for a running device: what was asked for, in whole guest pages, if it can be. */
export function grownDiskSize(device: BlockDeviceOptions, now: number, bytes: unknown): number {
  const { name, diskBytesMax = device.diskBytes, guestPageBytes } = device;
  if (device.backing !== undefined) {
    throw new RefusedError(`${name}: the disk is as large as its backing swap, and stays so`);
  }
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < now) {
    const got = typeof bytes === 'number' ? kilobytes(bytes) : bytes;
    throw new RefusedError(`disksize: expected ${kilobytes(now)}, what it is, or more, got ${got}`);
  }
  if (bytes > diskBytesMax) {
    const [most, got] = [kilobytes(diskBytesMax), kilobytes(bytes)];
    throw new RefusedError(`disksize: expected ${most} (--max-disksize) at most, got ${got}`);
  }
  return Math.floor(bytes / guestPageBytes) * guestPageBytes;
}

/** Exact, and as the tool takes it: rounded sizes may look alike. */
function kilobytes(bytes: number): string {
  return `${bytes / 1024} kB`;
}

function diskSizeMax({ diskBytesMax, guestPageBytes }: DeviceWishes, diskBytes: number): number {
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

function ramOf({ guestRamBytes }: DeviceWishes): Ram {
  const bytes = guestRamBytes ?? totalmem();
  const whose = guestRamBytes === undefined ? "the host's" : "the guest's";
  return { bytes, text: `${formatBytes(bytes)} of RAM (${whose})` };
}

/** SPEC: with a backing swap the disk is as large as that is usable. Whole guest pages. */
function diskSize(wishes: DeviceWishes, file: BackingFile | undefined, ram: Ram, log: Log): number {
  const given = file === undefined ? wishes.diskBytes : file.map.pages * PAGE_BYTES;
  const asked = given ?? ram.bytes * DISK_SHARE_OF_RAM;
  const bytes = Math.floor(asked / wishes.guestPageBytes) * wishes.guestPageBytes;
  if (given === undefined) {
    log.info(`disksize not given: ${formatBytes(bytes)}, a quarter of ${ram.text}`);
  }
  return bytes;
}

function checkDiskSize(diskBytes: number, guestPageBytes: number, isBacked: boolean): void {
  const what = isBacked ? 'backing swap' : 'disksize';
  if (diskBytes < guestPageBytes * GUEST_PAGES_MIN) {
    throw new RefusedError(`${what}: expected ten pages at least, got ${diskBytes} bytes`);
  }
  const slotsMax = isBacked ? BACKED_SLOTS_MAX : SLOTS_MAX;
  if (diskBytes / PAGE_BYTES > slotsMax) {
    const most = formatBytes(slotsMax * PAGE_BYTES);
    throw new RefusedError(`${what}: expected ${most} at most, got ${formatBytes(diskBytes)}`);
  }
}

/** SPEC: never larger than the backing swap (then the default is used), never 0, whole pages. */
function memlimit(wishes: DeviceWishes, diskBytes: number, ram: Ram, log: Log): number {
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
