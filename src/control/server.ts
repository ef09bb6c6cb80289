/**
 * The control socket's server: answers JSON-RPC requests of several clients. A client that sends
 * nonsense, does not read its answers, or sends too long a line is cut off; devices are served by
 * other threads and never notice.
 */

import { createServer, type Server, type Socket } from 'node:net';
import {
  createJSONRPCErrorResponse,
  JSONRPCErrorException,
  type JSONRPCRequest,
  JSONRPCServer,
} from 'json-rpc-2.0';
import { RefusedError } from '../base/errors.ts';
import { LINE_BYTES_MAX, lineSplitter, REFUSED_CODE } from './protocol.ts';

export type Methods = Record<string, (params: unknown) => unknown>;

const CLIENTS_MAX = 64;

/** Serves `methods` on a listening Unix socket. RefusedError becomes an error with its message. */
export function serveControl(listenFd: number, methods: Methods): Server {
  const rpc = new JSONRPCServer({ errorListener: () => {} });
  for (const [name, method] of Object.entries(methods)) {
    rpc.addMethod(name, async (params: unknown) => {
      try {
        return await method(params);
      } catch (error) {
        if (!(error instanceof RefusedError)) throw error;
        throw new JSONRPCErrorException(error.message, REFUSED_CODE);
      }
    });
  }
  const server = createServer((socket) => serveClient(socket, rpc));
  // An accept that failed is one client's loss, not the daemon's.
  server.on('error', () => {});
  server.maxConnections = CLIENTS_MAX;
  server.listen({ fd: listenFd });
  return server;
}

function serveClient(socket: Socket, rpc: JSONRPCServer): void {
  socket.setEncoding('utf8');
  // A client that vanishes is its own business.
  socket.on('error', () => socket.destroy());
  const takeText = lineSplitter((line) => {
    answerLine(rpc, line)
      .then((answer) => {
        if (answer === null || socket.destroyed) return;
        socket.write(`${JSON.stringify(answer)}\n`);
        if (socket.writableLength > LINE_BYTES_MAX) socket.destroy();
      })
      // What the library or the answer's text cannot cope with costs this client its connection.
      .catch(() => socket.destroy());
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
