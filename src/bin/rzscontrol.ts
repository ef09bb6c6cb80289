#!/usr/bin/env node
/**
 * rzscontrol: arguments and exit codes. Its options are control/control-options.ts, what they ask of
 * the daemon is control/control-orders.ts, what is printed control/control-run.ts and control/top.ts.
 */

import '../control/no-debugger.ts';
import { Command, CommanderError, Option } from 'commander';
import { errnoText, RefusedError, UsageError } from '../base/errors.ts';
import { ControlClient } from '../control/client.ts';
import { bashCompletion } from '../control/completion.ts';
import {
  CONTROL_COMMANDS,
  CONTROL_OPTIONS,
  type ControlOption,
  type ControlOptionSpec,
  optionFlags,
  type Said,
  TOP_OPTIONS,
  type TopOption,
} from '../control/control-options.ts';
import { ordersOf } from '../control/control-orders.ts';
import { runOrders } from '../control/control-run.ts';
import { endByHangUp } from '../control/hang-up.ts';
import { defaultControlPath } from '../control/paths.ts';
import { VERSION } from '../control/version.ts';

/** Names of devices are wanted while somebody waits behind a tab key. */
const NAMES_MILLIS_MAX = 1000;

/** What holds behind `top` as well. */
const OF_TOP_TOO: ReadonlySet<string> = new Set(['json', 'control-path', 'verbose']);

const EXIT_REFUSED = 1;
const EXIT_USAGE = 2;

type Act<Option extends string> = (said: Said<Option>, device?: string) => Promise<void>;

function command(): Command {
  const { help, version, ...others } = CONTROL_OPTIONS;
  const program = new Command('rzscontrol')
    .description('Sets up, shows and changes the compressed swap disks of a ramzswap daemon')
    .usage('[device] [options]')
    .argument('[device]', 'device name, such as ramzswap0; none: a table of all devices')
    .helpOption(optionFlags('help', help), help.help)
    .helpCommand(false)
    .addHelpText('after', '\nExit status: 0 done, 1 refused (the reason is on stderr), 2 usage.')
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, 'rzscontrol: ')),
    })
    .exitOverride();
  addOptions(program, others);
  program.version(VERSION, optionFlags('version', version), version.help);
  program.action((device: string | undefined) => control(saidIn(program, others), device));
  const top = program
    .command('top')
    .description(CONTROL_COMMANDS.top)
    .helpOption(optionFlags('help', help), help.help)
    .addHelpText('after', '\n--control-path and --json hold here too: one object a line.');
  addOptions(top, TOP_OPTIONS);
  top.action(() => showTop(saidIn(program, others), saidIn(top, TOP_OPTIONS)));
  return program;
}

function addOptions(command: Command, specs: Readonly<Record<string, ControlOptionSpec>>): void {
  for (const [name, spec] of Object.entries(specs)) {
    const fallback = spec.fallback?.replaceAll('`', '');
    const help = fallback === undefined ? spec.help : `${spec.help} (default: ${fallback})`;
    const option = new Option(optionFlags(name, spec), help);
    if (spec.choices !== undefined) option.choices(spec.choices);
    command.addOption(option);
  }
}

/** By the table's names: commander has names of its own for those with hyphens. */
function saidIn<Name extends string>(
  command: Command,
  specs: Readonly<Record<Name, ControlOptionSpec>>,
): Said<Name> {
  const said = command.options.flatMap((option) => {
    const name = option.name();
    const value: unknown = command.getOptionValue(option.attributeName());
    return name in specs && value !== undefined ? [[name, value]] : [];
  });
  return Object.fromEntries(said) as Said<Name>;
}

const control: Act<ControlOption> = async (said, device) => {
  const controlPath = pathIn(said);
  if (said.completion === 'bash') return print(bashCompletion());
  if (said.completion === 'devices') return printNames(controlPath);
  const orders = ordersOf(device, said);
  const warn = (line: string) => process.stderr.write(`rzscontrol: ${line}\n`);
  const tell = (line: string) => {
    if (said.verbose === true) warn(line);
  };
  const client = await ControlClient.connect(controlPath);
  tell(`connected to ${controlPath}`);
  try {
    const { text, refused } = await runOrders(client, orders, {
      json: said.json === true,
      tell,
      warn,
    });
    if (text !== '') print(text);
    if (refused.length > 0) throw new RefusedError(refused.join('\nrzscontrol: '));
  } finally {
    client.close();
  }
};

async function showTop(said: Said<ControlOption>, how: Said<TopOption>): Promise<void> {
  const other = Object.keys(said).find((option) => !OF_TOP_TOO.has(option));
  if (other !== undefined) throw new UsageError(`top: expected no --${other} with it`);
  const { runTop, topWishes } = await import('../control/top.ts');
  const wishes = topWishes(how, { json: said.json === true, isTerminal: isTerminal() });
  await runTop(pathIn(said), wishes);
}

function isTerminal(): boolean {
  return process.stdout.isTTY === true && process.env.TERM !== 'dumb';
}

function pathIn(said: Said<ControlOption>): string {
  const path = said['control-path'];
  if (path === '') throw new UsageError("--control-path: expected a path, got ''");
  return typeof path === 'string' ? path : defaultControlPath();
}

/** One a line. Nobody wants to read of failures in the middle of what they type. */
async function printNames(controlPath: string): Promise<void> {
  setTimeout(() => process.exit(0), NAMES_MILLIS_MAX).unref();
  try {
    const client = await ControlClient.connect(controlPath);
    const devices = await client.call('devices');
    client.close();
    if (devices.length > 0) print(devices.map(({ device }) => device).join('\n'));
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
  }
}

function print(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // Whoever read it has seen enough: rzscontrol | head.
  if (error.code === 'EPIPE') process.exit(0);
  if (process.stdout.isTTY === true) endByHangUp();
  process.stderr.write(`rzscontrol: standard output: ${errnoText(-(error.errno ?? 0))}\n`);
  process.exit(EXIT_REFUSED);
});

command()
  .parseAsync()
  .catch((error: unknown) => {
    if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE);
    const isKnown = error instanceof UsageError || error instanceof RefusedError;
    process.stderr.write(`rzscontrol: ${isKnown ? error.message : (error as Error).stack}\n`);
    process.exit(error instanceof UsageError ? EXIT_USAGE : EXIT_REFUSED);
  });
