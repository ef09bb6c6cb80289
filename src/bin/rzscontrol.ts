#!/usr/bin/env node
/** rzscontrol: arguments and exit codes. What it prints is control/statistics-text.ts. */

import { Command, CommanderError } from 'commander';
import { RefusedError, UsageError } from '../base/errors.ts';
import { ControlClient } from '../control/client.ts';
import { defaultControlPath } from '../control/paths.ts';
import type { DeviceStatus } from '../control/protocol.ts';
import { devicesTable, statisticsText } from '../control/statistics-text.ts';
import { VERSION } from '../control/version.ts';
import type { Statistics } from '../store/statistics.ts';

interface Options {
  stats?: boolean;
  memlimit_kb?: string;
  grow_kb?: string;
  reset?: boolean;
  json?: boolean;
  controlPath: string;
}

function command(): Command {
  return new Command('rzscontrol')
    .description('Shows what a ramzswap daemon holds, changes limits while guests run, resets')
    .version(VERSION)
    .argument('[device]', 'device name, such as ramzswap0; none: a table of all devices')
    .option('-s, --stats', "the device's statistics")
    .option(
      '-m, --memlimit_kb <n>',
      'from now on, compressed data in memory in kB; what is above it moves to the backing swap',
    )
    .option('-g, --grow_kb <n>', 'make the disk this large in kB, up to --max-disksize')
    .option('-r, --reset', 'free all pages; refused while a front end has the queues running')
    .option('--json', 'print JSON, with sizes in bytes')
    .option('--control-path <path>', "the daemon's control socket", defaultControlPath())
    .addHelpText('after', '\nExit status: 0 done, 1 refused (the reason is on stderr), 2 usage.')
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, 'rzscontrol: ')),
    })
    .exitOverride();
}

async function run(device: string | undefined, options: Options): Promise<string> {
  const changes = wantedChanges(options);
  if (device !== undefined && options.stats !== true && changes.length === 0) {
    throw new UsageError(
      `what about ${device}? expected --stats, --reset, --memlimit_kb or --grow_kb`,
    );
  }
  if (device === undefined && changes.length > 0) {
    throw new UsageError(`${changes[0]!.option}: expected a device name`);
  }
  const client = await ControlClient.connect(options.controlPath);
  try {
    if (device === undefined) {
      const devices = await client.call<DeviceStatus[]>('devices');
      return options.json ? JSON.stringify(devices, null, 2) : devicesTable(devices);
    }
    for (const { method, params } of changes) await client.call(method, { device, ...params });
    if (options.stats !== true) return '';
    const statistics = await client.call<Statistics>('statistics', { device });
    return options.json ? JSON.stringify(statistics, null, 2) : statisticsText(statistics);
  } finally {
    client.close();
  }
}

interface Change {
  readonly option: string;
  readonly method: string;
  readonly params: object;
}

/** In the order in which they are made. */
function wantedChanges({ reset, memlimit_kb, grow_kb }: Options): Change[] {
  const changes: [string, string, string | undefined][] = [
    ['--memlimit_kb', 'setMemlimit', memlimit_kb],
    ['--grow_kb', 'grow', grow_kb],
  ];
  const sized = changes.flatMap(([option, method, text]) =>
    text === undefined ? [] : [{ option, method, params: { bytes: parseKilobytes(text, option) } }],
  );
  const first = reset === true ? [{ option: '--reset', method: 'reset', params: {} }] : [];
  return [...first, ...sized];
}

function parseKilobytes(text: string, option: string): number {
  const count = /^\d+$/.test(text) ? Number(text) : 0;
  if (count === 0 || !Number.isSafeInteger(count * 1024)) {
    throw new UsageError(`${option}: expected a number of kB, got '${text}'`);
  }
  return count * 1024;
}

async function main(): Promise<void> {
  const parsed = command().parse();
  const text = await run(parsed.args[0], parsed.opts<Options>());
  if (text !== '') process.stdout.write(`${text}\n`);
}

main().catch((error: unknown) => {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  const isKnown = error instanceof UsageError || error instanceof RefusedError;
  process.stderr.write(`rzscontrol: ${isKnown ? error.message : (error as Error).stack}\n`);
  process.exit(error instanceof UsageError ? 2 : 1);
});
