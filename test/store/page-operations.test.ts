/** Operations by slot and in order, against a map of arrays. */

import { describe, expect, it } from 'vitest';
import type { PageClient } from '../../src/base/page-operation.ts';
import { PageOperations } from '../../src/store/page-operations.ts';
import type { PageWindow } from '../../src/store/page-window.ts';
import { type Random, replayable } from '../models/random.ts';

const CAPACITY = 64;
const clients = [0, 1, 2].map(
  () => ({ takePage: () => false, endPage: () => {} }) satisfies PageClient<PageWindow>,
);

interface Known {
  readonly record: number;
  readonly request: number;
  readonly client: PageClient<PageWindow> | undefined;
}

class Model {
  readonly slots = new Map<number, Known[]>();
  readonly operations = new PageOperations(CAPACITY);
  #requests = 0;

  get all(): Known[] {
    return [...this.slots.values()].flat();
  }

  add(slot: number, client: PageClient<PageWindow> | undefined): void {
    const request = this.#requests++;
    const record = this.operations.add(request % 5, slot, client, request, request + 1);
    const queue = this.slots.get(slot) ?? [];
    expect(this.all.map((known) => known.record)).not.toContain(record);
    queue.push({ record, request, client });
    this.slots.set(slot, queue);
  }

  removeFirst(slot: number): void {
    const queue = this.slots.get(slot)!;
    const { record } = queue.shift()!;
    expect(this.operations.removeFirst(record)).toBe(queue[0]?.record ?? -1);
    if (queue.length === 0) this.slots.delete(slot);
  }

  removeWaiting(client: PageClient<PageWindow>): void {
    this.operations.removeWaiting(client);
    for (const [slot, [first, ...rest]] of this.slots) {
      this.slots.set(slot, [first!, ...rest.filter((known) => known.client !== client)]);
    }
  }

  compare(slotLimit: number): void {
    const { operations } = this;
    expect(operations.count).toBe(this.all.length);
    expect(operations.isFull).toBe(this.all.length === CAPACITY);
    for (let slot = 0; slot < slotLimit; slot++) {
      const queue = this.slots.get(slot) ?? [];
      expect(operations.find(slot)).toBe(queue[0]?.record ?? -1);
      queue.forEach(({ record, request, client }, i) => {
        expect(operations.isFirst(record)).toBe(i === 0);
        expect(operations.isWaitedFor(record)).toBe(i + 1 < queue.length);
        expect([operations.slot[record], operations.request[record]]).toEqual([slot, request]);
        expect([operations.page[record], operations.kind[record]]).toEqual([
          request + 1,
          request % 5,
        ]);
        expect(operations.client[record]).toBe(client);
        expect(operations.staging[record]).toBe(-1);
      });
    }
  }
}

function step(model: Model, random: Random, slotLimit: number): void {
  const busy = [...model.slots.keys()];
  if (!model.operations.isFull && random.below(100) < 55) {
    model.add(random.below(slotLimit), random.pick([...clients, undefined]));
  } else if (busy.length > 0 && !random.rarely(20)) {
    model.removeFirst(random.pick(busy));
  } else {
    model.removeWaiting(random.pick(clients));
  }
}

describe('operations', () => {
  // Few slots make long queues, many make buckets that slots share.
  it.each([3, 40, 5000])('are kept by slot, in order, like a map of arrays (%i slots)', (slots) => {
    replayable((random) => {
      const model = new Model();
      for (let i = 0; i < 4000; i++) {
        step(model, random, slots);
        if (random.rarely(slots > 100 ? 200 : 5)) model.compare(slots);
      }
      for (const slot of [...model.slots.keys()]) {
        while (model.slots.has(slot)) model.removeFirst(slot);
      }
      model.compare(slots);
    });
  });

  it('fill the table, and a full one takes no more', () => {
    const model = new Model();
    for (let i = 0; i < CAPACITY; i++) model.add(i * CAPACITY, undefined);
    expect(model.operations.isFull).toBe(true);
    expect(() => model.operations.add(0, 1, undefined, 0, 0)).toThrow(/full/);
    model.removeFirst(0);
    model.add(7, clients[0]);
    model.compare(10);
  });
});
