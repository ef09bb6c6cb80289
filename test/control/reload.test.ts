/** A configuration file that is read again: what it changes, and what takes a restart. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../../src/control/config-file.ts';
import { makePlan } from '../../src/control/plan.ts';
import type { DeviceStatus, ReloadResult } from '../../src/control/protocol.ts';
import { reloadSteps } from '../../src/control/reload.ts';
import { isBuilt, until } from '../driver/daemon.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

describe('the steps of a reload', () => {
  const planOf = (text: string) =>
    makePlan(
      { daemon: {}, device: {} },
      parseConfig(`socket-dir: /run/rz\n${text}`, 'rz.yaml'),
      false,
    );

  /** What is done and refused, where everything is as `before` says and its disks are made. */
  function stepsOf(before: string, after: string, isInitialised = true): string[] {
    const old = planOf(before);
    const present = old.devices.map(({ name, settings }) => {
      return { name, settings, isInitialised, isFromFile: true };
    });
    return reloadSteps(old, planOf(after), present).map((step) => {
      const { kind, ...rest } = step;
      return `${kind} ${
        kind === 'add'
          ? step.device.name
          : Object.values(rest)
              .map((value) => JSON.stringify(value))
              .join(' ')
      }`;
    });
  }

  const MIB = 2 ** 20;
  const two = (budget: number, a: number, b: number) =>
    `budget: ${budget}M\ndevices:\n  a: { guarantee: ${a}M }\n  b: { guarantee: ${b}M }`;

  it.each([
    ['swapped', two(100, 20, 70), two(100, 70, 20), ['b 20', 'a 70']],
    ['lowered before the budget', two(100, 70, 10), two(50, 20, 30), ['a 20', 'budget 50', 'b 30']],
    ['raised after the budget', two(50, 20, 30), two(100, 70, 10), ['budget 100', 'b 10', 'a 70']],
  ])('take guarantees in an order in which each can be: %s', (_, before, after, expected) => {
    const lines = expected.map((text) => {
      const [what, mib] = text.split(' ') as [string, string];
      const bytes = Number(mib) * MIB;
      return what === 'budget' ? `budget ${bytes}` : `set "${what}" {"guarantee":${bytes}}`;
    });
    expect(stepsOf(before, after)).toEqual(lines);
  });

  it('lift limits that the file no longer has', () => {
    const before = 'budget: 9M\ndevices:\n  a: { pool-limit: 2M, guarantee: 1M }';
    expect(stepsOf(before, 'budget: 9M\ndevices:\n  a:')).toEqual([
      'set "a" {"guarantee":0}',
      'set "a" {"pool-limit":0}',
    ]);
  });

  it('are none where a file says what holds anyway', () => {
    const said =
      'devices:\n  a: { num-queues: 64, mlock: false, pool-limit: 0, logical-block-size: 4096 }';
    expect(stepsOf('devices:\n  a:', said)).toEqual([]);
    expect(stepsOf(said, 'devices:\n  a:')).toEqual([]);
  });

  it('refuse what a device has been added with, and that alone', () => {
    const before = 'devices:\n  a: { disksize: 8M, max-disksize: 32M, num-queues: 4 }';
    const after = 'devices:\n  a: { disksize: 16M, max-disksize: 32M, num-queues: 8 }';
    const how = 'a restart, or its removal (rzscontrol --remove a) and another reload';
    const refusal = `refuse "a: num-queues: a change takes ${how}"`;
    expect(stepsOf(before, after)).toEqual([refusal, `set "a" {"disksize":${16 * MIB}}`]);
    const settings = { disksize: 16 * MIB, 'max-disksize': 32 * MIB, 'num-queues': 4 };
    expect(stepsOf(before, after, false)).toEqual([
      refusal,
      `replace "a" ${JSON.stringify(settings)}`,
      'init "a"',
    ]);
  });

  it('say once that init: false takes no disk away', () => {
    const [is, off] = ['devices:\n  a:', 'devices:\n  a: { init: false }'];
    expect(stepsOf(is, off)).toEqual([
      'refuse "a: init: false: its disk stays until rzscontrol a --reset"',
    ]);
    expect(stepsOf(off, off)).toEqual([]);
  });
});

