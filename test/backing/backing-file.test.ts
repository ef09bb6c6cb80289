/**
 * Backing swaps in files that are fit for it, on real file systems over loop devices: accepted, with
 * the pages that filefrag, the device's own bytes and the kernel's swapon say they have.
 */

import { closeSync, openSync, readFileSync, readSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BackingFile, openBackingFile } from '../../src/backing/backing-file.ts';
import type { ExtentMap } from '../../src/backing/extent-map.ts';
import { joinU64 } from '../../src/base/u64.ts';
import { PAGE_BYTES } from '../../src/base/units.ts';
import type { FileExtent } from '../../src/native/file-extents.ts';
import {
  canMakeDisks,
  Disks,
  EXT4_1K,
  EXT4_4K,
  extentsByFilefrag,
  FILE_SYSTEMS,
  fingerprint,
  makeCrumbs,
  makeFile,
  makeSwap,
  run,
  XFS,
} from '../driver/file-systems.ts';
import { mountedForAll } from '../driver/mounted.ts';
import { countOpenFds } from '../models/descriptors.ts';
import { replayable, SEED, seededRandom } from '../models/random.ts';

const MIB = 2 ** 20;
const O_DIRECT = 0o40000;

const hasDisks = canMakeDisks();

function withBacking<T>(path: string, use: (backing: BackingFile) => T, guestPage = 4096): T {
  const backing = openBackingFile(path, guestPage);
  try {
    return use(backing);
  } finally {
    closeSync(backing.fd);
  }
}

/** The file's bytes at which its usable pages begin, in order, as locate() tells. */
function offsetsOf(map: ExtentMap): number[] {
  return Array.from({ length: map.pages }, (_, page) => {
    map.locate(page);
    return joinU64(map.offsetLow, map.offsetHigh);
  });
}

/** The same by a walk over kibibytes: four of them in order, the first page aligned on disk. */
function usableOffsets(extents: readonly FileExtent[]): number[] {
  const places = extents.flatMap(({ physical, bytes }) =>
    Array.from({ length: bytes / 1024 }, (_, i) => physical / 1024 + i),
  );
  const offsets: number[] = [];
  for (let i = 0; i + 4 <= places.length; ) {
    const isPage = places[i]! % 4 === 0 && [1, 2, 3].every((n) => places[i + n] === places[i]! + n);
    if (isPage) offsets.push(i * 1024);
    i += isPage ? 4 : 1;
  }
  return offsets;
}

/** Pages that the kernel finds in a swap file, header included; undefined where it will not. */
function pagesBySwapon(disks: Disks, path: string): number | undefined {
  if (!disks.swapOn(path)) return undefined;
  const line = readFileSync('/proc/swaps', 'utf8')
    .split('\n')
    .find((one) => one.startsWith(`${path} `));
  disks.swapOff(path);
  const kibibytes = /^\S+\s+file\s+(\d+)/.exec(line!)![1];
  return Number(kibibytes) / 4 + 1;
}

