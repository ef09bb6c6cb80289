/**
 * Carries out what control-orders.ts has decided, and says in text or JSON what is to be printed.
 * bin/rzscontrol.ts prints it.
 */

import { RefusedError } from '../base/errors.ts';
import { type ControlClient, NoDaemonError } from './client.ts';
import type { ControlCall, Orders } from './control-orders.ts';
import { nearName } from './near-name.ts';
import type { DeviceStatus } from './protocol.ts';
import { daemonText, devicesText, statisticsText } from './statistics-text.ts';

export interface Manner {
  readonly json: boolean;
  /** Told of each call and what has become of it. */
  readonly tell: (line: string) => void;
  /** Told of what is done, but may not be what was meant. */
  readonly warn: (line: string) => void;
}

export interface Outcome {
  /** For standard output; empty: nothing. */
  readonly text: string;
  /** What was refused although other things were done. */
  readonly refused: readonly string[];
}

/** Rejects with RefusedError at the first order that is refused: those after it are not given. */
export async function runOrders(
  client: ControlClient,
  orders: Orders,
  manner: Manner,
): Promise<Outcome> {
  for (const [i, call] of orders.calls.entries()) {
    try {
      await order(client, call, manner);
    } catch (error) {
      // Its disk was refused: the device is not left behind without one, for it was not asked for.
      const isAdded = call.method === 'init' && orders.calls[i - 1]?.method === 'add';
      if (isAdded) await undoAdd(client, call.params.device, manner);
      throw error;
    }
  }
  return show(client, orders, manner);
}

async function order(
  client: ControlClient,
  call: ControlCall,
  { tell, warn }: Manner,
): Promise<void> {
  const { device, ...more } = call.params as { device: string; settings?: object };
  const said = Object.entries({ ...more, ...more.settings })
    .filter(([name]) => name !== 'settings')
    .map(([name, value]) => ` ${name}=${value}`);
  const what = `${device}: ${call.method}${said.join('')}`;
  try {
    const result = await client.call<unknown>(call.method, call.params);
    tell(`${what}: ${outcomeText(result)}`);
    for (const warning of warningsIn(result)) warn(`${device}: warning: ${warning}`);
  } catch (error) {
    tell(`${what}: refused`);
    throw await withNearName(client, device, error as Error);
  }
}

/** If that cannot be either, what was refused first is what is told. */
async function undoAdd(client: ControlClient, device: string, manner: Manner): Promise<void> {
  await order(client, { method: 'remove', params: { device } }, manner).catch(() => {});
}

/** Only an init has some. */
function warningsIn(result: unknown): readonly string[] {
  return (result as { warnings?: readonly string[] } | null)?.warnings ?? [];
}

/** What has become of an order: the state that the device is in, the size that it has, or just that. */
function outcomeText(result: unknown): string {
  if (typeof result === 'number') return `${result} bytes`;
  const state = (result as { state?: unknown } | null)?.state;
  return typeof state === 'string' ? state : 'done';
}

async function show(
  client: ControlClient,
  { shows, calls, device = '' }: Orders,
  { json, tell }: Manner,
): Promise<Outcome> {
  const printed = (value: unknown, text: string): Outcome => ({
    text: json ? JSON.stringify(value, null, 2) : text,
    refused: [],
  });
  switch (shows) {
    case 'nothing':
      return { text: '', refused: [] };
    case 'devices': {
      const devices = await client.call('devices');
      // For the line about the budget; in JSON it is --daemon's.
      return json
        ? printed(devices, '')
        : printed(devices, devicesText(devices, await budget(client)));
    }
    case 'status': {
      const found = await statusOf(client, device);
      // Removed by order it is none; else nobody has asked for it yet.
      if (found !== undefined || calls.length > 0) return printed(found ?? null, '');
      throw await withNearName(client, device, new RefusedError(`no device '${device}'`));
    }
    case 'statistics': {
      const statistics = await client.call('statistics', { device }).catch(async (error: Error) => {
        throw await withNearName(client, device, error);
      });
      if (json) return printed(statistics, '');
      // Null: the daemon has no budget, or the device has just gone.
      const share = (await statusOf(client, device))?.share ?? null;
      return printed(statistics, statisticsText(statistics, share));
    }
    case 'daemon': {
      const daemon = await client.call('daemon');
      return printed(daemon, daemonText(daemon));
    }
    case 'schema':
      return { text: JSON.stringify(await client.discover(), null, 2), refused: [] };
    case 'reload': {
      const result = await client.call('reload');
      tell(`reload: ${result.done.length} done, ${result.refused.length} refused`);
      return { ...printed(result, result.done.join('\n')), refused: result.refused };
    }
  }
}

async function statusOf(client: ControlClient, device: string): Promise<DeviceStatus | undefined> {
  const devices = await client.call('devices');
  return devices.find((status) => status.device === device);
}

async function budget(client: ControlClient) {
  return (await client.call('daemon')).budget;
}

/** If the reason is that there is no such device: which may have been meant. */
async function withNearName(client: ControlClient, device: string, error: Error): Promise<Error> {
  if (error instanceof NoDaemonError || !(error instanceof RefusedError)) return error;
  const devices = await client.call('devices').catch(() => undefined);
  const names = devices?.map((status) => status.device) ?? [];
  if (devices === undefined || names.includes(device)) return error;
  const near = nearName(device, names);
  return near === undefined ? error : new RefusedError(`${error.message}; did you mean ${near}?`);
}
