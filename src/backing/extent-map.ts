/**
 * Which pages a backing swap has, and where: runs of whole pages that are page aligned and
 * contiguous on disk, in the order of the file. Logical page n is the n-th of them.
 *
 * The ancestor used this map to address the disk under the file. In user space the file descriptor
 * does that safely, so data goes through the file at the offset that the extent names; the map says
 * *which* pages are usable, their order, and how far a run goes, for merged I/O.
 *
 *   file       │ 1 KiB blocks: ▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▒│▓▓▓▓▓▓▓▓▒▒…      ▓ usable   ▒ not: no whole aligned page
 *   extents         page 0 1 2 ──┘  └────┘              { page: 0, pages: 3 } { page: 3, pages: 2 }
 */

import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { PAGE_BYTES } from '../base/units.ts';
import { FIEMAP_EXTENT, type FileExtent } from '../native/file-extents.ts';

const TWO_32 = 2 ** 32;
/** Page numbers are small integers with a bit to spare. */
export const PAGES_MAX = 2 ** 30;

/** Logical pages [page, page + pages) lie in the file from `fileOffset` (bytes) on. */
export interface Extent {
  readonly page: number;
  readonly pages: number;
  readonly fileOffset: number;
  /** Bytes, on whatever the file system calls its disk; only its alignment and order mean anything. */
  readonly physical: number;
}

const REFUSED_FLAGS: readonly [number, string][] = [
  [
    FIEMAP_EXTENT.DATA_INLINE | FIEMAP_EXTENT.DATA_TAIL,
    'is stored inline, in no blocks of its own',
  ],
  [FIEMAP_EXTENT.ENCODED | FIEMAP_EXTENT.DATA_ENCRYPTED, 'is compressed or encrypted'],
  [FIEMAP_EXTENT.SHARED, 'shares blocks with another file'],
  [
    FIEMAP_EXTENT.UNKNOWN | FIEMAP_EXTENT.DELALLOC | FIEMAP_EXTENT.NOT_ALIGNED,
    'has blocks in no known place',
  ],
];

export class ExtentMap {
  readonly extents: readonly Extent[];
  /** All usable pages. */
  readonly pages: number;
  /** What locate() found: a byte of the file, and the pages from there to the end of the run. */
  offsetLow = 0;
  offsetHigh = 0;
  run = 0;

  /** First page of each extent, then the number of pages: extent i ends where i + 1 begins. */
  readonly #firstPages: Int32Array;
  readonly #offsets: Float64Array;
  #last = 0;

  constructor(extents: readonly Extent[]) {
    assert(extents.length > 0, 'a map has extents');
    this.extents = extents;
    const { page, pages } = extents.at(-1)!;
    this.pages = page + pages;
    if (this.pages > PAGES_MAX) {
      throw new RefusedError(
        `is too large: expected ${PAGES_MAX} pages at most, got ${this.pages}`,
      );
    }
    this.#firstPages = Int32Array.from([...extents.map((extent) => extent.page), this.pages]);
    this.#offsets = Float64Array.from(extents, (extent) => extent.fileOffset);
  }

  /** All of a block device. */
  static ofDevice(bytes: number): ExtentMap {
    const pages = Math.floor(bytes / PAGE_BYTES);
    if (pages === 0) throw new RefusedError(`is too small: ${bytes} bytes`);
    return new ExtentMap([{ page: 0, pages, fileOffset: 0, physical: 0 }]);
  }

  /**
   * The first `bytes` of a file that lies in `found`. Throws RefusedError for holes, for what is not
   * plainly in blocks, and when no page is usable.
   */
  static ofFile(found: readonly FileExtent[], bytes: number): ExtentMap {
    const extents: Extent[] = [];
    let page = 0;
    for (const run of contiguousRuns(found, bytes)) {
      const lead = (PAGE_BYTES - (run.physical % PAGE_BYTES)) % PAGE_BYTES;
      const pages = Math.floor((run.bytes - lead) / PAGE_BYTES);
      if (pages <= 0) continue;
      const { fileOffset, physical } = run;
      extents.push({ page, pages, fileOffset: fileOffset + lead, physical: physical + lead });
      page += pages;
    }
    if (page === 0)
      throw new RefusedError('has no page that is whole and page aligned on its disk');
    return new ExtentMap(extents);
  }

  /** HOT PATH: no allocation; O(log n). Finds a logical page, which must be one. */
  locate(page: number): void {
    const firsts = this.#firstPages;
    let low = this.#last;
    // Mostly the extent of the last time, or the next one.
    if (page >= firsts[low]! && page >= firsts[low + 1]!) low++;
    if (page < firsts[low]! || !(page < firsts[low + 1]!)) low = this.#search(page);
    this.#last = low;
    const offset = this.#offsets[low]! + (page - firsts[low]!) * PAGE_BYTES;
    this.offsetLow = offset | 0;
    this.offsetHigh = (offset / TWO_32) | 0;
    this.run = firsts[low + 1]! - page;
  }

  #search(page: number): number {
    const firsts = this.#firstPages;
    let low = 0;
    let high = this.#offsets.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (firsts[middle]! <= page) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

interface Run {
  readonly fileOffset: number;
  readonly physical: number;
  bytes: number;
}

/** Neighbours that follow each other in the file and on disk become one. */
function contiguousRuns(found: readonly FileExtent[], bytes: number): Run[] {
  const runs: Run[] = [];
  const wholePages = bytes - (bytes % PAGE_BYTES);
  let end = 0;
  for (const { fileOffset, physical, bytes: extentBytes, flags } of found) {
    if (fileOffset >= bytes) break;
    if (fileOffset > end) break;
    const wrong = REFUSED_FLAGS.find(([mask]) => (flags & mask) !== 0);
    if (wrong !== undefined) throw new RefusedError(`${wrong[1]} (at byte ${fileOffset})`);
    end = Math.min(fileOffset + extentBytes, bytes);
    const last = runs.at(-1);
    const isNext =
      last !== undefined &&
      last.fileOffset + last.bytes === fileOffset &&
      last.physical + last.bytes === physical;
    if (isNext) last.bytes += end - fileOffset;
    else runs.push({ fileOffset, physical, bytes: end - fileOffset });
  }
  if (end < wholePages) throw new RefusedError(`has holes, the first at byte ${end}`);
  return runs;
}
