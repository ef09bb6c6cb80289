/**
 * What a command line of rzscontrol asks of the daemon: calls of the control protocol in their order,
 * and what is shown in the end. Decides only; control-run.ts does it.
 */

import { resolve } from 'node:path';
import { UsageError } from '../base/errors.ts';
import { CONTROL_COMMANDS, type ControlOption, type Said } from './control-options.ts';
import { nearName } from './near-name.ts';
import { checkName, type OptionValue } from './options.ts';
import type { MethodName, Methods } from './protocol.ts';

/** One call: a method, and what it takes. */
export type ControlCall = {
  [M in MethodName]: { readonly method: M; readonly params: Methods[M]['params'] };
}[MethodName];

export interface Orders {
  /** Undefined: all are shown, or the daemon itself is what it is about. */
  readonly device?: string;
  readonly calls: readonly ControlCall[];
  /** `status`: the device as it is in the end. */
  readonly shows: 'nothing' | 'devices' | 'status' | 'statistics' | 'daemon' | 'schema' | 'reload';
}

/** Options that are no orders: they say where and how. */
const MANNERS: ReadonlySet<string> = new Set(['json', 'verbose', 'control-path']);
/** What is asked of the daemon itself. */
const OF_DAEMON = ['daemon', 'schema', 'reload'] as const;
/** Options that are settings of a device → the daemon's names of them, and the least that they take. */
const SIZES = [
  ['memlimit_kb', 'memlimit', 1],
  ['disksize_kb', 'disksize', 1],
  ['pool_limit_kb', 'pool-limit', 0],
  ['guarantee_kb', 'guarantee', 0],
] as const;
const KILOBYTES_MAX = Math.floor(Number.MAX_SAFE_INTEGER / 1024);

/** Throws UsageError for what makes no sense; what cannot be, the daemon says. */
export function ordersOf(device: string | undefined, said: Said<ControlOption>): Orders {
  const options = Object.keys(said).filter((option) => !MANNERS.has(option)) as ControlOption[];
  const lone = [...OF_DAEMON, 'remove' as const].find((option) => options.includes(option));
  if (lone !== undefined) {
    const others = options.filter((option) => option !== lone).map((option) => `--${option}`);
    if (device !== undefined) others.unshift(device);
    if (others.length > 0) {
      throw new UsageError(`--${lone}: expected it alone, got ${others.join(', ')} as well`);
    }
    if (lone !== 'remove') return { calls: [], shows: lone };
    const removed = deviceName(text(said.remove), '--remove');
    return {
      device: removed,
      calls: [{ method: 'remove', params: { device: removed } }],
      shows: outcomeOf(said),
    };
  }
  const named = namedDevice(device, said, options);
  if (named === undefined) return { calls: [], shows: 'devices' };
  const shows = said.stats === true ? 'statistics' : outcomeOf(said);
  return { device: named, calls: callsFor(named, said), shows };
}

/** Orders are silent; a program wants to know what has become of them. */
function outcomeOf({ json }: Said<ControlOption>): 'nothing' | 'status' {
  return json === true ? 'status' : 'nothing';
}

/** The device that it is about; undefined: nothing was said but how to show all. */
function namedDevice(
  device: string | undefined,
  { add, json }: Said<ControlOption>,
  options: readonly ControlOption[],
): string | undefined {
  if (add !== undefined && device !== undefined) {
    throw new UsageError(`--add: expected no other device with it, got ${device}`);
  }
  if (add !== undefined) return checkName(deviceName(text(add), '--add'), '--add');
  if (device === undefined) {
    if (options.length > 0) throw new UsageError(`--${options[0]}: expected a device name`);
    return undefined;
  }
  if (options.length === 0 && json !== true) {
    const near = nearName(device, Object.keys(CONTROL_COMMANDS));
    throw new UsageError(
      `what about ${device}? expected --stats, --reset, --memlimit_kb or --grow_kb, or another order ` +
        `that --help lists${near === undefined ? '' : `; did you mean ${near}?`}`,
    );
  }
  return deviceName(device, 'device');
}

/** `/dev/ramzswap0` is what the ancestor's tool wanted, and is understood. */
function deviceName(word: string, where: string): string {
  const name = word.replace(/^\/dev\//, '');
  if (name === '') throw new UsageError(`${where}: expected a device name, got '${word}'`);
  return name;
}

function callsFor(device: string, said: Said<ControlOption>): ControlCall[] {
  const settings = settingsIn(said);
  const isSet = Object.keys(settings).length > 0;
  const given = isSet ? { settings } : {};
  const calls: ControlCall[] = [];
  if (said.add !== undefined) {
    calls.push({ method: 'add', params: { device, ...(said.init === true ? {} : given) } });
  }
  if (said.reset === true) calls.push({ method: 'reset', params: { device } });
  if (said.init === true) calls.push({ method: 'init', params: { device, ...given } });
  else if (isSet && said.add === undefined) {
    calls.push({ method: 'set', params: { device, settings } });
  }
  if (said.grow_kb !== undefined) {
    const bytes = kilobytes(text(said.grow_kb), '--grow_kb');
    calls.push({ method: 'grow', params: { device, bytes } });
  }
  return calls;
}

function settingsIn(said: Said<ControlOption>): Record<string, OptionValue> {
  if (said.backing_swap !== undefined && said.disksize_kb !== undefined) {
    throw new UsageError(
      '--disksize_kb, --backing_swap: expected one of them; the disk is as large as the backing swap',
    );
  }
  const settings: Record<string, OptionValue> = {};
  // The daemon has a working directory of its own.
  if (said.backing_swap !== undefined) settings['backing-swap'] = resolve(text(said.backing_swap));
  for (const [option, setting, least] of SIZES) {
    const value = said[option];
    if (value !== undefined) settings[setting] = kilobytes(text(value), `--${option}`, least);
  }
  return settings;
}

function text(value: string | boolean | undefined): string {
  return String(value ?? '');
}

/** In bytes. */
function kilobytes(text: string, option: string, least = 1): number {
  const count = /^\d+$/.test(text) ? Number(text) : -1;
  if (count < least || count > KILOBYTES_MAX) {
    const range = `from ${least} to ${KILOBYTES_MAX}`;
    throw new UsageError(`${option}: expected a number of kB ${range}, got '${text}'`);
  }
  return count * 1024;
}
