/**
 * Adds to a number in two steps, under the lock; now and then it sleeps between the two. Started by
 * the test of the lock, several at once.
 */

import { workerData } from 'node:worker_threads';
import { SpinLock } from '../../src/memory/spin-lock.ts';

const { buffer, rounds } = workerData as { buffer: SharedArrayBuffer; rounds: number };
/** The lock's word, and the number. */
const words = new Int32Array(buffer);
const lock = new SpinLock(words, 0);
const idle = new Int32Array(new SharedArrayBuffer(4));

for (let i = 0; i < rounds; i++) {
  lock.acquire();
  const before = words[1]!;
  if (i % 500 === 0) Atomics.wait(idle, 0, 0, 0.2);
  words[1] = before + 1;
  lock.release();
}
