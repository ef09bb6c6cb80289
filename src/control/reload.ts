/**
 * What a configuration file that was read again wants of a running daemon: decided here, step by step,
 * done by daemon.ts. What cannot be done while it runs is said.
 *
 * Their order: devices go before others come (names and memory are free then); the budget is raised and
 * guarantees are lowered before it is lowered and guarantees are raised, so that what can hold in the
 * end is never refused on the way.
 */

import {
  AS_ADDED,
  asAdded,
  CHANGEABLE,
  type DeviceOption,
  type DeviceSettings,
  type OptionValue,
} from './options.ts';
import { type DaemonPlan, DEFAULT_QUEUES, type PlannedDevice } from './plan.ts';

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

/** What holds where nothing is said: to say it is no change. */
const UNSAID: { readonly [Option in DeviceOption]?: OptionValue } = {
  'guest-page-size': '4096',
  'logical-block-size': '4096',
  'backing-io': 'auto',
  'pool-limit': 0,
  guarantee: 0,
  mlock: false,
  'wipe-on-free': false,
  'on-new-guest': 'empty',
  'num-queues': DEFAULT_QUEUES,
};

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
  const changes = wanted.devices.flatMap((device) => {
    const is = present.find(({ name }) => name === device.name);
    const had = old.devices.find(({ name }) => name === device.name);
    return is === undefined ? [{ kind: 'add', device } as const] : changeSteps(is, device, had);
  });
  const frees = changes.filter((step) => lowersGuarantee(step, present));
  const others = changes.filter((step) => !frees.includes(step));
  const { budgetBytes } = wanted;
  const budget: ReloadStep[] =
    old.budgetBytes === budgetBytes ? [] : [{ kind: 'budget', bytes: budgetBytes }];
  const isRaised = (budgetBytes ?? 0) > (old.budgetBytes ?? 0);
  const first = isRaised ? [...budget, ...frees] : [...frees, ...budget];
  return [...steps, ...first, ...others];
}

function lowersGuarantee(step: ReloadStep, present: readonly PresentDevice[]): boolean {
  if (step.kind !== 'set' || step.settings.guarantee === undefined) return false;
  const is = present.find(({ name }) => name === step.device);
  return Number(step.settings.guarantee) < Number(is?.settings.guarantee ?? 0);
}

/** `had`: what the file that was read before said of it. */
function changeSteps(
  is: PresentDevice,
  wanted: PlannedDevice,
  had: PlannedDevice | undefined,
): ReloadStep[] {
  const { name, settings } = wanted;
  const options = [...Object.keys(is.settings), ...Object.keys(settings)] as DeviceOption[];
  const valueIn = (all: DeviceSettings, option: DeviceOption) => all[option] ?? UNSAID[option];
  const changed = [...new Set(options)].filter(
    (option) => valueIn(is.settings, option) !== valueIn(settings, option),
  );
  const steps: ReloadStep[] = changed
    .filter((option) => AS_ADDED.has(option))
    .map((option) => {
      const how = `a restart, or its removal (rzscontrol --remove ${name}) and another reload`;
      return { kind: 'refuse', why: `${name}: ${option}: a change takes ${how}` };
    });
  const others = changed.filter((option) => !AS_ADDED.has(option));
  if (!is.isInitialised) {
    const all = asAdded(settings, is.settings);
    if (others.length > 0) steps.push({ kind: 'replace', device: name, settings: all });
    if (wanted.isInitialised) steps.push({ kind: 'init', device: name });
    return steps;
  }
  // Once: afterwards the disk is there because somebody has ordered it to be.
  if (had?.isInitialised === true && !wanted.isInitialised) {
    const how = `its disk stays until rzscontrol ${name} --reset`;
    steps.push({ kind: 'refuse', why: `${name}: init: false: ${how}` });
  }
  for (const option of others) {
    const value = valueIn(settings, option);
    if (value !== undefined && CHANGEABLE.has(option)) {
      steps.push({ kind: 'set', device: name, settings: { [option]: value } });
      continue;
    }
    steps.push({ kind: 'refuse', why: `${name}: ${option}: a change takes a reset of the device` });
  }
  return steps;
}
