/**
 * Shares of a budget, as the devices' threads use them: equal to a model after every operation, and
 * exact among real threads.
 */

import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { RefusedError } from '../../src/base/errors.ts';
import { Budget, type DeviceShare } from '../../src/store/budget.ts';
import { BUDGET_DEVICES_MAX, BudgetShare } from '../../src/xvmalloc/budget-share.ts';
import { startThread } from '../driver/threads.ts';
import { BudgetModel, type ModelDevice } from '../models/budget-model.ts';
import type { BudgetThreadOrders, BudgetThreadResult } from '../models/budget-thread.ts';
import { type Random, replayable, SEED, seededRandom } from '../models/random.ts';

const PAGE = 4096;

/** A device with a share, as the control thread has it, and its thread, and the model. */
interface Device {
  readonly owner: DeviceShare;
  readonly share: BudgetShare;
  readonly model: ModelDevice;
}

function addDevice(budget: Budget, name: string, guarantee = 0): Device {
  const owner = budget.add(name, guarantee * PAGE);
  const model = { used: 0, guarantee, refusals: 0 };
  return { owner, share: new BudgetShare(owner.terms), model };
}

/** A budget of so many pages, its devices full of what is given here. */
function setUp(pages: number, devices: readonly { guarantee?: number; used?: number }[]) {
  const budget = Budget.make(pages * PAGE);
  const shares = devices.map(({ guarantee }, i) => addDevice(budget, `d${i}`, guarantee).share);
  devices.forEach(({ used = 0 }, i) => {
    shares[i]!.hold(used);
  });
  return { budget, shares };
}

/** Pages that can be taken, one at a time. */
function takeAll(share: BudgetShare): number {
  let pages = 0;
  while (share.take(1)) pages++;
  return pages;
}

class Program {
  readonly model: BudgetModel;
  readonly budget: Budget;
  readonly random: Random;
  devices: Device[] = [];
  #names = 0;

  constructor(random: Random, pages: number) {
    this.random = random;
    this.model = new BudgetModel(pages);
    this.budget = Budget.make(pages * PAGE);
  }

  add(guarantee: number): void {
    const isRefused =
      this.model.guaranteed + guarantee > this.model.budget ||
      !this.model.hasRoomFor({ used: 0, guarantee: 0, refusals: 0 }, guarantee);
    const add = () => addDevice(this.budget, `d${this.#names++}`, guarantee);
    if (isRefused) {
      expect(add).toThrow(RefusedError);
      return;
    }
    const device = add();
    this.devices.push(device);
    this.model.devices.add(device.model);
  }

  remove({ owner, model }: Device): void {
    owner.remove();
    this.model.devices.delete(model);
    this.devices = this.devices.filter((device) => device.owner !== owner);
  }

  resize(pages: number): void {
    const resize = () => this.budget.resize(pages * PAGE);
    if (pages < Math.max(this.model.guaranteed, 1)) {
      expect(resize).toThrow(RefusedError);
      return;
    }
    resize();
    this.model.budget = pages;
  }

  guarantee({ owner, model }: Device, pages: number): void {
    const set = () => {
      owner.guaranteeBytes = pages * PAGE;
    };
    if (
      this.model.guaranteed - model.guarantee + pages > this.model.budget ||
      !this.model.hasRoomFor(model, pages)
    ) {
      expect(set).toThrow(RefusedError);
      return;
    }
    set();
    model.guarantee = pages;
  }

  hold({ share, model }: Device, pages: number): void {
    share.hold(pages);
    model.used = pages;
  }

  give({ share, model }: Device, pages: number): void {
    share.give(pages);
    model.used -= pages;
  }

  take({ share, model }: Device, pages: number): void {
    const { used, guarantee } = model;
    const before = this.model.committed;
    const isTaken = share.take(pages);
    expect(isTaken).toBe(this.model.take(model, pages));
    if (used < guarantee) expect(isTaken).toBe(true);
    // A block may reach beyond the guarantee, nothing else beyond the budget.
    const most = Math.max(before, this.model.budget) + (used < guarantee ? 15 : 0);
    expect(this.model.committed).toBeLessThanOrEqual(most);
  }

  step(): void {
    const { random, devices } = this;
    const action = random.below(100);
    if (devices.length === 0 || action < 3) this.add(random.pick([0, 0, 5, 40, 300]));
    else this.#change(action, random.pick(devices));
  }

