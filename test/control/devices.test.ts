/** Many devices in one daemon, as their operator and their guests see them; the built programs. */

import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import type { AttachedDriver } from '../driver/daemon.ts';
import { isBuilt, RAMZSWAPD, until } from '../driver/daemon.ts';
import type { FrontEnd } from '../driver/front-end.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const noise = (seed: number) => new Random(seed).bytes(4096);
const capacityOf = (frontEnd: FrontEnd) =>
  Number(Buffer.from(frontEnd.getConfig(0, 8)!).readBigUInt64LE(0)) * 512;

async function start(...args: Parameters<typeof ManyDaemon.start>): Promise<ManyDaemon> {
  const daemon = await ManyDaemon.start(...args);
  cleanUps.push(() => daemon.stop());
  return daemon;
}

async function clientOf(daemon: ManyDaemon) {
  const client = await daemon.client();
  cleanUps.push(() => client.close());
  return client;
}

function attach(daemon: ManyDaemon, name: string): AttachedDriver {
  const attached = daemon.attach(name);
  cleanUps.push(() => attached.close());
  return attached;
}

function run(attached: AttachedDriver, request: ReturnType<typeof read>) {
  attached.driver.submit(request);
  attached.driver.flush();
  return attached.completeAll()[0]!;
}

describe.skipIf(!isBuilt)('many devices', () => {
  it("live as the ancestor's did: made, initialised, used, reset, and refused in between", async () => {
    const daemon = await start(['--num-devices', '4']);
    const names = ['ramzswap0', 'ramzswap1', 'ramzswap2', 'ramzswap3'];
    expect(names.filter((name) => daemon.has(name))).toEqual(names);
    const refused = async (reason: string, ...args: string[]) => {
      const { exitCode, stderr } = await daemon.rzscontrol(...args);
      expect([exitCode, stderr]).toEqual([1, `rzscontrol: ${reason}`]);
    };
    await refused('ramzswap0: not initialised', 'ramzswap0', '--stats');
    await refused('ramzswap0: not initialised', 'ramzswap0', '--reset');
    expect(await daemon.rzscontrol('ramzswap0', '--init')).toMatchObject({ exitCode: 0 });
    await refused('ramzswap0: already initialised', 'ramzswap0', '--init');
    const guest = attach(daemon, 'ramzswap0');
    expect(run(guest, write(9, noise(9))).status).toBe(0);
    expect(run(guest, read(9, 1))).toMatchObject({ status: 0, data: noise(9) });
    const { stdout } = await daemon.rzscontrol('ramzswap0', '--stats');
    expect(stdout).toMatch(/^NumReads: 1$/m);
    expect(stdout).toMatch(/^PagesStored: 2$/m);
    const inUse = 'ramzswap0: in use: a front end has its queues running';
    await refused(inUse, 'ramzswap0', '--reset');
    await refused(inUse, '--remove', 'ramzswap0');
    guest.frontEnd.getBase(0);
    expect((await daemon.rzscontrol('ramzswap0', '--reset')).exitCode).toBe(0);
    expect(capacityOf(guest.frontEnd)).toBe(0);
    await refused('ramzswap0: not initialised', 'ramzswap0', '--stats');
  });

  it('have a default size, a quarter of RAM, and the one that they are given', async () => {
    const daemon = await start(['--num-devices', '2', '--guest-ram', '1G']);
    const client = await clientOf(daemon);
    const sizes = [
      await client.call<DeviceStatus>('init', { device: 'ramzswap0' }),
      await client.call<DeviceStatus>('init', {
        device: 'ramzswap1',
        settings: { disksize: '32M', 'pool-limit': 16 << 20 },
      }),
    ].map(({ statistics }) => statistics!.disksize);
    expect(sizes).toEqual([2 ** 28, 2 ** 25]);
  });

  it('remember what is set before they are initialised; most of it stays as it is then', async () => {
    const daemon = await start();
    const client = await clientOf(daemon);
    const device = 'ramzswap0';
    await client.call('set', { device, settings: { disksize: '8M', 'max-disksize': '16M' } });
    const made = await client.call<DeviceStatus>('init', { device });
    expect(made.statistics!.disksize).toBe(8 << 20);
    await client.call('set', { device, settings: { disksize: 12 << 20 } });
    const [grown] = await client.call<[DeviceStatus]>('devices');
    expect(grown.statistics!.disksize).toBe(12 << 20);
    const set = (settings: object) => client.call('set', { device, settings });
    await expect(set({ 'guest-page-size': 65536 })).rejects.toThrow(
      'ramzswap0: already initialised: guest-page-size stays as it is',
    );
    await expect(set({ disksize: '1M' })).rejects.toThrow('expected 12288 kB, what it is, or more');
  });

  it('tell whoever orders a disk what is unusual about it, not only the log', async () => {
    const daemon = await start(['--guest-ram', '1M']);
    const { exitCode, stderr } = await daemon.rzscontrol('ramzswap0', '--disksize_kb=4096', '-i');
    const warning =
      "disksize 4 MiB is more than twice 1 MiB of RAM (the guest's): 2:1 is what to expect";
    expect([exitCode, stderr]).toEqual([0, `rzscontrol: ramzswap0: warning: ${warning}`]);
    expect(daemon.stderr).toContain(warning);
    const client = await clientOf(daemon);
    await client.call('reset', { device: 'ramzswap0' });
    const made = await client.call('init', { device: 'ramzswap0' });
    expect(made.warnings).toEqual([]);
  });

  it('forget with a reset what was ordered: the settings of the daemon hold again', async () => {
    const daemon = await start(['--disksize', '8M', '--pool-limit', '4M']);
    const order = async (...args: string[]) => {
      expect(await daemon.rzscontrol('ramzswap0', ...args)).toMatchObject({ exitCode: 0 });
    };
    const client = await clientOf(daemon);
    const figures = async () => {
      const made = await client.call('statistics', { device: 'ramzswap0' });
      return [made.disksize >> 20, made.pool_limit >> 20];
    };
    await order('--disksize_kb=4096', '--pool_limit_kb=2048', '--init');
    expect(await figures()).toEqual([4, 2]);
    await order('--pool_limit_kb=0');
    expect(await figures()).toEqual([4, 0]);
    await order('--reset', '--init');
    expect(await figures()).toEqual([8, 4]);
    await order('--reset', '--init', '--pool_limit_kb=0');
    expect(await figures()).toEqual([8, 0]);
  });

  it('take no setting that would have every init refused', async () => {
    const client = await clientOf(await start());
    const text = 'memlimit: expected backing-swap with it';
    const settings = { memlimit: '1M' };
    await expect(client.call('set', { device: 'ramzswap0', settings })).rejects.toThrow(text);
    await expect(client.call('add', { device: 'web', settings })).rejects.toThrow(`web: ${text}`);
    await client.call('init', { device: 'ramzswap0' });
    expect(await client.call('devices')).toHaveLength(1);
  });

  it('are not left behind when the disk that they are added with is refused', async () => {
    const daemon = await start(['--num-devices', '0']);
    const add = (kilobytes: number) =>
      daemon.rzscontrol('--add', 'web', `--disksize_kb=${kilobytes}`, '--init');
    expect(await add(4)).toMatchObject({
      exitCode: 1,
      stderr: 'rzscontrol: web: disksize: expected ten pages at least, got 4 KiB',
    });
    expect(daemon.has('web')).toBe(false);
    expect(await add(4096)).toMatchObject({ exitCode: 0 });
    // Refused because it is there: it stays.
    expect((await add(4096)).exitCode).toBe(1);
    expect(daemon.has('web')).toBe(true);
  });

  it('refuse what a front end cannot be told any more', async () => {
    const client = await clientOf(await start());
    const settings = { 'logical-block-size': 512 };
    await expect(client.call('init', { device: 'ramzswap0', settings })).rejects.toThrow(
      'ramzswap0: logical-block-size: expected 4096, as it was added, got 512',
    );
  });

  it('say what is wrong with an order: which field, what it should be', async () => {
    const client = await clientOf(await start());
    const call = (method: string, params: object) => client.call(method, params);
    await expect(call('statistics', {})).rejects.toThrow(
      'statistics: device: expected string, got nothing',
    );
    await expect(call('reset', { device: 'ramzswap0', force: true })).rejects.toThrow(
      'reset: force: there is no such parameter',
    );
    await expect(call('grow', { device: 'ramzswap0', bytes: 'x' })).rejects.toThrow(
      'grow: bytes: expected number, got "x"',
    );
    const init = (settings: object) => call('init', { device: 'ramzswap0', settings });
    await expect(init({ size: 1 })).rejects.toThrow('settings.size: there is no such setting');
    await expect(init({ disksize: '12Q' })).rejects.toThrow(
      "disksize: expected a size such as 512M or 2G, got '12Q'",
    );
    await expect(init({ memlimit: '1M' })).rejects.toThrow('expected backing-swap with it');
    await expect(call('nothing', {})).rejects.toThrow("'nothing' is unknown there");
    await expect(call('reload', {})).rejects.toThrow('started without --config');
  });

  it('show a front end that came before them capacity 0, then their size', async () => {
    const daemon = await start();
    const guest = attach(daemon, 'ramzswap0');
    expect(capacityOf(guest.frontEnd)).toBe(0);
    expect(run(guest, write(3, noise(3))).status).not.toBe(0);
    const settings = { disksize: '8M' };
    const client = await clientOf(daemon);
    expect(await client.call('init', { device: 'ramzswap0', settings })).toMatchObject({
      state: 'active',
      connected: true,
    });
    expect(capacityOf(guest.frontEnd)).toBe(8 << 20);
    expect(run(guest, write(3, noise(3))).status).toBe(0);
    expect(run(guest, read(3, 1))).toMatchObject({ status: 0, data: noise(3) });
  });

  it('come and go while others are served', async () => {
    const daemon = await start(['--disksize', '8M', '--threads', '2']);
    const client = await clientOf(daemon);
    await client.call('init', { device: 'ramzswap0' });
    const first = attach(daemon, 'ramzswap0');
    for (let round = 0; round < 5; round++) {
      await client.call('add', { device: 'web', settings: { disksize: '4M' } });
      await expect(client.call('add', { device: 'web' })).rejects.toThrow('such a device already');
      const waiting = daemon.connect('web');
      expect(capacityOf(waiting)).toBe(0);
      waiting.close();
      await client.call('init', { device: 'web' });
      const guest = daemon.attach('web');
      expect(run(guest, write(round, noise(round))).status).toBe(0);
      expect(run(first, write(round, noise(round))).status).toBe(0);
      await expect(client.call('remove', { device: 'web' })).rejects.toThrow('web: in use');
      guest.close();
      const isLeft = async () =>
        client.call('remove', { device: 'web' }).then(
          () => true,
          () => false,
        );
      while (!(await isLeft()));
      expect(daemon.has('web')).toBe(false);
      expect(run(first, read(round, 1))).toMatchObject({ status: 0, data: noise(round) });
    }
    const devices = await client.call<DeviceStatus[]>('devices');
    expect(devices.map(({ device }) => device)).toEqual(['ramzswap0']);
    expect((await daemon.rzscontrol('--add', 'a/b')).exitCode).not.toBe(0);
  });

  it('end the connection of a front end that runs nothing when they are removed', async () => {
    const daemon = await start();
    const client = await clientOf(daemon);
    const idle = daemon.connect('ramzswap0');
    expect(capacityOf(idle)).toBe(0);
    await client.call('remove', { device: 'ramzswap0' });
    expect(() => idle.getConfig(0, 8)).toThrow();
    idle.close();
    expect(await client.call('devices')).toEqual([]);
  });

  it('are not taken over, not even none of them', async () => {
    for (const [count, reason] of [
      [0, 'expected a daemon of one device, got one that has none'],
      [2, 'expected a daemon of one device, got one of many'],
    ] as const) {
      const daemon = await start(['--num-devices', `${count}`]);
      const at = ['--socket-path', daemon.socketPath('x'), '--control-path', daemon.controlPath];
      const taking = [RAMZSWAPD, ...at, '--take-over'];
      const { exitCode, stderr } = await execa(process.execPath, taking, { reject: false });
      expect([exitCode, stderr]).toEqual([1, expect.stringContaining(reason)]);
      expect(stderr).not.toContain(' at ');
    }
  });

  it('are spread over the threads', async () => {
    const daemon = await start(['--num-devices', '5', '--threads', '2']);
    const client = await clientOf(daemon);
    const threads = async () =>
      (await client.call<DeviceStatus[]>('devices')).map(({ thread }) => thread);
    expect(await threads()).toEqual([0, 1, 0, 1, 0]);
    await client.call('remove', { device: 'ramzswap2' });
    await client.call('remove', { device: 'ramzswap4' });
    await client.call('add', { device: 'next' });
    expect(await threads()).toEqual([0, 1, 1, 0]);
    expect(await client.call('daemon')).toMatchObject({ threads: 2, budget: null });
  });

  it('serve 32 guests at once, each its own pages', async () => {
    const daemon = await start(['--num-devices', '32', '--disksize', '8M']);
    const client = await clientOf(daemon);
    const names = Array.from({ length: 32 }, (_, i) => `ramzswap${i}`);
    for (const device of names) await client.call('init', { device });
    const guests = names.map((name) => attach(daemon, name));
    for (let page = 1; page < 40; page++) {
      guests.forEach(({ driver }, i) => {
        driver.submit(write(page, noise(i * 1000 + page)));
        driver.flush();
      });
      for (const guest of guests) expect(guest.completeAll()[0]!.status).toBe(0);
    }
    guests.forEach((guest, i) => {
      for (let page = 1; page < 40; page++) {
        expect(run(guest, read(page, 1)).data).toEqual(noise(i * 1000 + page));
      }
    });
    const devices = await client.call<DeviceStatus[]>('devices');
    expect(devices.map(({ state }) => state)).toEqual(new Array(32).fill('active'));
    expect(devices.map(({ statistics }) => statistics!.num_reads)).toEqual(new Array(32).fill(39));
  });

  it('are there again after a kill, with a store directory: those that were added, too', async () => {
    const folder = makeFolder();
    const store = mkdtempSync('/dev/shm/rz-test-');
    cleanUps.push(() => rmSync(store, { recursive: true }));
    const args = ['--disksize', '8M', '--on-new-guest', 'keep', '--store-dir', store];
    const first = await ManyDaemon.start(args, undefined, folder);
    const client = await first.client();
    await client.call('init', { device: 'ramzswap0' });
    await client.call('add', { device: 'web', settings: { 'num-queues': 3 } });
    await client.call('init', { device: 'web', settings: { disksize: '5M' } });
    const guest = first.attach('web');
    run(guest, write(5, noise(5)));
    client.close();
    guest.close();
    first.child.kill('SIGKILL');
    await first.child;
    const again = await start(args, undefined, folder);
    const next = await clientOf(again);
    const devices = await next.call<DeviceStatus[]>('devices');
    expect(devices.map(({ device, statistics }) => [device, statistics?.disksize])).toEqual([
      ['ramzswap0', 8 << 20],
      ['web', 5 << 20],
    ]);
    const back = attach(again, 'web');
    expect(run(back, read(5, 1))).toMatchObject({ data: noise(5) });
    back.frontEnd.getBase(0);
    // What is reset is nobody's: the next one finds nothing.
    await next.call('reset', { device: 'web' });
    expect(readdirSync(store).sort()).toEqual(['ramzswap0.arena', 'ramzswap0.table']);
  });

  it('have a folder that is made with all that is to lie in it, the control socket too', async () => {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const path = `${folder.path}/below`;
    const inside = { path, remove: () => rmSync(path, { recursive: true, force: true }) };
    const daemon = await ManyDaemon.start([], undefined, inside);
    expect(readdirSync(path).sort()).toEqual(['control', 'ramzswap0.sock']);
    await daemon.stop();
  });

  it('end with the daemon: sockets go, status 0', async () => {
    const daemon = await ManyDaemon.start(['--num-devices', '3']);
    daemon.child.kill('SIGTERM');
    expect((await daemon.child).exitCode).toBe(0);
    expect(daemon.has('ramzswap0') || daemon.has('ramzswap2')).toBe(false);
    daemon.folder.remove();
  });

  it.each([300, 500, 700, 900])(
    'leave no socket when told to end %i ms after the start',
    async (millis) => {
      const folder = makeFolder();
      cleanUps.push(folder.remove);
      const starting = ManyDaemon.start(['--config', `${folder.path}/rz.yaml`], () => [], folder);
      // Whether it had begun or not.
      starting.catch(() => {});
      writeFileSync(
        `${folder.path}/rz.yaml`,
        `socket-dir: ${folder.path}\nmetrics: ${folder.path}/metrics\ndevices: { a: , b: , c: }\n`,
      );
      await new Promise((resolve) => setTimeout(resolve, millis));
      const child = ManyDaemon.last!;
      child.kill('SIGTERM');
      await child;
      await starting.catch(() => {});
      expect(readdirSync(folder.path)).toEqual(['rz.yaml']);
    },
  );

  it.each([
    [
      'a: { disksize: 8M, max-disksize: 4M }',
      '3: a: max-disksize: expected 8 MiB .disksize. at least',
    ],
    ['a:\n    num-queues: 3\n    backing-swap: /none', '5: a: backing swap /none: ENOENT'],
    ['a:\n    disksize: 512', '4: a: disksize: expected ten pages at least, got 512 B'],
    ['a:\nmetrics: 0.0.0.0:1', '4: metrics: expected 127.0.0.1:PORT'],
  ])('are refused with file, line and name: %s', async (devices, reason) => {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const path = `${folder.path}/rz.yaml`;
    writeFileSync(path, `socket-dir: ${folder.path}\ndevices:\n  ${devices}\n`);
    const starting = ManyDaemon.start([], () => ['--config', path], folder);
    await expect(starting).rejects.toThrow(new RegExp(`ramzswapd: ${path}:${reason}`));
  });

  it('are refused all together where one cannot be: nothing is left', async () => {
    const folder = await start();
    const { path } = folder.folder;
    const args = ['--socket-dir', path, '--num-devices', '3', '--disksize', '1K'];
    await expect(ManyDaemon.start(args, () => [])).rejects.toThrow();
    await until(() => folder.has('ramzswap0'), 'the first daemon', 1000);
  });
});
