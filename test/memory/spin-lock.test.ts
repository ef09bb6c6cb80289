/** The lock: one holder at a time, among real threads too, one of them asleep while it holds it. */

import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { LOCK_WORDS, SpinLock } from '../../src/memory/spin-lock.ts';

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

/** Adds to a number in two steps, under the lock; now and then it sleeps between the two. */
const ADDER = `
  const { workerData, parentPort } = require('node:worker_threads');
  import(workerData.module).then(({ SpinLock }) => {
    const words = new Int32Array(workerData.buffer);
    const lock = new SpinLock(words, 0);
    const idle = new Int32Array(new SharedArrayBuffer(4));
    for (let i = 0; i < workerData.rounds; i++) {
      lock.acquire();
      const before = words[1];
      if (i % 500 === 0) Atomics.wait(idle, 0, 0, 0.2);
      words[1] = before + 1;
      lock.release();
    }
    parentPort.postMessage('done');
  });
`;

it('loses no step of several threads', async () => {
  const [threads, rounds] = [3, 20_000];
  const buffer = new SharedArrayBuffer(64);
  const module = new URL('../../dist/memory/spin-lock.js', import.meta.url).href;
  const workers = Array.from(
    { length: threads },
    () => new Worker(ADDER, { eval: true, workerData: { buffer, module, rounds } }),
  );
  const ended = workers.map(
    (worker) =>
      new Promise<void>((resolve, reject) => {
        worker.once('exit', () => resolve());
        worker.once('error', reject);
      }),
  );
  await Promise.all(ended);
  expect(new Int32Array(buffer)[1]).toBe(threads * rounds);
});
