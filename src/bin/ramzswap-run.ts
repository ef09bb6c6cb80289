#!/usr/bin/env node
/** ramzswap-run: arguments and exit codes. Everything else is control/qemu-run.ts. */

import '../control/no-debugger.ts';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError, Option } from 'commander';
import { RefusedError, SystemError, UsageError } from '../base/errors.ts';
import { TRANSPORTS, type Transport } from '../control/qemu-command-line.ts';
import { type RunOptions, runQemu } from '../control/qemu-run.ts';
import { VERSION } from '../control/version.ts';

/** Options of ramzswapd that are not for the caller → why. */
const NOT_PASSED_ON: Readonly<Record<string, string>> = {
  '--socket-path': 'the socket is in a private folder',
  '--socket-group': 'the socket is in a private folder',
  '--fd': 'the socket is in a private folder',
  '--socket-dir': 'there is one disk',
  '--num-devices': 'there is one disk',
  '--threads': 'there is one disk',
  '--config': 'there is one disk',
  '--guest-ram': "it is taken from QEMU's -m",
  '--store-dir': 'the disk ends with QEMU',
  '--fdstore': 'the disk ends with QEMU',
  '--take-over': 'the disk is a new one',
  '--print-capabilities': 'ask ramzswapd itself',
};

function command(): Command {
  return new Command('ramzswap-run')
    .description('Runs QEMU with a compressed swap disk, which lasts as long as QEMU does')
    .usage('[options] [options of ramzswapd] -- qemu-system-… ARGS')
    .version(VERSION)
    .addOption(
      new Option(
        '--transport <kind>',
        "how the disk is attached (default: pci, or mmio if QEMU's machine has no PCI)",
      ).choices(TRANSPORTS),
    )
    .allowUnknownOption()
    .allowExcessArguments()
    .addHelpText(
      'after',
      `
Other options before -- go to ramzswapd as they are: --disksize, --pool-limit, --backing-swap,
--memlimit, --queue-threads, --name, --guest-page-size and so on (ramzswapd --help), but for
${Object.keys(NOT_PASSED_ON).join(', ')}.
--log-level is warn by default.

What QEMU lacks for the disk is added behind ARGS: shared memory of the size of -m, unless ARGS have
memory of their own, which must be shared; and the disk.

Exit status: QEMU's (128 + n if signal n ended it); 1: no disk; 2: usage.`,
    )
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, 'ramzswap-run: ')),
    })
    .exitOverride();
}

function runOptions(words: readonly string[]): RunOptions {
  const end = words.indexOf('--');
  const parsed = command().parse(end < 0 ? words : words.slice(0, end), { from: 'user' });
  const [qemu] = words.slice(end + 1);
  if (end < 0 || qemu === undefined) {
    throw new UsageError('expected -- and a QEMU command line behind the options');
  }
  for (const word of parsed.args) {
    const why = NOT_PASSED_ON[word.split('=', 1)[0]!];
    if (why !== undefined) throw new UsageError(`${word}: expected not to be given: ${why}`);
  }
  return {
    daemonPath: fileURLToPath(new URL('./ramzswapd.js', import.meta.url)),
    daemonArgs: parsed.args,
    command: words.slice(end + 1),
    transport: parsed.opts<{ transport?: Transport }>().transport,
  };
}

async function main(): Promise<void> {
  process.exitCode = await runQemu(runOptions(process.argv.slice(2)));
}

main().catch((error: unknown) => {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  const isKnown =
    error instanceof UsageError || error instanceof RefusedError || error instanceof SystemError;
  process.stderr.write(`ramzswap-run: ${isKnown ? error.message : (error as Error).stack}\n`);
  process.exit(error instanceof UsageError ? 2 : 1);
});
