/**
 * What a ring marks in the dirty log of its own writes: elements, index, avail_event, flags; by which
 * address; and in which order.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { usedRingBytes } from '../../src/virtio/split-ring.ts';
import { endOf, pagesOf, SharedLog } from '../driver/dirty-tracker.ts';
import { LocalRing, type LocalRingOptions } from '../driver/local-ring.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
const cleanUps: (() => void)[] = [];

afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

function setUp(size: number, options: LocalRingOptions = {}, end?: number) {
  const local = new LocalRing(size, options);
  const shared = new SharedLog(end ?? endOf(local.ram));
  cleanUps.push(
    () => local.close(),
    () => shared.close(),
  );
  local.memory.log.map(shared.area, shared.fd);
  local.memory.log.isOn = true;
  return { ...local, shared };
}

type Rig = ReturnType<typeof setUp>;

/** Chains made available and pushed, not published. */
function push({ driver, ring, chain }: Rig, count: number): void {
  for (let i = 0; i < count; i++) {
    driver.offer(0);
    driver.publish();
    ring.pop(chain);
    ring.push(chain.head, 1);
  }
}

describe('with VHOST_VRING_F_LOG', () => {
  it.each([
    ['the ring itself', 0],
    ['an address in no region', 40 * GIB],
    ['an address below 4 GiB for a ring that ends above', 4 * GIB - 2 * PAGE],
    ['an address at the end of a page', 7 * GIB - 4],
  ])('writes are marked by %s', (_, address) => {
    const size = 1024;
    const rig = setUp(size, {}, 64 * GIB);
    const { ring, shared } = rig;
    const at = address === 0 ? rig.driver.used : address;
    ring.logUsedAt(BigInt(at));
    const elements = (first: number, count: number) => pagesOf(at + 4 + 8 * first, 8 * count);
    const index = pagesOf(at + 2, 2);
    const expected = (...pages: number[]) => [...new Set(pages)].sort((a, b) => a - b);
    let pushed = 0;
    for (const count of [1, 500, 520, 10, 1024]) {
      push(rig, count);
      expect(shared.take(), 'before they are published').toEqual([]);
      ring.publish();
      const first = pushed % size;
      const run = Math.min(count, size - first);
      const rest = count === run ? [] : elements(0, count - run);
      expect(shared.take()).toEqual(expected(...elements(first, run), ...rest, ...index));
      while (rig.driver.takeUsed() !== undefined) pushed++;
    }
    ring.enableKicks();
    expect(shared.take()).toEqual(pagesOf(at + usedRingBytes(size) - 2, 2));
    ring.disableKicks();
    ring.publish();
    expect(shared.take(), 'nothing was written').toEqual([]);
  });

  it('without EVENT_IDX the flags are marked', () => {
    const { ring, shared, driver } = setUp(8, { eventIdx: false });
    ring.logUsedAt(BigInt(driver.used));
    for (const write of [() => ring.disableKicks(), () => ring.enableKicks()]) {
      write();
      expect(shared.take()).toEqual(pagesOf(driver.used, 2));
    }
  });

  it('elements are there before they are marked, and marked before the index is', () => {
    const rig = setUp(8);
    const { memory, ring, driver } = rig;
    ring.logUsedAt(BigInt(driver.used));
    const seen: unknown[] = [];
    const at = rig.ram.offsetOf(driver.used);
    memory.log.mark = (lo, _hi, bytes) => {
      const element = rig.ram.window.i32[(at + 4) >> 2];
      seen.push([lo - driver.used, bytes, element, driver.usedIdx]);
    };
    driver.setDescriptor(5, { address: 0, bytes: 1, flags: 0, next: 0 });
    driver.offer(5);
    driver.publish();
    ring.pop(rig.chain);
    ring.push(5, 0);
    ring.publish();
    expect(seen).toEqual([
      [4, 8, 5, 0],
      [2, 2, 5, 1],
    ]);
  });
});

it('without VHOST_VRING_F_LOG, or with the log off, nothing is marked', () => {
  const rig = setUp(8);
  const { ring, shared, memory, driver } = rig;
  const writeAll = () => {
    push(rig, 3);
    ring.publish();
    while (driver.takeUsed() !== undefined);
    ring.enableKicks();
    return shared.take().length;
  };
  expect(writeAll()).toBe(0);
  ring.logUsedAt(BigInt(driver.used));
  expect(writeAll()).toBeGreaterThan(0);
  memory.log.isOn = false;
  expect(writeAll()).toBe(0);
  memory.log.isOn = true;
  ring.logUsedAt(undefined);
  expect(writeAll()).toBe(0);
});

it('elements pushed before the flag came are marked when they are published', () => {
  const rig = setUp(8);
  push(rig, 2);
  rig.ring.logUsedAt(BigInt(rig.driver.used));
  rig.ring.publish();
  expect(rig.shared.take()).toEqual(pagesOf(rig.driver.used, 20));
});

it('an address that no log covers is missed, not written', () => {
  const rig = setUp(8);
  const misses: string[] = [];
  rig.memory.log.onMiss = (what) => misses.push(what);
  rig.ring.logUsedAt(2n ** 64n - 4n);
  push(rig, 1);
  rig.ring.publish();
  expect(rig.shared.take()).toEqual([0]);
  expect(misses).toHaveLength(1);
});
