/** The store's memory as other threads and tools see it: identity, figures, table. */

import { readSync } from 'node:fs';
import { expect, it } from 'vitest';
import { mapFileWindow } from '../../src/memory/memory-file.ts';
import { isShrinkSealed } from '../../src/native/fd.ts';
import { HEADER, HEADER_MAGIC, headerFigures, storeLayout } from '../../src/store/layout.ts';
import { mapStore } from '../../src/store/mapped-store.ts';
import { COUNTER } from '../../src/store/statistics.ts';
import { pagesHeldBy } from '../models/descriptors.ts';

it('says what it is in its first bytes', () => {
  const { fd } = mapStore(1000);
  const header = Buffer.alloc(16);
  readSync(fd, header, 0, 16, 0);
  expect(header.toString('latin1', 0, 4)).toBe('rzs1');
  expect(header.readUInt32LE(HEADER.magic)).toBe(HEADER_MAGIC);
  expect(header.readUInt32LE(HEADER.slotCount)).toBe(1000);
  expect(header.readUInt32LE(HEADER.arenaPages)).toBe(1008);
});

it('shows its counters and gauges to whoever maps its first page', () => {
  const store = mapStore(100);
  const other = headerFigures(mapFileWindow(store.fd, 0, 4096));
  store.counters[COUNTER.numWrites]! += 3;
  expect(other.counters[COUNTER.numWrites]).toBe(3);
  store.arena.allocatePage(2);
  expect([...other.gauges]).toEqual([...store.gauges]);
  expect([...other.gauges]).toEqual([0, 1, 16]);
});

it('begins empty, all of it reserved, and cannot shrink', () => {
  const store = mapStore(2 ** 22);
  expect(store.table.length).toBe(2 ** 22);
  expect(store.table.subarray(0, 5000).every((word) => word === 0)).toBe(true);
  // A first touch that finds no memory would be SIGBUS.
  expect(pagesHeldBy(store.fd)).toBe(storeLayout(2 ** 22).bytes / 4096);
  expect(isShrinkSealed(store.fd)).toBe(true);
});
