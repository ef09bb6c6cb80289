/**
 * Taking over what another daemon does, as the new one sees it: asks for it by the control socket,
 * receives it on a socket of its own, and has it when the old one says so (device/handover.ts).
 */

import { dirname, join } from 'node:path';
import { RefusedError } from '../base/errors.ts';
import {
  acceptConnection,
  CONTROL_ACCESS,
  closeFd,
  type ListeningSocket,
  openListeningSocket,
} from '../device/endpoint.ts';
import {
  type DeviceState,
  decodeState,
  HANDOVER_MILLIS_MAX,
  HANDOVER_VERSION,
  handoverDeadline,
  receivedWord,
  receiveState,
  sendWord,
  TAKEN,
  YOURS,
} from '../device/handover.ts';
import { ControlClient } from './client.ts';
import type { DeviceStatus } from './protocol.ts';

const EAGAIN = 11;

export class TakeOver {
  readonly state: DeviceState;
  readonly #socket: number;

  private constructor(socket: number, state: DeviceState) {
    this.#socket = socket;
    this.state = state;
  }

  /** The daemon at `controlPath` has paused, and this is its device. Throws RefusedError. */
  static async begin(controlPath: string): Promise<TakeOver> {
    const client = await ControlClient.connect(controlPath);
    // Short: a path that fits a socket may not fit with something behind it.
    const path = join(dirname(controlPath), `.rz${process.pid}`);
    try {
      const listening = openListeningSocket(path, CONTROL_ACCESS);
      try {
        return await TakeOver.#receive(client, listening);
      } finally {
        listening.remove();
        closeFd(listening.fd);
      }
    } finally {
      client.close();
    }
  }

  static async #receive(client: ControlClient, { fd, path }: ListeningSocket): Promise<TakeOver> {
    const [first] = await client.call<DeviceStatus[]>('devices');
    if (first === undefined) {
      throw new RefusedError('take-over: expected a daemon of one device, got one that has none');
    }
    const { device } = first;
    const refusal = { reason: undefined as Error | undefined };
    client.call('handOver', { device, path, version: HANDOVER_VERSION }).catch((error: Error) => {
      refusal.reason = error;
    });
    const socket = await accepted(fd, refusal);
    try {
      const { text, fds } = receiveState(socket, handoverDeadline());
      return new TakeOver(socket, decodeState(text, fds));
    } catch (error) {
      closeFd(socket);
      throw error;
    }
  }

  /**
   * Everything is in place. Resolves when it is this process's: the old one has said so, or has ended.
   * Throws RefusedError when the old one has gone on.
   */
  async commit(): Promise<void> {
    // Where it cannot be said, the old one is gone, and has perhaps said why.
    try {
      sendWord(this.#socket, TAKEN, handoverDeadline());
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
    }
    const word = await answered(this.#socket);
    closeFd(this.#socket);
    if (word === YOURS || word === 'gone') return;
    throw new RefusedError('take-over: the old process has gone on by itself');
  }

  /** This process cannot: the old one goes on at once. */
  giveUp(): void {
    closeFd(this.#socket);
  }
}

/** However long it takes: the old process may have given everything away, and be stopped. */
async function answered(socket: number): Promise<number | 'gone'> {
  for (;;) {
    const word = receivedWord(socket);
    if (word !== undefined) return word;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

async function accepted(
  listenFd: number,
  refusal: { readonly reason: Error | undefined },
): Promise<number> {
  const deadline = performance.now() + HANDOVER_MILLIS_MAX;
  for (;;) {
    const fd = acceptConnection(listenFd);
    if (fd >= 0) return fd;
    if (refusal.reason !== undefined) throw refusal.reason;
    if (fd !== -EAGAIN || performance.now() > deadline) {
      throw new RefusedError('take-over: the old process does not hand over');
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
