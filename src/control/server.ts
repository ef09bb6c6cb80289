/**
 * The control socket's server: answers JSON-RPC requests of several clients, whose parameters are
 * checked against the methods' schemas. A client that sends nonsense, does not read its answers, or sends
 * too long a line is cut off; when there are too many, who has been silent for longest makes room.
 * Devices are served by other threads and never notice.
 */

import { createServer, type Server, type Socket } from 'node:net';
import {
  createJSONRPCErrorResponse,
  JSONRPCErrorException,
  type JSONRPCRequest,
  JSONRPCServer,
} from 'json-rpc-2.0';
import { RefusedError, SystemError, UsageError } from '../base/errors.ts';
import {
  INVALID_PARAMS_CODE,
  LINE_BYTES_MAX,
  lineSplitter,
  type MethodName,
  type Methods,
  REFUSED_CODE,
} from './protocol.ts';

type Answer<Result> = Result | Promise<Result>;
/** What the daemon answers with. */
export type MethodTable = {
  readonly [M in MethodName]: (params: Methods[M]['params']) => Answer<Methods[M]['result']>;
};
/** Without a schema: for tests. */
export type ExtraMethods = Readonly<Record<string, (params: unknown) => unknown>>;

const CLIENTS_MAX = 64;
/** Requests of one client that have no answer yet. */
const UNANSWERED_MAX = 64;

/** Serves them on a listening Unix socket. RefusedError becomes an error with its message. */
export function serveControl(
  listenFd: number,
  methods: Partial<MethodTable>,
  extra: ExtraMethods = {},
): Server {
  // Loaded with the first client: schemas cost memory and time.
  let rpc: Promise<JSONRPCServer> | undefined;
  /** In the order in which they last said something. */
  const clients = new Set<Socket>();
  const server = createServer((socket) => {
    rpc ??= makeRpc(methods, extra);
    const [silent] = clients;
    if (silent !== undefined && clients.size >= CLIENTS_MAX) {
      clients.delete(silent);
      silent.destroy();
    }
    const isHeard = () => {
      clients.delete(socket);
      clients.add(socket);
    };
    isHeard();
    socket.on('data', isHeard);
    socket.on('close', () => clients.delete(socket));
    serveClient(socket, rpc);
  });
  // An accept that failed is one client's loss, not the daemon's.
  server.on('error', () => {});
  server.listen({ fd: listenFd });
  return server;
}

async function makeRpc(methods: Partial<MethodTable>, extra: ExtraMethods): Promise<JSONRPCServer> {
  const { METHODS, openRpcDocument, wrongParams } = await import('./schema.ts');
  const rpc = new JSONRPCServer({ errorListener: () => {} });
  for (const [name, method] of Object.entries(methods) as [MethodName, Method][]) {
    rpc.addMethod(name, async (params: unknown) => {
      const wrong = wrongParams(METHODS[name].params, params ?? {});
      if (wrong === undefined) return carriedOut(method, params ?? {});
      throw new JSONRPCErrorException(`${name}: ${wrong}`, INVALID_PARAMS_CODE);
    });
  }
  for (const [name, method] of Object.entries(extra)) {
    rpc.addMethod(name, async (params: unknown) => carriedOut(method, params));
  }
  rpc.addMethod('rpc.discover', openRpcDocument);
  return rpc;
}

type Method = (params: unknown) => unknown;

async function carriedOut(method: Method, params: unknown): Promise<unknown> {
  try {
    return await method(params);
  } catch (error) {
    const isRefusal = [RefusedError, UsageError, SystemError].some((type) => error instanceof type);
    if (!isRefusal) throw error;
    throw new JSONRPCErrorException((error as Error).message, REFUSED_CODE);
  }
}

function serveClient(socket: Socket, rpc: Promise<JSONRPCServer>): void {
  let unanswered = 0;
  socket.setEncoding('utf8');
  // A client that vanishes is its own business.
  socket.on('error', () => socket.destroy());
  const answer = async (line: string) => {
    const text = await answerLine(await rpc, line);
    unanswered--;
    if (unanswered < UNANSWERED_MAX) socket.resume();
    if (text === null || socket.destroyed) return;
    socket.write(`${JSON.stringify(text)}\n`);
    if (socket.writableLength > LINE_BYTES_MAX) socket.destroy();
  };
  const takeText = lineSplitter((line) => {
    unanswered++;
    // What waits in the socket is the client's own memory.
    if (unanswered >= UNANSWERED_MAX) socket.pause();
    // What the library or the answer's text cannot cope with costs this client its connection.
    answer(line).catch(() => socket.destroy());
  });
  socket.on('data', (chunk: string) => {
    if (!takeText(chunk)) socket.destroy();
  });
}

/** The library wants objects: what else JSON can say is answered here. */
async function answerLine(rpc: JSONRPCServer, line: string): Promise<unknown> {
  const request = parseRequest(line);
  if (request === undefined) return createJSONRPCErrorResponse(null, -32600, 'Invalid Request');
  return Array.isArray(request) ? rpc.receive(request) : rpc.receive(request as JSONRPCRequest);
}

function parseRequest(line: string): object | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    return undefined;
  }
  const isObject = (value: unknown) => typeof value === 'object' && value !== null;
  const isBatch = Array.isArray(parsed) && parsed.length > 0 && parsed.every(isObject);
  return isBatch || (isObject(parsed) && !Array.isArray(parsed)) ? (parsed as object) : undefined;
}
