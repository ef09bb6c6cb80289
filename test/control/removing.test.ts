/** A device that goes while others ask something of it, or while somebody is there; the built daemon. */

import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { isBuilt } from '../driver/daemon.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function start(...args: string[]) {
  const daemon = await ManyDaemon.start(['--disksize', '8M', ...args]);
  cleanUps.push(() => daemon.stop());
  const client = await daemon.client();
  cleanUps.push(() => client.close());
  return { daemon, client };
}

const noise = (seed: number) => new Random(seed).bytes(4096);
const outcomeOf = (call: Promise<unknown>) =>
  call.then(
    () => 'done',
    (error: Error) => error.message,
  );

describe.skipIf(!isBuilt)('a device that is removed', () => {
  it('refuses what waited for that, and the daemon goes on', async () => {
    const { daemon, client } = await start();
    const waiting = {
      remove: {},
      init: {},
      reset: {},
      grow: { bytes: 4096 },
      set: { settings: {} },
    };
    const device = 'ramzswap0';
    for (const [method, more] of Object.entries(waiting)) {
      const outcomes = [
        outcomeOf(client.call('remove', { device })),
        outcomeOf(client.call(method, { device, ...more })),
      ];
      const gone = "no device 'ramzswap0': it was removed";
      expect(await Promise.all(outcomes), method).toEqual(['done', expect.stringContaining(gone)]);
      expect(await client.call('devices')).toEqual([]);
      expect(await client.call('add', { device })).toMatchObject({ state: 'uninitialised' });
    }
    expect(daemon.child.exitCode).toBe(null);
  });

  it('leaves no descriptor behind', async () => {
    const { daemon, client } = await start('--threads', '1');
    const fds = () => readdirSync(`/proc/${daemon.child.pid}/fd`).length;
    const round = async () => {
      await client.call('add', { device: 'web' });
      await client.call('init', { device: 'web' });
      await client.call('remove', { device: 'web' });
    };
    await round();
    const before = fds();
    for (let i = 0; i < 5; i++) await round();
    expect(fds()).toBe(before);
  });

  it('is refused while its queues run, with a disk and without', async () => {
    const { daemon, client } = await start();
    const device = 'ramzswap0';
    const guest = daemon.attach(device);
    cleanUps.push(() => guest.close());
    const refused = expect.stringContaining('in use');
    expect(await outcomeOf(client.call('remove', { device }))).toEqual(refused);
    await client.call('init', { device });
    expect(await outcomeOf(client.call('remove', { device }))).toEqual(refused);
    expect(await client.call('devices')).toMatchObject([{ state: 'active', connected: true }]);
    guest.driver.submit(write(5, noise(5)));
    guest.driver.submit(read(5, 1));
    guest.driver.flush();
    expect(guest.completeAll()[1]).toMatchObject({ status: 0, data: noise(5) });
  });
});
