/**
 * What the daemon is to be, decided before anything is done: from the command line and, where there is
 * one, the configuration file. What is said of one device goes before what is said of all; a command
 * line option before the file.
 */

import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { UsageError } from '../base/errors.ts';
import type { ConfigFile } from './config-file.ts';
import {
  checkName,
  checkTogether,
  type DaemonOption,
  type DaemonSettings,
  type DeviceOption,
  type DeviceSettings,
} from './options.ts';
import { defaultControlPath } from './paths.ts';

/** Options as they were given: explicit ones only. */
export interface GivenSettings {
  readonly daemon: DaemonSettings;
  readonly device: DeviceSettings;
}

export interface PlannedDevice {
  readonly name: string;
  /** All that holds for it. */
  readonly settings: DeviceSettings;
  /** It gets its disk at the start. */
  readonly isInitialised: boolean;
  /** File and line of one of its options, or of what is said of it at all, where a file says that. */
  readonly place?: (option: string) => string;
}

/** Where front ends connect. */
export type FrontEndPlan =
  | { readonly kind: 'path'; readonly path: string }
  | { readonly kind: 'fd'; readonly fd: number }
  | { readonly kind: 'directory'; readonly path: string }
  /** Sockets that the service manager has opened. */
  | { readonly kind: 'passed' };

export interface DaemonPlan {
  readonly frontEnd: FrontEndPlan;
  readonly socketGroup: string | undefined;
  readonly devices: readonly PlannedDevice[];
  /** What holds for a device that is added later, or that nothing else is said of. */
  readonly defaults: DeviceSettings;
  readonly configPath: string | undefined;
  readonly controlPath: string;
  /** The control path was not asked for: failure to create it is a warning. */
  readonly isControlOptional: boolean;
  readonly logLevel: string;
  /** Reactor threads at most. */
  readonly threads: number;
  readonly queueThreads: number;
  readonly budgetBytes: number | undefined;
  readonly metrics: string | undefined;
  /** What asked for it, for errors. */
  readonly metricsSaid: string;
  readonly storeDirectory: string | undefined;
  /** The service manager keeps the store. */
  readonly usesFdStore: boolean;
  /** Goes on with what the daemon at the control socket does. */
  readonly isTakeOver: boolean;
}

const DEFAULT_NAME = 'ramzswap0';
const onCommandLine = (option: string) => `--${option}`;

/** Throws UsageError. */
export function makePlan(
  given: GivenSettings,
  file: ConfigFile | undefined,
  hasPassedSockets: boolean,
): DaemonPlan {
  const daemon: DaemonSettings = { ...file?.daemon, ...given.daemon };
  checkTogether(given.device, onCommandLine);
  const said = (option: DaemonOption) =>
    given.daemon[option] === undefined && file?.daemon[option] !== undefined
      ? file.where(option)
      : onCommandLine(option);
  const frontEnd = frontEndPlan(daemon, hasPassedSockets, file);
  const isMany = frontEnd.kind === 'directory' || file !== undefined;
  if (isMany) refuseForMany(given.daemon);
  else refuseForOne(given.daemon);
  const defaults = merged(file?.defaults ?? {}, given.device);
  const text = (option: keyof DaemonSettings) => daemon[option] as string | undefined;
  const number = (option: keyof DaemonSettings) => daemon[option] as number | undefined;
  if (daemon.fdstore === true && daemon['store-dir'] !== undefined) {
    throw new UsageError(`${said('fdstore')}, ${said('store-dir')}: expected one of them`);
  }
  const devices = isMany
    ? [...manyDevices(number('num-devices'), defaults, file), ...fileDevices(defaults, file)]
    : [oneDevice(daemon, defaults)];
  const plan: DaemonPlan = {
    frontEnd,
    socketGroup: text('socket-group'),
    devices,
    defaults,
    configPath: file?.path,
    controlPath: text('control-path') ?? defaultControlPath(text('socket-path')),
    isControlOptional: daemon['control-path'] === undefined && !isMany,
    logLevel: text('log-level') ?? 'info',
    threads: number('threads') ?? availableParallelism(),
    queueThreads: number('queue-threads') ?? 1,
    budgetBytes: number('budget'),
    metrics: text('metrics'),
    metricsSaid: said('metrics'),
    storeDirectory: text('store-dir'),
    usesFdStore: daemon.fdstore === true,
    isTakeOver: daemon['take-over'] === true,
  };
  checkPlan(plan, said);
  return plan;
}