describe.skipIf(!isBuilt)('a daemon with a configuration file', () => {
  async function started(config: string) {
    const folder = makeFolder();
    const path = join(folder.path, 'rz.yaml');
    const write = (text: string) => writeFileSync(path, `socket-dir: ${folder.path}\n${text}`);
    write(config);
    const daemon = await ManyDaemon.start([], () => ['--config', path], folder);
    cleanUps.push(() => daemon.stop());
    const client = await daemon.client();
    cleanUps.push(() => client.close());
    const devices = async () =>
      (await client.call<DeviceStatus[]>('devices')).map(({ device, state, statistics }) => {
        return `${device} ${state} ${(statistics?.disksize ?? 0) / 2 ** 20}`;
      });
    const reload = () => client.call<ReloadResult>('reload');
    return { daemon, client, write, devices, reload };
  }

  it('has the devices that it describes, those with init: false without a disk', async () => {
    const { devices } = await started(
      'devices:\n  a: { disksize: 8M }\n  b: { disksize: 4M, init: false }',
    );
    expect(await devices()).toEqual(['a initialised 8', 'b uninitialised 0']);
  });

  it('adds, removes, grows and initialises what a new one says', async () => {
    const { devices, write, reload, daemon } = await started(
      'devices:\n  a: { disksize: 8M, max-disksize: 32M }\n  b: { disksize: 4M, init: false }\n  c: { disksize: 4M }',
    );
    await daemon.rzscontrol('--add', 'byhand');
    write(
      'devices:\n  a: { disksize: 16M, max-disksize: 32M }\n  b: { disksize: 5M }\n  d: { disksize: 6M }',
    );
    expect(await reload()).toEqual({
      done: ['c: removed', 'a: disksize', 'b: disksize', 'b: initialised', 'd: added'],
      refused: [],
    });
    expect(await devices()).toEqual([
      'a initialised 16',
      'b initialised 5',
      'byhand uninitialised 0',
      'd initialised 6',
    ]);
    expect(daemon.has('c')).toBe(false);
    expect(await reload()).toEqual({ done: [], refused: [] });
  });

  it('forgets what a new one no longer says of a device without a disk', async () => {
    const { client, write, reload, devices } = await started(
      'devices:\n  a: { disksize: 8M, max-disksize: 16M, guest-ram: 1G, init: false }',
    );
    write('devices:\n  a: { guest-ram: 1G, init: false }');
    expect(await reload()).toEqual({ done: ['a: guest-ram'], refused: [] });
    expect(await reload()).toEqual({ done: [], refused: [] });
    await client.call('init', { device: 'a' });
    expect(await devices()).toEqual(['a initialised 256']);
  });

  it('removes a device that it has described, whoever added it, when it no longer does', async () => {
    const { devices, write, reload, daemon } = await started('devices:');
    await daemon.rzscontrol('--add', 'a', '--disksize_kb=8192');
    write('devices:\n  a: { disksize: 8M }');
    expect(await reload()).toEqual({ done: ['a: initialised'], refused: [] });
    write('devices:');
    expect(await reload()).toEqual({ done: ['a: removed'], refused: [] });
    expect(await devices()).toEqual([]);
  });

  it('is what a reset goes back to', async () => {
    const { client, devices, write, reload } = await started(
      'devices:\n  a: { disksize: 4M, max-disksize: 16M }',
    );
    write('devices:\n  a: { disksize: 8M, max-disksize: 16M }');
    await reload();
    await client.call('set', { device: 'a', settings: { disksize: '16M' } });
    await client.call('reset', { device: 'a' });
    await client.call('init', { device: 'a' });
    expect(await devices()).toEqual(['a initialised 8']);
  });

  it('keeps a device that is in use, and says so; the next reload takes it', async () => {
    const { devices, write, reload, daemon } = await started('devices:\n  a: { disksize: 8M }');
    const guest = daemon.attach('a');
    write('devices:');
    expect(await reload()).toEqual({
      done: [],
      refused: ['a: in use: a front end has its queues running'],
    });
    guest.frontEnd.getBase(0);
    expect(await reload()).toEqual({ done: ['a: removed'], refused: [] });
    guest.close();
    expect(await devices()).toEqual([]);
  });

  it('says what takes a restart, or a reset', async () => {
    const { write, reload } = await started('threads: 1\ndevices:\n  a: { disksize: 8M }');
    write('threads: 2\ndevices:\n  a: { disksize: 4M, wipe-on-free: true }');
    const { done, refused } = await reload();
    expect(done).toEqual([]);
    expect(refused).toEqual([
      'threads: a change takes a restart',
      'a: disksize: expected 8192 kB, what it is, or more, got 4096 kB',
      'a: wipe-on-free: a change takes a reset of the device',
    ]);
  });

  it('changes nothing for a file that is wrong, and goes on', async () => {
    const { devices, write, reload } = await started('devices:\n  a: { disksize: 8M }');
    write('devices:\n  a: { disksize: 16X }');
    await expect(reload()).rejects.toThrow(/rz\.yaml:3: devices\.a\.disksize: expected a size/);
    expect(await devices()).toEqual(['a initialised 8']);
  });

  it('reads it again on SIGHUP', async () => {
    const { daemon, devices, write } = await started('devices:');
    write('devices:\n  a: { disksize: 8M }');
    daemon.child.kill('SIGHUP');
    await until(() => daemon.has('a'), 'a device', 5000);
    await until(() => /reload: a: added/.test(daemon.stderr), 'the log', 5000);
    expect(await devices()).toEqual(['a initialised 8']);
    write('nonsense: 1');
    daemon.child.kill('SIGHUP');
    await until(() => /not reloaded: .*nonsense/.test(daemon.stderr), 'the log', 5000);
    expect(await devices()).toEqual(['a initialised 8']);
  });

  it('is not ended by SIGHUP where there is no file', async () => {
    const daemon = await ManyDaemon.start(['--num-devices', '1']);
    cleanUps.push(() => daemon.stop());
    daemon.child.kill('SIGHUP');
    await until(() => /not reloaded: no configuration file/.test(daemon.stderr), 'the log', 5000);
    expect(daemon.has('ramzswap0')).toBe(true);
  });
});
