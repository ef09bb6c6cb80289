/**
 * The process that a hostile front end attacks: one reactor with several devices, as the daemon
 * makes them, each on a socket of its own, and the control socket. The daemon has one device; here a
 * front end that behaves has another on the same threads. Runs what was built (dist/), for that is
 * where threads begin; ends with its stdin.
 *
 *   node --import tsx session-host.ts '{"folder": …, "devices": [HostDevice…]}'
 */

import { join } from 'node:path';
import type { DeviceSettings } from '../../src/control/options.ts';

export interface HostDevice {
  readonly name: string;
  readonly settings: DeviceSettings;
  readonly queueThreads?: number;
}

export interface HostOptions {
  /** For the sockets: each device's has its name; and `control`. */
  readonly folder: string;
  readonly devices: readonly HostDevice[];
}

function built<Module>(name: string): Promise<Module> {
  return import(new URL(`../../dist/${name}.js`, import.meta.url).href);
}

const { deviceTerms, diskOptions } =
  await built<typeof import('../../src/control/device-options.ts')>('control/device-options');
const { serveControl } =
  await built<typeof import('../../src/control/server.ts')>('control/server');
const { abortWith, CONTROL_ACCESS, exitNow, frontEndAccess, openListeningSocket } =
  await built<typeof import('../../src/device/endpoint.ts')>('device/endpoint');
const { ReactorThread } =
  await built<typeof import('../../src/device/reactor-thread.ts')>('device/reactor-thread');

process.on('uncaughtException', (error) => abortWith('the control thread', error));
process.on('unhandledRejection', (error) => abortWith('the control thread', error));
const { folder, devices } = JSON.parse(process.argv[2]!) as HostOptions;
const say = (message: string) => void process.stderr.write(`${message}\n`);
const log = { info: say, warn: say };
const around = {
  ...{ log, hasFaults: false },
  ...{ storeDirectory: undefined, fdStore: undefined, budget: undefined },
};
const helpers = Math.max(...devices.map(({ queueThreads = 1 }) => queueThreads - 1));
const thread = new ReactorThread(helpers, {
  log: ({ device, level, message }) => say(`${device}: ${level}: ${message}`),
  connection: () => {},
  running: () => {},
});
for (const { name, settings, queueThreads = 1 } of devices) {
  const terms = deviceTerms(name, settings, queueThreads);
  thread.open(terms);
  await thread.init(name, await diskOptions(terms, settings, around));
  const { fd } = openListeningSocket(join(folder, name), frontEndAccess());
  thread.order({ kind: 'listen', device: name, fd });
}
serveControl(openListeningSocket(join(folder, 'control'), CONTROL_ACCESS).fd, {
  statistics: ({ device }) => thread.statistics(device)!,
});
process.stdin.on('end', () => exitNow(0));
process.stdin.resume();
process.stdout.write('ready\n');
