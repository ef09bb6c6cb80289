/**
 * The control socket's server: answers JSON-RPC requests of several clients, whose parameters are
 * checked against the methods' schemas. A client that sends nonsense, does not read its answers, or sends
 * too long a line is cut off; when there are too many, who has been silent for longest makes room.
 * Devices are served by other threads and never notice.
 */

import { createServer, type Server, type Socket } from 'node:net';
import {
  createJSONRPCErrorResponse,
  JSONRPCErrorCode,
  JSONRPCErrorException,
  type JSONRPCErrorResponse,
  type JSONRPCRequest,
  type JSONRPCResponse,
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
/** Calls of one client that have no answer yet, but for a batch's that begins below that. */
const UNANSWERED_MAX = 64;
/** Of one batch: all its answers are in memory together. */
const BATCH_CALLS_MAX = UNANSWERED_MAX;

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
  // Always the same, and dear: tens of milliseconds of this thread.
  let document: object | undefined;
  rpc.addMethod('rpc.discover', () => {
    document ??= openRpcDocument();
    return document;
  });
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
  /** Lines that were read with those that are being answered. */
  const waiting: string[] = [];
  socket.setEncoding('utf8');
  // A client that vanishes is its own business.
  socket.on('error', () => socket.destroy());
  const answer = async (said: unknown, calls: number) => {
    const answered = await answerTo(await rpc, said);
    unanswered -= calls;
    takeLines();
    if (answered === null || socket.destroyed) return;
    socket.write(`${JSON.stringify(answered)}\n`);
    if (socket.writableLength > LINE_BYTES_MAX) socket.destroy();
  };
  const takeLines = () => {
    while (waiting.length > 0 && unanswered < UNANSWERED_MAX && !socket.destroyed) {
      const said = parseLine(waiting.shift()!);
      const calls = isTooMany(said) ? 1 : callsOf(said);
      unanswered += calls;
      // What the library or the answer's text cannot cope with costs this client its connection.
      answer(said, calls).catch(() => socket.destroy());
    }
    // What waits in the socket is the client's own memory.
    if (unanswered < UNANSWERED_MAX) socket.resume();
    else socket.pause();
  };
  const takeText = lineSplitter((line) => waiting.push(line));
  socket.on('data', (chunk: string) => {
    if (!takeText(chunk)) socket.destroy();
    takeLines();
  });
}

/**
 * What JSON-RPC 2.0 answers to a request or a batch of them; null: nothing. The library is given single
 * objects alone: what else JSON can say is answered here, and a batch of one gets an array (§6).
 */
async function answerTo(rpc: JSONRPCServer, said: unknown): Promise<unknown> {
  if (said === undefined) {
    return createJSONRPCErrorResponse(null, JSONRPCErrorCode.ParseError, 'Parse error');
  }
  if (!Array.isArray(said) || said.length === 0) return answerOne(rpc, said);
  if (isTooMany(said)) {
    const [most, got] = [BATCH_CALLS_MAX, callsOf(said)];
    return invalidRequest(`Invalid Request: batch: expected ${most} calls at most, got ${got}`);
  }
  const answers = await Promise.all(said.map((request) => answerOne(rpc, request)));
  const wanted = answers.filter((answer) => answer !== null);
  return wanted.length === 0 ? null : wanted;
}

async function answerOne(rpc: JSONRPCServer, request: unknown): Promise<JSONRPCResponse | null> {
  if (typeof request !== 'object' || request === null || Array.isArray(request)) {
    return invalidRequest('Invalid Request');
  }
  return rpc.receive(request as JSONRPCRequest);
}

function invalidRequest(message: string): JSONRPCErrorResponse {
  return createJSONRPCErrorResponse(null, JSONRPCErrorCode.InvalidRequest, message);
}

/** Of a batch; whatever else a line says wants one answer, an empty batch too. */
function callsOf(said: unknown): number {
  return Array.isArray(said) ? Math.max(1, said.length) : 1;
}

function isTooMany(said: unknown): boolean {
  return callsOf(said) > BATCH_CALLS_MAX;
}

/** Undefined, which JSON cannot say: it is none. */
function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
