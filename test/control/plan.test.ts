/** What the daemon is to be, from command line and configuration file. */

import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/control/config-file.ts';
import { CONTROL_COMMANDS } from '../../src/control/control-options.ts';
import {
  checkName,
  DAEMON_OPTIONS,
  DEVICE_OPTIONS,
  parseOption,
  parseSettings,
} from '../../src/control/options.ts';
import { makePlan, merged } from '../../src/control/plan.ts';

function plan(given: Record<string, unknown>, file?: string, hasPassedSockets = false) {
  const where = (option: string) => `--${option}`;
  const settings = {
    daemon: parseSettings(DAEMON_OPTIONS, given, where),
    device: parseSettings(DEVICE_OPTIONS, given, where),
  };
  const config = file === undefined ? undefined : parseConfig(file, 'rz.yaml');
  return makePlan(settings, config, hasPassedSockets);
}

describe('a plan', () => {
  it('of one device has its disk from the start, at a path or a descriptor', () => {
    expect(plan({ 'socket-path': '/run/a', disksize: '1G' })).toMatchObject({
      frontEnd: { kind: 'path', path: '/run/a' },
      devices: [{ name: 'ramzswap0', settings: { disksize: 2 ** 30 }, isInitialised: true }],
      controlPath: '/run/a.control',
      isControlOptional: true,
    });
    expect(plan({ fd: '7', name: 'web' })).toMatchObject({
      frontEnd: { kind: 'fd', fd: 7 },
      devices: [{ name: 'web' }],
    });
    expect(plan({}, undefined, true).frontEnd).toEqual({ kind: 'passed' });
  });

  it('of many has as many as it is told, uninitialised', () => {
    const { devices, isControlOptional } = plan({ 'socket-dir': '/run/rz', 'num-devices': '3' });
    expect(devices.map(({ name }) => name)).toEqual(['ramzswap0', 'ramzswap1', 'ramzswap2']);
    expect(devices.some(({ isInitialised }) => isInitialised)).toBe(false);
    expect(isControlOptional).toBe(false);
    expect(plan({ 'socket-dir': '/run/rz' }).devices).toHaveLength(1);
  });

  it('puts what is said of one device before the command line, and that before the file', () => {
    const file = [
      'socket-dir: /from/file',
      'threads: 3',
      'defaults: { disksize: 1G, pool-limit: 100M, mlock: true }',
      'devices:',
      '  a:',
      '  b: { pool-limit: 300M, init: false }',
    ].join('\n');
    const { frontEnd, threads, devices } = plan({ 'pool-limit': '200M', threads: '5' }, file);
    expect([frontEnd, threads]).toEqual([{ kind: 'directory', path: '/from/file' }, 5]);
    expect(devices).toMatchObject([
      {
        name: 'a',
        settings: { disksize: 2 ** 30, 'pool-limit': 200 << 20, mlock: true },
        isInitialised: true,
      },
      {
        name: 'b',
        settings: { disksize: 2 ** 30, 'pool-limit': 300 << 20, mlock: true },
        isInitialised: false,
      },
    ]);
  });

  it('lets a device have a backing swap where all others have a size, and the other way round', () => {
    const base = { disksize: 1, 'max-disksize': 2 };
    expect(merged(base, { 'backing-swap': '/a' })).toEqual({ 'backing-swap': '/a' });
    const backed = { 'backing-swap': '/a', memlimit: 1, 'backing-io': 'aio', mlock: true };
    expect(merged(backed, { disksize: 5 })).toEqual({ disksize: 5, mlock: true });
  });

  it.each([
    [{}, /expected one of --socket-path PATH, --socket-dir DIR and --fd N/],
    [{ 'socket-path': 'a', fd: '3' }, /expected one of --socket-path/],
    [{ 'socket-path': 'a', 'num-devices': '2' }, /--num-devices: expected --socket-dir with it/],
    [{ 'socket-dir': 'a', name: 'x' }, /--name: expected one device with it/],
    [{ 'socket-dir': 'a', 'num-devices': '33' }, /--num-devices: expected a number from 0 to 32/],
    [
      { 'socket-path': 'a', 'store-dir': 'b', fdstore: true },
      /--fdstore, --store-dir: expected one/,
    ],
    [{ 'socket-path': 'a', 'queue-threads': '9', 'num-queues': '2' }, /expected a queue for each/],
    [{ 'socket-path': 'a', 'backing-swap': 'b', disksize: '1M' }, /--disksize, --backing-swap: /],
    [{ 'socket-path': 'a', memlimit: '1M' }, /--memlimit: expected --backing-swap with it/],
    [{ fd: '5', 'socket-group': 'kvm' }, /--socket-group: expected --socket-path or/],
    [{ 'socket-path': 'a', name: 'a b' }, /--name: expected 1 to 20 printable characters/],
  ])('refuses %o', (given, reason) => {
    expect(() => plan(given)).toThrow(reason);
  });

  it.each([
    ['devices:', 'rz.yaml: expected socket-dir in it, or --socket-dir DIR with it'],
    [
      'socket-dir: a\nfdstore: true\nstore-dir: b',
      'rz.yaml:2: fdstore, rz.yaml:3: store-dir: expected one of them',
    ],
    [
      'socket-dir: a\nqueue-threads: 9\ndevices:\n  a:\n  b: { num-queues: 8 }',
      'rz.yaml:2: queue-threads: expected a queue for each (num-queues of b: 8), got 9',
    ],
    [
      'socket-dir: a\ndefaults:\n  memlimit: 5M\ndevices:\n  a: {}',
      'rz.yaml:3: defaults.memlimit: expected backing-swap with it; without one, see pool-limit',
    ],
    [
      'socket-dir: a\ndevices:\n  a:\n    disksize: 8M\n    backing-swap: /b',
      'rz.yaml:4: devices.a.disksize, rz.yaml:5: devices.a.backing-swap: expected one of them',
    ],
  ])('names file and line: %j', (file, reason) => {
    expect(() => plan({}, file)).toThrow(reason);
  });

  it('says where a setting was said', () => {
    const file = 'socket-dir: a\nmetrics: 127.0.0.1:1';
    expect(plan({}, file).metricsSaid).toBe('rz.yaml:2: metrics');
    expect(plan({ metrics: '127.0.0.1:2' }, file).metricsSaid).toBe('--metrics');
  });
});

