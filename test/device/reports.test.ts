/** What a thread says of its devices: each kind within its budget, and how much of it was not said. */

import { expect, it } from 'vitest';
import { REPORT_MILLIS, REPORTS_AT_ONCE, Reports } from '../../src/device/reports.ts';

function setUp() {
  const said: string[] = [];
  const clock = { millis: 12_345 };
  const say = (device: string, level: string, message: string) =>
    void said.push(`${device} ${level}: ${message}`);
  return { said, clock, reports: new Reports(say, () => clock.millis) };
}

/** With the first few of a flood said. */
function flooded(count: number) {
  const made = setUp();
  for (let i = 0; i < count; i++) made.reports.report('one', 'warn', `ring ${i}`, 'broken ring');
  expect(made.said.splice(0)).toEqual(
    Array.from({ length: REPORTS_AT_ONCE }, (_, i) => `one warn: ring ${i}`),
  );
  return made;
}

it('a few are said at once, as they come', () => {
  const { said, reports } = setUp();
  reports.report('one', 'info', 'initialised');
  reports.report('two', 'error', 'page 7 is lost');
  expect(said).toEqual(['one info: initialised', 'two error: page 7 is lost']);
  expect(reports.maintain()).toBe(-1);
});

it('a flood is cut off; its last is said when there is room, with how many were not', () => {
  const { said, clock, reports } = flooded(1000);
  expect(reports.maintain()).toBe(REPORT_MILLIS);
  clock.millis += REPORT_MILLIS - 1;
  expect(reports.maintain()).toBe(1);
  expect(said).toEqual([]);
  clock.millis += 1;
  expect(reports.maintain()).toBe(-1);
  const left = 1000 - REPORTS_AT_ONCE - 1;
  expect(said).toEqual([`one warn: ring 999 (and ${left} more like it, which were not logged)`]);
});

it('a flood that lasts leaves one a time, and all are counted', () => {
  const { said, clock, reports } = setUp();
  const all = 60_000;
  for (let i = 0; i < all; i++) {
    reports.report('one', 'info', 'front end connected', 'session');
    clock.millis += 1;
  }
  expect(said.length).toBe(REPORTS_AT_ONCE + Math.floor((all - 1) / REPORT_MILLIS));
  reports.endAll();
  const counts = said.map((text) => 1 + Number(/and (\d+) more/.exec(text)?.[1] ?? 0));
  expect(counts.reduce((sum, count) => sum + count)).toBe(all);
});

it('a flood of one kind, or of one device, leaves the others theirs', () => {
  const { said, reports } = flooded(1000);
  reports.report('one', 'error', 'page 7 is lost');
  reports.report('one', 'info', 'front end connected', 'session');
  reports.report('two', 'warn', 'ring 0', 'broken ring');
  expect(said).toEqual([
    'one error: page 7 is lost',
    'one info: front end connected',
    'two warn: ring 0',
  ]);
});

it('after a while of quiet there is room for as many again, and no more', () => {
  const { said, clock, reports } = flooded(REPORTS_AT_ONCE);
  clock.millis += 1e9;
  for (let i = 0; i < 2 * REPORTS_AT_ONCE; i++) {
    reports.report('one', 'warn', 'again', 'broken ring');
  }
  expect(said).toEqual(new Array(REPORTS_AT_ONCE).fill('one warn: again'));
});

it('what is held back of a device that goes is said, and of all when the thread ends', () => {
  const { said, reports } = flooded(REPORTS_AT_ONCE + 1);
  reports.end('one');
  expect(said.splice(0)).toEqual([`one warn: ring ${REPORTS_AT_ONCE}`]);
  expect(reports.maintain()).toBe(-1);
  for (let i = 0; i < REPORTS_AT_ONCE + 2; i++) reports.report('two', 'warn', 'a', 'session');
  reports.endAll();
  expect(said.at(-1)).toBe('two warn: a (and 1 more like it, which were not logged)');
});
