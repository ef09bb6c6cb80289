/**
 * The swap header of page 0, as mkswap would write it (`union swap_header` of the kernel's
 * include/linux/swap.h), so that `swapon` works on a fresh device.
 *
 *   0        1024     1028       1032         1036    1052          1068       guest page − 10
 *   ┌────────┬────────┬──────────┬────────────┬───────┬─────────────┬ ───── … ─┬────────────┐
 *   │bootbits│version │last_page │nr_badpages │ uuid  │ volume name │          │ SWAPSPACE2 │
 *   └────────┴────────┴──────────┴────────────┴───────┴─────────────┴ ───── … ─┴────────────┘
 */

import { assert } from '../base/assert.ts';

const SWAP_HEADER = {
  version: 1024,
  last_page: 1028,
  nr_badpages: 1032,
  uuid: 1036,
  volume: 1052,
  VOLUME_BYTES: 16,
} as const;
const MAGIC = 'SWAPSPACE2';

export interface SwapHeaderFields {
  readonly diskBytes: number;
  /** The guest's page size: the magic is at the end of *its* page, and last_page counts them. */
  readonly guestPageBytes: number;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  readonly label: string;
}

/** The first guest page of the device: 4, 16 or 64 KiB. */
export function makeSwapHeader(fields: SwapHeaderFields): Uint8Array {
  assert(fields.uuid.length === 16, 'a UUID has 16 bytes');
  const page = new Uint8Array(fields.guestPageBytes);
  const view = new DataView(page.buffer);
  view.setUint32(SWAP_HEADER.version, 1, true);
  const lastPage = Math.floor(fields.diskBytes / fields.guestPageBytes) - 1;
  view.setUint32(SWAP_HEADER.last_page, lastPage, true);
  view.setUint32(SWAP_HEADER.nr_badpages, 0, true);
  page.set(fields.uuid, SWAP_HEADER.uuid);
  // A label that fills the field has no NUL, like mkswap's.
  const label = Buffer.from(fields.label).subarray(0, SWAP_HEADER.VOLUME_BYTES);
  page.set(label, SWAP_HEADER.volume);
  page.set(Buffer.from(MAGIC), fields.guestPageBytes - MAGIC.length);
  return page;
}
