/** The control socket's server: what a client can and cannot do to it. */

import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import { METHODS } from '../../src/control/schema.ts';
import { serveControl } from '../../src/control/server.ts';
import { listenUnix } from '../../src/native/socket.ts';
import { until } from '../driver/daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const CLIENTS_MAX = 64;

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function serve(devices: () => readonly DeviceStatus[] | Promise<DeviceStatus[]> = () => []) {
  const folder = makeFolder();
  cleanUps.push(folder.remove);
  const path = join(folder.path, 'control');
  const server = serveControl(listenUnix(path), { devices });
  cleanUps.push(() => server.close());
  return path;
}

async function raw(path: string): Promise<Socket> {
  const socket = connect(path);
  socket.on('error', () => {});
  cleanUps.push(() => socket.destroy());
  await once(socket, 'connect');
  return socket;
}

async function good(path: string): Promise<ControlClient> {
  const client = await ControlClient.connect(path);
  cleanUps.push(() => client.close());
  return client;
}

describe('the control server', () => {
  it('makes room for a new client: who has been silent for longest goes', async () => {
    const path = serve();
    const first = await good(path);
    const hanging: Socket[] = [];
    for (let i = 0; i < CLIENTS_MAX - 1; i++) hanging.push(await raw(path));
    // It has said something since the others came.
    expect(await first.call('devices', {})).toEqual([]);
    const more = await good(path);
    expect(await more.call('devices', {})).toEqual([]);
    expect(await first.call('devices', {})).toEqual([]);
    await until(() => hanging[0]!.destroyed, 'the first silent one', 2000);
    expect(hanging.filter(({ destroyed }) => destroyed)).toHaveLength(1);
  });

  it('does not read on while a client has many requests without an answer', async () => {
    let asked = 0;
    const answers: (() => void)[] = [];
    const path = serve(() => {
      asked++;
      return new Promise((resolve) => answers.push(() => resolve([])));
    });
    const flooding = await raw(path);
    const request = `${JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'devices', params: {} })}\n`;
    flooding.write(request.repeat(100_000));
    await until(() => asked >= 64, 'requests', 5000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(asked).toBe(64);
    for (const answer of answers.splice(0)) answer();
    await until(() => answers.length > 0, 'more of them', 5000);
    flooding.destroy();
  });

  it('counts the calls of a batch, and refuses one of too many whole', async () => {
    let asked = 0;
    const answers: (() => void)[] = [];
    const path = serve(() => {
      asked++;
      return new Promise((resolve) => answers.push(() => resolve([])));
    });
    const client = await raw(path);
    let heard = '';
    client.on('data', (chunk: Buffer) => {
      heard += chunk;
    });
    const send = (calls: number) => {
      const batch = Array.from({ length: calls }, (_, id) => {
        return { jsonrpc: '2.0', id, method: 'devices', params: {} };
      });
      client.write(`${JSON.stringify(batch)}\n`);
    };
    for (const calls of [65, 10_000]) {
      send(calls);
      const why = `Invalid Request: batch: expected 64 calls at most, got ${calls}`;
      const error = { code: -32600, message: why };
      await until(() => heard.endsWith('\n'), 'an answer', 2000);
      expect(JSON.parse(heard)).toEqual({ jsonrpc: '2.0', id: null, error });
      heard = '';
    }
    expect(asked).toBe(0);
    for (const calls of [40, 40, 40, 2]) send(calls);
    await until(() => asked >= 80, 'two batches', 5000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(asked).toBe(80);
    for (const answer of answers.splice(0)) answer();
    await until(() => asked >= 122, 'the others', 5000);
    for (const answer of answers.splice(0)) answer();
    const sizes = () =>
      heard
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line).length);
    await until(() => sizes().length === 4, 'all answers', 5000);
    expect(sizes()).toEqual([40, 40, 40, 2]);
  });

  it('tells all its methods with their schemas', async () => {
    const client = await good(serve());
    const document = (await client.call('rpc.discover' as 'daemon', {})) as unknown as {
      openrpc: string;
      methods: { name: string; params: { name: string; required: boolean; schema: object }[] }[];
    };
    expect(document.openrpc).toMatch(/^1\./);
    expect(document.methods.map(({ name }) => name)).toEqual(Object.keys(METHODS));
    const init = document.methods.find(({ name }) => name === 'init');
    expect(init?.params.map(({ name, required }) => [name, required])).toEqual([
      ['device', true],
      ['settings', false],
    ]);
    expect(JSON.stringify(init?.params[1]?.schema)).toContain('"pool-limit"');
  });

  it.each([
    ['{', error(-32700, null)],
    ['[1', error(-32700, null)],
    ['[]', error(-32600, null)],
    ['1', error(-32600, null)],
    ['null', error(-32600, null)],
    ['{"id":7}', error(-32600, 7)],
    ['[1]', [error(-32600, null)]],
    ['[null,[]]', [error(-32600, null), error(-32600, null)]],
    [request(1), answer(1)],
    [`[${request(1)}]`, [answer(1)]],
    [`[${request(1)},1]`, [answer(1), error(-32600, null)]],
    [`[${request()},${request(2)},${request(3, 'none')}]`, [answer(2), error(-32601, 3)]],
  ])('answers %s as JSON-RPC 2.0 says', async (line, expected) => {
    const [said] = await answersTo(line);
    expect(said).toMatchObject(expected);
  });

  it('answers neither a notification nor a batch of them', async () => {
    expect(await answersTo(request(), `[${request()},${request()}]`, request(9))).toEqual([
      answer(9),
    ]);
  });
});

function request(id?: number, method = 'devices'): string {
  return JSON.stringify({ jsonrpc: '2.0', method, id });
}

function answer(id: number): object {
  return { jsonrpc: '2.0', id, result: [] };
}

function error(code: number, id: number | null): object {
  return { jsonrpc: '2.0', id, error: { code } };
}

/** All that comes before the answer to `lines`' last. */
async function answersTo(...lines: string[]): Promise<object[]> {
  const socket = await raw(serve());
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  socket.write(`${lines.join('\n')}\n`);
  await until(() => text.endsWith('\n'), 'an answer', 5000);
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as object);
}
