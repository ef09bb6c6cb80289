/** A configuration file that is read again: what it changes, and what takes a restart. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { DeviceStatus, ReloadResult } from '../../src/control/protocol.ts';
import { isBuilt, until } from '../driver/daemon.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
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
      'disksize: expected 8192 kB, what it is, or more, got 4096 kB',
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
