/**
 * The files of a store: made, found again, refused with the reason and left as they were, removed; and
 * a tmpfs without room, which is a refusal or a failed write, never the end of the process.
 */

import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RefusedError, SystemError } from '../../src/base/errors.ts';
import { HEADER, STORE_VERSION, storeLayout } from '../../src/store/layout.ts';
import { makeStore, mapStore } from '../../src/store/mapped-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import {
  openStoreFiles,
  removeStoreFiles,
  type StoreFiles,
  volatileFiles,
} from '../../src/store/store-files.ts';
import type { StoreIdentity } from '../../src/store/store-header.ts';
import { storeShape } from '../../src/store/store-options.ts';
import { countOpenFds, pagesHeldBy, withMount } from '../models/descriptors.ts';
import { PAGE_KINDS } from '../models/pages.ts';
import { SEED, seededRandom } from '../models/random.ts';
import { StoreBench } from '../models/store-bench.ts';
import { makeTmpfsFolder } from '../models/tmpfs.ts';

const PAGE = 4096;
const NAME = 'swap0';
const SLOTS = 256;
const WANTED: StoreIdentity = { name: NAME, slots: SLOTS, backing: undefined };
const random = seededRandom(SEED);
const noise = () => PAGE_KINDS.random!(random);

let folder: string;
let table: string;
let arena: string;
let remove: () => void;

beforeEach(() => {
  ({ path: folder, remove } = makeTmpfsFolder());
  table = join(folder, `${NAME}.table`);
  arena = join(folder, `${NAME}.arena`);
});

afterEach(() => remove());

function close({ fd, arenaFd }: StoreFiles): void {
  closeSync(fd);
  closeSync(arenaFd);
}

/** Opened another time: a mapping keeps the lock of the descriptor that it was made with. */
function openedAgain(files: StoreFiles): StoreFiles {
  const open = (fd: number) => openSync(`/proc/self/fd/${fd}`, 'r+');
  return { ...files, fd: open(files.fd), arenaFd: open(files.arenaFd) };
}

interface Kept {
  readonly bench: StoreBench;
  /** The process that has it ends. */
  end(): void;
}

function kept(bench: StoreBench, files: StoreFiles): Kept {
  const { fd, arenaFd } = bench.store.mapped.shared;
  const end = () => {
    for (const each of [fd, arenaFd]) closeSync(each);
    close(files);
  };
  return { bench, end };
}

/** A whole store in files that are there, with a page in each of some slots. */
function makeIn(directory: string, identity = WANTED, isWhole = true): Kept {
  const files = openStoreFiles(directory, identity);
  expect(files.isKept).toBe(false);
  const { name, slots, backing } = identity;
  const options = {
    ...{ name, slots },
    ...(backing === undefined ? {} : { backing, hasBacking: true }),
  };
  const mapped = makeStore(storeShape(options), openedAgain(files));
  const store = PageStore.make(options, mapped);
  if (isWhole) mapped.header.complete();
  const bench = new StoreBench(options, store);
  for (let slot = 0; slot < 20; slot++) bench.write(slot, noise());
  return kept(bench, files);
}

/** The next process's. */
function findIn(directory: string, { bench: { model } }: Kept): Kept {
  const files = openStoreFiles(directory, WANTED);
  expect(files.isKept).toBe(true);
  const options = { name: NAME, slots: SLOTS };
  const mapped = mapStore(storeShape(options), openedAgain(files));
  const [store, { damaged }] = PageStore.recover(options, mapped);
  expect(damaged).toBe(0);
  return kept(new StoreBench(options, store, model), files);
}

/** All files of a folder and what is in them. */
function contents(directory: string): Record<string, string> {
  const text = (name: string) => readFileSync(join(directory, name)).toString('base64');
  return Object.fromEntries(
    readdirSync(directory)
      .sort()
      .map((name) => [name, text(name)]),
  );
}

