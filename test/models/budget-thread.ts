/**
 * One of several threads that take pages of one budget and give them back, at random; two may be of
 * one device. It ends with what it says that it holds, and says when it saw what must never be
 * (budget-share.test.ts).
 */

import { parentPort, workerData } from 'node:worker_threads';
import { BUDGET, BudgetShare, type BudgetTerms } from '../../src/xvmalloc/budget-share.ts';
import { seededRandom } from './random.ts';

export interface BudgetThreadOrders {
  readonly terms: BudgetTerms;
  readonly seed: number;
  readonly rounds: number;
  /** It is refused nothing while it holds less than this; it is the device's only thread then. */
  readonly guaranteePages: number;
  /** What may be committed at most, while nobody changes anything else. */
  readonly committedMax: number;
  /** Of one word: threads that are ready. */
  readonly ready: SharedArrayBuffer;
  readonly threads: number;
}

export interface BudgetThreadResult {
  readonly held: number;
  readonly refusals: number;
  readonly wrong: readonly string[];
}

function run(orders: BudgetThreadOrders): BudgetThreadResult {
  const { terms, seed, rounds, guaranteePages, committedMax, ready, threads } = orders;
  const share = new BudgetShare(terms);
  const whole = new Int32Array(terms.buffer);
  const random = seededRandom(seed);
  const wrong: string[] = [];
  const held: number[] = [];
  let pages = 0;
  let refusals = 0;
  const waiting = new Int32Array(ready);
  Atomics.add(waiting, 0, 1);
  while (Atomics.load(waiting, 0) < threads);
  for (let round = 0; round < rounds; round++) {
    // Up and down, so that it is near every limit now and then.
    if (random.below(100) < (round % 2000 < 1000 ? 65 : 35)) {
      const count = random.pick([1, 16]);
      if (share.take(count)) {
        held.push(count);
        pages += count;
      } else {
        refusals++;
        if (pages < guaranteePages) wrong.push(`refused with ${pages} pages`);
      }
      const committed = Atomics.load(whole, BUDGET.committedPages);
      if (committed > committedMax) wrong.push(`${committed} pages committed`);
    } else if (held.length > 0) {
      const count = held.pop()!;
      share.give(count);
      pages -= count;
    }
  }
  return { held: pages, refusals, wrong: wrong.slice(0, 5) };
}

parentPort?.postMessage(run(workerData as BudgetThreadOrders));
