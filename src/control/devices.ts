/**
 * All devices of the daemon, and the reactor threads that they are spread over: the next device goes to
 * the thread with the fewest; a further thread is started as long as there may be one and each has a
 * device.
 */

import { statSync } from 'node:fs';
import { RefusedError } from '../base/errors.ts';
import { ReactorThread, type ReactorThreadEvents } from '../device/reactor-thread.ts';
import { type DeviceHost, ManagedDevice } from './managed-device.ts';
import type { DeviceSettings } from './options.ts';

/** A bound for mistakes: each costs descriptors, address space and a look of its thread. */
export const DEVICES_MAX = 256;

export class Devices {
  readonly #host: DeviceHost;
  readonly #events: Pick<ReactorThreadEvents, 'log'>;
  readonly #threadsMax: number;
  readonly #threads: ReactorThread[] = [];
  readonly #devices = new Map<string, ManagedDevice>();
  /** A front end has come or gone. */
  onConnection: (device: ManagedDevice) => void = () => {};

  constructor(host: DeviceHost, threadsMax: number, events: Pick<ReactorThreadEvents, 'log'>) {
    this.#host = host;
    this.#threadsMax = threadsMax;
    this.#events = events;
  }

  get all(): readonly ManagedDevice[] {
    return [...this.#devices.values()];
  }

  get threads(): readonly ReactorThread[] {
    return this.#threads;
  }

  has(name: string): boolean {
    return this.#devices.has(name);
  }

  /** Throws RefusedError that says which there are. */
  named(name: string): ManagedDevice {
    const device = this.#devices.get(name);
    if (device !== undefined) return device;
    const names = [...this.#devices.keys()];
    const there = names.length === 0 ? 'none' : names.slice(0, 8).join(', ');
    const more = names.length > 8 ? `, … (${names.length})` : '';
    throw new RefusedError(`no device '${name}': this daemon has ${there}${more}`);
  }

  /** Which of them has its backing swap at `path`, whatever else leads there. */
  userOfSwap(path: string): string | undefined {
    try {
      const status = statSync(path);
      return this.all.find((device) => device.hasSwap(status))?.name;
    } catch {
      // Whoever opens it says why it cannot be.
      return undefined;
    }
  }

  /** Makes a device, uninitialised; nobody can connect yet. Throws RefusedError. */
  add(name: string, settings: DeviceSettings): ManagedDevice {
    if (this.#devices.has(name)) throw new RefusedError(`${name}: there is such a device already`);
    if (this.#devices.size >= DEVICES_MAX) {
      throw new RefusedError(`${name}: expected ${DEVICES_MAX} devices at most`);
    }
    const number = this.#threadForNext();
    const device = new ManagedDevice(name, settings, this.#host, this.#threads[number]!, number);
    this.#devices.set(name, device);
    return device;
  }

  /** Rejects with RefusedError while it is in use. */
  async remove(name: string): Promise<void> {
    await this.named(name).remove();
    this.#devices.delete(name);
  }

  /** Those over their share look again: what others may have has changed. */
  nudge(): void {
    for (const thread of this.#threads) thread.order({ kind: 'look' });
  }

  /** All threads end, or `millis` have passed. */
  async stop(millis: number): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.stop(millis)));
  }

  #threadForNext(): number {
    const counts = this.#threads.map(
      (_, number) => this.all.filter((device) => device.threadNumber === number).length,
    );
    const least = Math.min(...counts);
    if (least > 0 && counts.length < this.#threadsMax) {
      this.#threads.push(this.#startThread());
      return counts.length;
    }
    return counts.indexOf(least);
  }

  #startThread(): ReactorThread {
    const events: ReactorThreadEvents = {
      log: (report) => this.#events.log(report),
      connection: (name, isConnected) => {
        const device = this.#devices.get(name);
        device?.connectionIs(isConnected);
        if (device !== undefined) this.onConnection(device);
      },
      running: (name, isRunning) => this.#devices.get(name)?.runningIs(isRunning),
    };
    return new ReactorThread(this.#host.queueThreads - 1, events, this.#host.hasOneDevice);
  }
}
