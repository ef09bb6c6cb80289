/**
 * The parts alone, without a socket: the allocator (time, memory over ideal, what churn leaves), the
 * store with one thread and with two, a store of a GiB found again. `npx tsx scripts/bench-parts/main.ts [--rounds N]`.
 * Prints tables; a measuring tool, not a test.
 */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { createMemoryFile } from '../../src/memory/memory-file.ts';
import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { closeFd } from '../../src/native/fd.ts';
import { Compaction } from '../../src/store/compaction.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { COUNTER } from '../../src/store/statistics.ts';
import { ARENA_GAUGE, Arena, PAGES_PER_BLOCK } from '../../src/xvmalloc/arena.ts';
import { MappedArenaFile } from '../../src/xvmalloc/arena-file.ts';
import {
  OBJECT_BYTES_MAX,
  SEGMENT_SHIFT,
  SEGMENT_WORD_MASK,
  Xvmalloc,
} from '../../src/xvmalloc/xvmalloc.ts';
import { startThread } from '../../test/driver/threads.ts';
import { seededRandom } from '../../test/models/random.ts';
import { makeTmpfsFolder } from '../../test/models/tmpfs.ts';
import { collectAnonymousPages } from '../corpus.ts';
import { median } from '../median.ts';
import type { RecoveryFigures } from './recovery.ts';
import type { Kind, ThreadData } from './store-thread.ts';

const PAGE = 4096;
const OPERATIONS = 1_000_000;
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    millis: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
  },
});
const ROUNDS = Number(values.rounds);

function print(head: string[], rows: (string | number)[][]): void {
  const table = new Table({ head, style: { head: [], border: [] } });
  table.push(...rows);
  console.log(table.toString());
}

// ── The allocator ───────────────────────────────────────────────────────────────────────────────

const random = seededRandom(Number(values.seed));
const SIZES = {
  'uniform, 1 to 4092': () => random.between(1, OBJECT_BYTES_MAX),
  'biased, 1024 to 2600': () => random.between(1024, 2600),
};

function withAllocator<T>(use: (objects: Xvmalloc, arena: Arena) => T): T {
  const pages = 2 ** 20;
  const fd = createMemoryFile('bench-arena', pages * PAGE);
  const state = {
    blockMap: new Uint8Array(pages / PAGES_PER_BLOCK),
    words: new Int32Array(Arena.stateWords(pages)),
    gauges: new Float64Array(ARENA_GAUGE.COUNT),
  };
  const arena = new Arena(new MappedArenaFile(fd, pages), pages, state);
  arena.begin();
  const words = new Int32Array(Xvmalloc.stateWords(arena.blocks));
  try {
    return use(new Xvmalloc(arena, words), arena);
  } finally {
    closeFd(fd);
  }
}

interface Mixed {
  readonly nanos: number;
  /** At the moment when most was in use, memory over ideal. */
  readonly peak: number;
}

/**
 * The ancestor's test: a million random allocations and frees. `pause`: operations from one idle
 * moment to the next, in which compaction does what it wants.
 */
function mixed(size: () => number, pause = Infinity): Mixed {
  return withAllocator((objects, arena) => {
    const live = new Int32Array(OPERATIONS);
    const mover = moverOf(objects, arena, live);
    const compaction = new Compaction(mover, objects, arena.blocks);
    // Drawn before the clock runs.
    const sizes = Array.from({ length: OPERATIONS }, size);
    const draws = Array.from({ length: OPERATIONS }, () => random.uint32());
    let [bytes, peakBytes, peak] = [0, 0, 0];
    const start = performance.now();
    for (let i = 0; i < OPERATIONS; i++) {
      const draw = draws[i]!;
      if (mover.slots === 0 || draw % 100 < 55) {
        live[mover.slots++] = objects.allocate(sizes[i]!);
        bytes += sizes[i]!;
      } else {
        const at = draw % mover.slots;
        bytes -= objects.sizeOf(live[at]!);
        objects.free(live[at]!);
        live[at] = live[--mover.slots]!;
      }
      if (i % pause === pause - 1) {
        for (let step = 0; compaction.step(i * 1e4 + step, i, i) === 0; step++);
      }
      if (bytes <= peakBytes) continue;
      peakBytes = bytes;
      peak = (arena.usedPages * PAGE) / bytes;
    }
    return { peak, nanos: ((performance.now() - start) * 1e6) / OPERATIONS };
  });
}

