/** The store's memory as other threads and tools see it: identity, figures, table. */

import { readSync } from 'node:fs';
import { expect, it } from 'vitest';
import { mapFileWindow } from '../../src/memory/memory-file.ts';
import { isShrinkSealed } from '../../src/native/fd.ts';
import { FIGURES_BYTES, HEADER, headerFigures, storeLayout } from '../../src/store/layout.ts';
import { joinStore, makeStore } from '../../src/store/mapped-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { COUNTER, sumCounter } from '../../src/store/statistics.ts';
import { lockedKilobytes, pagesHeldBy } from '../models/descriptors.ts';

it('says what it is in its first bytes, when it is complete', () => {
  const { mapped } = PageStore.make({ name: 'swap7', slots: 1000 });
  const header = Buffer.alloc(128);
  const read = () => readSync(mapped.shared.fd, header, 0, 128, 0);
  read();
  expect(header.readUInt32LE(HEADER.magic)).toBe(0);
  mapped.header.complete();
  read();
  expect(header.toString('latin1', 0, 4)).toBe('rzsw');
  expect(header.readUInt32LE(HEADER.slotCount)).toBe(1000);
  expect(header.readUInt32LE(HEADER.arenaPages)).toBe(2064);
  expect(header.toString('latin1', HEADER.name, HEADER.name + 6)).toBe('swap7\0');
});

it('shows its counters and gauges to whoever maps its first pages', () => {
  const store = makeStore({ slots: 100, threads: 3 });
  const others = [1, 2].map((thread) => joinStore(store.shared, thread));
  const figures = headerFigures(mapFileWindow(store.shared.fd, 0, FIGURES_BYTES));
  [store, ...others].forEach((each, i) => {
    each.row[COUNTER.numWrites]! += 3 + i;
  });
  expect(sumCounter(figures.counters, COUNTER.numWrites)).toBe(3 + 4 + 5);
  expect(sumCounter(figures.counters, COUNTER.numReads)).toBe(0);
  others[1]!.arena.allocatePage();
  expect([...figures.gauges]).toEqual([0, 1, 16]);
});

it('is the same for all threads that join, with locks where there are several', () => {
  const alone = makeStore({ slots: 100 });
  expect(alone.slotLocks).toBeUndefined();
  const store = makeStore({ slots: 100, hasBacking: true, threads: 2 });
  const other = joinStore(store.shared, 1);
  store.table[99] = 7;
  store.checksums[5] = -1;
  expect([other.table[99], other.checksums[5]]).toEqual([7, -1]);
  store.slotLocks![63]!.acquire();
  expect(other.slotLocks!.map((lock) => lock.tryAcquire())).toEqual([
    ...Array(63).fill(true),
    false,
  ]);
  const position = store.objects.allocate(1000);
  expect(other.objects.sizeOf(position)).toBe(1000);
  other.objects.free(position);
  expect(store.arena.usedPages).toBe(0);
});

it('begins empty, all of it reserved, and cannot shrink', () => {
  const store = makeStore({ slots: 2 ** 22 });
  expect(store.table.length).toBe(2 ** 22);
  expect(store.table.subarray(0, 5000).every((word) => word === 0)).toBe(true);
  // A first touch that finds no memory would be SIGBUS.
  const { bytes } = storeLayout({ slots: 2 ** 22 });
  expect(pagesHeldBy(store.shared.fd)).toBe(bytes / 4096);
  expect(isShrinkSealed(store.shared.fd)).toBe(true);
});

it('locked, is in memory where it is used, and gives back what is not', () => {
  const store = makeStore({ slots: 256, isLocked: true });
  const lockedArena = () => lockedKilobytes(process.pid, 'memfd:ramzswap-arena');
  const before = lockedArena();
  const pages = Array.from({ length: 100 }, () => store.arena.allocatePage());
  for (const page of pages) store.arena.segments[0]!.fill(page, page * 1024, (page + 1) * 1024);
  expect(lockedArena() - before).toBe(400);
  expect(lockedKilobytes(process.pid, 'memfd:ramzswap-table')).toBeGreaterThan(0);
  for (const page of pages) store.arena.freePage(page);
  for (let i = 0; i < 2; i++) {
    store.arena.markTrimInterval();
    while (store.arena.trim());
  }
  expect([lockedArena() - before, pagesHeldBy(store.shared.arenaFd)]).toEqual([0, 1]);
});

it('is not locked unasked', () => {
  const store = makeStore({ slots: 256 });
  const name = 'memfd:ramzswap';
  const before = lockedKilobytes(process.pid, name);
  const page = store.arena.allocatePage();
  store.arena.segments[0]!.fill(1, page * 1024, (page + 1) * 1024);
  store.table.fill(1);
  expect(lockedKilobytes(process.pid, name)).toBe(before);
});