  #change(action: number, device: Device): void {
    const { random } = this;
    if (action < 5) this.remove(device);
    else if (action < 8) this.guarantee(device, random.pick([0, 7, 50, 200]));
    else if (action < 10) this.resize(random.pick([0, 10, 300, 1000, 1500]));
    else if (action < 11) this.hold(device, random.below(600));
    else if (action < 70) this.take(device, random.pick([1, 16]));
    else this.give(device, Math.min(device.model.used, random.pick([1, 16])));
  }

  compare(): void {
    const { model } = this;
    const { committedBytes, guaranteedBytes, usedBytes, isShort, devices } = this.budget.figures();
    expect({ committedBytes, guaranteedBytes, isShort }).toEqual({
      committedBytes: model.committed * PAGE,
      guaranteedBytes: model.guaranteed * PAGE,
      isShort: model.committed > model.budget - model.reserve,
    });
    expect(usedBytes).toBe(devices.reduce((sum, device) => sum + device.usedBytes, 0));
    const byName = new Map(devices.map((device) => [device.name, device]));
    expect(byName.size).toBe(this.devices.length);
    for (const { owner, share, model: device } of this.devices) {
      expect(byName.get(owner.name)).toEqual({
        name: owner.name,
        usedBytes: device.used * PAGE,
        guaranteeBytes: device.guarantee * PAGE,
        shareBytes: model.shareOf(device) * PAGE,
        refusals: device.refusals,
        isOverShare: device.used - model.shareOf(device) >= 16,
      });
      expect(share.excessPages).toBe(model.excessOf(device));
    }
  }
}

describe('random operations', () => {
  it('leave the budget equal to its model, and refuse nobody under its guarantee', () => {
    replayable((random) => {
      for (const pages of [20, 200, 1000]) {
        const program = new Program(random, pages);
        for (let i = 0; i < 1500; i++) {
          program.step();
          program.compare();
        }
      }
    });
  });
});

describe('a device alone', () => {
  it('has all of the budget', () => {
    const { shares } = setUp(100, [{}]);
    expect(takeAll(shares[0]!)).toBe(100);
  });

  it('finds that a block does not fit where less is left', () => {
    const { shares } = setUp(20, [{}]);
    expect([shares[0]!.take(16), shares[0]!.take(16)]).toEqual([true, false]);
    expect(takeAll(shares[0]!)).toBe(4);
  });
});

describe('when memory runs short', () => {
  it('those over their share are refused first, and the others have the reserve', () => {
    const { budget, shares } = setUp(1000, [{}, {}]);
    const [greedy, late] = [shares[0]!, shares[1]!];
    expect(takeAll(greedy)).toBe(1000 - 125);
    expect(budget.figures().isShort).toBe(false);
    expect(takeAll(late)).toBe(125);
    expect(budget.figures()).toMatchObject({
      isShort: true,
      devices: [{ isOverShare: true }, { isOverShare: false }],
    });
    expect([greedy.excessPages, late.excessPages]).toEqual([125, 0]);
    // What the one gives back only the other gets.
    greedy.give(100);
    expect([greedy.take(1), takeAll(late)]).toEqual([false, 100]);
  });

  it('nobody is asked for more than what is over its share', () => {
    const { shares } = setUp(1000, [{ used: 520 }, { used: 480 }]);
    expect([shares[0]!.excessPages, shares[1]!.excessPages]).toEqual([20, 0]);
    shares[0]!.give(5);
    expect(shares[0]!.excessPages).toBe(0);
  });

  it('a guarantee is there to be taken, and costs nothing more', () => {
    const { budget, shares } = setUp(1000, [{ guarantee: 300 }, {}]);
    expect(takeAll(shares[1]!)).toBe(1000 - 300 - 87);
    const { committedBytes } = budget.figures();
    for (let pages = 0; pages < 300; pages++) expect(shares[0]!.take(1)).toBe(true);
    expect(budget.figures().committedBytes).toBe(committedBytes);
    expect(takeAll(shares[0]!)).toBe(87);
  });

  it('a guarantee smaller than a block is a block all the same', () => {
    const { budget, shares } = setUp(64, [{ guarantee: 8 }, { used: 64 }]);
    expect([shares[0]!.take(16), shares[0]!.take(1)]).toEqual([true, false]);
    expect(budget.figures().committedBytes).toBe(80 * PAGE);
  });
});

describe('a budget that is passed', () => {
  it('because it was lowered: only guarantees are met until it is not', () => {
    const { budget, shares } = setUp(1000, [{ guarantee: 100, used: 50 }, { used: 700 }]);
    budget.resize(400 * PAGE);
    expect([shares[0]!.take(1), shares[1]!.take(1)]).toEqual([true, false]);
    shares[1]!.give(399);
    shares[0]!.hold(100);
    expect(shares[0]!.take(1)).toBe(false);
    shares[1]!.give(2);
    expect([takeAll(shares[0]!), shares[1]!.take(1)]).toEqual([1, false]);
  });

  it('because a device came with more, or is back with its guarantee', () => {
    const { budget, shares } = setUp(100, [{}, { used: 90 }]);
    shares[0]!.hold(200);
    expect(budget.figures().committedBytes).toBe(290 * PAGE);
    const third = budget.add('d2', 50 * PAGE, true);
    expect(budget.figures().committedBytes).toBe(340 * PAGE);
    expect(shares.map((share) => share.take(1))).toEqual([false, false]);
    third.remove();
    shares[0]!.hold(0);
    expect(shares.map((share) => share.take(1))).toEqual([true, false]);
  });
});

