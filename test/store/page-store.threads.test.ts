/**
 * Several threads at one store, at a few slots: each slot behaves like a register, no page is torn
 * or another slot's, and when all is freed nothing is left and nothing was miscounted.
 */

import { describe, expect, it } from 'vitest';
import { readStatistics } from '../../src/store/statistics.ts';
import { ARENA_GAUGE } from '../../src/xvmalloc/arena.ts';
import { EMPTY } from '../models/named-pages.ts';
import { SEED } from '../models/random.ts';
import { impossibleReads, type Timed } from '../models/register.ts';
import { runStoreThread, runStoreThreads } from '../models/run-store-threads.ts';
import { compareAges, StoreBench } from '../models/store-bench.ts';
import { KIND, LOG_WORDS } from '../models/store-thread.ts';

describe('several threads', () => {
  it.each([
    [2, 8, 60_000],
    [4, 40, 30_000],
  ])('%i of them at %i slots, %i operations each', async (threads, slots, operations) => {
    const bench = new StoreBench({ slots, threads });
    const logs = await runStoreThreads(bench.store, { slots, threads, operations });
    const writes = Array.from({ length: slots }, (): Timed[] => []);
    const reads = Array.from({ length: slots }, (): Timed[] => []);
    for (const log of logs) {
      const words = new Int32Array(log);
      for (let at = 0; at < words.length; at += LOG_WORDS) {
        const [kind, slot, version, start, end] = words.subarray(at, at + LOG_WORDS);
        const side = kind === KIND.read ? reads : writes;
        side[slot!]!.push({ version: version!, start: start!, end: end! });
      }
    }
    const first = { version: EMPTY, start: -1, end: -1 };
    let racing = 0;
    for (let slot = 0; slot < slots; slot++) {
      expect(impossibleReads(writes[slot]!, reads[slot]!, first)).toEqual([]);
      const beside = (read: Timed) =>
        writes[slot]!.some((write) => write.start < read.end && write.end > read.start);
      racing += reads[slot]!.slice(0, 200).filter(beside).length;
    }
    expect(racing).toBeGreaterThan(0);
    compareAges(bench.store);

    for (let slot = 0; slot < slots; slot++) bench.store.freePage(slot);
    compareAges(bench.store);
    const statistics = readStatistics(null, bench.store.mapped);
    const kinds = logs.flatMap((log) => {
      const words = new Int32Array(log);
      return Array.from({ length: operations }, (_, i) => words[i * LOG_WORDS]!);
    });
    expect(statistics).toMatchObject({
      num_writes: kinds.filter((kind) => kind === KIND.write).length,
      num_reads: kinds.filter((kind) => kind === KIND.read).length,
      ...{ pages_stored: 0, compr_data_size: 0, pages_zero: 0, pages_same: 0, pages_used: 0 },
      ...{ failed_reads: 0, failed_writes: 0 },
    });
    expect(bench.gauge(ARENA_GAUGE.poolPages) + bench.gauge(ARENA_GAUGE.rawPages)).toBe(0);
  });

  it.each([2, 4])('%i of them at parts of the same pages lose nothing', async (threads) => {
    const [slots, operations] = [3, 20_000];
    const bench = new StoreBench({ slots, threads });
    const ready = new SharedArrayBuffer(4);
    const { share } = bench.store;
    await Promise.all(
      Array.from({ length: threads }, (_, thread) =>
        runStoreThread({ share, thread, slots, operations, ready, seed: SEED }, 'part-thread.ts'),
      ),
    );
    const statistics = readStatistics(null, bench.store.mapped);
    expect(statistics).toMatchObject({ failed_reads: 0, failed_writes: 0 });
    expect(statistics.num_reads + statistics.num_writes).toBe(threads * operations);
  });
});
