/** Looks through an arena's file for bytes of pages, wherever they lie. */

import { fstatSync, readSync } from 'node:fs';
import { PAGE_BYTES } from '../../src/base/units.ts';

/** Bytes that are looked for at once: 52 bits of noise, which nothing else has by chance. */
const SHINGLE_BYTES = 7;

/** The file's bytes, holes left out. */
export function* pagesOf(fd: number): Generator<Buffer> {
  const page = Buffer.alloc(PAGE_BYTES);
  const { size, blocks } = fstatSync(fd);
  let held = (blocks * 512) / PAGE_BYTES;
  for (let at = 0; at < size && held > 0; at += PAGE_BYTES) {
    readSync(fd, page, 0, PAGE_BYTES, at);
    if (page.every((byte) => byte === 0)) continue;
    held--;
    yield page;
  }
}

/** NaN, which nothing equals, where there is too little noise to tell it from anything else. */
function shingle(bytes: Uint8Array, at: number): number {
  let zeros = 0;
  for (let i = at; i < at + SHINGLE_BYTES; i++) if (bytes[i] === 0) zeros++;
  if (zeros > 2) return Number.NaN;
  const high = bytes[at]! + bytes[at + 1]! * 2 ** 8 + bytes[at + 2]! * 2 ** 16;
  const low = (bytes[at + 3]! | (bytes[at + 4]! << 8) | (bytes[at + 5]! << 16)) * 16;
  return high * 2 ** 28 + low + (bytes[at + 6]! & 15);
}

/**
 * How many places of the file have seven bytes of one of `pages` in them, of those that lie at every
 * fourth byte there. Give pages of noise: others share bytes by nature.
 */
export function tracesOf(pages: Iterable<Uint8Array>, fd: number): number {
  const wanted = new Set<number>();
  for (const page of pages) {
    for (let i = 0; i + SHINGLE_BYTES <= page.length; i += 4) wanted.add(shingle(page, i));
  }
  wanted.delete(Number.NaN);
  let found = 0;
  for (const bytes of pagesOf(fd)) {
    for (let i = 0; i + SHINGLE_BYTES <= bytes.length; i++) {
      if (wanted.has(shingle(bytes, i))) found++;
    }
  }
  return found;
}
