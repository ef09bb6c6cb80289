/** The HTTP server for metrics: what it tells, whom it refuses, and what a bad client can do. */

import { spawnSync } from 'node:child_process';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { RefusedError, UsageError } from '../../src/base/errors.ts';
import {
  type MetricsServer,
  parseEndpoint,
  serveMetrics,
} from '../../src/control/metrics-server.ts';
import { sleep, until } from '../driver/daemon.ts';
import { hasPrometheusParser, parseMetrics, sampleOf } from '../driver/prometheus-parser.ts';
import { makeFolder } from '../driver/sockets.ts';
import { deviceOf, StatusSource, statisticsOf } from '../driver/status-source.ts';

const hasCurl = spawnSync('curl', ['--version']).status === 0;
const LOOPBACK = '127.0.0.1:0';

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0)) end();
});

async function serve(source = new StatusSource(deviceOf('ramzswap0')), where = LOOPBACK) {
  const server = await serveMetrics(where, source);
  endings.push(() => server.close());
  return server;
}

function portOf({ address }: MetricsServer): number {
  return Number(new URL(address).port);
}

/** A connection by hand, and all it has received. */
async function dial(server: MetricsServer): Promise<{ socket: Socket; text: () => string }> {
  const socket = connect(portOf(server), '127.0.0.1');
  endings.push(() => socket.destroy());
  let text = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk) => {
    text += chunk;
  });
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('connect', resolve));
  return { socket, text: () => text };
}

/** One request by hand; the answer when the connection has ended. */
async function ask(server: MetricsServer, request: string): Promise<string> {
  const { socket, text } = await dial(server);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write(request);
  await closed;
  return text();
}

const closing = (head: string) => `${head}\r\nConnection: close\r\n\r\n`;

describe('where', () => {
  it.each([
    ['127.0.0.1:9178', { host: '127.0.0.1', port: 9178, name: '127.0.0.1' }],
    ['127.8.8.8:1', { host: '127.8.8.8', port: 1, name: '127.8.8.8' }],
    ['[::1]:9178', { host: '::1', port: 9178, name: '[::1]' }],
    ['localhost:9178', { host: '127.0.0.1', port: 9178, name: 'localhost' }],
    ['/run/m.sock', { path: '/run/m.sock' }],
    ['./m.sock', { path: './m.sock' }],
  ])('%s is understood', (where, endpoint) => {
    expect(parseEndpoint(where)).toEqual(endpoint);
  });

  it.each(['0.0.0.0:9178', '[::]:9178', '192.168.1.1:9178', 'example.org:80', '127.evil.org:80'])(
    '%s is refused with the reason and a way out',
    (where) => {
      expect(() => parseEndpoint(where)).toThrow(UsageError);
      expect(() => parseEndpoint(where)).toThrow(/password.*proxy/);
    },
  );

  it.each(['9178', ':9178', 'localhost', '127.0.0.1:99999', '::1:9178', '127.0.0.1:http', ''])(
    "'%s' is refused with what is expected",
    (where) => {
      expect(() => parseEndpoint(where)).toThrow(UsageError);
      expect(() => parseEndpoint(where)).toThrow(/expected 127.0.0.1:PORT, .*Unix socket/);
    },
  );

  it('a port in use is refused', async () => {
    const port = portOf(await serve());
    const again = serve(undefined, `127.0.0.1:${port}`);
    await expect(again).rejects.toThrow(RefusedError);
    await expect(again).rejects.toThrow(/EADDRINUSE/);
  });

  it('a port, or a path, that another daemon is about to leave is waited for', async () => {
    const folder = makeFolder();
    endings.push(folder.remove);
    const [first, path] = [await serve(), join(folder.path, 'm.sock')];
    const second = await serve(undefined, path);
    const waiting = [new URL(first.address).host, path].map((where) =>
      serveMetrics(where, new StatusSource(), { waitMillis: 10_000 }),
    );
    await sleep(200);
    first.close();
    second.close();
    for (const server of await Promise.all(waiting)) endings.push(() => server.close());
    expect((await fetch(`${first.address}/healthz`)).status).toBe(200);
    expect(existsSync(path)).toBe(true);
  });

  it('a path in use is refused, a stale socket replaced, another file left', async () => {
    const folder = makeFolder();
    endings.push(folder.remove);
    const path = join(folder.path, 'm.sock');
    await serve(undefined, path);
    await expect(serve(undefined, path)).rejects.toThrow(RefusedError);
    const stale = join(folder.path, 'stale.sock');
    const script = `require('net').createServer().listen('${stale}', () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script]);
    expect(existsSync(stale)).toBe(true);
    await serve(undefined, stale);
    const file = join(folder.path, 'file');
    writeFileSync(file, 'mine');
    await expect(serve(undefined, file)).rejects.toThrow();
    expect(existsSync(file)).toBe(true);
  });

  it('a socket lets nobody else in, and goes with the server', async () => {
    const folder = makeFolder();
    endings.push(folder.remove);
    const path = join(folder.path, 'm.sock');
    const server = await serveMetrics(path, new StatusSource());
    expect(server.address).toBe(path);
    expect(statSync(path).mode & 0o777).toBe(0o660);
    server.close();
    expect(existsSync(path)).toBe(false);
  });

  it('[::1] serves there alone', async () => {
    const server = await serveMetrics('[::1]:0', new StatusSource()).catch((error: Error) => error);
    if (server instanceof Error)
      return expect(server.message).toMatch(/EADDRNOTAVAIL|EAFNOSUPPORT/);
    endings.push(() => server.close());
    expect(server.address).toMatch(/^http:\/\/\[::1\]:\d+$/);
    expect((await fetch(`${server.address}/healthz`)).status).toBe(200);
    await expect(fetch(`http://127.0.0.1:${portOf(server)}/healthz`)).rejects.toThrow();
  });
});