describe('a share', () => {
  it('is used until its end, and by nobody who had its place before', () => {
    const budget = Budget.make(100 * PAGE);
    const owner = budget.add('d0');
    owner.remove();
    const next = budget.add('d1');
    expect([next.terms.slot, next.terms.buffer]).toEqual([0, owner.terms.buffer]);
    const stale = new BudgetShare(owner.terms);
    expect(() => stale.take(1)).toThrow(AssertionError);
  });

  it('gives back what it has taken', () => {
    const share = new BudgetShare(Budget.make(100 * PAGE).add('d0').terms);
    share.take(1);
    expect(() => share.give(2)).toThrow(AssertionError);
  });

  it('has its place', () => {
    const { terms } = Budget.make(PAGE).add('d0');
    expect(() => new BudgetShare({ ...terms, slot: BUDGET_DEVICES_MAX })).toThrow(AssertionError);
  });

  it('counts how often it was refused', () => {
    const { budget, shares } = setUp(10, [{ used: 10 }]);
    for (let i = 0; i < 3; i++) shares[0]!.take(1);
    expect(budget.figures().devices[0]!.refusals).toBe(3);
  });
});

async function runThread(orders: BudgetThreadOrders): Promise<BudgetThreadResult> {
  const worker = startThread(new URL('../models/budget-thread.ts', import.meta.url), orders);
  // Rejects with the thread's error.
  const [result] = (await once(worker, 'message')) as [BudgetThreadResult];
  return result;
}

describe('several threads', () => {
  const PAGES = 1200;
  const ROUNDS = 200_000;
  const GUARANTEES = [300, 200, 0, 0];
  /** Two threads of device 2. */
  const OWNERS = [0, 1, 2, 2];

  function start(budget: Budget, devices: readonly DeviceShare[], committedMax: number) {
    const ready = new SharedArrayBuffer(4);
    const threads = OWNERS.length;
    return Promise.all(
      OWNERS.map((owner, thread) =>
        runThread({
          ...{ terms: devices[owner]!.terms, seed: SEED + thread, rounds: ROUNDS },
          ...{ guaranteePages: GUARANTEES[owner]!, committedMax, ready, threads },
        }),
      ),
    ).then((results) => {
      // What the threads say that they hold is what the budget has.
      const held = new Map<number, number>();
      OWNERS.forEach((owner, thread) => {
        held.set(owner, (held.get(owner) ?? 0) + results[thread]!.held);
      });
      const { devices: figures, committedBytes } = budget.figures();
      const pages = (owner: number) => figures[owner]!.usedBytes / PAGE;
      expect(new Map([...held.keys()].map((owner) => [owner, pages(owner)]))).toEqual(held);
      const most = figures.map(({ usedBytes, guaranteeBytes }) =>
        Math.max(usedBytes, guaranteeBytes),
      );
      expect(committedBytes).toBe(most.reduce((sum, bytes) => sum + bytes, 0));
      expect(results.flatMap(({ wrong }) => wrong)).toEqual([]);
      return results;
    });
  }

  function devicesOf(budget: Budget): DeviceShare[] {
    return GUARANTEES.map((guarantee, i) => budget.add(`d${i}`, guarantee * PAGE));
  }

  it('never pass the budget by more than a block a guarantee, and lose no page', async () => {
    const budget = Budget.make(PAGES * PAGE);
    const results = await start(budget, devicesOf(budget), PAGES + 2 * 15);
    expect(Math.max(...results.map(({ refusals }) => refusals))).toBeGreaterThan(0);
  });

  it('lose no page while budget, guarantees and other devices change', async () => {
    const budget = Budget.make(PAGES * PAGE);
    const devices = devicesOf(budget);
    const random = seededRandom(SEED);
    let isDone = false;
    let changes = 0;
    const guarantee = (device: DeviceShare, pages: number) => {
      try {
        device.guaranteeBytes = pages * PAGE;
      } catch (error) {
        // The others hold it: as good an answer.
        expect(error).toBeInstanceOf(RefusedError);
      }
    };
    const change = async () => {
      const others: DeviceShare[] = [];
      for (; !isDone; changes++) {
        // Device 0 and 1 keep theirs at least: their threads rely on it.
        guarantee(devices[random.below(2)]!, random.between(300, 330));
        guarantee(devices[2]!, random.below(200));
        budget.resize(random.between(1000, 1500) * PAGE);
        if (others.length < 20) others.push(budget.add('other', random.below(2) * PAGE, true));
        else others.splice(random.below(others.length), 1)[0]!.remove();
        if (changes % 200 === 0) await setTimeout(0);
      }
      for (const other of others) other.remove();
    };
    const changed = change();
    await start(budget, devices, Number.POSITIVE_INFINITY).finally(() => {
      isDone = true;
    });
    await changed;
    expect(changes).toBeGreaterThan(1000);
  });
});
