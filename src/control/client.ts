/**
 * A client of the control socket: one connection, one call or several, closed by the caller. What goes
 * wrong is said so that a reader knows what to do about it.
 */

import { readFileSync, statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import {
  createJSONRPCErrorResponse,
  JSONRPCClient,
  JSONRPCErrorCode,
  type JSONRPCErrorException,
} from 'json-rpc-2.0';
import { RefusedError } from '../base/errors.ts';
import { lineSplitter, type MethodName, type Methods } from './protocol.ts';

const ANSWER_MILLIS_MAX = 10_000;
/** To make a disk may mean to find a store of many GiB again, a second each; to free one takes as long. */
const SLOW_ANSWER_MILLIS_MAX = 300_000;
const SLOW_METHODS: ReadonlySet<string> = new Set(['init', 'reset', 'remove', 'reload']);

/** struct sockaddr_un has a path of at most 108 bytes, the last of which is NUL. */
const SUN_PATH_MAX = 107;

/** Ours, of a call that has had no answer: JSON-RPC's own codes are negative. */
const TIME_OUT_CODE = 1;

/** Those of a method whose parameters are all optional may be left out. */
type ParamsOf<M extends MethodName> = object extends Methods[M]['params']
  ? [params?: Methods[M]['params']]
  : [params: Methods[M]['params']];

/**
 * Nobody answers at the socket, or no longer. Policy: the tool ends with the message; `top` waits for
 * the daemon to come back.
 */
export class NoDaemonError extends RefusedError {}

export class ControlClient {
  readonly #path: string;
  readonly #socket: Socket;
  readonly #rpc: JSONRPCClient;
  /** Why nothing more is to be had of this connection; undefined: it is there. */
  #lostBy: string | undefined;

  private constructor(path: string, socket: Socket) {
    this.#path = path;
    this.#socket = socket;
    this.#rpc = new JSONRPCClient((request) => {
      socket.write(`${JSON.stringify(request)}\n`);
    });
    socket.setEncoding('utf8');
    const takeText = lineSplitter((line) => this.#takeLine(line));
    socket.on('data', (chunk: string) => {
      if (!takeText(chunk)) this.#giveUp('an answer is too long');
    });
    // Written to in the moment in which it ends, it fails first.
    for (const event of ['close', 'error']) {
      socket.on(event, () => this.#giveUp('the daemon closed the connection'));
    }
  }

  /**
   * Connects; NoDaemonError with path and cause when no daemon answers there, RefusedError where none
   * ever can.
   */
  static async connect(path: string): Promise<ControlClient> {
    const bytes = Buffer.byteLength(path);
    // Node connects to what is left of a longer one.
    if (bytes === 0 || bytes > SUN_PATH_MAX) {
      throw new RefusedError(
        `control socket '${path}': expected a path of 1 to ${SUN_PATH_MAX} bytes, got ${bytes}`,
      );
    }
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      const refuse = (error: NodeJS.ErrnoException) => {
        reject(new NoDaemonError(`control socket ${path}: ${causeOf(error, path)}`));
      };
      socket.once('error', refuse);
      socket.once('connect', () => {
        socket.off('error', refuse);
        resolve(new ControlClient(path, socket));
      });
    });
  }

  /**
   * Calls a method; rejects with RefusedError and the daemon's reason, NoDaemonError when there is no
   * answer.
   */
  call<M extends MethodName>(method: M, ...params: ParamsOf<M>): Promise<Methods[M]['result']>;
  /** A method beyond the table, such as tests have, or an answer known better than the table does. */
  call<Result>(method: string, params?: object): Promise<Result>;
  async call(method: string, params: object = {}): Promise<unknown> {
    if (this.#lostBy !== undefined) throw this.#lost(this.#lostBy);
    const millis = SLOW_METHODS.has(method) ? SLOW_ANSWER_MILLIS_MAX : ANSWER_MILLIS_MAX;
    const timed = this.#rpc.timeout(millis, (id) =>
      createJSONRPCErrorResponse(
        id,
        TIME_OUT_CODE,
        `no answer to '${method}' in ${millis / 1000} s`,
      ),
    );
    try {
      return await timed.request(method, params);
    } catch (error) {
      throw this.#asOurs(error, method);
    }
  }

  /** All methods with their schemas, as OpenRPC. */
  discover(): Promise<object> {
    return this.call<object>('rpc.discover');
  }

  close(): void {
    this.#giveUp('closed');
  }

  get path(): string {
    return this.#path;
  }

  #takeLine(line: string): void {
    try {
      const answer = JSON.parse(line);
      // Others are passed over by the library, and would be waited for.
      if (typeof answer !== 'object') throw new TypeError('no object');
      this.#rpc.receive(answer);
    } catch {
      this.#giveUp('expected JSON-RPC, got something else');
    }
  }

  /** For good: what waits for an answer learns why there is none. The first reason counts. */
  #giveUp(reason: string): void {
    this.#lostBy ??= reason;
    this.#rpc.rejectAllPendingRequests(this.#lostBy);
    this.#socket.destroy();
  }

  #asOurs(error: unknown, method: string): RefusedError {
    if (this.#lostBy !== undefined) return this.#lost(this.#lostBy);
    const { message, code } = error as JSONRPCErrorException;
    if (code === TIME_OUT_CODE) return this.#lost(message);
    if (code !== JSONRPCErrorCode.MethodNotFound) return new RefusedError(message);
    return new RefusedError(
      `control socket ${this.#path}: '${method}' is unknown there: is that daemon older than this?`,
    );
  }

  #lost(reason: string): NoDaemonError {
    return new NoDaemonError(`control socket ${this.#path}: ${reason}`);
  }
}

function causeOf({ code, message }: NodeJS.ErrnoException, path: string): string {
  switch (code) {
    case 'ENOENT':
      return 'no such socket; is ramzswapd running? --control-path says where it is';
    case 'ECONNREFUSED':
      return isSomethingElse(path)
        ? 'that is no socket; --control-path says where it is'
        : 'nobody listens there: ramzswapd has ended and left it';
    case 'EACCES': {
      const owner = ownerOf(path) ?? "ramzswapd's user";
      const other = owner === 'root' ? '' : ', or as root';
      return `it belongs to ${owner} alone; run as ${owner}${other}`;
    }
    default:
      return code ?? message;
  }
}

/** What has just gone was a socket. */
function isSomethingElse(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isSocket() === false;
}

/** By name where the machine's own list has it; undefined: not for us to see. */
function ownerOf(path: string): string | undefined {
  try {
    const { uid } = statSync(path);
    const users = readFileSync('/etc/passwd', 'utf8').split('\n');
    const [name] = users.map((line) => line.split(':')).find((user) => user[2] === `${uid}`) ?? [];
    return name ?? `user ${uid}`;
  } catch {
    return undefined;
  }
}
