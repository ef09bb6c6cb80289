/** Faults on the way to a backing swap do what they say, to as many I/Os as they say. */

import { afterEach, describe, expect, it, vi } from 'vitest';
import { FaultIo, type Faults } from '../../src/backing/fault-io.ts';
import * as clock from '../../src/native/clock.ts';
import { MemoryIo } from '../driver/memory-io.ts';

const PAGE = 4096;
const EIO = 5;
const ENOSPC = 28;

afterEach(() => {
  vi.restoreAllMocks();
});

function setUp(faults: Faults) {
  const view = new Uint8Array(new ArrayBuffer(8 * PAGE));
  const pages = { view, offset: 0, count: 8 };
  const inner = new MemoryIo(pages, 64 * PAGE);
  const io = new FaultIo(inner, pages);
  io.faults = faults;
  return { view, inner, io };
}

/** One page, written or read, from beginning to end: the result. */
function run({ inner, io }: ReturnType<typeof setUp>, isWrite: boolean, at = 3): number {
  io.setPage(0, 0, 0);
  io.start(0, isWrite, at * PAGE, 0, 1);
  io.submit();
  for (const each of [...inner.inFlight]) inner.end(each);
  expect(io.hasEnded()).toBe(true);
  expect(io.next()).toBe(0);
  return io.result;
}

describe('without faults', () => {
  it('all is as underneath', () => {
    const bench = setUp({});
    bench.view.fill(7, 0, PAGE);
    expect(run(bench, true)).toBe(PAGE);
    expect(bench.inner.disk[3 * PAGE]).toBe(7);
    expect([bench.io.next(), bench.io.hasEnded(), bench.io.waitMillis(0)]).toEqual([-1, false, -1]);
    expect([bench.io.depth, bench.io.wakeFd]).toEqual([8, -1]);
  });
});

describe('faults', () => {
  it('of reads leave writes alone, and the other way round; what fails is not carried out', () => {
    const reads = setUp({ readErrno: EIO });
    expect([run(reads, true), run(reads, false)]).toEqual([PAGE, -EIO]);
    const writes = setUp({ writeErrno: ENOSPC });
    writes.view.fill(7, 0, PAGE);
    expect([run(writes, false), run(writes, true)]).toEqual([PAGE, -ENOSPC]);
    writes.view.fill(7, 0, PAGE);
    run(writes, true);
    expect(writes.inner.disk[3 * PAGE]).toBe(0);
  });

  it('make I/O fall short, or reads wrong by a bit', () => {
    expect(run(setUp({ shortBytes: 100 }), false)).toBe(PAGE - 100);
    const bench = setUp({ corruptReads: true });
    expect(run(bench, false)).toBe(PAGE);
    expect(bench.view.subarray(0, PAGE).filter((byte) => byte !== 0)).toHaveLength(1);
    expect(bench.inner.disk.every((byte) => byte === 0)).toBe(true);
  });

  it('hit one in so many', () => {
    const bench = setUp({ readErrno: EIO, oneIn: 4 });
    const results = Array.from({ length: 12 }, () => run(bench, false));
    expect(results.filter((result) => result === -EIO)).toHaveLength(3);
  });

  it('make everything take longer, and say how long to wait', () => {
    let now = 1_000_000;
    vi.spyOn(clock, 'monotonicMicros').mockImplementation(() => now);
    const { inner, io } = setUp({ delayMillis: 50 });
    for (const index of [0, 1]) {
      io.setPage(index, 0, index);
      io.start(index, true, index * PAGE, 0, 1);
      io.submit();
      now += 10_000;
    }
    for (const each of [...inner.inFlight]) inner.end(each);
    expect([io.hasEnded(), io.next(), io.waitMillis(now)]).toEqual([false, -1, 30]);
    now += 30_000;
    expect([io.hasEnded(), io.next(), io.next(), io.waitMillis(now)]).toEqual([true, 0, -1, 10]);
    now += 10_000;
    expect(io.next()).toBe(1);
  });
});
