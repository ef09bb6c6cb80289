/**
 * Where a file's bytes lie, on real file systems over loop devices: against the bytes of the device
 * itself, against FIBMAP, and against filefrag. Facts of block devices, and locks.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { SystemError } from '../../src/base/errors.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import {
  blockDeviceFacts,
  byFibmap,
  byFiemap,
  FIEMAP_EXTENT,
  type FileExtent,
  fileExtents,
  lockFile,
} from '../../src/native/file-extents.ts';
import {
  BTRFS,
  canMakeDisks,
  Disks,
  EXT4_1K,
  EXT4_4K,
  extentsByFilefrag,
  FILE_SYSTEMS,
  type FileSystemKind,
  makeCrumbs,
  makeFile,
  run,
  withDisks,
  XFS,
} from '../driver/file-systems.ts';
import { mountedForAll } from '../driver/mounted.ts';
import { withFolder } from '../models/descriptors.ts';
import { replayable, SEED, seededRandom } from '../models/random.ts';

const MIB = 2 ** 20;
const EXTENTS_PER_CALL = 512;

const hasDisks = canMakeDisks();

function withFile<T>(path: string, use: (fd: number) => T): T {
  const fd = openSync(path, 'r+');
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Extents in the order of the file, neighbours on disk as one: cut as the file system likes. */
function merged(extents: readonly FileExtent[]): Omit<FileExtent, 'flags'>[] {
  const runs: { fileOffset: number; physical: number; bytes: number }[] = [];
  for (const { fileOffset, physical, bytes } of extents) {
    const last = runs.at(-1);
    const isNext =
      last?.fileOffset === fileOffset - (last?.bytes ?? 0) &&
      last.physical === physical - last.bytes;
    if (isNext) last.bytes += bytes;
    else runs.push({ fileOffset, physical, bytes });
  }
  return runs;
}

function readAt(fd: number, position: number, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  expect(readSync(fd, buffer, 0, bytes, position)).toBe(bytes);
  return buffer;
}

/** More than 1024 pieces: ext4 joins about two thirds of small blocks to their neighbours. */
function makeManyCrumbs(path: string, { blockBytes }: FileSystemKind): number {
  const pieces = blockBytes === 1024 ? 4000 : 1200;
  return makeCrumbs(path, seededRandom(SEED), { pieces, step: blockBytes, most: 2 * blockBytes });
}

/** Writes noise over all of a file, in place where the file system does that. */
function overwrite(path: string, bytes: number): void {
  const random = seededRandom(SEED);
  const words = Uint32Array.from({ length: bytes / 4 }, () => random.uint32());
  withFile(path, (fd) => {
    expect(writeSync(fd, words)).toBe(bytes);
    fsyncSync(fd);
  });
}

