/** What is done before a take-over leaves nothing behind. */

import { expect, it } from 'vitest';
import { warmUp } from '../../src/device/warm-up.ts';
import { openFds } from '../driver/descriptors.ts';

it('leaves no descriptor open, and takes no longer than a start', () => {
  warmUp();
  const before = openFds();
  const start = performance.now();
  warmUp();
  expect(performance.now() - start).toBeLessThan(2000);
  expect(openFds()).toBe(before);
});
