/**
 * Which pages of a file are usable: against a walk over its blocks, one by one, as the kernel's
 * generic_swapfile_activate does it; then refusals, sizes and offsets that the walk is too slow for.
 */

import { describe, expect, it } from 'vitest';
import { ExtentMap } from '../../src/backing/extent-map.ts';
import { AssertionError } from '../../src/base/assert.ts';
import { RefusedError } from '../../src/base/errors.ts';
import { joinU64 } from '../../src/base/u64.ts';
import { FIEMAP_EXTENT, type FileExtent } from '../../src/native/file-extents.ts';
import { type Random, replayable, SEED, seededRandom } from '../models/random.ts';

const PAGE = 4096;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const TIB = 2 ** 40;

function extent(fileOffset: number, physical: number, bytes: number, flags = 0): FileExtent {
  return { fileOffset, physical, bytes, flags };
}

interface Place {
  readonly offset: number;
  readonly run: number;
}

function locate(map: ExtentMap, page: number): Place {
  map.locate(page);
  return { offset: joinU64(map.offsetLow, map.offsetHigh), run: map.run };
}

function allPlaces(map: ExtentMap): Place[] {
  return Array.from({ length: map.pages }, (_, page) => locate(map, page));
}

/** Where each block that the file fills is, as the kernel's bmap() says it. */
function blockPlaces(found: readonly FileExtent[], bytes: number, blockBytes: number): number[] {
  const places: number[] = [];
  for (let at = 0; at + blockBytes <= bytes; at += blockBytes) {
    const { fileOffset, physical } = found.find(
      (one) => one.fileOffset <= at && at < one.fileOffset + one.bytes,
    )!;
    places.push(physical + at - fileOffset);
  }
  return places;
}

/** mm/page_io.c, generic_swapfile_activate: probe a block; if no page begins there, the next one. */
function probedPages(places: readonly number[], blockBytes: number): number[] {
  const perPage = PAGE / blockBytes;
  const pages: number[] = [];
  let probe = 0;
  while (probe + perPage <= places.length) {
    let isPage = places[probe]! % PAGE === 0;
    for (let i = 1; i < perPage; i++) {
      isPage &&= places[probe + i] === places[probe]! + i * blockBytes;
    }
    if (isPage) pages.push(probe);
    probe += isPage ? perPage : 1;
  }
  return pages;
}

function modelPlaces(found: readonly FileExtent[], bytes: number, blockBytes: number): Place[] {
  const places = blockPlaces(found, bytes, blockBytes);
  const pages = probedPages(places, blockBytes);
  const perPage = PAGE / blockBytes;
  let run = 0;
  return pages
    .map((block, i) => {
      const next = pages[i + 1];
      return {
        offset: block * blockBytes,
        goesOn: next === block + perPage && places[next] === places[block]! + PAGE,
      };
    })
    .reverse()
    .map(({ offset, goesOn }) => {
      run = goesOn ? run + 1 : 1;
      return { offset, run };
    })
    .reverse();
}

interface RandomFile {
  readonly found: FileExtent[];
  readonly bytes: number;
  readonly blockBytes: number;
}

/** Without holes: in places anywhere, behind the last extent, or page aligned. */
function randomFile(random: Random): RandomFile {
  const blockBytes = random.pick([512, 1024, 2048, 4096]);
  const longest = random.pick([3, 20, 100]);
  const found: FileExtent[] = [];
  const count = random.between(1, 40);
  let end = 0;
  let place = 0;
  for (let i = 0; i < count; i++) {
    if (!random.rarely(4)) place = random.below(2 ** 30) * blockBytes;
    if (random.rarely(2)) place -= place % PAGE;
    const bytes = random.between(1, longest) * blockBytes;
    const flags = random.rarely(3) ? FIEMAP_EXTENT.UNWRITTEN : 0;
    found.push(extent(end, place, bytes, flags));
    end += bytes;
    place += bytes;
  }
  // The size of the file is a whole number of blocks or not, and the last extent may go beyond it.
  const beyond = random.rarely(2) ? 0 : random.below(Math.min(end, 3 * PAGE));
  return { found, bytes: end - beyond, blockBytes };
}