describe.skipIf(!hasDisks).each(FILE_SYSTEMS)('on $name', (kind) => {
  const made = mountedForAll(kind);

  it('the extents of a file in many pieces are those of filefrag (random)', () => {
    const path = join(made.folder, 'crumbs');
    const crumbs = { pieces: 300, step: kind.blockBytes, most: 5 * kind.blockBytes };
    replayable((random) => {
      const bytes = makeCrumbs(path, random, crumbs);
      const found = withFile(path, (fd) => fileExtents(fd, bytes));
      expect(found.length).toBeGreaterThan(50);
      expect(merged(found)).toEqual(merged(extentsByFilefrag(path)));
      expect(found.reduce((sum, extent) => sum + extent.bytes, 0)).toBe(bytes);
    });
  });

  it('reserved blocks are unwritten, written ones are not', () => {
    const path = join(made.folder, 'reserved');
    makeFile(path, MIB, 'reserved');
    withFile(path, (fd) => {
      const flagsOf = () => fileExtents(fd, MIB).map(({ flags }) => flags & ~FIEMAP_EXTENT.LAST);
      expect(new Set(flagsOf())).toEqual(new Set([FIEMAP_EXTENT.UNWRITTEN]));
      writeSync(fd, new Uint8Array(MIB).fill(1), 0, MIB, 0);
      expect(new Set(flagsOf())).toEqual(new Set([0]));
    });
  });

  it('data that only the page cache has is written out first, and has its place', () => {
    const path = join(made.folder, 'delayed');
    writeFileSync(path, new Uint8Array(MIB).fill(7));
    const found = withFile(path, (fd) => fileExtents(fd, MIB));
    const { UNKNOWN, DELALLOC } = FIEMAP_EXTENT;
    for (const { flags, physical } of found) {
      expect(flags & (UNKNOWN | DELALLOC)).toBe(0);
      expect(physical).toBeGreaterThan(0);
    }
    expect(merged(found).reduce((sum, { bytes }) => sum + bytes, 0)).toBe(MIB);
  });

  it('what is missing between the extents are the holes', () => {
    const path = join(made.folder, 'holes');
    makeFile(path, MIB, 'sparse');
    withFile(path, (fd) => {
      expect(fileExtents(fd, MIB)).toEqual([]);
      for (const at of [65536, 3 * 65536, MIB - 65536]) writeSync(fd, noise(65536), 0, 65536, at);
      const ranges = merged(fileExtents(fd, MIB)).map((one) => [one.fileOffset, one.bytes]);
      expect(ranges).toEqual([
        [65536, 65536],
        [3 * 65536, 65536],
        [MIB - 65536, 65536],
      ]);
    });
  });

  it('an empty file has no extents, and nothing of any file neither', () => {
    const path = join(made.folder, 'empty');
    makeFile(path, 0, 'sparse');
    expect(withFile(path, (fd) => fileExtents(fd, MIB))).toEqual([]);
    makeFile(`${path} not`, MIB, 'reserved');
    expect(withFile(`${path} not`, (fd) => fileExtents(fd, 0))).toEqual([]);
  });

  it('only extents that begin in the bytes asked for are told', () => {
    const path = join(made.folder, 'long');
    const crumbs = { pieces: 40, step: kind.blockBytes, most: 3 * kind.blockBytes };
    const bytes = makeCrumbs(path, seededRandom(SEED), crumbs);
    withFile(path, (fd) => {
      const all = fileExtents(fd, bytes);
      for (const asked of [kind.blockBytes, bytes / 2, bytes - kind.blockBytes]) {
        const expected = all.filter((extent) => extent.fileOffset < asked);
        expect(merged(fileExtents(fd, asked)).length).toBe(merged(expected).length);
      }
    });
  });
});

function noise(bytes: number): Uint8Array {
  return seededRandom(SEED).bytes(bytes);
}

/** On btrfs, addresses are of its own space, not of the device. */
describe.skipIf(!hasDisks).each([EXT4_1K, EXT4_4K, XFS])('the device under $name', (kind) => {
  it('has the bytes of the file where the extents say, more than 512 of them', () => {
    withDisks((disks) => {
      const { folder, image } = disks.make(kind);
      const path = join(folder, 'crumbs');
      const bytes = makeManyCrumbs(path, kind);
      overwrite(path, bytes);
      const found = withFile(path, (fd) => byFiemap(fd, bytes));
      expect(found.length).toBeGreaterThan(2 * EXTENTS_PER_CALL);
      expect(found.at(-1)!.flags & FIEMAP_EXTENT.LAST).not.toBe(0);
      const written = readFileSync(path);
      let end = 0;
      withFile(image, (imageFd) => {
        for (const { fileOffset, physical, bytes: length } of found) {
          expect(fileOffset).toBe(end);
          end += length;
          const inFile = written.subarray(fileOffset, end);
          expect(readAt(imageFd, physical, length).equals(inFile)).toBe(true);
        }
      });
      expect(end).toBe(bytes);
    });
  });
});

