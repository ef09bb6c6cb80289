/** A device that goes while others ask something of it, or while somebody is there; the built daemon. */

import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { isBuilt, until } from '../driver/daemon.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeSwapFile } from '../driver/swap-file.ts';

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
      const gone = "no device 'ramzswap0'";
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

  it.each(['reset', 'remove'])(
    'lets guests of the same thread go on while its own I/O comes to an end: %s',
    async (method) => {
      const swap = makeSwapFile(32 << 20);
      cleanUps.push(swap.remove);
      process.env.RAMZSWAP_FAULT_INJECTION = '1';
      const { daemon, client } = await start('--num-devices', '2', '--threads', '1');
      delete process.env.RAMZSWAP_FAULT_INJECTION;
      const device = 'ramzswap0';
      await client.call('init', { device, settings: { 'backing-swap': swap.path } });
      await client.call('init', { device: 'ramzswap1' });
      await client.call('fault', { backing: { delayMillis: 2000 } });
      const slow = daemon.attach(device);
      slow.driver.submit(write(100, noise(1)));
      slow.driver.flush();
      await new Promise((resolve) => setTimeout(resolve, 50));
      slow.close();
      await until(() => daemon.stderr.includes('disconnected'), 'it has left', 5000);
      const guest = daemon.attach('ramzswap1');
      cleanUps.push(() => guest.close());
      let isOver = false;
      const outcome = outcomeOf(client.call(method, { device })).finally(() => {
        isOver = true;
      });
      let longest = 0;
      let rounds = 0;
      for (; !isOver; rounds++) {
        const start = performance.now();
        guest.driver.submit(write(3, noise(rounds)));
        guest.driver.flush();
        expect(guest.completeAll()[0]!.status).toBe(0);
        longest = Math.max(longest, performance.now() - start);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      expect(await outcome).toBe('done');
      expect(rounds).toBeGreaterThan(20);
      expect(longest).toBeLessThan(700);
    },
  );
});
