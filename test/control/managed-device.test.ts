/** A device as the control thread has it, over a thread that does, or does not, what it is told. */

import { closeSync, openSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { ManagedDevice } from '../../src/control/managed-device.ts';
import type { DeviceSettings } from '../../src/control/options.ts';
import type { Order } from '../../src/device/orders.ts';
import type { ReactorThread } from '../../src/device/reactor-thread.ts';
import { lockFile } from '../../src/native/file-extents.ts';
import { makeSwapFile } from '../driver/swap-file.ts';

const MIB = 2 ** 20;
const SETTINGS = { disksize: 8 * MIB, 'max-disksize': 64 * MIB };

/** `obeys`: orders of these kinds; the thread hangs before others. */
function setUp(obeys: (kind: Order['kind']) => boolean, settings: DeviceSettings = SETTINGS) {
  const ordered: string[] = [];
  const thread = {
    open: () => {},
    init: async () => {},
    reset: async () => {},
    statistics: () => ({ disksize: 8 * MIB }),
    order: (order: Order) => {
      ordered.push(order.kind);
      return () => obeys(order.kind);
    },
  } as unknown as ReactorThread;
  const host = {
    ...{ hasFaults: false, storeDirectory: undefined, queueThreads: 1, budget: undefined },
    hasOneDevice: true,
    isStarting: () => false,
    userOfSwap: () => undefined,
    sharesChanged: () => {},
    logOf: () => ({ info: () => {}, warn: () => {} }),
    fdStore: () => undefined,
  };
  return { ordered, device: new ManagedDevice('ramzswap0', settings, host, thread, 0) };
}

describe('a backing swap that another process has', () => {
  it('is waited for by its own device alone, and what that is told next', async () => {
    const swap = makeSwapFile(MIB);
    const fd = openSync(swap.path, 'r');
    expect(lockFile(fd)).toBe(true);
    const { device } = setUp(() => true, { 'backing-swap': swap.path });
    const done: string[] = [];
    const isMade = device.init().then(() => done.push('init'));
    const isReset = device.reset().then(() => done.push('reset'));
    const { device: other } = setUp(() => true);
    await other.init().then(() => done.push('other'));
    expect(done).toEqual(['other']);
    closeSync(fd);
    await Promise.all([isMade, isReset]);
    expect(done).toEqual(['other', 'init', 'reset']);
    swap.remove();
  });
});

describe('settings of a running disk', () => {
  it('are remembered when the thread has obeyed', async () => {
    const { device, ordered } = setUp(() => true);
    await device.init();
    await device.set({ disksize: 16 * MIB, 'pool-limit': 4 * MIB });
    expect(ordered).toEqual(['grow', 'poolLimit']);
    expect(device.settings).toEqual({ ...SETTINGS, disksize: 16 * MIB, 'pool-limit': 4 * MIB });
  });

  it('are refused, and not remembered, when it does not come by; what it did before is', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'performance'] });
    try {
      const { device } = setUp((kind) => kind === 'grow');
      await device.init();
      const isSet = device.set({ disksize: 16 * MIB, 'pool-limit': 4 * MIB });
      const isRefused = expect(isSet).rejects.toThrow(
        'ramzswap0: its thread does not answer: poolLimit was not obeyed within 5000 ms',
      );
      await vi.advanceTimersByTimeAsync(6000);
      await isRefused;
      expect(device.settings).toEqual({ ...SETTINGS, disksize: 16 * MIB });
      // And others are heard after it.
      await device.reset();
      expect(device.isInitialised).toBe(false);
    } finally {
      vi.useRealTimers();
    }
  });
});
