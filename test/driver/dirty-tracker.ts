/**
 * The front end's side of a dirty log: a memory file of bits, taken out of it as QEMU does, and a
 * judge: every byte of guest memory that has changed since snapshot() must lie in a page that was
 * marked, and every page that was marked must have changed, or be one that the test says was written.
 */

import { expect } from 'vitest';
import { createMemoryFile, mapFileWindow } from '../../src/memory/memory-file.ts';
import type { Window } from '../../src/memory/window.ts';
import { closeFd } from '../../src/native/fd.ts';
import type { GuestRam } from './guest-ram.ts';

const PAGE = 4096;
const PAGES_PER_WORD = 32;

/** Numbers of the pages that [address, address + bytes) touches. */
export function pagesOf(address: number, bytes: number): number[] {
  const first = Math.floor(address / PAGE);
  const last = Math.floor((address + bytes - 1) / PAGE);
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

export class SharedLog {
  readonly fd: number;
  /** As SET_LOG_BASE gives it. */
  readonly area: { readonly mmapSize: number; readonly mmapOffset: number };
  readonly #window: Window;

  /** A log for guest addresses below `end`, a page into its file. */
  constructor(end: number) {
    const mmapSize = Math.ceil(end / PAGE / 8);
    this.area = { mmapSize, mmapOffset: PAGE };
    const fileBytes = PAGE + Math.ceil(mmapSize / PAGE) * PAGE + PAGE;
    this.fd = createMemoryFile('dirty-log', fileBytes);
    this.#window = mapFileWindow(this.fd, 0, fileBytes);
  }

  /** Takes out all bits: the pages that were marked, in order. */
  take(): number[] {
    this.#checkAround();
    const pages: number[] = [];
    const { i32 } = this.#window;
    const first = this.area.mmapOffset >> 2;
    const end = first + Math.ceil(this.area.mmapSize / 4);
    for (let at = first; at < end; at++) {
      if (i32[at] === 0) continue;
      const bits = Atomics.exchange(i32, at, 0);
      for (let bit = 0; bit < PAGES_PER_WORD; bit++) {
        if (((bits >>> bit) & 1) !== 0) pages.push((at - first) * PAGES_PER_WORD + bit);
      }
    }
    return pages;
  }

  close(): void {
    closeFd(this.fd);
  }

  /** Bytes of the file that are not the log's are nobody's to write. */
  #checkAround(): void {
    const { mmapOffset, mmapSize } = this.area;
    const { u8 } = this.#window;
    const around = [u8.subarray(0, mmapOffset), u8.subarray(mmapOffset + mmapSize)];
    for (const bytes of around) {
      expect(
        bytes.every((byte) => byte === 0),
        'bytes beside the log',
      ).toBe(true);
    }
  }
}

export class DirtyTracker {
  readonly log: SharedLog;
  readonly #ram: GuestRam;
  #before: Uint8Array;

  constructor(ram: GuestRam, log = new SharedLog(endOf(ram))) {
    this.log = log;
    this.#ram = ram;
    this.#before = ram.window.u8.slice();
  }

  /** Changes from here on count; the device must be at rest. */
  snapshot(): void {
    this.#before = this.#ram.window.u8.slice();
  }

  /**
   * `written`: pages that may be marked though no byte of them changed. `own`: those that the driver
   * itself has changed. Returns how many pages were marked.
   */
  check(written: Iterable<number>, own: Iterable<number> = []): number {
    const marked = this.log.take();
    const changed = this.changed();
    const isMarked = new Set(marked);
    const ownPages = new Set(own);
    const unmarked = changed.filter((page) => !isMarked.has(page) && !ownPages.has(page));
    expect(unmarked, 'pages that changed and were not marked').toEqual([]);
    const mayBe = new Set([...changed, ...written]);
    const unwritten = marked.filter((page) => !mayBe.has(page));
    expect(unwritten, 'pages that were marked and not written').toEqual([]);
    return marked.length;
  }

  close(): void {
    this.log.close();
  }

  /** Pages with a byte that is not what it was at snapshot(). */
  changed(): number[] {
    const pages: number[] = [];
    const now = this.#ram.window.u8;
    for (const { guestAddress, bytes, mmapOffset } of this.#ram.regions) {
      for (let at = 0; at < bytes; at += PAGE) {
        const [from, to] = [mmapOffset + at, mmapOffset + at + PAGE];
        if (Buffer.compare(now.subarray(from, to), this.#before.subarray(from, to)) === 0) continue;
        pages.push((guestAddress + at) / PAGE);
      }
    }
    return pages;
  }
}

/** The first address behind all memory. */
export function endOf(ram: GuestRam): number {
  return Math.max(...ram.regions.map(({ guestAddress, bytes }) => guestAddress + bytes));
}
