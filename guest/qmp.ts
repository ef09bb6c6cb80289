/**
 * A client of QEMU's machine protocol (docs/interop/qmp-spec of QEMU): commands and their answers,
 * events that somebody waits for. As much as resetting a guest and plugging devices takes.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

type Message = {
  QMP?: object;
  return?: unknown;
  error?: { class: string; desc: string };
  id?: number;
  event?: string;
  data?: Record<string, unknown>;
};

type Pending = { resolve: (value: unknown) => void; reject: (error: Error) => void };
type EventData = Readonly<Record<string, unknown>>;
type Waiting = { event: string; resolve: (data: EventData) => void; reject: (e: Error) => void };

/** QEMU refused a command, or went away. Policy: fails whatever needed it. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
}

export class Qmp {
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #waiting: Waiting[] = [];
  #lastId = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => this.#take(JSON.parse(line)));
    socket.on('close', () => this.#fail(new QmpError('QEMU closed its monitor')));
  }

  /** `path` must listen: QEMU makes it before the guest runs. */
  static async connect(path: string): Promise<Qmp> {
    const socket = connect(path);
    await once(socket, 'connect');
    // A QEMU that is killed resets the connection; `close` follows and tells whoever waits.
    socket.on('error', () => undefined);
    const qmp = new Qmp(socket);
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  execute(command: string, args: object = {}): Promise<unknown> {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) {
        reject(new QmpError(`${command}: QEMU is gone`));
        return;
      }
      this.#pending.set(id, {
        resolve,
        reject: (error) => reject(new QmpError(`${command}: ${error.message}`)),
      });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** The next event of that name. */
  event(name: string): Promise<EventData> {
    const coming = new Promise<EventData>((resolve, reject) => {
      if (this.#socket.destroyed) reject(new QmpError(`${name}: QEMU is gone`));
      else this.#waiting.push({ event: name, resolve, reject });
    });
    // Whoever waits for it may have failed before: then nobody listens.
    coming.catch(() => undefined);
    return coming;
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(message: Message): void {
    if (message.event !== undefined) {
      const told = this.#waiting.filter(({ event }) => event === message.event);
      this.#waiting = this.#waiting.filter(({ event }) => event !== message.event);
      for (const { resolve } of told) resolve(message.data ?? {});
      return;
    }
    const pending = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (pending === undefined) return;
    this.#pending.delete(message.id!);
    if (message.error === undefined) pending.resolve(message.return);
    else pending.reject(new QmpError(message.error.desc));
  }

  #fail(error: QmpError): void {
    for (const pending of this.#pending.values()) pending.reject(error);
    for (const waiting of this.#waiting) waiting.reject(error);
    this.#pending.clear();
    this.#waiting = [];
  }
}