/** Moves objects as the store does; `table` holds their positions. */
function moverOf(objects: Xvmalloc, { segments }: Arena, table: Int32Array) {
  return {
    slots: 0,
    isToMove: (slot: number) => objects.isEvacuated(table[slot]!),
    moveObject(slot: number): boolean {
      const from = table[slot]!;
      const bytes = objects.sizeOf(from);
      const to = objects.allocate(bytes);
      const [source, target] = [from, to].map((position) => segments[position >>> SEGMENT_SHIFT]!);
      const start = from & SEGMENT_WORD_MASK;
      target!.set(source!.subarray(start, start + ((bytes + 3) >> 2)), to & SEGMENT_WORD_MASK);
      table[slot] = to;
      objects.free(from);
      return true;
    },
  };
}

interface Churned {
  readonly before: number;
  readonly after: number;
  readonly millis: number;
  /** Of the steps of upkeep, in microseconds: the median and the 99th percentile. */
  readonly steps: readonly [number, number];
}

/** A store filled up, then 60% freed at random: what of its memory is useful, and after idle time. */
function churned(size: () => number): Churned {
  const slots = 100_000;
  const store = PageStore.make({ slots });
  const window = new PageWindow(2 * WINDOW_WORK_BYTES);
  const noise = seededRandom(2).bytes(PAGE);
  const { counters, mapped } = store;
  const useful = () => {
    const objects = counters[COUNTER.comprDataSize]! - counters[COUNTER.pagesExpand]! * PAGE;
    return objects / (mapped.gauges[ARENA_GAUGE.poolPages]! * PAGE);
  };
  for (let slot = 0; slot < slots; slot++) {
    // A head of noise compresses to its own length and little more.
    window.u8.fill(0, WINDOW_WORK_BYTES, WINDOW_WORK_BYTES + PAGE);
    window.u8.set(noise.subarray(0, Math.min(size(), 2900)), WINDOW_WORK_BYTES);
    store.writePage(slot, window, WINDOW_WORK_BYTES);
  }
  for (let slot = 0; slot < slots; slot++) if (random.below(100) < 60) store.freePage(slot);
  const before = useful();
  const start = performance.now();
  const took: number[] = [];
  for (let now = 1e6; ; now += 100) {
    const begun = performance.now();
    const wait = store.maintain(now);
    took.push((performance.now() - begun) * 1000);
    if (wait !== 0) break;
  }
  const millis = performance.now() - start;
  took.sort((a, b) => a - b);
  const at = (share: number) => took[Math.floor(share * (took.length - 1))]!;
  return { before, after: useful(), millis, steps: [at(0.5), at(0.99)] };
}

function benchAllocator(): void {
  const rows = Object.entries(SIZES).map(([name, size]) => {
    const plain = mixed(size);
    const paused = mixed(size, 10_000);
    const { before, after, millis, steps } = churned(size);
    return [
      ...[name, plain.nanos.toFixed(0), plain.peak.toFixed(3), paused.peak.toFixed(3)],
      ...[before.toFixed(2), after.toFixed(2), millis.toFixed(0)],
      steps.map((micros) => micros.toFixed(0)).join(' / '),
    ];
  });
  const head = ['sizes', 'ns an operation', 'peak / ideal', 'with idle moments'];
  print([...head, 'useful after freeing 60%', 'after idling', 'ms', 'a step, us: p50 / p99'], rows);
}

// ── The store ───────────────────────────────────────────────────────────────────────────────────

const THREAD = new URL('./store-thread.ts', import.meta.url);

