/** Sockets that the service manager has opened: taken by name, left where they are at the end. */

import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import { closeFd } from '../../src/native/fd.ts';
import { listenUnix } from '../../src/native/socket.ts';
import { isBuilt, RAMZSWAPD, until } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { makeFolder } from '../driver/sockets.ts';
import { bareSocket } from '../native/bare-socket.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** LISTEN_PID is the daemon's own, which only it can say. */
const AS_SERVICE = ['-c', 'export LISTEN_PID=$$; exec "$@"', 'sh', process.execPath, RAMZSWAPD];

describe.skipIf(!isBuilt)('sockets of the service manager', () => {
  /** Listening already, under these names, in a folder. */
  function sockets(...names: string[]) {
    const folder = makeFolder();
    cleanUps.push(folder.remove);
    const pathOf = (name: string) => join(folder.path, `passed-${name}`);
    const fds = names.map((name) => listenUnix(pathOf(name)));
    cleanUps.push(() => {
      for (const fd of fds) closeFd(fd);
    });
    const start = (...args: string[]) => startWith(fds, names, args);
    return { folder: folder.path, pathOf, start };
  }

  async function startWith(
    fds: readonly number[],
    names: readonly string[],
    args: readonly string[],
  ) {
    const child = execa('sh', [...AS_SERVICE, ...args], {
      reject: false,
      env: { LISTEN_FDS: `${fds.length}`, LISTEN_FDNAMES: names.join(':') },
      stdio: ['ignore', 'pipe', 'pipe', ...(fds as unknown as 'pipe'[])],
    });
    let log = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      log += chunk.toString();
    });
    await until(() => / ready"/.test(log) || child.exitCode !== null, 'the daemon', 20_000);
    const stop = async () => {
      child.kill('SIGTERM');
      return (await child).exitCode;
    };
    cleanUps.push(stop);
    return { stop, log: () => log, exitCode: child.exitCode };
  }

  async function devicesAt(path: string): Promise<DeviceStatus[]> {
    const client = await ControlClient.connect(path);
    cleanUps.push(() => client.close());
    return [...(await client.call('devices', {}))];
  }

  function capacityAt(path: string): number {
    const frontEnd = FrontEnd.connect(path);
    cleanUps.push(() => frontEnd.close());
    return Number(Buffer.from(frontEnd.getConfig(0, 8)!).readBigUInt64LE(0)) * 512;
  }

  it('are all that one device needs; a front end that came first is served', async () => {
    const { pathOf, start } = sockets('ramzswapd.socket', 'control');
    const early = FrontEnd.connect(pathOf('ramzswapd.socket'));
    const { stop } = await start('--disksize', '8M');
    expect(Buffer.from(early.getConfig(0, 8)!).readBigUInt64LE(0)).toBe(16384n);
    early.close();
    expect(await devicesAt(pathOf('control'))).toMatchObject([{ device: 'ramzswap0' }]);
    expect(await stop()).toBe(0);
    // They are the manager's, for the next start.
    expect(existsSync(pathOf('ramzswapd.socket')) && existsSync(pathOf('control'))).toBe(true);
  });

  it('go to the devices of their names; the others listen where they are told to', async () => {
    const { folder, pathOf, start } = sockets('web1', 'control', 'stray');
    const config = join(folder, 'rz.yaml');
    writeFileSync(
      config,
      `socket-dir: ${folder}\ndevices:\n  web1: { disksize: 8M }\n  web2: { disksize: 4M }\n`,
    );
    const { log } = await start('--config', config);
    expect(log()).toContain('a socket called stray: there is no such device');
    expect(log()).not.toMatch(/a socket called (web1|control)/);
    expect(capacityAt(pathOf('web1'))).toBe(8 << 20);
    expect(capacityAt(join(folder, 'web2.sock'))).toBe(4 << 20);
    expect(existsSync(join(folder, 'web1.sock'))).toBe(false);
    const devices = await devicesAt(pathOf('control'));
    expect(devices.map(({ device }) => device)).toEqual(['web1', 'web2']);
  });

  it('go before --socket-path where they have the name of the device', async () => {
    const { folder, pathOf, start } = sockets('guest');
    const path = join(folder, 'vhost.sock');
    await start('--name', 'guest', '--disksize', '8M', '--socket-path', path);
    expect(capacityAt(pathOf('guest'))).toBe(8 << 20);
    expect(existsSync(path)).toBe(false);
  });

  it('are refused where nobody can know whose they are', async () => {
    const { start } = sockets('one', 'other');
    const { log, exitCode } = await start('--disksize', '8M');
    expect(exitCode).toBe(2);
    expect(log()).toContain('LISTEN_FDNAMES: expected one socket, or one called ramzswap0, got');
  });

  it.each(['guest', 'control'])(
    'are refused by the name %s where they are of another kind',
    async (name) => {
      const made = makeFolder();
      cleanUps.push(made.remove);
      const fds = [bareSocket('internet', 'stream')];
      cleanUps.push(() => fds.forEach(closeFd));
      const pathOf = (what: string) => join(made.path, what);
      const args = ['--name', 'guest', '--socket-path', pathOf('s'), '--control-path', pathOf('c')];
      const { log, exitCode } = await startWith(fds, [name], args);
      expect(exitCode).toBe(1);
      expect(log()).toContain(
        `LISTEN_FDNAMES: ${name}: expected a Unix stream socket that listens`,
      );
    },
  );
});