/** Refused with these words; nothing is changed and nothing stays open. */
function expectRefused(words: string, wanted = WANTED, directory = folder): void {
  const [before, fds] = [contents(directory), countOpenFds()];
  let error: unknown;
  try {
    close(openStoreFiles(directory, wanted));
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(RefusedError);
  expect((error as Error).message).toBe(words);
  expect(contents(directory)).toEqual(before);
  expect(countOpenFds()).toBe(fds);
}

describe('files of a store', () => {
  it('are made: the table reserved, the arena all holes, for their owner alone', () => {
    const directory = join(folder, 'new');
    const files = openStoreFiles(directory, WANTED);
    expect(files).toMatchObject({ isKept: false, directory });
    expect(readdirSync(directory).sort()).toEqual([`${NAME}.arena`, `${NAME}.table`]);
    const { bytes, arenaPages } = storeLayout({ slots: SLOTS });
    expect(fstatSync(files.fd)).toMatchObject({ size: bytes, mode: 0o100600 });
    expect(fstatSync(files.arenaFd)).toMatchObject({ size: arenaPages * PAGE, mode: 0o100600 });
    expect(pagesHeldBy(files.fd)).toBe(bytes / PAGE);
    expect(pagesHeldBy(files.arenaFd)).toBe(0);
    close(files);
  });

  it('are found again with all pages', () => {
    const before = makeIn(folder);
    before.end();
    const { bench, end } = findIn(folder, before);
    bench.compareStatistics();
    bench.compareAllSlots();
    end();
  });

  it('that were never completed are made anew, with nothing of what was in them', () => {
    makeIn(folder, WANTED, false).end();
    const again = openStoreFiles(folder, WANTED);
    expect(again.isKept).toBe(false);
    expect(pagesHeldBy(again.arenaFd)).toBe(0);
    const { bytes } = storeLayout({ slots: SLOTS });
    expect(readFileSync(table).equals(Buffer.alloc(bytes))).toBe(true);
    close(again);
  });

  it.each([0, 1, 4095])('are made anew where a table of %i bytes was left', (bytes) => {
    makeIn(folder).end();
    truncateSync(table, bytes);
    const again = openStoreFiles(folder, WANTED);
    expect(again.isKept).toBe(false);
    expect(pagesHeldBy(again.arenaFd)).toBe(0);
    close(again);
  });

  it('of two devices lie side by side', () => {
    makeIn(folder).end();
    const other = { ...WANTED, name: 'swap1', slots: 64 };
    makeIn(folder, other).end();
    expect(readdirSync(folder)).toHaveLength(4);
    for (const identity of [WANTED, other]) {
      const files = openStoreFiles(folder, identity);
      expect(files.isKept).toBe(true);
      close(files);
    }
  });

  it('in memory only have no names', () => {
    const files = volatileFiles({ slots: SLOTS });
    expect(files).toMatchObject({ isKept: false });
    expect(files.directory).toBeUndefined();
    removeStoreFiles(files, NAME);
    close(files);
  });
});

describe('refused, and left as it was, is a store', () => {
  it('that another process has', () => {
    const { end } = makeIn(folder);
    // A lock is an open file's, so this process is another, too.
    expectRefused(`${table}: in use by another process, which has it locked`);
    end();
  });

  it('whose arena is missing', () => {
    makeIn(folder).end();
    unlinkSync(arena);
    expectRefused(`store directory: ${arena}: ENOENT (no such file or directory)`);
  });

  it('whose files have another size', () => {
    makeIn(folder).end();
    const { size } = statSync(arena);
    truncateSync(arena, size - PAGE);
    expectRefused(`store ${arena}: expected ${size} bytes (2.3 MiB), got ${size - PAGE}`);
    truncateSync(arena, size);
    const bytes = statSync(table).size;
    truncateSync(table, bytes + PAGE);
    expectRefused(`store ${table}: expected ${bytes} bytes (92 KiB), got ${bytes + PAGE}`);
  });

  it('of another format', () => {
    makeIn(folder).end();
    const bytes = readFileSync(table);
    bytes.writeUInt32LE(STORE_VERSION + 1, HEADER.version);
    writeFileSync(table, bytes);
    expectRefused(
      `store ${table}: format of the store: expected ${STORE_VERSION}, got ${STORE_VERSION + 1}`,
    );
  });

  it("of another device, under this one's name", () => {
    makeIn(folder, { ...WANTED, name: 'other' }).end();
    renameSync(join(folder, 'other.table'), table);
    renameSync(join(folder, 'other.arena'), arena);
    expectRefused(`store ${table}: device: expected ${NAME}, got other`);
  });

  it('of another size', () => {
    makeIn(folder).end();
    expectRefused(
      `store ${table}: disk size (max-disksize where given): ` +
        'expected 1.3 MiB (320 pages), got 1 MiB (256 pages)',
      { ...WANTED, slots: 320 },
    );
  });

  it('with another backing swap, or without', () => {
    const backing = new Uint8Array(32).fill(7);
    const words = (expected: string, got: string) =>
      `store ${table}: backing swap: expected ${expected}, got ${got}`;
    makeIn(folder).end();
    expectRefused(words('the one given', 'none'), { ...WANTED, backing });
    unlinkSync(table);
    makeIn(folder, { ...WANTED, backing }).end();
    expectRefused(words('none', 'one'));
    expectRefused(words('the one given', 'another, or this one before its file was changed'), {
      ...WANTED,
      backing: new Uint8Array(32).fill(8),
    });
  });

  it('whose files are something else', () => {
    const other = join(folder, 'other');
    writeFileSync(other, 'mine');
    symlinkSync(other, arena);
    expectRefused(`${arena}: expected a regular file without further names`);
    unlinkSync(arena);
    mkdirSync(table);
    expect(() => openStoreFiles(folder, WANTED)).toThrow(
      `${table}: expected a regular file without further names`,
    );
    expect(readdirSync(folder).sort()).toEqual(['other', `${NAME}.table`]);
  });

  it('in no directory', () => {
    const directory = join(folder, 'a', 'b');
    expect(() => openStoreFiles(directory, WANTED)).toThrow(
      new RefusedError(`store directory: ${directory}: ENOENT (no such file or directory)`),
    );
  });
});

describe('removal', () => {
  it('takes both files', () => {
    const files = openStoreFiles(folder, WANTED);
    removeStoreFiles(files, NAME);
    expect(readdirSync(folder)).toEqual([]);
    removeStoreFiles(files, NAME);
    close(files);
  });

  it('takes nothing that others have put in their place', () => {
    const files = openStoreFiles(folder, WANTED);
    for (const path of [table, arena]) {
      renameSync(path, `${path}.moved`);
      writeFileSync(path, 'another');
    }
    removeStoreFiles(files, NAME);
    expect(readdirSync(folder)).toHaveLength(4);
    close(files);
  });
});

describe('a tmpfs without room', () => {
  const KIB = 1024;

  it('is a refusal where the table does not fit, and no files are left', () => {
    withMount('tmpfs', 'size=32k,mode=0700', (mounted) => {
      const fds = countOpenFds();
      const { bytes } = storeLayout({ slots: SLOTS });
      const path = join(mounted, `${NAME}.table`);
      expect(bytes).toBeGreaterThan(32 * KIB);
      expect(() => openStoreFiles(mounted, WANTED)).toThrow(
        new SystemError('fallocate', 28, `${path}: 92 KiB`),
      );
      expect(readdirSync(mounted)).toEqual([]);
      expect(countOpenFds()).toBe(fds);
    });
  });

  it('is a failed write, and the page stays what it was', () => {
    withMount('tmpfs', 'size=512k,mode=0700', (mounted) => {
      const { bench, end } = makeIn(mounted);
      let failed = 0;
      for (let slot = 0; slot < SLOTS; slot++) if (!bench.write(slot, noise())) failed++;
      expect(failed).toBeGreaterThan(100);
      expect(bench.troubles[0]).toMatch(/^no memory for more pages: ENOSPC/);
      bench.compareAllSlots();
      bench.compareStatistics();
      for (let slot = 0; slot < SLOTS; slot += 2) bench.free(slot);
      expect(bench.write(0, noise())).toBe(true);
      end();
    });
  });

  it('is no trouble for a store that is all there', () => {
    withMount('tmpfs', 'size=512k,mode=0700', (mounted) => {
      const before = makeIn(mounted);
      for (let slot = 0; slot < SLOTS; slot++) before.bench.write(slot, noise());
      before.end();
      fillUp(mounted);
      const { bench, end } = findIn(mounted, before);
      bench.compareAllSlots();
      end();
    });
  });

  it('is a refusal where a store has lost memory that it cannot have back', () => {
    withMount('tmpfs', 'size=512k,mode=0700', (mounted) => {
      makeIn(mounted).end();
      const path = join(mounted, `${NAME}.arena`);
      const { size } = statSync(path);
      const fd = openSync(path, 'r+');
      ftruncateSync(fd, 0);
      ftruncateSync(fd, size);
      closeSync(fd);
      fillUp(mounted);
      const options = { name: NAME, slots: SLOTS };
      const files = openStoreFiles(mounted, WANTED);
      expect(() => PageStore.recover(options, mapStore(storeShape(options), files))).toThrow(
        new SystemError('fallocate', 28, 'memory of the store'),
      );
      close(files);
    });
  });

  /** Not a page is left. */
  function fillUp(mounted: string): void {
    const fd = openSync(join(mounted, 'filler'), 'w');
    const piece = Buffer.alloc(PAGE);
    expect(() => {
      for (let i = 0; i < 1000; i++) writeFileSync(fd, piece);
    }).toThrow(/ENOSPC/);
    closeSync(fd);
    expect(existsSync(join(mounted, 'filler'))).toBe(true);
  }
});
