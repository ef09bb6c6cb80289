/**
 * Guest memory in huge pages, as QEMU's memory-backend-file on hugetlbfs or a hugetlb memfd gives
 * it. Needs root and free huge pages, which it takes for its duration; skipped, loudly, without.
 */

import { fstatSync, openSync, readFileSync, readSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, type TestContext } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { GuestMemory, type GuestRegion } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import { closeFd } from '../../src/native/fd.ts';
import { isRoot, withMount } from '../models/descriptors.ts';

const MIB = 2 ** 20;
const HUGE_PAGES = 8;
const NR_HUGEPAGES = '/proc/sys/vm/nr_hugepages';

let before: string | undefined;

function freeHugePages(): number {
  const meminfo = readFileSync('/proc/meminfo', 'utf8');
  if (!/^Hugepagesize:\s+2048 kB$/m.test(meminfo)) return 0;
  return Number(/^HugePages_Free:\s+(\d+)$/m.exec(meminfo)?.[1] ?? 0);
}

beforeAll(() => {
  if (!isRoot || freeHugePages() >= HUGE_PAGES) return;
  try {
    const now = readFileSync(NR_HUGEPAGES, 'utf8').trim();
    writeFileSync(NR_HUGEPAGES, String(Number(now) + HUGE_PAGES));
    before = now;
  } catch {
    // No huge pages in this kernel, or /proc is read-only: the tests skip themselves.
  }
});

afterAll(() => {
  if (before !== undefined) writeFileSync(NR_HUGEPAGES, before);
});

function withHugeFile(context: TestContext, use: (fd: number) => void): void {
  const isPossible = freeHugePages() >= HUGE_PAGES;
  if (!isPossible) console.warn('skipped: needs 8 huge pages of 2 MiB; sysctl vm.nr_hugepages=8');
  const ran =
    isPossible &&
    withMount('hugetlbfs', 'pagesize=2M', (folder) => {
      const path = join(folder, 'guest');
      writeFileSync(path, '');
      truncateSync(path, HUGE_PAGES * 2 * MIB);
      const fd = openSync(path, 'r+');
      try {
        expect(fstatSync(fd).blksize).toBe(2 * MIB);
        use(fd);
      } finally {
        closeFd(fd);
      }
    });
  if (!ran) context.skip();
}

function region(guestAddress: number, bytes: number, mmapOffset: number): GuestRegion {
  return { guestAddress, userAddress: guestAddress, bytes, mmapOffset };
}

function expectShown(memory: GuestMemory, fd: number, address: number, fileOffset: number): void {
  expect(memory.resolve(address | 0, Math.floor(address / 2 ** 32), 1)).toBe(1);
  const { window, offset } = memory;
  window!.u8[offset] = (fileOffset % 251) + 1;
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, fileOffset);
  expect(byte[0]).toBe((fileOffset % 251) + 1);
}

it('maps a region of huge pages, first to last byte', (context) => {
  withHugeFile(context, (fd) => {
    const memory = new GuestMemory((bytes) => new Window(bytes));
    memory.addRegion(region(0, 6 * MIB, 0), fd);
    memory.addRegion(region(4096 * MIB, 8 * MIB, 6 * MIB), fd);
    expectShown(memory, fd, 0, 0);
    expectShown(memory, fd, 6 * MIB - 1, 6 * MIB - 1);
    expectShown(memory, fd, 4096 * MIB, 6 * MIB);
    expectShown(memory, fd, 4104 * MIB - 1, 14 * MIB - 1);
    expect(memory.resolve(6 * MIB - 4, 0, 8)).toBe(4);
    memory.clear();
    memory.addRegion(region(0, 2 * MIB, 2 * MIB), fd);
    expectShown(memory, fd, 77, 2 * MIB + 77);
    memory.clear();
  });
});

it('maps a region that begins inside a huge page, and one that ends inside', (context) => {
  withHugeFile(context, (fd) => {
    const memory = new GuestMemory((bytes) => new Window(bytes));
    memory.addRegion(region(0, 640 * 1024, 0), fd);
    memory.addRegion(region(MIB, 3 * MIB, MIB), fd);
    expectShown(memory, fd, 640 * 1024 - 1, 640 * 1024 - 1);
    expectShown(memory, fd, MIB, MIB);
    expectShown(memory, fd, 4 * MIB - 1, 4 * MIB - 1);
    expect(memory.resolve(640 * 1024, 0, 1)).toBe(0);
    for (let steps = 0; memory.forgetResidentStep(); steps++) expect(steps).toBeLessThan(10);
    expectShown(memory, fd, MIB + 1, MIB + 1);
    memory.removeRegion(region(0, 640 * 1024, 0));
    expectShown(memory, fd, MIB, MIB);
    memory.clear();
  });
});

it('refuses a region beyond the end of a file in huge pages', (context) => {
  withHugeFile(context, (fd) => {
    const memory = new GuestMemory((bytes) => new Window(bytes));
    const beyond = region(0, 2 * MIB, HUGE_PAGES * 2 * MIB - MIB);
    expect(() => memory.addRegion(beyond, fd)).toThrow(RefusedError);
  });
});
