/** Operations that have waited for others, worked off in turns. */

import { describe, expect, it } from 'vitest';
import { STAGING_PAGES } from '../../src/store/backed-store.ts';
import { BackedBench, type BackedBenchOptions } from '../models/backed-bench.ts';
import { PAGE_KINDS } from '../models/pages.ts';
import { SEED, seededRandom } from '../models/random.ts';

const PAGE = 4096;
const random = seededRandom(SEED);
const page = (kind: string) => PAGE_KINDS[kind]!(random);
const noise = () => page('random');
const text = () => page('text');

function setUp(options: Partial<BackedBenchOptions> = {}): BackedBench {
  return new BackedBench({ slots: 64, memlimitBytes: 2 ** 20, ...options });
}

/** A read by another client; its slots hold nothing. */
function foreign(client: BackedBench) {
  const window = { u8: new Uint8Array(65536 + PAGE), i32: new Int32Array(1) };
  return [window, 65536, client, 0, 0] as never as [never, number, BackedBench, number, number];
}

describe('thousands of operations that waited for one I/O', () => {
  /** 16 slots with I/O under way, and 40 operations that wait for each. */
  function waiting(): BackedBench {
    const bench = setUp();
    for (let slot = 1; slot <= 16; slot++) bench.write(slot, noise());
    for (let i = 0; i < 20; i++) {
      for (let slot = 1; slot <= 16; slot++) bench.write(slot, text());
      for (let slot = 1; slot <= 16; slot++) bench.read(slot);
    }
    bench.store.flush();
    for (const io of [...bench.io.inFlight]) bench.io.end(io);
    return bench;
  }

  it('are carried out within the budget of a turn, each slot in its turn', () => {
    const bench = waiting();
    let reaps = 0;
    let carriedOut = 0;
    for (; bench.store.hasEnded(); reaps++) {
      if (reaps > 1000) expect.fail('never comes to an end');
      bench.outcomes.length = 0;
      const count = bench.store.reap(10);
      expect(count).toBeLessThanOrEqual(10);
      expect(bench.outcomes.length - count).toBeLessThanOrEqual(16);
      carriedOut += count;
      // Nothing is lost where the budget goes on with none.
      if (bench.store.hasEnded()) expect(count).toBe(10);
    }
    expect([carriedOut, reaps, bench.store.pending]).toEqual([640, 64, 0]);
    bench.compareAll();
    bench.compareCounts();
  });

  it('end with the client that gives them up, and others begin', () => {
    const bench = waiting();
    const other = setUp();
    for (let slot = 1; slot <= 16; slot++) bench.store.readPage(slot, ...foreign(other));
    expect(bench.store.reap(10)).toBe(10);
    expect(bench.store.pending).toBe(640 - 10 + 16);
    bench.store.abandon(bench);
    bench.forget();
    expect(bench.store.pending).toBe(16);
    expect(bench.store.hasEnded()).toBe(true);
    const ended: number[] = [];
    Object.assign(other, { endPage: (request: number) => ended.push(request) });
    expect(bench.store.reap(100)).toBe(16);
    bench.settle();
    expect([ended.length, bench.store.pending, bench.store.hasEnded()]).toEqual([16, 0, false]);
  });

  it('come to their end where that is waited for', () => {
    const bench = waiting();
    expect(bench.store.settle(10_000)).toBe(true);
    expect(bench.store.pending).toBe(0);
    bench.compareAll();
  });

  it('or for a staging page go on without I/O that would tell of them', () => {
    const bench = setUp({ slots: 2048, memlimitBytes: PAGE });
    for (let slot = 1; slot <= STAGING_PAGES; slot++) bench.write(slot, noise());
    // These want a staging page, and then need no I/O.
    for (let slot = 1001; slot <= 1100; slot++) bench.writePart(slot, 512, new Uint8Array(512));
    expect(bench.inFlight).toBe(STAGING_PAGES + 100);
    bench.store.flush();
    for (let round = 0; bench.store.hasEnded() || bench.io.inFlight.length > 0; round++) {
      if (round > 1000) expect.fail('never comes to an end');
      for (const io of [...bench.io.inFlight]) bench.io.end(io);
      expect(bench.store.reap(7)).toBeLessThanOrEqual(7);
      bench.store.flush();
    }
    expect(bench.inFlight).toBe(0);
    bench.compareAll();
  });
});