describe('the usable pages', () => {
  it('are those that a walk over the blocks finds, in places and runs (2000 random files)', () => {
    let refused = 0;
    for (let seed = SEED; seed < SEED + 2000; seed++) {
      replayable((random) => {
        const { found, bytes, blockBytes } = randomFile(random);
        const expected = modelPlaces(found, bytes, blockBytes);
        if (expected.length === 0) {
          refused++;
          expect(() => ExtentMap.ofFile(found, bytes)).toThrow('no page that is whole');
          return;
        }
        const map = ExtentMap.ofFile(found, bytes);
        expect(allPlaces(map)).toEqual(expected);
        // Again in no order: what locate() remembers of the last call must not matter.
        for (let i = 0; i < 50; i++) {
          const page = random.below(map.pages);
          expect(locate(map, page)).toEqual(expected[page]);
        }
      }, seed);
    }
    expect(refused).toBeGreaterThan(20);
    expect(refused).toBeLessThan(1000);
  });

  it('are the same however the extents are cut (500 random files)', () => {
    for (let seed = SEED; seed < SEED + 500; seed++) {
      replayable((random) => {
        const { found, bytes, blockBytes } = randomFile(random);
        const cut = found.flatMap((one) => {
          const at = random.below(one.bytes / blockBytes) * blockBytes;
          if (at === 0) return [one];
          return [
            { ...one, bytes: at },
            extent(one.fileOffset + at, one.physical + at, one.bytes - at, one.flags),
          ];
        });
        const extentsOf = (extents: readonly FileExtent[]) => {
          try {
            return ExtentMap.ofFile(extents, bytes).extents;
          } catch (error) {
            return (error as Error).message;
          }
        };
        expect(extentsOf(cut)).toEqual(extentsOf(found));
      }, seed);
    }
  });

  it('number themselves without gaps, each extent from where the last one ended', () => {
    replayable((random) => {
      const found = Array.from({ length: 300 }, (_, i) =>
        extent(i * 5 * PAGE, (i * 1000 + random.below(900)) * 1024, 5 * PAGE),
      );
      const map = ExtentMap.ofFile(found, 300 * 5 * PAGE);
      let page = 0;
      for (const one of map.extents) {
        expect(one.page).toBe(page);
        expect(one.physical % PAGE).toBe(0);
        page += one.pages;
      }
      expect(map.pages).toBe(page);
      expect(map.pages).toBeLessThan(300 * 5);
    });
  });
});

describe('neighbours', () => {
  it('that follow each other in the file and on disk become one extent', () => {
    const found = [extent(0, 8 * PAGE, PAGE), extent(PAGE, 9 * PAGE, 2 * PAGE)];
    const map = ExtentMap.ofFile(found, 3 * PAGE);
    expect(map.extents).toEqual([{ page: 0, pages: 3, fileOffset: 0, physical: 8 * PAGE }]);
    expect(locate(map, 0)).toEqual({ offset: 0, run: 3 });
  });

  it('become one although only the first is written', () => {
    const { UNWRITTEN, LAST } = FIEMAP_EXTENT;
    const found = [extent(0, 8 * PAGE, PAGE), extent(PAGE, 9 * PAGE, 2 * PAGE, UNWRITTEN | LAST)];
    expect(ExtentMap.ofFile(found, 3 * PAGE).extents).toHaveLength(1);
  });

  it('make a page together of which each has a part', () => {
    const found = [extent(0, 8 * PAGE, 1024), extent(1024, 8 * PAGE + 1024, 3072)];
    expect(ExtentMap.ofFile(found, PAGE).pages).toBe(1);
  });

  it('stay apart when they do not follow each other on disk', () => {
    const found = [extent(0, 8 * PAGE, PAGE), extent(PAGE, 10 * PAGE, PAGE)];
    const map = ExtentMap.ofFile(found, 2 * PAGE);
    expect(allPlaces(map)).toEqual([
      { offset: 0, run: 1 },
      { offset: PAGE, run: 1 },
    ]);
  });

  it('in the wrong order on disk stay apart, and keep the order of the file', () => {
    const found = [extent(0, 9 * PAGE, PAGE), extent(PAGE, 8 * PAGE, PAGE)];
    expect(ExtentMap.ofFile(found, 2 * PAGE).extents.map((one) => one.physical)).toEqual([
      9 * PAGE,
      8 * PAGE,
    ]);
  });
});