function frontEndPlan(
  daemon: DaemonSettings,
  hasPassedSockets: boolean,
  file: ConfigFile | undefined,
): FrontEndPlan {
  const given = (['socket-path', 'fd', 'socket-dir'] as const).filter(
    (option) => daemon[option] !== undefined,
  );
  if (given.length === 0 && hasPassedSockets) return { kind: 'passed' };
  if (given.length === 0 && file !== undefined) {
    throw new UsageError(`${file.path}: expected socket-dir in it, or --socket-dir DIR with it`);
  }
  if (given.length !== 1) {
    throw new UsageError('expected one of --socket-path PATH, --socket-dir DIR and --fd N');
  }
  const [option] = given;
  if (option === 'fd') return { kind: 'fd', fd: daemon.fd as number };
  const path = daemon[option!] as string;
  return option === 'socket-path' ? { kind: 'path', path } : { kind: 'directory', path };
}

function refuseForMany(given: DaemonSettings): void {
  for (const option of ['socket-path', 'fd', 'name', 'take-over'] as const) {
    if (given[option] === undefined) continue;
    throw new UsageError(
      `--${option}: expected one device with it, not --socket-dir or --config, which may have many`,
    );
  }
}

function refuseForOne(given: DaemonSettings): void {
  for (const option of ['num-devices', 'threads'] as const) {
    if (given[option] === undefined) continue;
    throw new UsageError(`--${option}: expected --socket-dir with it`);
  }
  if (given['socket-group'] !== undefined && given['socket-path'] === undefined) {
    throw new UsageError('--socket-group: expected --socket-path or --socket-dir with it');
  }
}

function oneDevice(daemon: DaemonSettings, settings: DeviceSettings): PlannedDevice {
  const name = checkName((daemon.name as string | undefined) ?? DEFAULT_NAME, '--name');
  return { name, settings, isInitialised: true };
}

/** ramzswap0, ramzswap1, …: uninitialised. */
function manyDevices(
  count: number | undefined,
  settings: DeviceSettings,
  file: ConfigFile | undefined,
): PlannedDevice[] {
  const names = Array.from(
    { length: count ?? (file === undefined ? 1 : 0) },
    (_, i) => `ramzswap${i}`,
  );
  return names
    .filter((name) => file?.devices.has(name) !== true)
    .map((name) => ({ name, settings, isInitialised: false }));
}

/** Those that a configuration file describes. */
export function fileDevices(
  defaults: DeviceSettings,
  file: ConfigFile | undefined,
): PlannedDevice[] {
  return [...(file?.devices ?? [])].map(([name, { settings, isInitialised, where, place }]) => {
    const all = merged(defaults, settings);
    checkTogether(all, where, (option) => option);
    return { name, settings: all, isInitialised, place };
  });
}

/** What is more specific wins, with what it rules out: a disk has a size or a backing swap. */
export function merged(base: DeviceSettings, specific: DeviceSettings): DeviceSettings {
  const dropped: DeviceOption[] = [];
  if (specific['backing-swap'] !== undefined) dropped.push('disksize', 'max-disksize');
  if (specific.disksize !== undefined) dropped.push('backing-swap', 'memlimit', 'backing-io');
  const kept = Object.entries(base).filter(([option]) => !dropped.includes(option as DeviceOption));
  return { ...Object.fromEntries(kept), ...specific };
}

function checkPlan(
  { devices, queueThreads, usesFdStore, frontEnd }: DaemonPlan,
  said: (option: DaemonOption) => string,
): void {
  for (const { name, settings } of devices) {
    const queues = (settings['num-queues'] as number | undefined) ?? DEFAULT_QUEUES;
    if (queueThreads > queues) {
      throw new UsageError(
        `${said('queue-threads')}: expected a queue for each (num-queues of ${name}: ${queues}), ` +
          `got ${queueThreads}`,
      );
    }
    const isOne = frontEnd.kind !== 'directory';
    if (isOne && queueThreads > 1 && settings['backing-swap'] !== undefined) {
      throw new UsageError(
        '--queue-threads: expected 1 with --backing-swap: one thread keeps the order of its I/O',
      );
    }
    if (usesFdStore && name.includes(':')) {
      throw new UsageError(
        `${said('fdstore')}: expected names without a colon with it, got '${name}'`,
      );
    }
  }
}

export const DEFAULT_QUEUES = 64;

/** Where a device of many listens. */
export function socketPathOf(directory: string, name: string): string {
  return resolve(directory, `${name}.sock`);
}