describe('an option', () => {
  it('is taken as text or as what a file has, and refused with what it should be', () => {
    expect(parseOption(DEVICE_OPTIONS.disksize, '1.5K', 'x')).toBe(1536);
    expect(parseOption(DEVICE_OPTIONS.disksize, 4096, 'x')).toBe(4096);
    expect(parseOption(DEVICE_OPTIONS['guest-page-size'], 16384, 'x')).toBe('16384');
    expect(parseOption(DEVICE_OPTIONS.mlock, true, 'x')).toBe(true);
    expect(() => parseOption(DEVICE_OPTIONS.mlock, 'yes', 'x')).toThrow(
      "x: expected true or false, got 'yes'",
    );
    expect(() => parseOption(DEVICE_OPTIONS['guest-page-size'], '512', 'x')).toThrow(
      "x: expected one of 4096, 16384, 65536, got '512'",
    );
    expect(() => parseOption(DEVICE_OPTIONS['num-queues'], '0', 'x')).toThrow(
      "x: expected a number from 1 to 256, got '0'",
    );
    expect(() => parseOption(DEVICE_OPTIONS.disksize, [1], 'x')).toThrow('x: expected a size');
    expect(() => parseOption(DAEMON_OPTIONS['socket-dir'], '', 'x')).toThrow(
      'x: expected text that is not empty',
    );
  });

  it.each(['', 'a b', 'a/b', '-a', 'ä', 'x'.repeat(21)])('%j is no name', (name) => {
    expect(() => checkName(name, 'x')).toThrow('x: expected 1 to 20 printable characters');
  });

  it.each(['.', '..', ...Object.keys(CONTROL_COMMANDS)])('%j means something else', (name) => {
    expect(() => checkName(name, 'x')).toThrow('x: expected a name that means nothing else');
  });
});