describe('offsets', () => {
  it.each([
    ['4 GiB', 4 * GIB],
    ['1 TiB', TIB],
    ['3 TiB and more', 3 * TIB + 900 * GIB],
  ])('beyond %s are found, low and high half', (_, first) => {
    const found = [
      extent(0, 16 * TIB, first - PAGE),
      extent(first - PAGE, 40 * TIB + 1024, 3 * PAGE),
      extent(first + 2 * PAGE, 50 * TIB, 4 * GIB),
    ];
    const map = ExtentMap.ofFile(found, first + 2 * PAGE + 4 * GIB);
    const pages = (first - PAGE) / PAGE;
    expect(map.pages).toBe(pages + 2 + (4 * GIB) / PAGE);
    expect(locate(map, 0)).toEqual({ offset: 0, run: pages });
    expect(locate(map, pages - 1)).toEqual({ offset: first - 2 * PAGE, run: 1 });
    expect(locate(map, pages)).toEqual({ offset: first - PAGE + 3072, run: 2 });
    expect(locate(map, pages + 1)).toEqual({ offset: first + 3072, run: 1 });
    const last = { offset: first + 2 * PAGE + 4 * GIB - PAGE, run: 1 };
    expect(locate(map, map.pages - 1)).toEqual(last);
    expect(locate(map, pages + 2)).toEqual({ offset: first + 2 * PAGE, run: (4 * GIB) / PAGE });
  });

  it('are halves that are 32-bit integers, never numbers of the heap', () => {
    const map = ExtentMap.ofDevice(4 * TIB);
    map.locate((3 * TIB + 3 * GIB) / PAGE);
    expect([map.offsetLow, map.offsetHigh]).toEqual([(3 * GIB) | 0, 3 * 256]);
  });
});

describe('a file with holes', () => {
  const disk = 100 * MIB;

  it.each([
    ['at its beginning', [extent(2 * PAGE, disk, 8 * PAGE)], 0],
    ['in its middle', [extent(0, disk, 3072), extent(PAGE, disk + PAGE, 9 * PAGE)], 3072],
    ['at its end', [extent(0, disk, 6 * PAGE)], 6 * PAGE],
    ['in its last whole page', [extent(0, disk, 10 * PAGE - 512)], 10 * PAGE - 512],
    ['throughout', [], 0],
  ])('%s is refused, with the byte of the first one', (_, found, at) => {
    const map = () => ExtentMap.ofFile(found, 10 * PAGE);
    expect(map).toThrow(RefusedError);
    expect(map).toThrow(`has holes, the first at byte ${at}`);
  });

  it('is refused for its first hole when it has several (random)', () => {
    replayable((random) => {
      for (let i = 0; i < 200; i++) {
        const { found, blockBytes } = randomFile(random);
        const bytes = found.at(-1)!.fileOffset + found.at(-1)!.bytes;
        const gone = new Set([random.below(found.length), random.below(found.length)]);
        const left = found.filter((_, index) => !gone.has(index));
        const { fileOffset } = found[Math.min(...gone)]!;
        // A hole in the part of a page at the end is no matter.
        if (fileOffset >= bytes - (bytes % PAGE) - blockBytes) continue;
        expect(() => ExtentMap.ofFile(left, bytes)).toThrow(
          new RegExp(`has holes, the first at byte ${fileOffset}$`),
        );
      }
    });
  });

  it('is none where only the part of a page behind its last whole one is missing', () => {
    const map = ExtentMap.ofFile([extent(0, disk, 2 * PAGE)], 2 * PAGE + 1000);
    expect(map.pages).toBe(2);
  });
});

describe('an extent is refused', () => {
  const { DATA_INLINE, DATA_TAIL, ENCODED, DATA_ENCRYPTED, SHARED } = FIEMAP_EXTENT;
  const { UNKNOWN, DELALLOC, NOT_ALIGNED } = FIEMAP_EXTENT;

  it.each([
    ['inline', DATA_INLINE | NOT_ALIGNED, 'is stored inline, in no blocks of its own'],
    ['a packed tail', DATA_TAIL | NOT_ALIGNED, 'is stored inline, in no blocks of its own'],
    ['compressed', ENCODED, 'is compressed or encrypted'],
    ['encrypted', DATA_ENCRYPTED | ENCODED, 'is compressed or encrypted'],
    ['shared', SHARED, 'shares blocks with another file'],
    ['in an unknown place', UNKNOWN, 'has blocks in no known place'],
    ['not allocated yet', DELALLOC | UNKNOWN, 'has blocks in no known place'],
    ['not aligned', NOT_ALIGNED, 'has blocks in no known place'],
  ])('that is %s, with its place', (_, flags, text) => {
    const found = [extent(0, MIB, 8 * PAGE), extent(8 * PAGE, 2 * MIB, 8 * PAGE, flags)];
    const map = () => ExtentMap.ofFile(found, 16 * PAGE);
    expect(map).toThrow(RefusedError);
    expect(map).toThrow(`${text} (at byte ${8 * PAGE})`);
  });

  it('not for being unwritten, the last one, or of a flag that says nothing here', () => {
    const { UNWRITTEN, LAST } = FIEMAP_EXTENT;
    const FIEMAP_EXTENT_MERGED = 0x1000;
    for (const flags of [UNWRITTEN, LAST, FIEMAP_EXTENT_MERGED, UNWRITTEN | LAST]) {
      expect(ExtentMap.ofFile([extent(0, MIB, 8 * PAGE, flags)], 8 * PAGE).pages).toBe(8);
    }
  });

  it('not for anything behind the area', () => {
    const found = [extent(0, MIB, 8 * PAGE), extent(8 * PAGE, 2 * MIB, 8 * PAGE, SHARED)];
    expect(ExtentMap.ofFile(found, 8 * PAGE).pages).toBe(8);
  });
});