interface StoreThread {
  readonly ready: Promise<number>;
  run(kind: Kind): Promise<number>;
  close(): Promise<number>;
}

function openThread(data: ThreadData): StoreThread {
  const worker = startThread(THREAD, data);
  const failures: ((error: Error) => void)[] = [];
  worker.on('error', (error) => failures.at(-1)?.(error));
  const answer = () =>
    new Promise<number>((resolve, reject) => {
      worker.once('message', resolve);
      failures.push(reject);
    });
  return {
    ready: answer(),
    run(kind) {
      worker.postMessage({ kind, millis: Number(values.millis) });
      return answer();
    },
    close: () => worker.terminate(),
  };
}

async function benchStore(corpus: Buffer): Promise<void> {
  const pages = corpus.length / PAGE;
  const shared = new SharedArrayBuffer(corpus.length);
  new Uint8Array(shared).set(corpus);
  const figures: Record<string, number[]> = {};
  const measure = async (name: string, threads: StoreThread[]) => {
    for (const kind of ['write', 'read'] as const) {
      const rates = await Promise.all(threads.map((thread) => thread.run(kind)));
      const total = rates.reduce((sum, rate) => sum + rate);
      figures[`${kind} ${name}`] = [...(figures[`${kind} ${name}`] ?? []), total];
    }
  };
  const start = (store: PageStore, count: number) =>
    Array.from({ length: count }, (_, thread) =>
      openThread({ share: store.share, thread, first: thread * pages, corpus: shared }),
    );
  const alone = PageStore.make({ slots: pages });
  const both = PageStore.make({ slots: 2 * pages, threads: 2 });
  const one = start(alone, 1);
  const two = start(both, 2);
  for (const { ready } of [...one, ...two]) await ready;
  for (let round = 0; round <= ROUNDS; round++) {
    await measure('one', one);
    await measure('two', two);
    await measure('one of two', [two[round % 2]!]);
    // The first round only warms up.
    if (round === 0) for (const name in figures) figures[name] = [];
  }
  for (const { close } of [...one, ...two]) await close();
  const rows = (['write', 'read'] as const).map((kind) => {
    const [single, twice, ofTwo] = ['one', 'two', 'one of two'].map((name) =>
      median(figures[`${kind} ${name}`]!),
    ) as [number, number, number];
    const rates = [single, ofTwo, twice].map((rate) => rate.toFixed(0));
    return [kind, ...rates, (twice / single).toFixed(2), (twice / ofTwo).toFixed(2)];
  });
  const head = [
    'pages/s',
    'alone',
    'one thread of two',
    'both',
    'both / alone',
    'both / one of two',
  ];
  print(head, rows);
}

// ── A store found again ─────────────────────────────────────────────────────────────────────────

const RECOVERY = fileURLToPath(new URL('./recovery.ts', import.meta.url));

/** A process of its own each time: mappings are new, and nothing is compiled yet. */
function recoveryProcess(order: 'fill' | 'recover', folder: string): string {
  const args = ['--import', 'tsx', RECOVERY, order, folder];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${order}: ${stderr}`);
  return stdout;
}

function benchRecovery(): void {
  const { path, remove } = makeTmpfsFolder();
  try {
    recoveryProcess('fill', path);
    const rounds = Array.from(
      { length: ROUNDS },
      () => JSON.parse(recoveryProcess('recover', path)) as RecoveryFigures,
    );
    const { pages, bytes } = rounds[0]!;
    const [took, cpu] = (['millis', 'cpuMillis'] as const).map((name) =>
      median(rounds.map((round) => round[name])).toFixed(0),
    ) as [string, string];
    const head = ['pages', 'compressed, MiB', 'found again in, ms', 'of it processor time, ms'];
    print(head, [[pages, (bytes / 2 ** 20).toFixed(0), took, cpu]]);
  } finally {
    remove();
  }
}

benchAllocator();
benchRecovery();
const corpus = collectAnonymousPages(8192);
console.log(`${corpus.length / PAGE} pages of live processes`);
await benchStore(corpus);
