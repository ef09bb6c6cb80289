/** Guests of every kind at work on the disk, each with a daemon of its own. */

import { describe, expect, it } from 'vitest';
import { findMarker, runGuest } from '../../guest/qemu.ts';
import { playAll } from './scenario.ts';
import { SCENARIOS } from './scenarios.ts';

describe('guests', () => {
  it.concurrent('without swap the same workload is killed', async () => {
    const guest = await runGuest({
      memoryMiB: 128,
      commands: ['fillverify 256 1'],
      timeoutMs: 240_000,
    });
    expect(findMarker(guest, 'cmd')?.values.exit).toBe('137');
    expect(guest.poweredOff).toBe(true);
  });

  playAll(SCENARIOS);
});
