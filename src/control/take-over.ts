/**
 * Taking over what another daemon does, as the new one sees it: asks for it by the control socket,
 * receives it on a socket of its own, and has it when the old one says so (device/handover.ts).
 */

import { RefusedError } from '../base/errors.ts';
import {
  acceptConnection,
  CONTROL_ACCESS,
  closeFd,
  openListeningSocket,
} from '../device/endpoint.ts';
import {
  type DeviceState,
  decodeState,
  HANDOVER_MILLIS_MAX,
  HANDOVER_VERSION,
  receiveState,
  receivesWord,
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
    const path = `${controlPath}.${process.pid}`;
    const listening = openListeningSocket(path, CONTROL_ACCESS);
    try {
      const [{ device }] = await client.call<[DeviceStatus]>('devices');
      const refusal = { reason: undefined as Error | undefined };
      client.call('handOver', { device, path, version: HANDOVER_VERSION }).catch((error: Error) => {
        refusal.reason = error;
      });
      const socket = await accepted(listening.fd, refusal);
      const { text, fds } = receiveState(socket);
      return new TakeOver(socket, decodeState(text, fds));
    } finally {
      listening.remove();
      closeFd(listening.fd);
      client.close();
    }
  }

  /** Everything is in place: it is this process's, and the old one ends. Throws RefusedError. */
  commit(): void {
    sendWord(this.#socket, TAKEN);
    const isOurs = receivesWord(this.#socket, YOURS);
    closeFd(this.#socket);
    if (!isOurs) throw new RefusedError('take-over: the old process has gone on by itself');
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
