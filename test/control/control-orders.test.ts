/** What a command line asks of the daemon. */

import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/base/errors.ts';
import type { ControlOption, Said } from '../../src/control/control-options.ts';
import { ordersOf } from '../../src/control/control-orders.ts';

const DEVICE = 'ramzswap0';

function calls(said: Said<ControlOption>) {
  return ordersOf(DEVICE, said).calls.map(({ method, params }) => [method, params]);
}

describe('orders for a device', () => {
  it('remember parameters for an init to come', () => {
    expect(calls({ disksize_kb: '1024' })).toEqual([
      ['set', { device: DEVICE, settings: { disksize: 1 << 20 } }],
    ]);
    expect(calls({ backing_swap: 'swap', memlimit_kb: '8' })).toEqual([
      ['set', { device: DEVICE, settings: { 'backing-swap': resolve('swap'), memlimit: 8192 } }],
    ]);
    expect(calls({ pool_limit_kb: '64', guarantee_kb: '128' })).toEqual([
      ['set', { device: DEVICE, settings: { 'pool-limit': 65_536, guarantee: 131_072 } }],
    ]);
    expect(calls({ pool_limit_kb: '0', guarantee_kb: '0' })).toEqual([
      ['set', { device: DEVICE, settings: { 'pool-limit': 0, guarantee: 0 } }],
    ]);
  });

  it('give parameters to an init that is asked for as well, and nothing where there are none', () => {
    expect(calls({ init: true, disksize_kb: '4' })).toEqual([
      ['init', { device: DEVICE, settings: { disksize: 4096 } }],
    ]);
    expect(calls({ init: true })).toEqual([['init', { device: DEVICE }]]);
  });

  it('are given in the order reset, set or init, grow, and then statistics', () => {
    const all = { grow_kb: '64', stats: true, init: true, disksize_kb: '40', reset: true };
    expect(ordersOf(DEVICE, all)).toEqual({
      device: DEVICE,
      shows: 'statistics',
      calls: [
        { method: 'reset', params: { device: DEVICE } },
        { method: 'init', params: { device: DEVICE, settings: { disksize: 40_960 } } },
        { method: 'grow', params: { device: DEVICE, bytes: 65_536 } },
      ],
    });
    expect(calls({ reset: true, memlimit_kb: '4' }).map(([method]) => method)).toEqual([
      'reset',
      'set',
    ]);
  });

  it('end with the state of the device for programs, which may ask for that alone', () => {
    const shown = (said: Said<ControlOption>) => ordersOf(DEVICE, { json: true, ...said }).shows;
    expect([shown({}), shown({ init: true }), shown({ stats: true })]).toEqual([
      ...['status', 'status'],
      'statistics',
    ]);
    expect(ordersOf(undefined, { remove: DEVICE, json: true }).shows).toBe('status');
    expect(ordersOf(undefined, { add: 'more', json: true }).shows).toBe('status');
  });

  it("take the ancestor's way to name a device", () => {
    expect(ordersOf('/dev/ramzswap7', { stats: true })).toMatchObject({ device: 'ramzswap7' });
    expect(ordersOf(undefined, { remove: '/dev/ramzswap7' }).calls).toEqual([
      { method: 'remove', params: { device: 'ramzswap7' } },
    ]);
  });

  it('add a device with its parameters, or make it a disk at once', () => {
    const named = (said: Said<ControlOption>) =>
      ordersOf(undefined, { add: 'more', ...said }).calls;
    expect(named({ disksize_kb: '4' })).toEqual([
      { method: 'add', params: { device: 'more', settings: { disksize: 4096 } } },
    ]);
    expect(named({})).toEqual([{ method: 'add', params: { device: 'more' } }]);
    expect(named({ init: true, disksize_kb: '4' })).toEqual([
      { method: 'add', params: { device: 'more' } },
      { method: 'init', params: { device: 'more', settings: { disksize: 4096 } } },
    ]);
  });
});

describe('orders for no device', () => {
  it('show all of them, or the daemon', () => {
    expect(ordersOf(undefined, {})).toEqual({ calls: [], shows: 'devices' });
    expect(ordersOf(undefined, { json: true, verbose: true, 'control-path': 'x' }).shows).toBe(
      'devices',
    );
    for (const what of ['daemon', 'schema', 'reload'] as const) {
      expect(ordersOf(undefined, { [what]: true, json: true })).toEqual({ calls: [], shows: what });
    }
  });
});

describe('a command line that makes no sense', () => {
  it.each<[string | undefined, Said<ControlOption>, RegExp]>([
    [DEVICE, {}, /what about ramzswap0\? expected --stats, --reset, --memlimit_kb or --grow_kb/],
    ['tpo', {}, /; did you mean top\?$/],
    [undefined, { stats: true }, /^--stats: expected a device name$/],
    [undefined, { grow_kb: '4' }, /^--grow_kb: expected a device name$/],
    ['/dev/', { stats: true }, /^device: expected a device name, got '\/dev\/'$/],
    [undefined, { add: 'a b' }, /^--add: expected 1 to 20 printable characters/],
    [undefined, { add: '/dev/x/y' }, /^--add: expected 1 to 20 printable characters .*'x\/y'$/],
    [undefined, { add: '' }, /^--add: expected a device name, got ''$/],
    [DEVICE, { add: 'more' }, /^--add: expected no other device with it, got ramzswap0$/],
    [
      DEVICE,
      { disksize_kb: '4', backing_swap: 'x' },
      /^--disksize_kb, --backing_swap: expected one/,
    ],
    [DEVICE, { init: true, disksize_kb: '4', backing_swap: 'x' }, /expected one of them/],
    [DEVICE, { remove: 'other' }, /^--remove: expected it alone, got ramzswap0 as well$/],
    [
      undefined,
      { daemon: true, stats: true },
      /^--daemon: expected it alone, got --stats as well$/,
    ],
    [
      undefined,
      { daemon: true, reload: true },
      /^--daemon: expected it alone, got --reload as well/,
    ],
    [
      DEVICE,
      { memlimit_kb: '0' },
      /^--memlimit_kb: expected a number of kB from 1 to 8796093022207, got '0'$/,
    ],
    [DEVICE, { disksize_kb: '1M' }, /^--disksize_kb: expected a number of kB from .*, got '1M'$/],
    [DEVICE, { grow_kb: '-4' }, /^--grow_kb: expected a number of kB from 1 .*, got '-4'$/],
    [DEVICE, { pool_limit_kb: '9007199254740991' }, /^--pool_limit_kb: expected a number of kB/],
  ])('%s %j is refused', (device, said, message) => {
    expect(() => ordersOf(device, said)).toThrow(UsageError);
    expect(() => ordersOf(device, said)).toThrow(message);
  });
});
