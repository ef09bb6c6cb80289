/** The lock: one holder at a time, among real threads too, one of them asleep while it holds it. */

import { once } from 'node:events';
import { expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { LOCK_WORDS, SpinLock } from '../../src/memory/spin-lock.ts';
import { startThread } from '../driver/threads.ts';

const ADDER = new URL('../models/adding-thread.ts', import.meta.url);

it('has one holder, and others after it', () => {
  const words = new Int32Array(2 * LOCK_WORDS);
  const [one, same, other] = [0, 0, LOCK_WORDS].map((index) => new SpinLock(words, index));
  one!.acquire();
  expect([same!.tryAcquire(), other!.tryAcquire()]).toEqual([false, true]);
  one!.release();
  expect(same!.tryAcquire()).toBe(true);
});

it('has its word', () => {
  expect(() => new SpinLock(new Int32Array(1), 1)).toThrow(AssertionError);
});

it('loses no step of several threads', async () => {
  const [threads, rounds] = [3, 20_000];
  const buffer = new SharedArrayBuffer(64);
  const workers = Array.from({ length: threads }, () => startThread(ADDER, { buffer, rounds }));
  // Rejects with a thread's error.
  await Promise.all(workers.map((worker) => once(worker, 'exit')));
  expect(new Int32Array(buffer)[1]).toBe(threads * rounds);
});
