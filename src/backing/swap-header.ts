/**
 * The swap header of page 0 (`union swap_header` of the kernel's include/linux/swap.h): made as
 * mkswap would, so that `swapon` works on a fresh device; and checked and taken over where there is
 * one, on a backing swap.
 *
 *   0        1024     1028       1032         1036    1052          1068       guest page − 10
 *   ┌────────┬────────┬──────────┬────────────┬───────┬─────────────┬ ───── … ─┬────────────┐
 *   │bootbits│version │last_page │nr_badpages │ uuid  │ volume name │          │ SWAPSPACE2 │
 *   └────────┴────────┴──────────┴────────────┴───────┴─────────────┴ ───── … ─┴────────────┘
 */

import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';

const SWAP_HEADER = {
  version: 1024,
  last_page: 1028,
  nr_badpages: 1032,
  uuid: 1036,
  volume: 1052,
  VOLUME_BYTES: 16,
} as const;
const MAGIC = 'SWAPSPACE2';
/** In the place of the magic while the area holds a hibernated system (power/swap.c, uswsusp). */
const HIBERNATED = /^(S1SUSPEND|S2SUSPEND|ULSUSPEND|LINHIB0001)/;
const OLD_MAGIC = 'SWAP-SPACE';
const VERSION = 1;
const VERSION_SWAPPED = 0x01000000;
const PAGE_SIZES = [4096, 16384, 65536];

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
  view.setUint32(SWAP_HEADER.version, VERSION, true);
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

/** What is at the place of the magic, for pages of `pageBytes`. */
function magicOf(start: Uint8Array, pageBytes: number): string {
  return Buffer.from(start).toString('latin1', pageBytes - MAGIC.length, pageBytes);
}

/**
 * Checks the header of an existing swap area; `start` is its beginning, 64 KiB or all there is.
 * Returns the bytes that the area says it has: `areaBytes` at most. RefusedError says what is wrong.
 */
export function checkSwapHeader(
  start: Uint8Array,
  guestPageBytes: number,
  areaBytes: number,
): number {
  const magic = magicOf(start, guestPageBytes);
  if (PAGE_SIZES.some((bytes) => HIBERNATED.test(magicOf(start, bytes)))) {
    throw new RefusedError('holds a hibernated system');
  }
  if (magic === OLD_MAGIC) throw new RefusedError('its swap header is of version 0: use mkswap');
  if (magic !== MAGIC) {
    const other = PAGE_SIZES.find((bytes) => magicOf(start, bytes) === MAGIC);
    throw new RefusedError(
      other === undefined
        ? `has no swap header: expected ${MAGIC} at byte ${guestPageBytes - MAGIC.length}; use mkswap`
        : `its swap header is for pages of ${other} bytes, the guest has ${guestPageBytes}`,
    );
  }
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const version = view.getUint32(SWAP_HEADER.version, true);
  if (version === VERSION_SWAPPED) {
    throw new RefusedError('its swap header is of the other byte order: use mkswap here');
  }
  if (version !== VERSION) {
    throw new RefusedError(`swap header: expected version ${VERSION}, got ${version}`);
  }
  const badPages = view.getUint32(SWAP_HEADER.nr_badpages, true);
  if (badPages !== 0) throw new RefusedError(`swap header: expected no bad pages, got ${badPages}`);
  const lastPage = view.getUint32(SWAP_HEADER.last_page, true);
  const bytes = (lastPage + 1) * guestPageBytes;
  if (lastPage === 0) throw new RefusedError('swap header: expected pages, got last_page 0');
  if (bytes > areaBytes) {
    const most = Math.floor(areaBytes / guestPageBytes) - 1;
    throw new RefusedError(`swap header: expected last_page ${most} at most, got ${lastPage}`);
  }
  return bytes;
}

/** A copy of the header page of an existing area, its size that of a disk of `diskBytes`. */
export function takeOverSwapHeader(
  start: Uint8Array,
  guestPageBytes: number,
  diskBytes: number,
): Uint8Array {
  const page = Uint8Array.from(start.subarray(0, guestPageBytes));
  const lastPage = Math.floor(diskBytes / guestPageBytes) - 1;
  new DataView(page.buffer).setUint32(SWAP_HEADER.last_page, lastPage, true);
  return page;
}
