/** First come, first served, also where the array begins again. */

import { expect, it } from 'vitest';
import { OperationFifo } from '../../src/store/operation-fifo.ts';
import { replayable } from '../models/random.ts';

it('gives back what came in the order in which it came', () => {
  replayable((random) => {
    const fifo = new OperationFifo(16);
    const model: number[] = [];
    for (let i = 0; i < 2000; i++) {
      if (model.length < 16 && random.below(2) === 0) {
        fifo.push(i);
        model.push(i);
      } else if (model.length > 0) expect(fifo.shift()).toBe(model.shift());
      expect(fifo.count).toBe(model.length);
    }
  });
});

it('takes no more than it was made for, and gives nothing when it is empty', () => {
  const fifo = new OperationFifo(2);
  expect(() => fifo.shift()).toThrow('has looked');
  fifo.push(1);
  fifo.push(2);
  expect(() => fifo.push(3)).toThrow('in one place');
});
