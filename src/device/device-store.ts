/**
 * A device's store, opened: new with nothing but a swap header, found again after another process, or
 * taken over from one that has paused.
 */

import { randomBytes } from 'node:crypto';
import { makeSwapHeader, takeOverSwapHeader } from '../backing/swap-header.ts';
import { RefusedError } from '../base/errors.ts';
import { bytesToPages, formatBytes, PAGE_BYTES } from '../base/units.ts';
import { bootSeconds } from '../native/clock.ts';
import { discardFds } from '../native/fd.ts';
import { type MappedStore, makeStore, mapStore } from '../store/mapped-store.ts';
import { PageStore } from '../store/page-store.ts';
import { COUNTER } from '../store/statistics.ts';
import { identityOf, type PageStoreOptions, storeShape } from '../store/store-options.ts';
import type { DiskOptions } from './disk.ts';
import type { Report } from './reports.ts';

/** Throws RefusedError or SystemError; nothing is left mapped then. */
export function openStore(options: DiskOptions, report: Report): PageStore {
  const { files, takenOver } = options;
  const shape = storeShape(storeOptions(options));
  const isFound = takenOver !== undefined || files?.isKept === true;
  const mapped = isFound ? mapStore(shape, files!) : makeStore(shape, files);
  try {
    if (takenOver !== undefined) return takenOverStore(options, mapped);
    return isFound ? foundStore(options, mapped, report) : newStore(options, mapped);
  } catch (error) {
    freeStore(options, mapped);
    throw error;
  }
}

/** All memory of it, as this thread has it. */
export function freeStore(options: DiskOptions, mapped: MappedStore): void {
  try {
    mapped.release();
  } finally {
    closeStoreFiles(options, mapped);
  }
}

/** Those that it has made for itself. */
function closeStoreFiles({ files }: DiskOptions, mapped: MappedStore): void {
  if (files !== undefined) return;
  discardFds(mapped.shared.fd, mapped.shared.arenaFd);
}

function takenOverStore(options: DiskOptions, mapped: MappedStore): PageStore {
  const wanted = storeOptions(options);
  const { process } = options.takenOver!;
  mapped.header.check(identityOf(wanted), `take-over: store of process ${process}`);
  return PageStore.takeOver(wanted, mapped);
}

function newStore(options: DiskOptions, mapped: MappedStore): PageStore {
  const store = PageStore.make(storeOptions(options), mapped);
  writeSwapHeader(store, options);
  store.mapped.header.settings = options.settings ?? '';
  store.mapped.header.complete();
  return store;
}

function foundStore(options: DiskOptions, mapped: MappedStore, report: Report): PageStore {
  const start = performance.now();
  const { isClean } = mapped.header;
  const [store, { damaged }] = PageStore.recover(storeOptions(options), mapped);
  const millis = Math.round(performance.now() - start);
  const how = isClean ? 'left in order' : 'left by a process that was killed';
  const { pagesStored, comprDataSize } = COUNTER;
  const held = `${store.counters[pagesStored]} pages in ${formatBytes(store.counters[comprDataSize]!)}`;
  report('info', `store found, ${how}: ${held}, made whole in ${millis} ms`);
  if (damaged > 0) report('error', `store: ${damaged} pages are damaged, and lost`);
  return store;
}

/** The process that had the store until now is gone. Throws SystemError. */
export function goOnWithStore(store: PageStore, options: DiskOptions, report: Report): void {
  const hasWiped = options.takenOver?.wipesOnFree === true;
  const { damaged } = store.goOn(storeOptions(options), hasWiped);
  if (damaged > 0) report('error', `store: ${damaged} pages are damaged, and lost`);
}

function storeOptions(options: DiskOptions): PageStoreOptions {
  const { name, diskBytes, diskBytesMax = diskBytes, backing, queueThreads = 1 } = options;
  const { poolLimitBytes, incompressibleBytes, isLocked = false } = options;
  const { wipesOnFree = false, budget, guestPageBytes } = options;
  return {
    name,
    headerSlots: guestPageBytes / PAGE_BYTES,
    ageClock: bootSeconds,
    slots: diskBytes / PAGE_BYTES,
    slotsMax: diskBytesMax / PAGE_BYTES,
    threads: queueThreads,
    isLocked,
    wipesOnFree,
    ...(backing === undefined ? {} : { hasBacking: true, backing: backing.identity }),
    ...(poolLimitBytes === undefined ? {} : { poolLimitBytes }),
    ...(incompressibleBytes === undefined ? {} : { incompressibleBytes }),
    ...(budget === undefined ? {} : { budget }),
  };
}

/** Writes the first guest page, which makes the disk a swap area of its size. Throws RefusedError. */
export function writeSwapHeader(store: PageStore, options: DiskOptions): void {
  const header = swapHeader(options, store.slots * PAGE_BYTES);
  for (let at = 0; at < header.length; at += PAGE_BYTES) {
    if (!store.writeRaw(at / PAGE_BYTES, header.subarray(at, at + PAGE_BYTES))) {
      const why = whyRefused(store, options);
      throw new RefusedError(`${options.name}: no room for the swap header (${why})`);
    }
  }
}

function whyRefused({ mapped: { arena } }: PageStore, options: DiskOptions): string {
  if (arena.refusedBy !== 'limit') {
    return arena.refusedBy === 'budget' ? 'budget of all devices' : 'no memory';
  }
  // As it was given, unless it was changed since.
  const { poolLimitBytes: given = 0 } = options;
  const isGiven = bytesToPages(given) === arena.limitPages;
  return `pool limit ${formatBytes(isGiven ? given : arena.limitPages * PAGE_BYTES)}`;
}

/** The backing swap's own header, or a new one: the first guest page of the device. */
function swapHeader(options: DiskOptions, diskBytes: number): Uint8Array {
  const { guestPageBytes, name, backing } = options;
  if (backing !== undefined) return takeOverSwapHeader(backing.start, guestPageBytes, diskBytes);
  const uuid = randomBytes(16);
  // RFC 4122 version 4, as uuidgen makes them.
  uuid[6] = (uuid[6]! & 0x0f) | 0x40;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return makeSwapHeader({ diskBytes, guestPageBytes, uuid, label: name });
}
