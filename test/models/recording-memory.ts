/**
 * Memory that tells of every write: typed arrays behind proxies. A copy or fill is told of in pieces,
 * as it would be found in the middle. Of a store's memory a record is kept, in order, so that a test
 * can have what was in it at any moment: images to which the record is applied step by step.
 *
 * Recorded is what recovery believes: table, block map, arena. The rest is real and forgotten.
 */

import { type StoreLayout, type StoreShape, storeLayout } from '../../src/store/layout.ts';
import { type MappedStore, makeStore } from '../../src/store/mapped-store.ts';
import { Arena, PAGES_PER_BLOCK } from '../../src/xvmalloc/arena.ts';
import type { ArenaFile } from '../../src/xvmalloc/arena-file.ts';
import { Xvmalloc } from '../../src/xvmalloc/xvmalloc.ts';

type Words = Int32Array | Uint16Array | Uint8Array;

/** The memory that survives: what is in it, by part. */
export interface Image {
  readonly table: Int32Array;
  readonly blockMap: Uint8Array;
  readonly arena: Int32Array;
}

interface Write {
  readonly part: keyof Image;
  readonly at: number;
  /** As many elements from `at` on. */
  readonly values: readonly number[];
  /** Instead of values: so many elements become zero at once (memory given back). */
  readonly zeros: number;
}

const targets = new WeakMap<object, { target: Words; wrote: Wrote }>();
/** Called when elements from `at` on have these values now. */
export type Wrote = (at: number, values: readonly number[]) => void;

const PIECE_BYTES = 8;
const WORDS_PER_PAGE = 1024;

export class RecordingMemory {
  readonly writes: Write[] = [];
  readonly store: MappedStore;
  readonly #start: Image;

