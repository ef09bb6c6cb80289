/**
 * Operations of a backed store, by number, first come first served. An operation is in one at most, so
 * none holds more than there are records.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { assert } from '../base/assert.ts';

export class OperationFifo {
  count = 0;
  readonly #operations: Int32Array;
  readonly #mask: number;
  #first = 0;

  /** `capacity`: a power of two. */
  constructor(capacity: number) {
    assert((capacity & (capacity - 1)) === 0, 'places are numbered by a mask');
    this.#operations = new Int32Array(capacity);
    this.#mask = capacity - 1;
  }

  push(operation: number): void {
    assert(this.count <= this.#mask, 'an operation waits in one place');
    this.#operations[(this.#first + this.count) & this.#mask] = operation;
    this.count++;
  }

  /** The one that came first; there must be one. */
  shift(): number {
    assert(this.count > 0, 'whoever takes an operation has looked');
    const operation = this.#operations[this.#first]!;
    this.#first = (this.#first + 1) & this.#mask;
    this.count--;
    return operation;
  }
}
