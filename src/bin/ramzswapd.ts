#!/usr/bin/env node
/** ramzswapd: arguments and exit codes. The options are control/options.ts, the rest control/daemon.ts. */

import '../control/no-debugger.ts';
import { Command, CommanderError, Option } from 'commander';
import { RefusedError, SystemError, UsageError } from '../base/errors.ts';
import { exitNow, runDaemon } from '../control/daemon.ts';
import {
  DAEMON_OPTIONS,
  DEVICE_OPTIONS,
  type OptionSpec,
  parseSettings,
} from '../control/options.ts';
import { VERSION } from '../control/version.ts';

/** vhost-user.json's VhostUserBackendCapabilities: neither --read-only nor --blk-file. */
const CAPABILITIES = { type: 'block', features: [] };

const SPECS: Readonly<Record<string, OptionSpec>> = { ...DAEMON_OPTIONS, ...DEVICE_OPTIONS };

function command(): Command {
  const made = new Command('ramzswapd')
    .description('Compressed swap disks in host memory for QEMU guests, over vhost-user-blk')
    .version(VERSION)
    .addHelpText('after', '\nSizes take K, M, G, T (powers of 1024). Ends on SIGTERM, status 0.')
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, 'ramzswapd: ')),
    })
    .exitOverride();
  for (const [name, { argument, help, fallback, choices }] of Object.entries(SPECS)) {
    const notes = [
      ...(choices === undefined ? [] : [choices.join(', ')]),
      ...(fallback === undefined ? [] : [`default: ${fallback.replaceAll('`', '')}`]),
    ];
    const note = notes.length === 0 ? '' : ` (${notes.join('; ')})`;
    made.addOption(new Option(`--${name} ${argument ?? ''}`.trim(), `${help}${note}`));
  }
  return made;
}

/** By the options' own names: commander has them in camel case. */
function givenOptions(parsed: Command): Record<string, unknown> {
  return Object.fromEntries(
    parsed.options.map((option) => [option.name(), parsed.getOptionValue(option.attributeName())]),
  );
}

async function main(): Promise<void> {
  // "Other options and arguments should be ignored": also those that would not parse.
  if (process.argv.includes('--print-capabilities')) {
    process.stdout.write(`${JSON.stringify(CAPABILITIES)}\n`);
    return;
  }
  const given = givenOptions(command().parse());
  const where = (option: string) => `--${option}`;
  await runDaemon({
    daemon: parseSettings(DAEMON_OPTIONS, given, where),
    device: parseSettings(DEVICE_OPTIONS, given, where),
  });
}

main().catch((error: unknown) => {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  const isKnown =
    error instanceof UsageError || error instanceof RefusedError || error instanceof SystemError;
  process.stderr.write(`ramzswapd: ${isKnown ? error.message : (error as Error).stack}\n`);
  // Not Node's way: a thread that is still loading its modules then would abort the process.
  exitNow(error instanceof UsageError ? 2 : 1);
});
