/** One random operation on a store, with pages of every kind at any alignment, and what must hold. */

import { expect } from 'vitest';
import { somePage, somePart } from './pages.ts';
import type { Random } from './random.ts';
import { GUEST_PAGE, type StoreBench } from './store-bench.ts';

const PAGE_BYTES = 4096;

/** Mostly page aligned, sometimes by sectors, sometimes not at all. */
function someOffset(random: Random): number {
  const shift = random.pick([0, 0, 512, 4, 1, 2, 3, random.below(PAGE_BYTES)]);
  return GUEST_PAGE + random.below(8) * PAGE_BYTES + shift;
}

/** The slot's bytes and every statistic are the model's afterwards. */
export function step(bench: StoreBench, random: Random): void {
  const slot = random.below(bench.store.slots);
  const action = random.below(100);
  if (action < 55) bench.write(slot, somePage(random), someOffset(random));
  else if (action < 75) expect(bench.read(slot, someOffset(random))).toBe(true);
  else if (action < 88) bench.free(slot);
  else if (action < 92) bench.zero(slot);
  else bench.writePart(slot, ...somePart(random), someOffset(random));
  bench.compareStatistics();
  expect(bench.read(slot, someOffset(random))).toBe(true);
}
