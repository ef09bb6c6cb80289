/**
 * Faults on the way to a backing swap, for tests and for trying out what a bad disk does: an AsyncIo
 * around another one. Reads and writes fail, fall short, take longer, or bring other bytes than were
 * written. Not part of a daemon unless it is started with fault injection.
 */

import { PAGE_BYTES } from '../base/units.ts';
import type { AsyncIo, IoPages } from '../native/async-io.ts';
import { monotonicMicros } from '../native/clock.ts';

export interface Faults {
  /** Every I/O ends this much later, at the least. */
  readonly delayMillis?: number;
  /** errno with which reads or writes end; 0 or absent: they do not fail. */
  readonly readErrno?: number;
  readonly writeErrno?: number;
  /** Reads and writes end this many bytes short. */
  readonly shortBytes?: number;
  /** A bit of each page read is wrong. */
  readonly corruptReads?: boolean;
  /** Of so many I/Os one is affected, the rest are well; 1: all. The delay is for all. */
  readonly oneIn?: number;
}

/** An I/O that has ended underneath, or was never begun there, until it is told of. */
interface Held {
  readonly io: number;
  readonly result: number;
  readonly due: number;
}

export class FaultIo implements AsyncIo {
  faults: Faults = {};
  result = 0;
  readonly #inner: AsyncIo;
  readonly #pages: IoPages;
  readonly #held: Held[] = [];
  /** By I/O: what of it is affected, its first page, and when it was started. */
  readonly #fate: ('well' | 'short' | 'corrupt')[];
  readonly #firstPage: Int32Array;
  readonly #startedAt: Int32Array;
  #count = 0;

  constructor(inner: AsyncIo, pages: IoPages) {
    this.#inner = inner;
    this.#pages = pages;
    this.#fate = new Array(inner.depth).fill('well');
    this.#firstPage = new Int32Array(inner.depth);
    this.#startedAt = new Int32Array(inner.depth);
  }

  get name(): string {
    return `${this.#inner.name} with faults`;
  }

  get depth(): number {
    return this.#inner.depth;
  }

  get wakeFd(): number {
    return this.#inner.wakeFd;
  }

  setPage(io: number, index: number, page: number): void {
    if (index === 0) this.#firstPage[io] = page;
    this.#inner.setPage(io, index, page);
  }

  start(io: number, isWrite: boolean, offsetLow: number, offsetHigh: number, count: number): void {
    const { faults } = this;
    this.#count++;
    const isHit = this.#count % (faults.oneIn ?? 1) === 0;
    const errno = isHit ? ((isWrite ? faults.writeErrno : faults.readErrno) ?? 0) : 0;
    const now = monotonicMicros();
    this.#startedAt[io] = now;
    this.#fate[io] = 'well';
    if (isHit && (faults.shortBytes ?? 0) > 0) this.#fate[io] = 'short';
    else if (isHit && !isWrite && faults.corruptReads) this.#fate[io] = 'corrupt';
    if (errno === 0) this.#inner.start(io, isWrite, offsetLow, offsetHigh, count);
    else this.#held.push({ io, result: -errno, due: this.#due(now) });
  }

  submit(): boolean {
    return this.#inner.submit();
  }

  hasEnded(): boolean {
    this.#collect();
    const now = monotonicMicros();
    return this.#held.some(({ due }) => ((due - now) | 0) <= 0);
  }

  next(): number {
    this.#collect();
    const now = monotonicMicros();
    const index = this.#held.findIndex(({ due }) => ((due - now) | 0) <= 0);
    if (index < 0) return -1;
    const { io, result } = this.#held.splice(index, 1)[0]!;
    this.result = result;
    return io;
  }

  woken(): void {
    this.#inner.woken();
    this.#collect();
  }

  waitMillis(now: number): number {
    const waits = this.#held.map(({ due }) => Math.max(0, Math.ceil(((due - now) | 0) / 1000)));
    return waits.length === 0 ? -1 : Math.min(...waits);
  }

  close(): void {
    this.#inner.close();
  }

  #due(from: number): number {
    return (from + (this.faults.delayMillis ?? 0) * 1000) | 0;
  }

  #collect(): void {
    for (let io = this.#inner.next(); io >= 0; io = this.#inner.next()) {
      let { result } = this.#inner;
      const fate = this.#fate[io]!;
      if (fate === 'short') result = Math.max(0, result - this.faults.shortBytes!);
      if (fate === 'corrupt' && result > 0) this.#corrupt(this.#firstPage[io]!);
      this.#held.push({ io, result, due: this.#due(this.#startedAt[io]!) });
    }
  }

  #corrupt(page: number): void {
    const { view, offset } = this.#pages;
    view[offset + page * PAGE_BYTES + (this.#count % PAGE_BYTES)]! ^= 0x10;
  }
}
