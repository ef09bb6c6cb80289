/**
 * Pages, sectors and human sizes. `index`, `count`, `bytes`, `sector` and `page` are different
 * things; the named functions here are the only conversions.
 */

import { assert } from './assert.ts';
import { UsageError } from './errors.ts';

/** The unit of the store: SPEC's page, whatever the guest's own page size is. */
export const PAGE_BYTES = 4096;
export const PAGE_SHIFT = 12;
/** VIRTIO 1.2 §5.2: "sector" is 512 bytes in every field, whatever `blk_size` says. */
export const SECTOR_BYTES = 512;
export const SECTORS_PER_PAGE = PAGE_BYTES / SECTOR_BYTES;

assert(1 << PAGE_SHIFT === PAGE_BYTES, 'PAGE_SHIFT and PAGE_BYTES agree');

/** Whole pages in `bytes`, rounded down. */
export function bytesToPages(bytes: number): number {
  return Math.floor(bytes / PAGE_BYTES);
}

/** `value` rounded up to a multiple of `step` (a power of two or not), for sizes below 2^53. */
export function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

const SUFFIX_BYTES: Record<string, number> = {
  '': 1,
  K: 1024,
  M: 1024 ** 2,
  G: 1024 ** 3,
  T: 1024 ** 4,
};

/**
 * A size as people write it, `512M`, `1.5G`, `65536`, in bytes. Suffixes are powers of 1024, as in
 * QEMU; `MiB` and `MB` are accepted for `M`.
 */
export function parseSize(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|B)?$/i.exec(text.trim());
  const unit = SUFFIX_BYTES[match?.[2]?.toUpperCase() ?? ''] ?? Number.NaN;
  const bytes = Math.floor(Number(match?.[1]) * unit);
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new UsageError(`${what}: expected a size such as 512M or 2G, got '${text}'`);
  }
  return bytes;
}

/** Bytes for people: `512 MiB`, `1.5 GiB`, `17 B`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = bytes;
  // From here on one decimal would be rounded up to 1024.0.
  while (value >= 1023.95 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`;
}

/** Permission bits of a file for people, as chmod takes them: `0644`. */
export function formatMode(bits: number): string {
  return bits.toString(8).padStart(4, '0');
}
