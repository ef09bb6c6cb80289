/**
 * Metrics, figures and the status page over HTTP, for those on this host: `--metrics`. Nobody is asked
 * who they are, so it listens at a loopback address or at a Unix socket, and nothing can be changed
 * here. Loaded when it is asked for: Prometheus' library costs memory.
 *
 *   /            the status page (status-page.html)
 *   /api/status  what that page shows, as JSON: { daemon, devices }
 *   /metrics     for Prometheus: its text format, or OpenMetrics where the client prefers that
 *   /healthz     200: the control thread answers
 *
 * A client costs this thread time and a bounded amount of memory; devices are served by other threads.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, isIPv4, type Socket } from 'node:net';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { about, RefusedError, UsageError } from '../base/errors.ts';
import { frontEndAccess, type ListeningSocket, openListeningSocket } from '../device/endpoint.ts';
import {
  type MetricsFormat,
  type MetricsSource,
  type MetricsText,
  metricsText,
} from './metrics.ts';
import { statusPage } from './status-page.ts';

export type { MetricsSource } from './metrics.ts';

export interface MetricsServer {
  /** Where it listens, for people: `http://127.0.0.1:9178`, or the socket's path. */
  readonly address: string;
  close(): void;
}

/**
 * Prometheus, a few status pages, somebody with curl. Each may have one answer on its way: of 32 devices
 * that is 0.5 MB, so nobody can have more than 16 MB of this process.
 */
const CONNECTIONS_MAX = 32;
const HEADER_BYTES_MAX = 8192;
const REQUEST_MILLIS_MAX = 5000;
const ANSWER_MILLIS_MAX = 10_000;
/** A status page comes every second; whoever comes every 15 may as well connect again. */
const KEEP_ALIVE_MILLIS = 5000;
const REQUESTS_PER_CONNECTION_MAX = 1000;
const RETRY_MILLIS = 50;
/** Text of 32 devices takes some 25 ms to make, which others would wait for in a flood of scrapes. */
const SHARED_MILLIS = 250;

const EXAMPLE = 'expected 127.0.0.1:PORT, [::1]:PORT, localhost:PORT or the path of a Unix socket';

type Endpoint =
  | { readonly path: string }
  | { readonly host: string; readonly port: number; readonly name: string };

export interface MetricsManner {
  /** How long another daemon, which is about to end, may still be there. */
  readonly waitMillis?: number;
  /** What asks for it, for errors. */
  readonly said?: string;
}

/** Begins to serve at `where`; throws UsageError (what it says), RefusedError (in use) or SystemError. */
export async function serveMetrics(
  where: string,
  source: MetricsSource,
  { waitMillis = 0, said = '--metrics' }: MetricsManner = {},
): Promise<MetricsServer> {
  const endpoint = parseEndpoint(where, said);
  const deadline = performance.now() + waitMillis;
  for (;;) {
    try {
      return await open(endpoint, where, source);
    } catch (error) {
      if (error instanceof RefusedError && performance.now() < deadline) {
        await sleep(RETRY_MILLIS);
        continue;
      }
      throw about(said, error);
    }
  }
}

async function open(
  endpoint: Endpoint,
  where: string,
  figures: MetricsSource,
): Promise<MetricsServer> {
  const isUnix = 'path' in endpoint;
  const source = { figures, metrics: sharedText(figures) };
  const server = createServer(
    {
      maxHeaderSize: HEADER_BYTES_MAX,
      headersTimeout: REQUEST_MILLIS_MAX,
      requestTimeout: REQUEST_MILLIS_MAX,
      connectionsCheckingInterval: REQUEST_MILLIS_MAX,
      keepAliveTimeout: KEEP_ALIVE_MILLIS,
    },
    (request, response) => {
      if (isFirstOf(request.socket, response)) void answer(request, response, source, isUnix);
    },
  );
  server.maxConnections = CONNECTIONS_MAX;
  server.maxRequestsPerSocket = REQUESTS_PER_CONNECTION_MAX;
  server.setTimeout(ANSWER_MILLIS_MAX);
  const socket = isUnix ? openListeningSocket(endpoint.path, frontEndAccess()) : undefined;
  try {
    await listen(server, socket === undefined ? endpoint : { fd: socket.fd });
  } catch (error) {
    socket?.remove();
    throw new RefusedError(`${where}: ${(error as Error).message}`);
  }
  // An accept that failed is one client's loss, not the daemon's.
  server.on('error', () => {});
  return { address: addressOf(server, socket), close: () => close(server, socket) };
}

/** What answers are made of. */
interface Source {
  readonly figures: MetricsSource;
  readonly metrics: (format: MetricsFormat) => Promise<MetricsText>;
}

/** One text for all who ask within a moment. */
function sharedText(figures: MetricsSource): Source['metrics'] {
  const recent = new Map<MetricsFormat, { since: number; text: Promise<MetricsText> }>();
  return (format) => {
    const now = performance.now();
    const found = recent.get(format);
    if (found !== undefined && now - found.since < SHARED_MILLIS) return found.text;
    const text = metricsText(figures, format);
    recent.set(format, { since: now, text });
    return text;
  };
}

/** Sockets with an answer that is not all read. */
const busy = new WeakSet<Socket>();

/**
 * False: more requests came before the answer to the last one was read. One packet holds hundreds, and
 * Node would have all answers made at once, so such a client is cut off; neither browsers nor
 * Prometheus do it. One that does not read its answer is, too.
 */
