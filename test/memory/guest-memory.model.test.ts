/**
 * Guest memory against a list of regions: random adding, removing, clearing and resolving, with the
 * bytes that a window shows compared with those of the file.
 */

import { readSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { GuestMemory, type GuestRegion } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { GuestMemoryModel } from '../models/guest-memory-model.ts';

const PAGE = 4096;
const FILE_PAGES = 32;
/** Addresses straddle 4 GiB and 2^31, so that both halves of them change, and signs do. */
const GUEST_BASES = [2 ** 32 - 20 * PAGE, 2 ** 31 - 20 * PAGE];
const USER_BASE = 0x7f00_0000_0000;

interface Step {
  readonly kind: 'add' | 'remove' | 'clear' | 'resolve' | 'resolveUser';
  readonly region: GuestRegion;
  readonly which: number;
  readonly at: number;
  readonly length: number;
}

const byte = (pages: number) =>
  fc
    .tuple(fc.integer({ min: 0, max: pages }), fc.constantFrom(0, 0, 0, 1, 512, PAGE - 1))
    .map(([page, inPage]) => page * PAGE + inPage);

function stepsFrom(base: number): fc.Arbitrary<Step[]> {
  const region = fc.record({
    guestAddress: byte(40).map((at) => base + at),
    userAddress: byte(40).map((at) => USER_BASE + at),
    bytes: byte(10),
    mmapOffset: byte(FILE_PAGES),
  });
  const kind = fc.constantFrom<Step['kind'][]>(
    ...(['add', 'add', 'add', 'resolve', 'resolve', 'resolveUser', 'remove'] as const),
  );
  const step = fc.record({
    kind: fc.oneof({ weight: 20, arbitrary: kind }, { weight: 1, arbitrary: fc.constant('clear') }),
    region,
    which: fc.nat(),
    at: byte(52),
    length: fc.integer({ min: 1, max: 12 * PAGE }),
  });
  return fc.array(step as fc.Arbitrary<Step>, { minLength: 5, maxLength: 60 });
}

const fd = createMemfd('guest', FILE_PAGES * PAGE);
/** One for all runs, cleared before each: clearing is tested with it. */
const memory = new GuestMemory((bytes) => new Window(bytes));

function expectBytes(fileOffset: number, count: number): void {
  const { window, offset } = memory;
  const fromFile = Buffer.alloc(count);
  readSync(fd, fromFile, 0, count, fileOffset);
  expect(Buffer.compare(fromFile, window!.u8.subarray(offset, offset + count))).toBe(0);
}

function expectResolved(model: GuestMemoryModel, address: number, length: number): void {
  const found = model.find(address);
  const contiguous = memory.resolve(address | 0, Math.floor(address / 2 ** 32), length);
  expect(contiguous).toBe(Math.min(found?.rest ?? 0, length));
  if (found !== undefined) expectBytes(found.fileOffset, contiguous);
}

function expectUserResolved(model: GuestMemoryModel, address: number): void {
  const found = model.findUser(address);
  const contiguous = memory.resolveUser(address);
  expect(contiguous).toBe(found?.rest ?? 0);
  if (found !== undefined) expectBytes(found.fileOffset, contiguous);
}

function take(step: Step, model: GuestMemoryModel, base: number): void {
  const { kind, region, which, at, length } = step;
  if (kind === 'add') {
    let isAdded = true;
    try {
      memory.addRegion(region, fd);
    } catch {
      isAdded = false;
    }
    expect(isAdded).toBe(model.add(region));
  } else if (kind === 'remove') {
    const known = model.regions[which % (model.regions.length + 1)] ?? region;
    let isRemoved = true;
    try {
      memory.removeRegion(known);
    } catch {
      isRemoved = false;
    }
    expect(isRemoved).toBe(model.remove(known));
  } else if (kind === 'clear') {
    memory.clear();
    model.regions = [];
  } else if (kind === 'resolve') {
    expectResolved(model, base + at, length);
  } else {
    expectUserResolved(model, USER_BASE + at);
  }
}

it.each(GUEST_BASES)('resolves as a list of regions does, around %i', (base) => {
  const stamped = Uint32Array.from({ length: (FILE_PAGES * PAGE) / 4 }, (_, i) => i * 2654435761);
  writeSync(fd, stamped, 0, stamped.byteLength, 0);
  fc.assert(
    fc.property(stepsFrom(base), (steps) => {
      memory.clear();
      const model = new GuestMemoryModel(FILE_PAGES * PAGE);
      for (const step of steps) {
        take(step, model, base);
        expect([...memory.regions]).toEqual(model.regions);
        // Every edge that can go wrong, after every change.
        for (const { guestAddress, userAddress, bytes } of model.regions) {
          for (const edge of [-1, 0, bytes - 1, bytes]) {
            expectResolved(model, guestAddress + edge, 8);
            expectUserResolved(model, userAddress + edge);
          }
        }
      }
    }),
    { numRuns: 150 },
  );
  memory.clear();
});

it('leaves its file as it was when all is removed', () => {
  const bytes = Buffer.alloc(FILE_PAGES * PAGE);
  readSync(fd, bytes, 0, bytes.length, 0);
  for (let i = 0; i < bytes.length; i += 4) {
    expect(bytes.readUInt32LE(i)).toBe(Number((BigInt(i / 4) * 2654435761n) & 0xffffffffn));
  }
  closeFd(fd);
});
