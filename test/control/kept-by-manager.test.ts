/** Many devices whose stores the service manager is to keep; the built daemon. */

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { isBuilt } from '../driver/daemon.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { DatagramPlace } from '../native/datagram-place.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const noise = (seed: number) => new Random(seed).bytes(4096);

async function start() {
  const folder = makeFolder();
  cleanUps.push(folder.remove);
  const path = join(folder.path, 'notify');
  const place = new DatagramPlace(path);
  process.env.NOTIFY_SOCKET = path;
  const daemon = await ManyDaemon.start(['--fdstore', '--budget', '64M', '--disksize', '8M']);
  delete process.env.NOTIFY_SOCKET;
  const client = await daemon.client();
  cleanUps.push(
    () => daemon.stop(),
    () => client.close(),
  );
  return { daemon, client, place, path };
}

describe.skipIf(!isBuilt)('a store that the service manager is to keep', () => {
  it.each([true, false])(
    'and cannot be told of is none, unless a guest has it; a guest is there: %s',
    async (isUsed) => {
      const { daemon, client, place, path } = await start();
      const device = 'ramzswap0';
      place.close();
      const early = isUsed ? daemon.attach(device) : undefined;
      const outcome = await client.call('init', { device }).then(
        () => 'done',
        () => 'refused',
      );
      expect(outcome).toBe(isUsed ? 'done' : 'refused');
      const guest = early ?? daemon.attach(device);
      cleanUps.push(() => guest.close());
      guest.driver.submit(write(5, noise(5)));
      guest.driver.flush();
      expect(guest.completeAll()[0]!.status === 0).toBe(isUsed);
      if (!isUsed) {
        rmSync(path);
        const again = new DatagramPlace(path);
        cleanUps.push(() => again.close());
        await client.call('init', { device });
        guest.driver.submit(write(5, noise(5)));
      }
      guest.driver.submit(read(5, 1));
      guest.driver.flush();
      expect(guest.completeAll().at(-1)).toMatchObject({ status: 0, data: noise(5) });
      expect(await client.call('devices')).toMatchObject([{ state: 'active' }]);
    },
  );

  it('has a name that the manager knows it by', async () => {
    const { client } = await start();
    await client.call('add', { device: 'a:b' });
    await expect(client.call('init', { device: 'a:b' })).rejects.toThrow('without a colon');
    expect(await client.call('devices')).toMatchObject([{}, { state: 'uninitialised' }]);
  });
});