function isFirstOf(socket: Socket, response: ServerResponse): boolean {
  if (busy.has(socket)) {
    socket.destroy();
    return false;
  }
  busy.add(socket);
  const deadline = setTimeout(() => socket.destroy(), ANSWER_MILLIS_MAX).unref();
  response.once('close', () => {
    busy.delete(socket);
    clearTimeout(deadline);
  });
  return true;
}

function addressOf(server: Server, socket: ListeningSocket | undefined): string {
  if (socket !== undefined) return resolve(socket.path);
  const { address, family, port } = server.address() as AddressInfo;
  return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
}

function close(server: Server, socket: ListeningSocket | undefined): void {
  socket?.remove();
  server.close();
  server.closeAllConnections();
}

function listen(server: Server, options: object): Promise<void> {
  return new Promise((done, fail) => {
    server.once('error', fail);
    server.listen(options, () => {
      server.off('error', fail);
      done();
    });
  });
}

/** A text with a slash is a path, all else an address and a port. */
export function parseEndpoint(where: string, said = '--metrics'): Endpoint {
  const refuse = (why: string): never => {
    throw new UsageError(`${said}: ${why}, got '${where}'`);
  };
  if (where.includes('/')) return { path: where };
  const [, name = '', digits = ''] = /^(\[[\da-fA-F:.]+\]|[^:[\]]+):(\d{1,5})$/.exec(where) ?? [];
  const port = Number(digits);
  if (name === '' || port > 65_535) return refuse(EXAMPLE);
  if (!isLoopback(name)) {
    return refuse(
      `${EXAMPLE}. Nobody is asked for a password here, so it cannot listen at other addresses: ` +
        'put a proxy that asks (nginx, Caddy) before it',
    );
  }
  // Whatever a file of host names says.
  const host = name === 'localhost' ? '127.0.0.1' : name.replace(/[[\]]/g, '');
  return { host, port, name };
}

function isLoopback(name: string): boolean {
  return name === 'localhost' || name === '[::1]' || (isIPv4(name) && name.startsWith('127.'));
}

/**
 * A page of somebody else's, open in a browser on this host, can have its own name point here and read
 * the answers ("DNS rebinding"). Its requests say that name.
 */
function isOwnName(host: string | undefined): boolean {
  return isLoopback((host ?? '').toLowerCase().replace(/:\d+$/, ''));
}

/** On every answer: this is no page to be framed, guessed at, kept or read by other sites. */
const HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
};

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  source: Source,
  isUnix: boolean,
): Promise<void> {
  const { status, type, body, headers } = await answerTo(request, source, isUnix).catch(() =>
    // Whoever scrapes sees that it failed; the devices go on.
    plain(500, 'the figures could not be read'),
  );
  const hasBody = request.headers['transfer-encoding'] !== undefined || bodyBytes(request) > 0;
  response.writeHead(status, {
    ...HEADERS,
    ...headers,
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(body),
    // What nobody reads must not be taken for the next request.
    ...(hasBody ? { Connection: 'close' } : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

function bodyBytes(request: IncomingMessage): number {
  return Number(request.headers['content-length'] ?? 0);
}

async function answerTo(
  request: IncomingMessage,
  { figures, metrics }: Source,
  isUnix: boolean,
): Promise<Answer> {
  if (!isUnix && !isOwnName(request.headers.host)) {
    return plain(421, 'expected a Host header that says localhost, 127.0.0.1 or [::1]');
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return { ...plain(405, 'expected GET or HEAD'), headers: { Allow: 'GET, HEAD' } };
  }
  switch (request.url?.split('?')[0]) {
    case '/':
      return { status: 200, ...statusPage() };
    case '/api/status':
      return json({ daemon: figures.daemon(), devices: figures.devices() });
    case '/metrics': {
      const { contentType, text } = await metrics(wantedFormat(request.headers.accept));
      return { status: 200, type: contentType, body: text };
    }
    case '/healthz':
      return plain(200, 'ok');
    default:
      return plain(404, 'expected /, /api/status, /metrics or /healthz');
  }
}

/** Prometheus names what it can read, each with a weight: OpenMetrics where that weighs most. */
function wantedFormat(accept: string | undefined): MetricsFormat {
  let openMetrics = 0;
  let others = 0;
  for (const range of (accept ?? '').toLowerCase().split(',')) {
    const [type = '', ...parameters] = range.split(';').map((part) => part.trim());
    const quality = parameters.find((parameter) => parameter.startsWith('q='));
    const weight = quality === undefined ? 1 : Number(quality.slice(2)) || 0;
    const isOurs = type === 'application/openmetrics-text';
    const isOther = ['text/plain', 'text/*', '*/*'].includes(type);
    if (isOurs && !parameters.some((p) => /^version=(?!1\.0\.0$)/.test(p))) {
      openMetrics = Math.max(openMetrics, weight);
    }
    if (isOther) others = Math.max(others, weight);
  }
  return openMetrics > 0 && openMetrics >= others ? 'openmetrics' : 'prometheus';
}

function plain(status: number, text: string): Answer {
  return { status, type: 'text/plain; charset=utf-8', body: `${text}\n` };
}

function json(value: object): Answer {
  return { status: 200, type: 'application/json', body: `${JSON.stringify(value)}\n` };
}
