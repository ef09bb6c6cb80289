/** The budget as the control thread keeps it: what it refuses and why, its figures, its places. */

import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { RefusedError } from '../../src/base/errors.ts';
import { Budget } from '../../src/store/budget.ts';
import { BUDGET_DEVICES_MAX, BudgetShare } from '../../src/xvmalloc/budget-share.ts';

const MIB = 2 ** 20;
const TIB = 2 ** 40;

describe('a budget', () => {
  it('is a page at least, and has a most', () => {
    const refusals = [4095, 0, -1, Number.NaN, 4 * TIB + 4096];
    for (const bytes of refusals) expect(() => Budget.make(bytes)).toThrow(RefusedError);
    expect(() => Budget.make(5 * TIB)).toThrow('budget: expected a page up to 4 TiB, got 5 TiB');
    expect(Budget.make(4 * TIB).figures().budgetBytes).toBe(4 * TIB);
    expect(Budget.make(4096).figures().budgetBytes).toBe(4096);
  });

  it('is never less than what is guaranteed', () => {
    const budget = Budget.make(100 * MIB);
    budget.add('ramzswap0', 60 * MIB);
    const text = 'budget: expected at least the 60 MiB guaranteed, got 59 MiB';
    expect(() => budget.resize(59 * MIB)).toThrow(text);
    expect(budget.figures().budgetBytes).toBe(100 * MIB);
    budget.resize(60 * MIB);
    expect(budget.figures()).toMatchObject({
      ...{ budgetBytes: 60 * MIB, committedBytes: 60 * MIB, guaranteedBytes: 60 * MIB },
      ...{ usedBytes: 0, isShort: false },
    });
  });

  it('has places for so many devices, and for others when they go', () => {
    const budget = Budget.make(MIB);
    const shares = Array.from({ length: BUDGET_DEVICES_MAX }, (_, i) => budget.add(`d${i}`));
    const text = `late: expected up to ${BUDGET_DEVICES_MAX} devices, got one more`;
    expect(() => budget.add('late')).toThrow(text);
    shares[77]!.remove();
    expect(budget.add('late').terms.slot).toBe(77);
    expect(budget.figures().devices.map(({ name }) => name)).toContain('late');
    expect(budget.figures().devices).toHaveLength(BUDGET_DEVICES_MAX);
  });
});

describe('a guarantee', () => {
  it('is refused where all of them would be more than the budget, and nothing has changed then', () => {
    const budget = Budget.make(100 * MIB);
    const [one, two] = [budget.add('one', 60 * MIB), budget.add('two', 40 * MIB)];
    const before = budget.figures();
    const text = 'three: guarantee: expected up to 0 B of the budget, got 4 KiB';
    expect(() => budget.add('three', 4096)).toThrow(text);
    expect(() => {
      two.guaranteeBytes = 41 * MIB;
    }).toThrow('two: guarantee: expected up to 40 MiB of the budget, got 41 MiB');
    expect(budget.figures()).toEqual(before);
    one.guaranteeBytes = 10 * MIB;
    two.guaranteeBytes = 90 * MIB;
    expect([one.guaranteeBytes, two.guaranteeBytes]).toEqual([10 * MIB, 90 * MIB]);
    for (const bytes of [-1, Number.NaN]) {
      expect(() => budget.add('four', bytes)).toThrow(RefusedError);
    }
  });

  it('is whole pages, rounded up', () => {
    const budget = Budget.make(MIB);
    expect(budget.add('one', 4097).guaranteeBytes).toBe(8192);
  });

  it('grows only into what others do not hold, and nothing has changed where it cannot', () => {
    const budget = Budget.make(8 * MIB);
    const [full, late] = [budget.add('full'), budget.add('late')];
    new BudgetShare(full.terms).hold((7 * MIB) / 4096);
    const before = budget.figures();
    expect(() => {
      late.guaranteeBytes = 8 * MIB;
    }).toThrow(
      "late: guarantee: expected up to 1 MiB, what other devices have left of the budget's 8 MiB, got 8 MiB",
    );
    expect(() => budget.add('third', MIB + 4096)).toThrow('third: guarantee: expected up to 1 MiB');
    expect(budget.figures()).toEqual(before);
    late.guaranteeBytes = MIB;
    expect(budget.figures().committedBytes).toBe(8 * MIB);
    // What it holds already is nobody else's to lose.
    full.guaranteeBytes = 7 * MIB;
    expect(budget.figures().committedBytes).toBe(8 * MIB);
  });

  it('is not refused for what is rounding: less than a block above a guarantee', () => {
    const budget = Budget.make(8 * MIB);
    const full = budget.add('full', 4 * MIB);
    new BudgetShare(full.terms).hold((4 * MIB) / 4096 + 15);
    expect(budget.add('back', 4 * MIB).guaranteeBytes).toBe(4 * MIB);
  });

  it('of a device that is back after a restart counts whether or not there is room', () => {
    const budget = Budget.make(8 * MIB);
    new BudgetShare(budget.add('full').terms).hold((7 * MIB) / 4096);
    expect(budget.add('back', 4 * MIB, true).guaranteeBytes).toBe(4 * MIB);
    expect(() => budget.add('more', 5 * MIB, true)).toThrow(RefusedError);
  });

  it('of a device that goes is free for others', () => {
    const budget = Budget.make(10 * MIB);
    const one = budget.add('one', 10 * MIB);
    one.remove();
    expect(budget.add('two', 10 * MIB).guaranteeBytes).toBe(10 * MIB);
    expect(() => one.remove()).toThrow(AssertionError);
    expect(budget.figures().devices).toHaveLength(1);
  });
});

describe('shares', () => {
  it('are the guarantee and an equal part of the rest', () => {
    const budget = Budget.make(100 * MIB);
    const one = budget.add('one', 40 * MIB);
    expect(one.figures.shareBytes).toBe(100 * MIB);
    const two = budget.add('two');
    expect([one.figures.shareBytes, two.figures.shareBytes]).toEqual([70 * MIB, 30 * MIB]);
    budget.resize(50 * MIB);
    expect([one.figures.shareBytes, two.figures.shareBytes]).toEqual([45 * MIB, 5 * MIB]);
    one.guaranteeBytes = 0;
    expect([one.figures.shareBytes, two.figures.shareBytes]).toEqual([25 * MIB, 25 * MIB]);
  });

  it('begin anew where another device has been', () => {
    const budget = Budget.make(64 * 4096);
    const old = budget.add('old', 4096);
    const pages = new BudgetShare(old.terms);
    pages.hold(64);
    pages.take(1);
    expect(old.figures).toMatchObject({ refusals: 1, usedBytes: 64 * 4096 });
    old.remove();
    expect(budget.figures().committedBytes).toBe(0);
    expect(budget.add('new').figures).toEqual({
      ...{ name: 'new', usedBytes: 0, guaranteeBytes: 0, shareBytes: 64 * 4096 },
      ...{ refusals: 0, isOverShare: false },
    });
  });

  it('are plain data for other threads', () => {
    const { terms } = Budget.make(MIB).add('one');
    const copy = structuredClone(terms);
    new BudgetShare(copy).hold(7);
    expect(new BudgetShare(terms).usedPages).toBe(7);
  });
});
