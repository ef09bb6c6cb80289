/** The client of the control socket: typed calls, and what it says when there is no answer. */

import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, expectTypeOf, it, vi } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { ControlClient, NoDaemonError } from '../../src/control/client.ts';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import { ControlStandIn, deviceStatus } from '../driver/control-stand-in.ts';
import { sleep } from '../driver/daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function standIn(...devices: DeviceStatus[]): ControlStandIn {
  const made = new ControlStandIn(...devices);
  cleanUps.push(() => made.close());
  return made;
}

async function connected(path: string): Promise<ControlClient> {
  const client = await ControlClient.connect(path);
  cleanUps.push(() => client.close());
  return client;
}

/** A server that answers whatever comes with `answer`, or not at all. */
async function odd(answer: string | undefined): Promise<string> {
  const folder = makeFolder();
  const path = join(folder.path, 's');
  const server: Server = createServer((socket) => {
    socket.on('data', () => answer !== undefined && socket.write(answer));
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  cleanUps.push(
    () => folder.remove(),
    () => server.close(),
  );
  return path;
}

describe('ControlClient', () => {
  it('calls methods, whose answers have their types', async () => {
    const client = await connected(standIn(deviceStatus('ramzswap0')).path);
    const devices = await client.call('devices');
    expectTypeOf(devices).toEqualTypeOf<readonly DeviceStatus[]>();
    expect(devices).toEqual([deviceStatus('ramzswap0')]);
    expect(await client.call('grow', { device: 'ramzswap0', bytes: 8192 })).toBe(8192);
    expect(await client.discover()).toMatchObject({ openrpc: '1.3.2' });
  });

  it("rejects with the daemon's reason", async () => {
    const client = await connected(standIn(deviceStatus('ramzswap0')).path);
    const asked = client.call('statistics', { device: 'ramzswap0' });
    await expect(asked).rejects.toThrow(new RefusedError('ramzswap0: not initialised'));
    await expect(asked).rejects.not.toBeInstanceOf(NoDaemonError);
  });

  it('says that a method is unknown to an older daemon', async () => {
    const client = await connected(standIn().path);
    await expect(client.call('dance')).rejects.toThrow(/'dance' is unknown there: .* older/);
  });

  it('gives up calls that wait, and later ones, when the daemon ends', async () => {
    const daemon = standIn();
    const path = await odd(undefined);
    const client = await connected(path);
    const waiting = client.call('devices');
    client.close();
    await expect(waiting).rejects.toThrow(NoDaemonError);
    const other = await connected(daemon.path);
    await other.call('devices');
    daemon.stop();
    await expect
      .poll(() => other.call('devices').catch((error: Error) => error.message))
      .toMatch(/control: the daemon closed the connection$/);
    // Nothing more comes of its socket that could end a call.
    await sleep(50);
    const asked = performance.now();
    await expect(other.call('devices')).rejects.toThrow(NoDaemonError);
    expect(performance.now() - asked).toBeLessThan(1000);
  });

  it.each(['nonsense\n', '3\n', 'null\n', '"text"\n', '"'.repeat(2 ** 20 + 1)])(
    'ends the connection of one that does not speak JSON-RPC',
    async (answer) => {
      const client = await connected(await odd(answer));
      await expect(client.call('devices')).rejects.toThrow(
        /expected JSON-RPC, got something else$|an answer is too long$/,
      );
    },
  );

  it('does not wait for ever', async () => {
    const client = await connected(await odd(undefined));
    vi.useFakeTimers();
    const asked = expect(client.call('devices')).rejects.toThrow(/no answer to 'devices' in 10 s$/);
    await vi.advanceTimersByTimeAsync(10_000);
    await asked;
    const made = client.call('init', { device: 'ramzswap0' }).catch((error: Error) => error);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await Promise.race([made, 'still waiting'])).toBe('still waiting');
  });

  it('says what to do where nobody answers', async () => {
    const folder = makeFolder();
    cleanUps.push(() => folder.remove());
    const missing = join(folder.path, 'missing');
    await expect(ControlClient.connect(missing)).rejects.toThrow(
      `control socket ${missing}: no such socket; is ramzswapd running? --control-path says where it is`,
    );
    const left = await execa(process.execPath, [
      ...['-e', 'require("net").createServer().listen(process.argv[1], () => process.exit())'],
      join(folder.path, 'left'),
    ]);
    expect(left.exitCode).toBe(0);
    await expect(ControlClient.connect(join(folder.path, 'left'))).rejects.toThrow(
      /nobody listens there: ramzswapd has ended/,
    );
    writeFileSync(join(folder.path, 'file'), '');
    const file = ControlClient.connect(join(folder.path, 'file'));
    await expect(file).rejects.toThrow(NoDaemonError);
    await expect(file).rejects.toThrow('that is no socket; --control-path says where it is');
  });

  it.each([0, 108])('refuses a path of %i bytes, which is never one', async (bytes) => {
    const asked = ControlClient.connect('/'.padEnd(bytes, 'x').slice(0, bytes));
    await expect(asked).rejects.toThrow(`expected a path of 1 to 107 bytes, got ${bytes}`);
  });
});
