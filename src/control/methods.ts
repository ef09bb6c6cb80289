/** The control protocol's methods, carried out: each finds its device and hands on. */

import type { Faults } from '../backing/fault-io.ts';
import { RefusedError } from '../base/errors.ts';
import { HANDOVER_VERSION } from '../device/handover.ts';
import type { Devices } from './devices.ts';
import type { ManagedDevice } from './managed-device.ts';
import { checkedSettings, checkName, type DeviceSettings } from './options.ts';
import type { DaemonStatus, ReloadResult } from './protocol.ts';
import type { ExtraMethods, MethodTable } from './server.ts';

/** What the daemon itself does. */
export interface DaemonActions {
  status(): DaemonStatus;
  /** Makes a device, uninitialised, at which front ends can connect. */
  addDevice(name: string, settings: DeviceSettings): Promise<ManagedDevice>;
  removeDevice(name: string): Promise<void>;
  reload(): Promise<ReloadResult>;
  /** Ends this process when the one that listens at `path` has the device; else rejects. */
  handOver(device: ManagedDevice, path: string): Promise<never>;
}

export function controlMethods(devices: Devices, daemon: DaemonActions): MethodTable {
  return {
    daemon: () => daemon.status(),
    devices: () => devices.all.map((device) => device.status),
    statistics: ({ device }) => devices.named(device).statistics(),
    set: async ({ device, settings }) => {
      const found = devices.named(device);
      await found.set(checkedSettings(settings));
      return found.status;
    },
    init: async ({ device, settings }) => {
      const found = devices.named(device);
      const warnings = await found.init(checkedSettings(settings));
      return { ...found.status, warnings };
    },
    reset: async ({ device }) => {
      const found = devices.named(device);
      await found.reset();
      return found.status;
    },
    add: async ({ device, settings }) => {
      const added = await daemon.addDevice(checkName(device, 'device'), checkedSettings(settings));
      return added.status;
    },
    remove: async ({ device }) => {
      await daemon.removeDevice(device);
      return null;
    },
    setMemlimit: ({ device, bytes }) => devices.named(device).setMemlimit(bytes),
    grow: ({ device, bytes }) => devices.named(device).grow(bytes),
    reload: () => daemon.reload(),
    handOver: ({ device, path, version }) => {
      const found = devices.named(device);
      if (version === HANDOVER_VERSION) return daemon.handOver(found, path);
      throw new RefusedError(`expected version ${HANDOVER_VERSION}, got ${version}`);
    },
  };
}

/** Fault injection, for tests: threads that throw, backing swaps that fail. */
export function faultMethods(devices: Devices): ExtraMethods {
  return {
    fault: async (params) => {
      const { thread: where, backing } = params as { thread?: string; backing?: Faults };
      const [device] = devices.all;
      if (backing !== undefined) await device!.orderFaults(backing);
      if (where === 'reactor' || where === 'queue thread') {
        device!.thread.order({ kind: 'fail', where });
      }
      if (where === 'control') setImmediate(throwFault);
      return null;
    },
  };
}

function throwFault(): never {
  throw new Error('fault injected into the control thread');
}
