/** A client of the control socket: one connection, one call or several, closed by the caller. */

import { connect, type Socket } from 'node:net';
import { JSONRPCClient } from 'json-rpc-2.0';
import { RefusedError } from '../base/errors.ts';
import { lineSplitter } from './protocol.ts';

const ANSWER_MILLIS_MAX = 10_000;

export class ControlClient {
  readonly #path: string;
  readonly #socket: Socket;
  readonly #rpc: JSONRPCClient;

  private constructor(path: string, socket: Socket) {
    this.#path = path;
    this.#socket = socket;
    this.#rpc = new JSONRPCClient((request) => {
      socket.write(`${JSON.stringify(request)}\n`);
    });
    socket.setEncoding('utf8');
    const takeText = lineSplitter((line) => this.#rpc.receive(JSON.parse(line)));
    socket.on('data', (chunk: string) => {
      if (!takeText(chunk)) socket.destroy();
    });
    socket.on('close', () =>
      this.#rpc.rejectAllPendingRequests('the daemon closed the connection'),
    );
    socket.on('error', () => socket.destroy());
  }

  /** Connects; RefusedError with path and cause when no daemon answers there. */
  static connect(path: string): Promise<ControlClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once('connect', () => resolve(new ControlClient(path, socket)));
      socket.once('error', (error: NodeJS.ErrnoException) => {
        const cause =
          error.code === 'ENOENT' ? 'no such socket; is ramzswapd running?' : error.code;
        reject(new RefusedError(`control socket ${path}: ${cause}`));
      });
    });
  }

  /** Calls a method; rejects with RefusedError and the daemon's reason. */
  async call<Result>(method: string, params: object = {}): Promise<Result> {
    try {
      return (await this.#rpc.timeout(ANSWER_MILLIS_MAX).request(method, params)) as Result;
    } catch (error) {
      throw new RefusedError(error instanceof Error ? error.message : String(error));
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  get path(): string {
    return this.#path;
  }
}
