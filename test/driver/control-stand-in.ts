/**
 * A daemon's control socket without a daemon: devices that are what a test says they are, a record of
 * what was asked, and SPEC's answers to orders. For tests of rzscontrol alone.
 */

import { rmSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { join } from 'node:path';
import { RefusedError } from '../../src/base/errors.ts';
import { FIGURES } from '../../src/control/figures.ts';
import type { DeviceSettings } from '../../src/control/options.ts';
import type { DaemonStatus, DeviceStatus, ReloadResult } from '../../src/control/protocol.ts';
import { serveControl } from '../../src/control/server.ts';
import { listenUnix } from '../../src/native/socket.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import { makeFolder } from './sockets.ts';

/** A device's figures: zero but for what is given. */
export function figures(given: Partial<Statistics> = {}): Statistics {
  const zero = Object.entries(FIGURES).map(([name, { kind }]) => {
    if (kind === 'histogram') return [name, new Array(24).fill(0)];
    return [name, kind === 'text' ? null : 0];
  });
  return { ...(Object.fromEntries(zero) as unknown as Statistics), ...given };
}

export function deviceStatus(device: string, given: Partial<DeviceStatus> = {}): DeviceStatus {
  const initial = { state: 'uninitialised', connected: false, socket: null, thread: 0 } as const;
  return { device, ...initial, statistics: null, share: null, ...given };
}

export function daemonStatus(given: Partial<DaemonStatus> = {}): DaemonStatus {
  const usual = { version: '0.1.0', process: 4711, uptime_seconds: 3725, threads: 2 };
  return { ...usual, budget: null, ...given };
}

interface OfDevice {
  readonly device: string;
  readonly settings?: DeviceSettings;
  readonly bytes?: number;
}

export class ControlStandIn {
  readonly path: string;
  readonly calls: { method: string; params: unknown }[] = [];
  devices: DeviceStatus[] = [];
  daemon = daemonStatus();
  /** It takes what it is asked, and answers nothing. */
  isHanging = false;
  reload: ReloadResult = { done: [], refused: [] };
  readonly #folder = makeFolder();
  readonly #connections = new Set<Socket>();
  #server: Server | undefined;

  constructor(...devices: DeviceStatus[]) {
    this.devices = devices;
    this.path = join(this.#folder.path, 'control');
    this.start();
  }

  start(): void {
    const methods = Object.entries(this.#methods()).map(([method, answer]) => [
      method,
      (params: unknown) => {
        this.calls.push({ method, params });
        if (this.isHanging) return new Promise(() => {});
        return answer(params as OfDevice);
      },
    ]);
    this.#server = serveControl(
      listenUnix(this.path),
      Object.fromEntries(methods) as Parameters<typeof serveControl>[1],
    );
    this.#server.on('connection', (socket) => {
      this.#connections.add(socket);
      socket.once('close', () => this.#connections.delete(socket));
    });
  }

  /** As a daemon that ends: connections end, the socket file goes. */
  stop(): void {
    this.#server?.close();
    for (const socket of this.#connections) socket.destroy();
    this.#connections.clear();
    rmSync(this.path, { force: true });
  }

  close(): void {
    this.stop();
    this.#folder.remove();
  }

  #methods(): Record<string, (params: OfDevice) => unknown> {
    const change = (device: string, given: Partial<DeviceStatus>) => {
      const changed = { ...this.#find(device), ...given };
      this.devices = this.devices.map((other) => (other.device === device ? changed : other));
      return changed;
    };
    return {
      daemon: () => this.daemon,
      devices: () => this.devices,
      statistics: ({ device }) => {
        const { statistics } = this.#find(device);
        if (statistics === null) throw new RefusedError(`${device}: not initialised`);
        return statistics;
      },
      set: ({ device }) => this.#find(device),
      init: ({ device, settings }) => {
        if (this.#find(device).statistics !== null) {
          throw new RefusedError(`${device}: initialised already`);
        }
        const disksize = Number(settings?.disksize ?? 0);
        return change(device, { state: 'initialised', statistics: figures({ disksize }) });
      },
      reset: ({ device }) => change(device, { state: 'uninitialised', statistics: null }),
      grow: ({ device, bytes = 0 }) => {
        change(device, { statistics: figures({ disksize: bytes }) });
        return bytes;
      },
      add: ({ device }) => {
        this.devices = [...this.devices, deviceStatus(device)];
        return this.#find(device);
      },
      remove: ({ device }) => {
        this.#find(device);
        this.devices = this.devices.filter((other) => other.device !== device);
        return null;
      },
      reload: () => this.reload,
      'rpc.discover': () => ({ openrpc: '1.3.2', methods: [] }),
    };
  }

  #find(device: string): DeviceStatus {
    const found = this.devices.find((status) => status.device === device);
    if (found !== undefined) return found;
    const there = this.devices.map((status) => status.device).join(', ') || 'none';
    throw new RefusedError(`no device '${device}': this daemon has ${there}`);
  }
}
