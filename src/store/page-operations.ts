/**
 * Operations on pages that do not end at once, in the order in which they are to take effect: by
 * slot a queue whose first operation is under way and whose others wait for it. A fixed number of
 * records in typed arrays, slots found by a hash. It carries nothing out: backed-store.ts does.
 *
 *   buckets ──► first ──────────► first ──► …           one record a busy slot, by bucketNext
 *                 │ next            │
 *                 ▼                 ▼
 *               waits             (nothing)
 *                 │ next
 *                 ▼
 *               waits ◄── tail of first
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { randomInt } from 'node:crypto';
import { assert } from '../base/assert.ts';
import type { PageClient } from '../base/page-operation.ts';
import type { PageWindow } from './page-window.ts';

const NONE = -1;

export class PageOperations {
  readonly capacity: number;
  /** Records in use. */
  count = 0;

  // Of a record, free for the owner's use but for `slot`.
  readonly kind: Uint8Array;
  readonly slot: Int32Array;
  /** Whose operation it is; undefined when nobody waits for it. */
  readonly client: (PageClient<PageWindow> | undefined)[];
  readonly request: Int32Array;
  readonly page: Int32Array;
  /** Bytes [from, to) of a page that is changed in part. */
  readonly from: Int16Array;
  readonly to: Int16Array;
  /** The staging page of its I/O, or -1. */
  readonly staging: Int32Array;
  readonly checksum: Int32Array;

  readonly #next: Int32Array;
  readonly #tail: Int32Array;
  readonly #isFirst: Uint8Array;
  readonly #bucketNext: Int32Array;
  readonly #buckets: Int32Array;
  readonly #multiplier = (randomInt(2 ** 31) << 1) | 1;
  readonly #shift: number;
  #free = 0;

  /** `capacity`: a power of two. */
  constructor(capacity: number) {
    assert((capacity & (capacity - 1)) === 0, 'a hash has a power of two of buckets');
    this.capacity = capacity;
    this.#shift = 32 - Math.log2(capacity);
    this.kind = new Uint8Array(capacity);
    this.slot = new Int32Array(capacity);
    this.client = new Array(capacity).fill(undefined);
    this.request = new Int32Array(capacity);
    this.page = new Int32Array(capacity);
    this.from = new Int16Array(capacity);
    this.to = new Int16Array(capacity);
    this.staging = new Int32Array(capacity).fill(NONE);
    this.checksum = new Int32Array(capacity);
    this.#next = Int32Array.from({ length: capacity }, (_, i) => (i + 1 < capacity ? i + 1 : NONE));
    this.#tail = new Int32Array(capacity);
    this.#isFirst = new Uint8Array(capacity);
    this.#bucketNext = new Int32Array(capacity);
    this.#buckets = new Int32Array(capacity).fill(NONE);
  }

  get isFull(): boolean {
    return this.count === this.capacity;
  }

  /** The operation under way on the slot, or -1. */
  find(slot: number): number {
    if (this.count === 0) return NONE;
    let record = this.#buckets[this.#bucketOf(slot)]!;
    while (record !== NONE && this.slot[record] !== slot) record = this.#bucketNext[record]!;
    return record;
  }

  /** Whether operations wait for this one, the first of its slot. */
  isWaitedFor(record: number): boolean {
    return this.#next[record] !== NONE;
  }

  /** Whether the operation is the first of its slot: under way, not waiting. */
  isFirst(record: number): boolean {
    return this.#isFirst[record] === 1;
  }

  /** A new operation, behind those on the same slot. There must be a record left. */
  add(
    kind: number,
    slot: number,
    client: PageClient<PageWindow> | undefined,
    request: number,
    page: number,
  ): number {
    const record = this.#free;
    assert(record !== NONE, 'a full table takes no operation');
    const first = this.find(slot);
    this.#free = this.#next[record]!;
    this.count++;
    this.kind[record] = kind;
    this.slot[record] = slot;
    this.client[record] = client;
    this.request[record] = request;
    this.page[record] = page;
    this.#next[record] = NONE;
    if (first === NONE) {
      this.#makeFirst(record, record);
    } else {
      this.#isFirst[record] = 0;
      this.#next[this.#tail[first]!] = record;
      this.#tail[first] = record;
    }
    return record;
  }

  /** Removes the first operation of a slot; the one that waited for it, now the first, or -1. */
  removeFirst(record: number): number {
    const next = this.#next[record]!;
    this.#unlinkFirst(record);
    if (next !== NONE) this.#makeFirst(next, this.#tail[record]!);
    this.#release(record);
    return next;
  }

  /** Removes the operations of `client` that wait. Cold path. */
  removeWaiting(client: PageClient<PageWindow>): void {
    for (let first = 0; first < this.capacity; first++) {
      if (this.#isFirst[first] === 0) continue;
      let before = first;
      for (let record = this.#next[first]!; record !== NONE; record = this.#next[before]!) {
        if (this.client[record] !== client) {
          before = record;
          continue;
        }
        this.#next[before] = this.#next[record]!;
        this.#release(record);
      }
      this.#tail[first] = before;
    }
  }

  /** Multiplied by what no guest knows: one cannot choose slots that share a bucket. */
  #bucketOf(slot: number): number {
    return Math.imul(slot, this.#multiplier) >>> this.#shift;
  }

  #makeFirst(record: number, tail: number): void {
    const bucket = this.#bucketOf(this.slot[record]!);
    this.#isFirst[record] = 1;
    this.#tail[record] = tail;
    this.#bucketNext[record] = this.#buckets[bucket]!;
    this.#buckets[bucket] = record;
  }

  #unlinkFirst(record: number): void {
    const bucket = this.#bucketOf(this.slot[record]!);
    if (this.#buckets[bucket] === record) {
      this.#buckets[bucket] = this.#bucketNext[record]!;
      return;
    }
    let before = this.#buckets[bucket]!;
    while (this.#bucketNext[before] !== record) before = this.#bucketNext[before]!;
    this.#bucketNext[before] = this.#bucketNext[record]!;
  }

  #release(record: number): void {
    this.client[record] = undefined;
    this.staging[record] = NONE;
    this.#isFirst[record] = 0;
    this.#next[record] = this.#free;
    this.#free = record;
    this.count--;
  }
}