  /** Of a store that is made now; or what a crashed process left as `start`, for another to find. */
  constructor(shape: StoreShape, start?: Image) {
    this.#start = start === undefined ? emptyImage(shape) : copyOf(start);
    const real = makeStore(shape);
    const layout = storeLayout(shape);
    const { blockMap, words } = arenaStateOf(real, layout);
    const file = this.#arenaFile(this.#start.arena.slice());
    const recorded = this.#recorded('blockMap', blockMap);
    const table = this.#recorded('table', real.table);
    this.store = { ...real, table, ...allocatorOver(real, layout, file, recorded) };
    // makeStore() has begun an arena of its own over the same state.
    words.fill(0);
    blockMap.set(this.#start.blockMap);
    real.table.set(this.#start.table);
    if (start === undefined) this.store.arena.begin();
  }

  /** The memory before the first write. */
  image(): Image {
    return copyOf(this.#start);
  }

  /** Write number `index` becomes part of the image. */
  apply(index: number, image: Image): void {
    const { part, at, values, zeros } = this.writes[index]!;
    if (zeros > 0) image[part].fill(0, at, at + zeros);
    else image[part].set(values, at);
  }

  #arenaFile(words: Int32Array): ArenaFile {
    return {
      segments: [this.#recorded('arena', words)],
      reserve: () => 0,
      punch: (offset, bytes) => {
        this.writes.push({ part: 'arena', at: offset / 4, values: [], zeros: bytes / 4 });
        words.fill(0, offset / 4, (offset + bytes) / 4);
        return 0;
      },
    };
  }

  #recorded<T extends Words>(part: keyof Image, target: T): T {
    return recordWrites(target, PIECE_BYTES, (at, values) => {
      this.writes.push({ part, at, values, zeros: 0 });
    });
  }
}

/**
 * Images as a new process maps them: what recovery does not believe, allocator and counters, is
 * anybody's guess, and here what the last one has left.
 */
export class CrashedMemory {
  readonly #real: MappedStore;
  readonly #layout: StoreLayout;
  /** A copy of the image: recovery writes to it. */
  readonly #copy: Image;

  constructor(shape: StoreShape) {
    this.#real = makeStore(shape);
    this.#layout = storeLayout(shape);
    this.#copy = emptyImage(shape);
  }

  storeOver(image: Image): MappedStore {
    const { table, blockMap, arena: words } = this.#copy;
    table.set(image.table);
    blockMap.set(image.blockMap);
    words.set(image.arena);
    const file: ArenaFile = {
      segments: [words],
      reserve: () => 0,
      punch: (offset, bytes) => {
        words.fill(0, offset / 4, (offset + bytes) / 4);
        return 0;
      },
    };
    return { ...this.#real, table, ...allocatorOver(this.#real, this.#layout, file, blockMap) };
  }
}

function arenaStateOf({ table }: MappedStore, layout: StoreLayout) {
  const blocks = layout.arenaPages / PAGES_PER_BLOCK;
  return {
    blockMap: new Uint8Array(table.buffer, layout.blockMap, blocks),
    words: new Int32Array(table.buffer, layout.blocks, Arena.stateWords(layout.arenaPages)),
  };
}

function emptyImage(shape: StoreShape): Image {
  const { arenaPages } = storeLayout(shape);
  return {
    table: new Int32Array(shape.slots),
    blockMap: new Uint8Array(arenaPages / PAGES_PER_BLOCK),
    arena: new Int32Array(arenaPages * WORDS_PER_PAGE),
  };
}

function copyOf({ table, blockMap, arena }: Image): Image {
  return { table: table.slice(), blockMap: blockMap.slice(), arena: arena.slice() };
}

/** Arena and allocator with the real store's state, but another file and block map. */
function allocatorOver(
  real: MappedStore,
  layout: StoreLayout,
  file: ArenaFile,
  blockMap: Uint8Array,
): Pick<MappedStore, 'arena' | 'objects'> {
  const { buffer } = real.table;
  const { arenaPages } = layout;
  const words = new Int32Array(buffer, layout.blocks, Arena.stateWords(arenaPages));
  const arena = new Arena(file, arenaPages, { words, blockMap, gauges: real.gauges });
  const lists = new Int32Array(buffer, layout.lists, Xvmalloc.stateWords(arena.blocks));
  return { arena, objects: new Xvmalloc(arena, lists) };
}

/** The array behind a proxy that calls `wrote` after each write; copies in pieces of some bytes. */
export function recordWrites<T extends Words>(target: T, pieceBytes: number, wrote: Wrote): T {
  const proxy = new Proxy(target, {
    set(_, key, value: number) {
      const at = Number(key);
      target[at] = value;
      wrote(at, [target[at]!]);
      return true;
    },
    get(_, key) {
      const value = Reflect.get(target, key, target) as unknown;
      if (typeof value !== 'function') return value;
      if (key === 'subarray') {
        return (from: number, end?: number) =>
          recordWrites(target.subarray(from, end), pieceBytes, (at, values) => {
            wrote(from + at, values);
          });
      }
      return (...args: unknown[]) => {
        const [from, end] = changedBy(key as string, args, target.length);
        const before = target.slice(from, end);
        const result = value.apply(target, args) as unknown;
        const after = target.slice(from, end);
        const isChanged = Buffer.compare(bytesOf(before), bytesOf(after)) !== 0;
        if (isChanged) target.set(before, from);
        const piece = pieceBytes / target.BYTES_PER_ELEMENT;
        for (let i = 0; isChanged && i < after.length; i += piece) {
          const part = after.subarray(i, i + piece);
          target.set(part, from + i);
          wrote(from + i, [...part]);
        }
        return result === target ? proxy : result;
      };
    },
  });
  targets.set(proxy, { target, wrote });
  return proxy;
}

/** Elements that a call of an array's method may write. */
function changedBy(method: string, args: readonly unknown[], length: number): [number, number] {
  const [first, second, third] = args as [number, number | undefined, number | undefined];
  if (method === 'fill') return [second ?? 0, third ?? length];
  if (method === 'copyWithin') return [first, Math.min(length, first + (third! - second!))];
  if (method !== 'set') return [0, 0];
  const from = second ?? 0;
  return [from, from + (args[0] as { length: number }).length];
}

function bytesOf({ buffer, byteOffset, byteLength }: Words): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Runs `use` with atomic operations that know recorded arrays. */
export function withRecordedAtomics(use: () => void): void {
  const plain = { store: Atomics.store, load: Atomics.load };
  const known = (array: object) => targets.get(array);
  const atomics = Atomics as unknown as Record<string, unknown>;
  atomics.store = (array: Int32Array, at: number, value: number) => {
    const found = known(array);
    if (found === undefined) return plain.store(array, at, value);
    found.target[at] = value;
    found.wrote(at, [found.target[at]!]);
    return value;
  };
  atomics.load = (array: Int32Array, at: number) =>
    plain.load((known(array)?.target ?? array) as Int32Array, at);
  try {
    use();
  } finally {
    Object.assign(Atomics, plain);
  }
}