describe('the size', () => {
  it('clips extents that go beyond it', () => {
    const map = ExtentMap.ofFile([extent(0, MIB, 64 * PAGE)], 10 * PAGE);
    expect(allPlaces(map).at(-1)).toEqual({ offset: 9 * PAGE, run: 1 });
    expect(map.pages).toBe(10);
  });

  it('leaves a part of a page at the end out', () => {
    const map = ExtentMap.ofFile([extent(0, MIB, 3 * PAGE)], 2 * PAGE + 4095);
    expect(map.pages).toBe(2);
  });

  it('leaves out what lies before the first page that is aligned on disk', () => {
    const map = ExtentMap.ofFile([extent(0, MIB + 512, 4 * PAGE)], 4 * PAGE);
    expect(allPlaces(map)).toEqual([
      { offset: PAGE - 512, run: 3 },
      { offset: 2 * PAGE - 512, run: 2 },
      { offset: 3 * PAGE - 512, run: 1 },
    ]);
  });

  it('is refused when no page is usable', () => {
    const text = 'has no page that is whole and page aligned on its disk';
    const pieces = Array.from({ length: 16 }, (_, i) => extent(i * 1024, i * MIB + 1024, 1024));
    expect(() => ExtentMap.ofFile(pieces, 16 * 1024)).toThrow(RefusedError);
    expect(() => ExtentMap.ofFile(pieces, 16 * 1024)).toThrow(text);
    expect(() => ExtentMap.ofFile([extent(0, MIB + 512, PAGE + 3000)], PAGE + 3000)).toThrow(text);
    expect(() => ExtentMap.ofFile([extent(0, MIB, PAGE)], PAGE - 1)).toThrow(text);
  });
});

describe('a block device', () => {
  it('is one run of all its whole pages', () => {
    const map = ExtentMap.ofDevice(10 * PAGE + 512);
    expect(map.pages).toBe(10);
    expect(locate(map, 3)).toEqual({ offset: 3 * PAGE, run: 7 });
  });

  it('regression: of more pages than numbers are kept for is refused, at the limit not', () => {
    const map = ExtentMap.ofDevice(4 * TIB);
    expect(map.pages).toBe(2 ** 30);
    expect(locate(map, 5)).toEqual({ offset: 5 * PAGE, run: map.pages - 5 });
    expect(() => ExtentMap.ofDevice(9 * TIB)).toThrow('is too large: expected 1073741824 pages');
  });

  it('of less than a page is refused', () => {
    expect(() => ExtentMap.ofDevice(PAGE - 512)).toThrow(RefusedError);
    expect(() => ExtentMap.ofDevice(PAGE - 512)).toThrow('is too small: 3584 bytes');
  });
});

it('is not made of no extents', () => {
  expect(() => new ExtentMap([])).toThrow(AssertionError);
});

it('finds pages of 100,000 extents as of one, in any order', () => {
  const random = seededRandom(SEED);
  const extents = Array.from({ length: 100_000 }, (_, i) => ({
    page: 3 * i,
    pages: 3,
    fileOffset: 4 * i * PAGE,
    physical: 5 * i * PAGE,
  }));
  const map = new ExtentMap(extents);
  for (let i = 0; i < 100_000; i++) {
    const page = random.below(map.pages);
    map.locate(page);
    const offset = (4 * Math.floor(page / 3) + (page % 3)) * PAGE;
    if (joinU64(map.offsetLow, map.offsetHigh) !== offset || map.run !== 3 - (page % 3)) {
      expect.fail(`SEED=${SEED}: page ${page}: ${map.offsetLow} ${map.offsetHigh} ${map.run}`);
    }
  }
});