describe.skipIf(!hasDisks).each(FILE_SYSTEMS)('on $name', (kind) => {
  const made = mountedForAll(kind);

  it.each(['reserved', 'written'] as const)('a file with all blocks %s is accepted', (fill) => {
    const path = made.newPath();
    makeFile(path, 4 * MIB, fill, seededRandom(SEED));
    makeSwap(path);
    const before = fingerprint(path);
    withBacking(path, ({ map, start, ...backing }) => {
      expect(backing.path).toBe(path);
      expect(offsetsOf(map)).toEqual(usableOffsets(extentsByFilefrag(path)));
      expect(map.pages).toBeGreaterThan(1000);
      expect(map.pages).toBeLessThanOrEqual(1024);
      expect(Buffer.from(start).equals(readFileSync(path).subarray(0, 65536))).toBe(true);
    });
    expect(fingerprint(path)).toEqual(before);
  });

  it('a sparse file is refused, with its first hole, and left as it was', () => {
    const path = made.newPath();
    makeFile(path, 4 * MIB, 'sparse');
    makeSwap(path);
    const before = fingerprint(path);
    const fds = countOpenFds();
    expect(() => openBackingFile(path, 4096)).toThrow(
      /^backing swap \/.*swap\d+: has holes, the first at byte 4096$/,
    );
    expect(fingerprint(path)).toEqual(before);
    expect(countOpenFds()).toBe(fds);
  });

  it('a file in more than 512 pieces is accepted, with exactly its usable pages (random)', () => {
    const path = made.newPath();
    const pieces = kind.blockBytes === 1024 ? 3000 : 700;
    replayable((random) => {
      const most = 4 * kind.blockBytes;
      const bytes = makeCrumbs(path, random, { pieces, step: kind.blockBytes, most });
      const areaPages = Math.floor(bytes / PAGE_BYTES);
      makeSwap(path);
      withBacking(path, ({ map }) => {
        const found = extentsByFilefrag(path);
        expect(found.length).toBeGreaterThan(512);
        expect(offsetsOf(map)).toEqual(usableOffsets(found).slice(0, map.pages));
        expect(map.pages).toBe(usableOffsets(found).filter((at) => at < bytes - 4095).length);
        if (kind.blockBytes === PAGE_BYTES) expect(map.pages).toBe(areaPages);
        else expect(map.pages).toBeLessThan(areaPages);
        const offsets = map.extents.map((one) => one.fileOffset % PAGE_BYTES);
        if (kind.blockBytes < PAGE_BYTES) expect(new Set(offsets).size).toBeGreaterThan(2);
      });
      // The kernel takes no file on btrfs that is copied on write; in user space that is no matter.
      if (kind.name === 'btrfs') return;
      const kernelPages = pagesBySwapon(made.disks, path);
      if (kernelPages === undefined) return;
      withBacking(path, ({ map }) => expect(map.pages).toBe(kernelPages));
    });
  });

  it('a file is opened past the page cache, and nothing else is left open', () => {
    const path = made.newPath();
    makeFile(path, MIB, 'reserved');
    makeSwap(path);
    const fds = countOpenFds();
    withBacking(path, ({ fd }) => {
      const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))![1];
      expect(Number.parseInt(flags!, 8) & O_DIRECT).toBe(O_DIRECT);
      expect(countOpenFds()).toBe(fds + 1);
    });
  });

  it('a file that is closed again can be opened again', () => {
    const path = made.newPath();
    makeFile(path, MIB, 'reserved');
    makeSwap(path);
    const extents = withBacking(path, ({ map }) => map.extents);
    for (let i = 0; i < 2; i++) {
      withBacking(path, ({ map }) => expect(map.extents).toEqual(extents));
    }
  });

  it('a header for pages of 64 KiB is accepted, for a guest that has them', () => {
    const path = made.newPath();
    makeFile(path, 4 * MIB + 5 * 4096, 'reserved');
    makeSwap(path, '--pagesize', '65536');
    const pages = withBacking(path, ({ map }) => map.pages, 65536);
    expect(pages).toBeGreaterThan(1000);
    expect(pages).toBeLessThanOrEqual(1024);
    expect(() => openBackingFile(path, 4096)).toThrow(
      'its swap header is for pages of 65536 bytes, the guest has 4096',
    );
  });

  it('what lies behind the area that the header names is not used', () => {
    const path = made.newPath();
    makeFile(path, MIB, 'written', seededRandom(SEED));
    makeSwap(path);
    // A hole of 3 MiB.
    truncateSync(path, 4 * MIB);
    withBacking(path, ({ map }) => {
      const offsets = offsetsOf(map);
      expect(offsets.at(-1)! + PAGE_BYTES).toBeLessThanOrEqual(MIB);
      expect(offsets.length).toBeGreaterThan(250);
    });
  });
});

describe.skipIf(!hasDisks).each([EXT4_1K, EXT4_4K, XFS])('the device under $name', (kind) => {
  let disks: Disks;

  beforeAll(() => {
    disks = new Disks();
  });

  afterAll(() => disks.undo());

  it('has each usable page where the extents say, in one piece and page aligned', () => {
    const { folder, image } = disks.make(kind);
    const path = join(folder, 'swap');
    const crumbs = { pieces: 400, step: kind.blockBytes, most: 6 * kind.blockBytes };
    const bytes = makeCrumbs(path, seededRandom(SEED), crumbs);
    run('dd', 'if=/dev/urandom', `of=${path}`, 'conv=notrunc,fsync', `bs=${bytes}`, 'count=1');
    makeSwap(path);
    const written = readFileSync(path);
    const fd = openSync(image, 'r');
    withBacking(path, ({ map }) => {
      for (const extent of map.extents) {
        expect(extent.physical % PAGE_BYTES).toBe(0);
        const onDisk = Buffer.alloc(extent.pages * PAGE_BYTES);
        expect(readSync(fd, onDisk, 0, onDisk.length, extent.physical)).toBe(onDisk.length);
        const end = extent.fileOffset + onDisk.length;
        expect(onDisk.equals(written.subarray(extent.fileOffset, end))).toBe(true);
      }
    });
    closeSync(fd);
  });
});

describe.skipIf(!hasDisks)('paths', () => {
  const made = mountedForAll(EXT4_4K);

  it.each([
    'a swap file with blanks',
    'tabs\tand\nlines',
    '\\040 no blank',
    'no-break\u00a0space',
    'größer',
  ])('such as %j are accepted', (name) => {
    const path = join(made.folder, name);
    makeFile(path, MIB, 'reserved');
    makeSwap(path);
    withBacking(path, (backing) => {
      expect(backing.path).toBe(path);
      expect(backing.map.pages).toBe(256);
    });
  });

  it('may be links to the file', () => {
    const path = join(made.folder, 'linked');
    makeFile(path, MIB, 'reserved');
    makeSwap(path);
    run('ln', '--symbolic', path, `${path} symbolically`);
    withBacking(`${path} symbolically`, ({ map }) => expect(map.pages).toBe(256));
  });
});
