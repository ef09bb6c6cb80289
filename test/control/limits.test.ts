/** Memory that the devices of a daemon share, as operator and guests see it; the built daemon. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { DaemonStatus, DeviceStatus } from '../../src/control/protocol.ts';
import { type AttachedDriver, isBuilt } from '../driver/daemon.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { Random } from '../driver/random.ts';
import { write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';

const MIB = 2 ** 20;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

describe.skipIf(!isBuilt)('a budget', () => {
  async function started(config: string) {
    const folder = makeFolder();
    const path = join(folder.path, 'rz.yaml');
    const configure = (text: string) => writeFileSync(path, `socket-dir: ${folder.path}\n${text}`);
    configure(config);
    const daemon = await ManyDaemon.start([], () => ['--config', path], folder);
    cleanUps.push(() => daemon.stop());
    const client = await daemon.client();
    cleanUps.push(() => client.close());
    const attach = (name: string) => {
      const attached = daemon.attach(name);
      cleanUps.push(() => attached.close());
      return attached;
    };
    const share = async (name: string) => {
      const devices = await client.call<readonly DeviceStatus[]>('devices', {});
      return devices.find(({ device }) => device === name)!.share!;
    };
    return { daemon, client, configure, attach, share };
  }

  /** Writes pages that do not compress until one is refused, at most `max`; how many went in. */
  function filled(attached: AttachedDriver, max: number, seed = 1): number {
    const random = new Random(seed);
    for (let page = 1; page <= max; page++) {
      attached.driver.submit(write(page, random.bytes(4096)));
      attached.driver.flush();
      if (attached.completeAll()[0]!.status !== 0) return page - 1;
    }
    return max;
  }

  const CONFIG = [
    'budget: 8M',
    'devices:',
    '  greedy: { disksize: 32M }',
    '  safe: { disksize: 32M, guarantee: 2M }',
    '  late: { disksize: 32M }',
  ].join('\n');

  it('is all that its devices have together; who is guaranteed some has that', async () => {
    const { client, attach, share } = await started(CONFIG);
    // 6 MiB are guaranteed to nobody, of which an eighth is for those under their share.
    const taken = filled(attach('greedy'), 8000);
    expect(taken).toBeGreaterThan(4.5 * 256);
    expect(taken).toBeLessThanOrEqual(5.5 * 256);
    expect(filled(attach('late'), 8000, 2)).toBeGreaterThan(0);
    expect(filled(attach('safe'), 2 * 256 - 1, 3)).toBe(2 * 256 - 1);
    const { budget } = await client.call<DaemonStatus>('daemon', {});
    expect(budget!.limit).toBe(8 * MIB);
    expect(budget!.committed).toBeLessThanOrEqual(8 * MIB + 65536);
    expect(await share('safe')).toMatchObject({ guarantee: 2 * MIB, used: 2 * MIB, refused: 0 });
    expect((await share('greedy')).refused).toBeGreaterThan(0);
  });

  it('and guarantees change while it is used', async () => {
    const { client, attach, share, configure } = await started(CONFIG);
    const greedy = attach('greedy');
    const before = filled(greedy, 8000);
    const set = (settings: object) => client.call('set', { device: 'safe', settings } as never);
    await expect(set({ guarantee: '9M' })).rejects.toThrow(
      'safe: guarantee: expected up to 8 MiB of the budget, got 9 MiB',
    );
    await set({ guarantee: '1M' });
    expect((await share('safe')).guarantee).toBe(MIB);
    configure(
      CONFIG.replace('budget: 8M', 'budget: 16M').replace('guarantee: 2M', 'guarantee: 4M'),
    );
    expect(await client.call('reload', {})).toEqual({
      done: ['budget', 'safe: guarantee'],
      refused: [],
    });
    expect((await share('safe')).guarantee).toBe(4 * MIB);
    expect(filled(greedy, 8000, 4)).toBeGreaterThan(before + 256);
  });

  it('is not passed by a guarantee that comes when others have taken it', async () => {
    const { client, daemon, attach } = await started(
      'budget: 8M\ndevices:\n  full: { disksize: 32M }\n  late: { disksize: 32M }',
    );
    filled(attach('full'), 8000);
    const text =
      /guarantee: expected up to 1(\.\d)? MiB, what other devices have left of the budget's 8 MiB, got 8 MiB/;
    const late = await daemon.rzscontrol('late', '--guarantee_kb=8192');
    expect(late).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(text) });
    const settings = { guarantee: 8 * MIB, disksize: 8 * MIB };
    await client.call('add', { device: 'more' });
    await expect(client.call('init', { device: 'more', settings })).rejects.toThrow(text);
    filled(attach('late'), 8000, 2);
    const { budget } = await client.call<DaemonStatus>('daemon', {});
    expect(budget!.committed).toBeLessThanOrEqual(8 * MIB);
  });

  it('is as it was where an order is refused for another of its settings', async () => {
    const { daemon, client, share, configure } = await started(CONFIG);
    const order = ['safe', '--guarantee_kb=3072', '--pool_limit_kb=4096', '--disksize_kb=1000'];
    const { exitCode, stderr } = await daemon.rzscontrol(...order);
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining('32768 kB, what it is')]);
    expect((await share('safe')).guarantee).toBe(2 * MIB);
    expect((await client.call('statistics', { device: 'safe' })).pool_limit).toBe(0);
    configure(CONFIG);
    expect(await client.call('reload')).toEqual({ done: [], refused: [] });
  });

  it('is free again when a device is reset or removed', async () => {
    const { client, daemon, attach } = await started(CONFIG);
    const greedy = attach('greedy');
    filled(greedy, 8000);
    greedy.frontEnd.getBase(0);
    await client.call('reset', { device: 'greedy' });
    const committed = async () => (await client.call<DaemonStatus>('daemon', {})).budget!.committed;
    // Two swap headers, one of them within a guarantee.
    expect(await committed()).toBe(2 * MIB + 4096);
    await daemon.rzscontrol('--remove', 'safe');
    expect(await committed()).toBe(4096);
  });

  it('is wanted for a guarantee, which is never more than it', async () => {
    const { client } = await started('devices:\n  a: { disksize: 8M, init: false }');
    const init = { device: 'a', settings: { guarantee: MIB } };
    await expect(client.call('init', init)).rejects.toThrow(
      'a: guarantee: expected a daemon with a budget',
    );
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const path = join(folder.path, 'rz.yaml');
    writeFileSync(
      path,
      `socket-dir: ${folder.path}\nbudget: 1M\ndevices:\n  a: { disksize: 8M, guarantee: 2M }\n`,
    );
    await expect(ManyDaemon.start([], () => ['--config', path], folder)).rejects.toThrow(
      /a: guarantee: expected up to 1 MiB of the budget, got 2 MiB/,
    );
  });

  it('changes nothing for a pool limit, which changes too', async () => {
    const { client, attach } = await started('devices:\n  a: { disksize: 8M, pool-limit: 1M }');
    const guest = attach('a');
    expect(filled(guest, 8000)).toBe(255);
    await client.call('set', { device: 'a', settings: { 'pool-limit': 2 * MIB } });
    expect(filled(guest, 8000, 2)).toBe(511);
  });
});
