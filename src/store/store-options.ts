/**
 * What a page store is to be, and what follows from it: what is mapped for it, and what the header of
 * one that is found again must say.
 */

import type { BudgetTerms } from '../xvmalloc/budget-share.ts';
import type { StoreShape } from './layout.ts';
import type { StoreIdentity } from './store-header.ts';

export interface PageStoreOptions {
  /** Of the device; for those who find the store again. */
  readonly name?: string;
  /** SHA-256 of what the backing swap is, likewise. */
  readonly backing?: Uint8Array;
  readonly slots: number;
  /** How far it may grow: the table is made for so many. Default: slots. */
  readonly slotsMax?: number;
  /** Hard limit of memory for pages, pool and raw, in bytes. */
  readonly poolLimitBytes?: number;
  /** A page that compresses to more is incompressible. Default: three quarters of one. */
  readonly incompressibleBytes?: number;
  /** There is a backing swap: keep checksums. */
  readonly hasBacking?: boolean;
  /** First slots that hold the swap header, whose age says nothing. Default: none. */
  readonly headerSlots?: number;
  /** Seconds since boot; without it no page has an age. */
  readonly ageClock?: () => number;
  /** Threads that use it, each by an object of its own. Default 1. */
  readonly threads?: number;
  /** It is never swapped out. Default false. */
  readonly isLocked?: boolean;
  /** Nothing of a page stays in the arena when it is freed, overwritten or moved. Default false. */
  readonly wipesOnFree?: boolean;
  /** The device's share of the memory that all devices may have together. Default: no such limit. */
  readonly budget?: BudgetTerms;
}

/** What is to be mapped for it. */
export function storeShape({
  slots,
  slotsMax = slots,
  hasBacking = false,
  headerSlots = 0,
  threads = 1,
  isLocked = false,
  wipesOnFree = false,
  budget,
}: PageStoreOptions): StoreShape {
  const shape = { slots: slotsMax, hasBacking, headerSlots, threads, isLocked, wipesOnFree };
  return budget === undefined ? shape : { ...shape, budget };
}

/** What its header must say. */
export function identityOf(options: PageStoreOptions): StoreIdentity {
  const { name = '', slots, slotsMax = slots, backing } = options;
  return { name, slots: slotsMax, backing };
}
