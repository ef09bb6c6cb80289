/** The table of figures, as far as types do not hold it. */

import { describe, expect, it } from 'vitest';
import { FIGURES, type Figure } from '../../src/control/figures.ts';

const ALL = Object.entries(FIGURES) as [string, Figure][];
const METRICS = ALL.flatMap(([, figure]) =>
  figure.metric === null ? [] : [{ ...figure, metric: figure.metric }],
);

describe('as metrics', () => {
  it('all figures are told: by a metric of their own, in a label, or as the sum of a histogram', () => {
    const sums = new Set(ALL.map(([, { sum }]) => sum as string | undefined));
    const untold = ALL.filter(
      ([name, { metric, kind }]) => metric === null && kind !== 'text' && !sums.has(name),
    );
    expect(untold.map(([name]) => name)).toEqual([]);
  });

  it('every histogram has its sum, which is a counter', () => {
    for (const [name, { kind, sum }] of ALL) {
      if (kind !== 'histogram') expect(sum, name).toBeUndefined();
      else expect(sum === undefined ? name : FIGURES[sum].kind).toBe('counter');
    }
  });

  it('no two have one name', () => {
    const names = METRICS.map(({ metric }) => metric);
    expect(new Set(names).size).toBe(names.length);
  });

  it('have names as Prometheus wants them', () => {
    for (const { metric, kind } of METRICS) {
      expect(metric).toMatch(/^[a-z]+(_[a-z]+)*$/);
      expect(metric.endsWith('_total'), metric).toBe(kind === 'counter');
      // Base units: no milliseconds, no percent.
      expect(metric).not.toMatch(/micros|millis|percent|pct|kilo|kb/);
      if (kind === 'histogram') expect(metric).toMatch(/_seconds$/);
    }
  });

  it('are in the unit of their name', () => {
    for (const [name, { metric, factor }] of ALL) {
      if (name.endsWith('_pct')) expect([metric?.slice(-6), factor]).toEqual(['_ratio', 0.01]);
      else if (name.endsWith('_micros') && metric !== null) expect(factor).toBe(1e-6);
      else expect(factor, name).toBeUndefined();
    }
  });
});