describe.skipIf(!hasDisks).each([EXT4_1K, EXT4_4K])('by FIBMAP, on $name,', (kind) => {
  it('a file has the extents that it has by FIEMAP, more than 512 of them', () => {
    withDisks((disks) => {
      const { folder } = disks.make(kind);
      const path = join(folder, 'crumbs');
      const bytes = makeManyCrumbs(path, kind);
      overwrite(path, bytes);
      withFile(path, (fd) => {
        const found = byFibmap(fd, bytes);
        expect(found.length).toBeGreaterThan(2 * EXTENTS_PER_CALL);
        expect(found).toEqual(merged(byFiemap(fd, bytes)).map((one) => ({ ...one, flags: 0 })));
      });
    });
  });

  it('the holes of a file are missing', () => {
    withDisks((disks) => {
      const { folder } = disks.make(kind);
      const path = join(folder, 'holes');
      makeFile(path, MIB, 'sparse');
      withFile(path, (fd) => {
        writeSync(fd, noise(65536), 0, 65536, 65536);
        writeSync(fd, noise(65536), 0, 65536, MIB - 65536);
        fsyncSync(fd);
        const found = byFibmap(fd, MIB);
        expect(found.map((one) => one.fileOffset)).toEqual([65536, MIB - 65536]);
        expect(merged(found)).toEqual(merged(byFiemap(fd, MIB)));
        expect(byFibmap(fd, 65536)).toEqual([]);
      });
    });
  });
});

describe.skipIf(!hasDisks)('extents that no one should write in place', () => {
  let disks: Disks;

  afterEach(() => disks.undo());

  function flagsOf(path: string, bytes: number): number {
    const found = withFile(path, (fd) => fileExtents(fd, bytes));
    expect(found).not.toEqual([]);
    return found.reduce((flags, extent) => flags | extent.flags, 0);
  }

  it.each([XFS, BTRFS])('are told as shared after a copy by reference, on $name', (kind) => {
    disks = new Disks();
    const path = join(disks.make(kind).folder, 'file');
    makeFile(path, MIB, 'written', seededRandom(SEED));
    expect(flagsOf(path, MIB) & FIEMAP_EXTENT.SHARED).toBe(0);
    run('cp', '--reflink=always', path, `${path} copy`);
    run('sync', '--file-system', path);
    expect(flagsOf(path, MIB) & FIEMAP_EXTENT.SHARED).not.toBe(0);
  });

  it('are told as encoded where btrfs has compressed them', () => {
    disks = new Disks();
    const path = join(disks.make({ ...BTRFS, attributes: '+c' }).folder, 'file');
    makeFile(path, MIB, 'written');
    expect(flagsOf(path, MIB) & FIEMAP_EXTENT.ENCODED).not.toBe(0);
  });

  it('are told as inline where btrfs keeps them in its tree', () => {
    disks = new Disks();
    const path = join(disks.make(BTRFS).folder, 'file');
    makeFile(path, 1000, 'written');
    expect(flagsOf(path, 1000) & FIEMAP_EXTENT.DATA_INLINE).not.toBe(0);
  });
});

describe('without FIEMAP', () => {
  it.skipIf(!hasDisks)('FIBMAP is asked, and without that too the call is named', () => {
    withDisks((disks) => {
      const path = join(disks.mount('none', '-t', 'tmpfs'), 'file');
      makeFile(path, MIB, 'written');
      withFile(path, (fd) => {
        expect(() => byFiemap(fd, MIB)).toThrow('ioctl(FS_IOC_FIEMAP): ENOTSUP');
        expect(() => fileExtents(fd, MIB)).toThrow(SystemError);
        expect(() => fileExtents(fd, MIB)).toThrow('ioctl(FIBMAP)');
      });
    });
  });

  it('a descriptor that is no file, or is closed, is refused with the call', () => {
    const eventFd = createEventFd();
    expect(() => byFiemap(eventFd, MIB)).toThrow('ioctl(FS_IOC_FIEMAP): ENOTSUP');
    expect(() => byFibmap(eventFd, MIB)).toThrow('ioctl(FIBMAP): ENOTTY');
    closeFd(eventFd);
    expect(() => byFiemap(eventFd, MIB)).toThrow('ioctl(FS_IOC_FIEMAP): EBADF');
  });
});

