/** What comes between what in a turn of a reactor; the devices are stand-ins that only count. */

import { afterEach, expect, it } from 'vitest';
import type { QueueSet } from '../../src/device/queue-set.ts';
import { Reactor } from '../../src/device/reactor.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';

const cleanUps: (() => void)[] = [];

afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

/** A reactor with devices `names`; `at` is told what happens, and may make orders urgent. */
function run(names: readonly string[], at: (what: string, urgent: Int32Array) => void): string[] {
  const urgent = new Int32Array(1);
  const log: string[] = [];
  const note = (what: string) => {
    log.push(what);
    if (log.length > 40) reactor.stop();
    at(what, urgent);
  };
  const wakeFd = createEventFd();
  const reactor = new Reactor(wakeFd, {
    urgent,
    takeOrders: () => {
      urgent[0] = 0;
      note('order');
    },
    report: () => {},
  });
  cleanUps.push(
    () => closeFd(wakeFd),
    () => reactor.close(),
  );
  for (const name of names) {
    const device = {
      hasServed: true,
      serve: () => {
        note(`serve ${name}`);
        return true;
      },
      maintain: () => {
        note(`maintain ${name}`);
        return -1;
      },
      mustPoll: () => false,
    };
    reactor.add(device as unknown as QueueSet);
  }
  reactor.run();
  return log;
}

it('an order that somebody waits for is taken between two devices of a turn', () => {
  const log = run(['a', 'b', 'c'], (what, urgent) => {
    if (what === 'serve a' || what === 'serve c') urgent[0] = 1;
  });
  expect(log.slice(0, 10)).toEqual([
    ...['serve a', 'order', 'serve b', 'serve c', 'order'],
    ...['maintain a', 'maintain b', 'maintain c', 'serve a', 'order'],
  ]);
});

it('and one that comes while another is carried out before any upkeep', () => {
  let orders = 0;
  const log = run(['a', 'b'], (what, urgent) => {
    if (what === 'serve b') urgent[0] = 1;
    if (what === 'order' && orders++ === 0) urgent[0] = 1;
  });
  expect(log.slice(0, 6)).toEqual([
    'serve a',
    'serve b',
    'order',
    'order',
    'maintain a',
    'maintain b',
  ]);
});

it('without one, devices are served turn by turn, and have upkeep now and then', () => {
  const log = run(['a', 'b'], () => {});
  expect(log.filter((what) => what === 'order')).toEqual([]);
  expect(log.filter((what) => what === 'maintain a').length).toBeLessThan(4);
  expect(log.filter((what) => what === 'serve a').length).toBeGreaterThan(15);
});
