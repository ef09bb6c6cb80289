/**
 * What a configuration file that was read again wants of a running daemon: decided here, step by step,
 * done by daemon.ts. What cannot be done while it runs is said.
 */

import { CHANGEABLE, type DeviceOption, type DeviceSettings } from './options.ts';
import type { DaemonPlan, PlannedDevice } from './plan.ts';

export type ReloadStep =
  | { readonly kind: 'remove'; readonly device: string }
  | { readonly kind: 'add'; readonly device: PlannedDevice }
  | { readonly kind: 'set'; readonly device: string; readonly settings: DeviceSettings }
  /** All settings of a device without a disk: what is not among them holds no more. */
  | { readonly kind: 'replace'; readonly device: string; readonly settings: DeviceSettings }
  | { readonly kind: 'init'; readonly device: string }
  | { readonly kind: 'budget'; readonly bytes: number | undefined }
  /** Nothing is done. */
  | { readonly kind: 'refuse'; readonly why: string };

/** A device as it is. */
export interface PresentDevice {
  readonly name: string;
  readonly settings: DeviceSettings;
  readonly isInitialised: boolean;
  /** The file that was read before has asked for it. */
  readonly isFromFile: boolean;
}

/** Settings of the daemon that are read at its start only. */
const STARTING: readonly (readonly [keyof DaemonPlan, string])[] = [
  ['socketGroup', 'socket-group'],
  ['controlPath', 'control-path'],
  ['logLevel', 'log-level'],
  ['threads', 'threads'],
  ['queueThreads', 'queue-threads'],
  ['metrics', 'metrics'],
  ['storeDirectory', 'store-dir'],
  ['usesFdStore', 'fdstore'],
];

/** Devices go before others come: names and the budget are free then. */
export function reloadSteps(
  old: DaemonPlan,
  wanted: DaemonPlan,
  present: readonly PresentDevice[],
): ReloadStep[] {
  const steps: ReloadStep[] = [];
  for (const [field, option] of [...STARTING, ['frontEnd', 'socket-dir'] as const]) {
    if (JSON.stringify(old[field]) === JSON.stringify(wanted[field])) continue;
    steps.push({ kind: 'refuse', why: `${option}: a change takes a restart` });
  }
  const isWanted = new Set(wanted.devices.map(({ name }) => name));
  for (const { name, isFromFile } of present) {
    if (isFromFile && !isWanted.has(name)) steps.push({ kind: 'remove', device: name });
  }
  const { budgetBytes } = wanted;
  if (old.budgetBytes !== budgetBytes) steps.push({ kind: 'budget', bytes: budgetBytes });
  for (const device of wanted.devices) {
    const is = present.find(({ name }) => name === device.name);
    if (is === undefined) steps.push({ kind: 'add', device });
    else steps.push(...changeSteps(is, device));
  }
  return steps;
}

function changeSteps(is: PresentDevice, wanted: PlannedDevice): ReloadStep[] {
  const { name, settings } = wanted;
  const options = [...Object.keys(is.settings), ...Object.keys(settings)] as DeviceOption[];
  const changed = [...new Set(options)].filter(
    (option) => is.settings[option] !== settings[option],
  );
  if (!is.isInitialised) {
    const replace: ReloadStep[] =
      changed.length === 0 ? [] : [{ kind: 'replace', device: name, settings }];
    return wanted.isInitialised ? [...replace, { kind: 'init', device: name }] : replace;
  }
  return changed.map((option) => {
    const value = settings[option];
    if (value !== undefined && CHANGEABLE.has(option)) {
      return { kind: 'set', device: name, settings: { [option]: value } };
    }
    return { kind: 'refuse', why: `${name}: ${option}: a change takes a reset of the device` };
  });
}