describe.skipIf(!hasDisks)('a block device', () => {
  let disks: Disks;

  afterEach(() => disks.undo());

  function factsOf(bytes: number, ...options: string[]) {
    disks = new Disks();
    const fd = openSync(disks.attach(disks.image(bytes), ...options), 'r');
    try {
      return blockDeviceFacts(fd);
    } finally {
      closeSync(fd);
    }
  }

  it('has its size, in sectors of 512 bytes', () => {
    const facts = { bytes: 5 * MIB + 512, isReadOnly: false, logicalBlockBytes: 512 };
    expect(factsOf(5 * MIB + 512)).toEqual(facts);
  });

  it('has its size beyond 4 TiB', () => {
    expect(factsOf(5 * 2 ** 40 + 4096).bytes).toBe(5 * 2 ** 40 + 4096);
  });

  it('is read-only when it was made so', () => {
    expect(factsOf(MIB, '--read-only').isReadOnly).toBe(true);
  });

  it('may have sectors of 4096 bytes', () => {
    expect(factsOf(MIB, '--sector-size', '4096').logicalBlockBytes).toBe(4096);
  });

  it('is not what a plain file is', () => {
    disks = new Disks();
    withFile(disks.image(MIB), (fd) => {
      expect(() => blockDeviceFacts(fd)).toThrow(SystemError);
      expect(() => blockDeviceFacts(fd)).toThrow('ioctl(BLKGETSIZE64): ENOTTY');
    });
  });
});

describe('a lock', () => {
  /** Opens a file twice. */
  function withTwo(use: (first: number, second: number, path: string) => void): void {
    withFolder((folder) => {
      const path = join(folder, 'file');
      const first = openSync(path, 'w+');
      const second = openSync(path, 'r');
      try {
        use(first, second, path);
      } finally {
        closeSync(first);
        closeSync(second);
      }
    });
  }

  it('is had once: another open of the file is refused, the same one is not', () => {
    withTwo((first, second) => {
      expect(lockFile(first)).toBe(true);
      expect(lockFile(second)).toBe(false);
      expect(lockFile(first)).toBe(true);
    });
  });

  it('holds by whatever name the file is opened', () => {
    withTwo((first, _, path) => {
      expect(lockFile(first)).toBe(true);
      const again = openSync(`/proc/self/fd/${first}`, 'r');
      run('ln', path, `${path} by another name`);
      const linked = openSync(`${path} by another name`, 'r+');
      expect([lockFile(again), lockFile(linked)]).toEqual([false, false]);
      closeSync(again);
      closeSync(linked);
    });
  });

  it('ends with the descriptor', () => {
    withFolder((folder) => {
      const path = join(folder, 'file');
      const first = openSync(path, 'w');
      const second = openSync(path, 'r');
      expect(lockFile(first)).toBe(true);
      closeSync(first);
      expect(lockFile(second)).toBe(true);
      closeSync(second);
    });
  });

  it('of another process is respected, and gone when that ends', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'rz-lock-'));
    const path = join(folder, 'file');
    writeFileSync(path, '');
    const program = ['sh', '-c', 'echo locked; exec sleep 60'];
    const holder = spawn('flock', ['--no-fork', path, ...program]);
    try {
      await once(holder.stdout, 'data');
      withFile(path, (fd) => expect(lockFile(fd)).toBe(false));
      holder.kill('SIGKILL');
      await once(holder, 'exit');
      withFile(path, (fd) => expect(lockFile(fd)).toBe(true));
    } finally {
      holder.kill('SIGKILL');
      rmSync(folder, { recursive: true });
    }
  });

  it('is not had of a descriptor that is closed, and says so', () => {
    const fd = createEventFd();
    closeFd(fd);
    expect(() => lockFile(fd)).toThrow('flock: EBADF');
  });
});
