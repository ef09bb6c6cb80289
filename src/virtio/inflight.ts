/**
 * A queue's region of the in-flight area (vhost-user.rst, "Inflight I/O tracking", split virtqueue):
 * memory that the front end keeps for the back end, in which that notes which chains it has popped
 * and not returned. So the next back end can do again what a killed one has left, in the order in
 * which it was popped, and nothing that the driver has seen returned.
 *
 *      0: u64 features   8: u16 version   10: u16 desc_num   12: u16 last_batch_head   14: u16 used_idx
 *     16: an entry a descriptor:  u8 inflight  u8 padding[5]  u16 next  u64 counter
 *
 * Anybody may have written anything there: entries are checked, and no loop is longer than the ring.
 */

import type { Window } from '../memory/window.ts';

export const INFLIGHT = {
  version: 8,
  desc_num: 10,
  last_batch_head: 12,
  used_idx: 14,
  HEADER_BYTES: 16,
} as const;
export const INFLIGHT_ENTRY = { inflight: 0, next: 6, counter: 8, BYTES: 16 } as const;
const VERSION = 1;
const REGION_ALIGN = 64;

/** Bytes of a region for `entries` descriptors. */
export function inflightRegionBytes(entries: number): number {
  const bytes = INFLIGHT.HEADER_BYTES + INFLIGHT_ENTRY.BYTES * entries;
  return Math.ceil(bytes / REGION_ALIGN) * REGION_ALIGN;
}

export class InflightRegion {
  /** Descriptors that it has entries for: no larger ring can use it. */
  readonly entries: number;

  readonly #window: Window;
  readonly #offset: number;
  /** For the next chain that is popped: a 64-bit count in two halves. */
  #counterLo = 0;
  #counterHi = 0;

  /** `offset`: a multiple of 64, with inflightRegionBytes(entries) there. */
  constructor(window: Window, offset: number, entries: number) {
    this.#window = window;
    this.#offset = offset;
    this.entries = entries;
  }

  /**
   * Takes up the region for a ring of `size` whose used index is `usedIdx`: the heads of the chains
   * that were popped and not returned, oldest first. Undefined: nobody has used the region for this
   * ring yet; it begins empty. Cold path.
   */
  resume(size: number, usedIdx: number): readonly number[] | undefined {
    const { u16 } = this.#window;
    const at = this.#offset >> 1;
    const missed = (usedIdx - u16[at + (INFLIGHT.used_idx >> 1)]!) & 0xffff;
    const isKnown =
      u16[at + (INFLIGHT.version >> 1)] === VERSION &&
      u16[at + (INFLIGHT.desc_num >> 1)] === size &&
      missed <= size;
    if (!isKnown) {
      this.#begin(size, usedIdx);
      return undefined;
    }
    // The last batch had been shown to the driver, but not yet taken off here.
    if (missed > 0) this.published(missed, usedIdx);
    return this.#collect(size);
  }

  // HOT PATH from here on: no allocation, no BigInt, no closures, no await.

  /** The chain that begins with descriptor `head` was popped. */
  popped(head: number): void {
    const { i32, u8 } = this.#window;
    const entry = this.#entry(head);
    const counter = (entry + INFLIGHT_ENTRY.counter) >> 2;
    i32[counter] = this.#counterLo;
    i32[counter + 1] = this.#counterHi;
    this.#counterLo = (this.#counterLo + 1) | 0;
    if (this.#counterLo === 0) this.#counterHi = (this.#counterHi + 1) | 0;
    // Whoever sees the mark sees the counter.
    Atomics.store(u8, entry + INFLIGHT_ENTRY.inflight, 1);
  }

  /** A used element of it was written: it belongs to the batch that is published next. */
  pushed(head: number): void {
    const { u16 } = this.#window;
    const last = (this.#offset + INFLIGHT.last_batch_head) >> 1;
    u16[(this.#entry(head) + INFLIGHT_ENTRY.next) >> 1] = u16[last]!;
    Atomics.store(u16, last, head);
  }

  /** The batch of the last `count` pushed was published: the used index is `usedIdx` now. */
  published(count: number, usedIdx: number): void {
    const { u8, u16 } = this.#window;
    let head = u16[(this.#offset + INFLIGHT.last_batch_head) >> 1]!;
    for (let i = 0; i < count && head < this.entries; i++) {
      const entry = this.#entry(head);
      Atomics.store(u8, entry + INFLIGHT_ENTRY.inflight, 0);
      head = u16[(entry + INFLIGHT_ENTRY.next) >> 1]!;
    }
    Atomics.store(u16, (this.#offset + INFLIGHT.used_idx) >> 1, usedIdx);
  }

  #entry(head: number): number {
    return this.#offset + INFLIGHT.HEADER_BYTES + INFLIGHT_ENTRY.BYTES * head;
  }

  // ── Cold path ─────────────────────────────────────────────────────────────────────────────────

  #begin(size: number, usedIdx: number): void {
    const { u8, u16 } = this.#window;
    u8.fill(0, this.#offset, this.#offset + inflightRegionBytes(this.entries));
    const at = this.#offset >> 1;
    u16[at + (INFLIGHT.desc_num >> 1)] = size;
    u16[at + (INFLIGHT.used_idx >> 1)] = usedIdx;
    Atomics.store(u16, at + (INFLIGHT.version >> 1), VERSION);
    this.#counterLo = 0;
    this.#counterHi = 0;
  }

  #collect(size: number): readonly number[] {
    const { u8, i32 } = this.#window;
    const found: { head: number; counter: bigint }[] = [];
    for (let head = 0; head < size; head++) {
      const entry = this.#entry(head);
      if (u8[entry + INFLIGHT_ENTRY.inflight] === 0) continue;
      const at = (entry + INFLIGHT_ENTRY.counter) >> 2;
      const counter = (BigInt(i32[at + 1]! >>> 0) << 32n) | BigInt(i32[at]! >>> 0);
      found.push({ head, counter });
    }
    found.sort((a, b) => (a.counter < b.counter ? -1 : a.counter > b.counter ? 1 : 0));
    const next = BigInt.asUintN(64, (found.at(-1)?.counter ?? -1n) + 1n);
    // What is done again keeps its place before what comes after it.
    this.#counterLo = Number(next & 0xffffffffn) | 0;
    this.#counterHi = Number(next >> 32n) | 0;
    return found.map(({ head }) => head);
  }
}