describe('answers', () => {
  it('say the figures of this moment, as JSON', async () => {
    const source = new StatusSource(deviceOf('a'), deviceOf('b', { statistics: null }));
    const { address } = await serve(source);
    const got = await fetch(`${address}/api/status`);
    expect(got.headers.get('content-type')).toBe('application/json');
    expect(await got.json()).toEqual({ daemon: source.daemon(), devices: source.devices() });
    source.list = [deviceOf('a', { statistics: statisticsOf({ num_reads: 17 }) })];
    const again = (await (await fetch(`${address}/api/status`)).json()) as {
      devices: { statistics: { num_reads: number } }[];
    };
    expect(again.devices.map(({ statistics }) => statistics.num_reads)).toEqual([17]);
  });

  it('are the page, a word of health, or what there is instead', async () => {
    const { address } = await serve();
    const page = await fetch(address);
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(await page.text()).toMatch(/^<!doctype html>/);
    expect(await (await fetch(`${address}/healthz?x=1`)).text()).toBe('ok\n');
    const none = await fetch(`${address}/../etc/passwd`);
    expect([none.status, await none.text()]).toEqual([
      404,
      'expected /, /api/status, /metrics or /healthz\n',
    ]);
  });

  it.each(['/', '/api/status', '/metrics', '/healthz', '/none'])(
    '%s has the headers that keep other sites out',
    async (path) => {
      const { headers } = await fetch(`${(await serve()).address}${path}`);
      expect(headers.get('x-content-type-options')).toBe('nosniff');
      expect(headers.get('content-security-policy')).toMatch(/^default-src 'none';/);
      expect(headers.get('content-security-policy')).toMatch(/frame-ancestors 'none'/);
      expect(headers.get('cross-origin-resource-policy')).toBe('same-origin');
      expect(headers.get('access-control-allow-origin')).toBeNull();
      expect(headers.get('cache-control')).toBe('no-store');
    },
  );

  it('to HEAD have no body, but its length', async () => {
    const { address } = await serve();
    const [head, get] = [
      await fetch(`${address}/healthz`, { method: 'HEAD' }),
      await fetch(`${address}/healthz`),
    ];
    expect(head.headers.get('content-length')).toBe(get.headers.get('content-length'));
    expect(await head.text()).toBe('');
  });

  it.each(['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])(
    'to %s is what is allowed',
    async (method) => {
      const got = await fetch(`${(await serve()).address}/metrics`, { method });
      expect([got.status, got.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
    },
  );

  it('are for those who ask again as soon as the last has come, too', async () => {
    const devices = Array.from({ length: 32 }, (_, index) => deviceOf(`d${index}`));
    const { address } = await serve(new StatusSource(...devices));
    for (let asked = 0; asked < 100; asked++) {
      const got = await fetch(`${address}/metrics`);
      expect((await got.text()).length).toBeGreaterThan(100_000);
    }
  });

  it('to a question that the figures cannot answer is an error, and the server goes on', async () => {
    const source = new StatusSource();
    const { address } = await serve(source);
    source.devices = () => {
      throw new Error('secret path');
    };
    const got = await fetch(`${address}/metrics`);
    expect([got.status, await got.text()]).toEqual([500, 'the figures could not be read\n']);
    expect((await fetch(`${address}/healthz`)).status).toBe(200);
  });
});

describe('formats', () => {
  it.each([
    ['', 'text/plain'],
    ['text/plain', 'text/plain'],
    ['*/*', 'text/plain'],
    ['application/openmetrics-text', 'application/openmetrics-text'],
    ['application/openmetrics-text;version=0.0.1;q=0.9,*/*;q=0.1', 'text/plain'],
    ['application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.5', 'text/plain'],
    // Prometheus 2, and 3.
    [
      'application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,' +
        'text/plain;version=0.0.4;q=0.5,*/*;q=0.1',
      'application/openmetrics-text',
    ],
    [
      'application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,' +
        'application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;' +
        'escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2',
      'application/openmetrics-text',
    ],
  ])("to Accept '%s' is %s", async (accept, type) => {
    const { address } = await serve();
    const got = await fetch(`${address}/metrics`, { headers: { accept } });
    expect(got.headers.get('content-type')).toMatch(new RegExp(`^${type};`));
    expect((await got.text()).endsWith('# EOF\n')).toBe(type !== 'text/plain');
  });

  it.skipIf(!hasCurl || !hasPrometheusParser)(
    "what curl gets, at a port and at a Unix socket, is read by Prometheus' parser",
    async () => {
      const folder = makeFolder();
      endings.push(folder.remove);
      const path = join(folder.path, 'm.sock');
      const statistics = statisticsOf({ num_writes: 4242, mem_used_total: 2 ** 40 });
      const source = new StatusSource(deviceOf('ramzswap0', { statistics }));
      const [tcp, unix] = [await serve(source), await serve(source, path)];
      for (const args of [
        [`${tcp.address}/metrics`],
        ['--unix-socket', unix.address, 'http://ramzswap/metrics'],
      ]) {
        for (const format of ['prometheus', 'openmetrics'] as const) {
          const accept = `Accept: ${format === 'openmetrics' ? 'application/openmetrics-text' : '*/*'}`;
          // The server is this process: curl may not be waited for.
          const { stdout } = await execa('curl', ['-sSf', '-H', accept, ...args]);
          const families = parseMetrics(`${stdout}\n`, format);
          const of = (name: string) => sampleOf(families, name, { device: 'ramzswap0' });
          expect(of('ramzswap_pages_written_total')).toBe(4242);
          expect(of('ramzswap_memory_used_bytes')).toBe(2 ** 40);
          expect(sampleOf(families, 'process_cpu_seconds_total')).toBeGreaterThan(0);
        }
      }
    },
  );
});

describe('names of hosts', () => {
  it.each(['localhost', 'LOCALHOST:9178', '127.0.0.1', '127.0.0.1:1', '[::1]', '[::1]:9178'])(
    '%s is this one',
    async (host) => {
      const got = await ask(await serve(), closing(`GET /healthz HTTP/1.1\r\nHost: ${host}`));
      expect(got).toMatch(/^HTTP\/1.1 200 /);
    },
  );

  it.each([
    'evil.example',
    'evil.example:9178',
    '127.0.0.1.evil.example',
    'localhost.evil.example',
    '127.evil.example',
    '192.168.0.1',
    '',
  ])("'%s' is refused: a page of somebody else's may have it point here", async (host) => {
    for (const path of ['/', '/api/status', '/metrics', '/healthz']) {
      const got = await ask(await serve(), closing(`GET ${path} HTTP/1.1\r\nHost: ${host}`));
      expect(got).toMatch(/^HTTP\/1.1 421 /);
      expect(got).not.toMatch(/ramzswap0/);
    }
  });

  it('may not be left out', async () => {
    const server = await serve();
    expect(await ask(server, closing('GET /metrics HTTP/1.1'))).toMatch(/^HTTP\/1.1 400 /);
    expect(await ask(server, closing('GET /metrics HTTP/1.0'))).toMatch(/^HTTP\/1.1 421 /);
  });
});

describe('a bad client', () => {
  const GET = 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n';

  it('with big headers is cut off', async () => {
    const head = `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}`;
    expect(await ask(await serve(), `${head}\r\n\r\n`)).toMatch(/^HTTP\/1.1 431 /);
  });

  it('that sends hundreds of requests in one packet has none of them answered', async () => {
    let readings = 0;
    const source = new StatusSource();
    source.devices = () => {
      readings++;
      return [];
    };
    expect(await ask(await serve(source), GET.repeat(500))).toBe('');
    expect(readings).toBe(1);
  });

  it('that scrapes without end has the figures read a few times a second, no oftener', async () => {
    let readings = 0;
    const source = new StatusSource(deviceOf('a'));
    source.devices = () => {
      readings++;
      return source.list;
    };
    const { address } = await serve(source);
    const begun = performance.now();
    let answers = 0;
    for (; performance.now() - begun < 1000; answers++) {
      expect(await (await fetch(`${address}/metrics`)).text()).toMatch(/ramzswap_devices 1\n/);
    }
    expect(answers).toBeGreaterThan(10);
    expect(readings).toBeGreaterThan(1);
    expect(readings).toBeLessThanOrEqual(1 + (performance.now() - begun) / 250);
  });

  it('that sends nonsense or a body is answered and cut off', async () => {
    const server = await serve();
    expect(await ask(server, 'nonsense\r\n\r\n')).toMatch(/^HTTP\/1.1 400 /);
    const head = 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n';
    const body = `${head}Content-Length: 1000000000\r\n\r\nx`;
    expect(await ask(server, body)).toMatch(/^HTTP\/1.1 200 [\s\S]*Connection: close/);
    expect(await ask(server, `${head}Transfer-Encoding: chunked\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 200 [\s\S]*Connection: close/,
    );
  });

  it('that wants a tunnel or another protocol does not get it', async () => {
    const server = await serve();
    expect(await ask(server, closing('CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost'))).toBe(
      '',
    );
    const upgrade =
      'GET /none HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade';
    const { socket, text } = await dial(server);
    socket.write(`${upgrade}\r\n\r\n`);
    await until(() => text() !== '', 'an answer', 5000);
    expect(text()).toMatch(/^HTTP\/1.1 404 /);
  });

  it('that opens many connections gets a few, and others are served when they have gone', async () => {
    const server = await serve();
    const sockets = await Promise.all(Array.from({ length: 100 }, () => dial(server)));
    const closed = () => sockets.filter(({ socket }) => socket.closed).length;
    await until(() => closed() >= 68, 'those beyond the limit to be closed', 5000);
    expect(closed()).toBe(68);
    for (const { socket } of sockets) socket.destroy();
    await sleep(50);
    expect((await fetch(`${server.address}/healthz`)).status).toBe(200);
  });

  it('that hangs in a request, says nothing, or reads slowly is cut off in seconds', async () => {
    // More than the kernel takes for a reader.
    const devices = Array.from({ length: 2000 }, (_, index) => deviceOf(`d${index}`));
    const server = await serve(new StatusSource(...devices));
    const [hanging, silent, slow] = [await dial(server), await dial(server), await dial(server)];
    hanging.socket.write('GET /metrics HTTP/1.1\r\nHost: local');
    const begun = performance.now();
    slow.socket.on('data', () => {
      // What came in time is in the kernel by now.
      if (performance.now() - begun > 12_000) return;
      slow.socket.pause();
      setTimeout(() => slow.socket.resume(), 200);
    });
    slow.socket.write(GET);
    const isOver = () => [hanging, silent, slow].every(({ socket }) => socket.closed);
    await until(isOver, 'the end of all three', 25_000);
    expect(hanging.text()).toMatch(/^HTTP\/1.1 408 /);
    expect(silent.text()).not.toMatch(/200/);
    const length = Number(/Content-Length: (\d+)/.exec(slow.text())?.[1]);
    expect(slow.text().length).toBeGreaterThan(100_000);
    expect(slow.text().length).toBeLessThan(length);
    expect((await fetch(`${server.address}/healthz`)).status).toBe(200);
  }, 30_000);
});
