/**
 * The memory under an arena: words to read and write, in segments of 1 GiB, and what the arena asks of
 * the system. The one in use is a mapped memory file; tests substitute others.
 */

import { PAGE_BYTES } from '../base/units.ts';
import { mapFileWindow, releaseWindow } from '../memory/memory-file.ts';
import type { Window } from '../memory/window.ts';
import { punchRange, reserveRange } from '../native/fd.ts';

/** A segment is what one window maps: 1 GiB. Page numbers and positions are cut accordingly. */
export const SEGMENT_PAGES_SHIFT = 18;
const SEGMENT_PAGES = 1 << SEGMENT_PAGES_SHIFT;

export interface ArenaFile {
  /** Word views of the segments, by segment number. */
  readonly segments: readonly Int32Array[];
  /** Makes sure that touching the range cannot fail. 0 or the negated errno. */
  reserve(offset: number, bytes: number): number;
  /** Gives the memory of the range back; it reads as zeros. 0 or the negated errno. */
  punch(offset: number, bytes: number): number;
}

export class MappedArenaFile implements ArenaFile {
  readonly segments: Int32Array[] = [];
  readonly #windows: Window[] = [];
  readonly #fd: number;

  /**
   * Maps all `pages` of the memory file at once: address space only, and to have none is a refusal
   * (RefusedError) at start, not in a write.
   */
  constructor(fd: number, pages: number) {
    this.#fd = fd;
    try {
      for (let first = 0; first < pages; first += SEGMENT_PAGES) {
        const count = Math.min(SEGMENT_PAGES, pages - first);
        const window = mapFileWindow(fd, first * PAGE_BYTES, count * PAGE_BYTES);
        this.#windows.push(window);
        this.segments.push(window.i32);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Unmaps it; the file stays the caller's. */
  close(): void {
    for (const window of this.#windows.splice(0)) releaseWindow(window);
  }

  reserve(offset: number, bytes: number): number {
    return reserveRange(this.#fd, offset, bytes);
  }

  punch(offset: number, bytes: number): number {
    return punchRange(this.#fd, offset, bytes);
  }
}
