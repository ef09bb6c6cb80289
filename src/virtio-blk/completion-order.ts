/**
 * Returns the requests of a queue to the driver in the order in which they were popped, whatever the
 * order in which they are done. Whoever takes over a ring from the used index alone (a front end
 * that connects again, without an in-flight area) can then not lose or repeat a request: those
 * before the index are done, those behind it are not. With an in-flight area, which says that of each
 * request, they are returned as they are done.
 *
 *   #first            #next             what is done from #first on is pushed at once; what is done
 *     ▼                 ▼               behind one that is not waits here, its status already with
 *   ──┬──────┬──────┬───┬──             the driver
 *     │ open │ done │ … │
 */

import type { Window } from '../memory/window.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import type { BlockRequest } from './block-request.ts';
import type { RequestTimes } from './request-times.ts';

export class CompletionOrder<W extends Window> {
  readonly #ring: Virtqueue<W>;
  readonly #times: RequestTimes;
  #heads = new Int32Array(0);
  #bytes = new Int32Array(0);
  #kinds = new Uint8Array(0);
  #begins = new Int32Array(0);
  #isDone = new Uint8Array(0);
  #mask = 0;
  /** Sequence numbers, modulo 2^16, of the oldest request not pushed and of the next one popped. */
  #first = 0;
  #next = 0;
  #isOrdered = true;

  /** `times`: told of what is pushed. */
  constructor(ring: Virtqueue<W>, times: RequestTimes) {
    this.#ring = ring;
    this.#times = times;
  }

  /** For a ring of `size` (a power of two); nothing is outstanding. */
  reset(size: number, isOrdered: boolean): void {
    this.forget();
    this.#isOrdered = isOrdered;
    if (this.#heads.length === size) return;
    this.#heads = new Int32Array(size);
    this.#bytes = new Int32Array(size);
    this.#kinds = new Uint8Array(size);
    this.#begins = new Int32Array(size);
    this.#isDone = new Uint8Array(size);
    this.#mask = size - 1;
  }

  // HOT PATH from here on: no allocation, no BigInt, no closures, no await.

  /** Requests popped and not pushed. */
  get outstanding(): number {
    return (this.#next - this.#first) & 0xffff;
  }

  /** Whether as many requests are outstanding as the ring has descriptors: no more can be real. */
  get isFull(): boolean {
    return this.outstanding > this.#mask;
  }

  /** A request was popped: its sequence number. */
  begin(): number {
    const sequence = this.#next;
    this.#isDone[sequence & this.#mask] = 0;
    this.#next = (sequence + 1) & 0xffff;
    return sequence;
  }

  /** The request is done: pushes it and those that waited for it; how many. */
  end({ sequence, kind, beganAt }: BlockRequest, head: number, writtenBytes: number): number {
    // Out of order only their number matters.
    if (!this.#isOrdered || sequence === this.#first) {
      this.#push(head, writtenBytes, kind, beganAt);
      return this.#isOrdered ? 1 + this.#pushWaiting() : 1;
    }
    const at = sequence & this.#mask;
    this.#heads[at] = head;
    this.#bytes[at] = writtenBytes;
    this.#kinds[at] = kind;
    this.#begins[at] = beganAt;
    this.#isDone[at] = 1;
    return 0;
  }

  /** Those from the first on that are done; how many. */
  #pushWaiting(): number {
    let count = 0;
    while (this.#first !== this.#next) {
      const at = this.#first & this.#mask;
      if (this.#isDone[at] === 0) break;
      this.#push(this.#heads[at]!, this.#bytes[at]!, this.#kinds[at]!, this.#begins[at]!);
      count++;
    }
    return count;
  }

  #push(head: number, writtenBytes: number, kind: number, beganAt: number): void {
    this.#ring.push(head, writtenBytes);
    this.#times.pushed(kind, beganAt);
    this.#first = (this.#first + 1) & 0xffff;
  }

  /** Those outstanding will be popped again, or never asked for. */
  forget(): void {
    this.#first = this.#next;
  }
}
