/**
 * All options of rzscontrol, in one table: the command line (bin/rzscontrol.ts), the shell's
 * completion, the table in the README and the manual page are made from it. What they ask of the
 * daemon is control-orders.ts.
 */

import type { OptionSpec } from './options.ts';

export interface ControlOptionSpec extends OptionSpec {
  /** One letter. */
  readonly short?: string;
  /** What the shell offers for its value; choices need nothing said. */
  readonly completes?: 'files' | 'devices';
}

/** The words that are no devices. */
export const CONTROL_COMMANDS = {
  top: 'what devices do, live: rates, latencies, memory',
} as const;

export const CONTROL_OPTIONS = {
  backing_swap: {
    short: 'b',
    kind: 'text',
    argument: '<path>',
    completes: 'files',
    help: 'swap partition or swap file of the host for what memory does not hold',
    details:
      'swap partition or swap file of the host for what memory does not hold; the disk is as large as ' +
      'it, so not with `--disksize_kb`. For the `--init` here, or remembered for one to come',
    fallback: "the daemon's, else none",
  },
  memlimit_kb: {
    short: 'm',
    kind: 'count',
    argument: '<n>',
    help: 'limit on compressed data in memory, in kB; wants a backing swap',
    details:
      'limit on compressed data in memory, in kB; wants a backing swap. For the `--init` here, or ' +
      'remembered for one to come; of an initialised device it holds from now on, and what is above it ' +
      'moves to the backing swap',
    fallback: "the daemon's, else the smaller of 15% of RAM and the backing swap",
  },
  disksize_kb: {
    short: 'd',
    kind: 'count',
    argument: '<n>',
    help: 'uncompressed capacity, in kB; not with a backing swap; an initialised disk grows to it',
    details:
      'uncompressed capacity, in kB, rounded down to pages; not with `--backing_swap`. For the ' +
      '`--init` here, or remembered for one to come; an initialised disk grows to it, as with `--grow_kb`',
    fallback: "the daemon's, else 25% of RAM",
  },
  pool_limit_kb: {
    kind: 'count',
    argument: '<n>',
    help: 'hard limit of host memory for stored pages, in kB; 0: none',
    details:
      'hard limit of host memory for stored pages, in kB; 0: none. Of an initialised device it holds ' +
      'from now on',
    fallback: "the daemon's, else none",
  },
  guarantee_kb: {
    kind: 'count',
    argument: '<n>',
    help: "of the daemon's budget, what no other device can take, in kB; 0: none",
    details:
      "of the daemon's budget, what no other device can take, in kB; 0: none. Of an initialised device " +
      'it holds from now on',
    fallback: "the daemon's, else none",
  },
  init: {
    short: 'i',
    kind: 'flag',
    help: 'make the disk: a connected guest sees its capacity at once',
    details:
      'make the disk: a connected guest sees its capacity at once; what is unusual about it (larger than ' +
      'twice the RAM, say) is told on standard error',
  },
  reset: {
    short: 'r',
    kind: 'flag',
    help: 'free all memory, uninitialised again; refused while a front end has the queues running',
    details:
      "free all memory: uninitialised again, with the daemon's settings, those of earlier orders are " +
      'forgotten; refused while a front end has the queues running',
  },
  grow_kb: {
    short: 'g',
    kind: 'count',
    argument: '<n>',
    help: 'make the disk this large, in kB, while the guest runs; up to --max-disksize',
    details:
      "make the disk this large, in kB, while the guest runs; up to the daemon's `--max-disksize`",
  },
  stats: { short: 's', kind: 'flag', help: "the device's statistics" },
  add: {
    kind: 'text',
    argument: '<name>',
    help: 'a further device of that name, uninitialised; with --init, a disk at once',
    details:
      'a further device of that name, uninitialised, with the settings given here; with `--init`, a ' +
      'disk at once, or no device where the disk is refused',
  },
  remove: {
    kind: 'text',
    argument: '<name>',
    completes: 'devices',
    help: 'take a device away; refused while a front end has the queues running',
  },
  reload: {
    kind: 'flag',
    help: 'have the daemon read its configuration file again',
    details:
      'have the daemon read its configuration file again; prints what has changed, and on standard ' +
      'error what could not (then the exit status is 1)',
  },
  daemon: { kind: 'flag', help: "the daemon's own figures, and its budget" },
  schema: {
    kind: 'flag',
    help: "the control protocol's methods and their schemas, as JSON (OpenRPC)",
  },
  json: {
    kind: 'flag',
    help: 'print JSON, with sizes in bytes',
    details:
      'print JSON, with sizes in bytes: what is asked for, or the device as it is after the orders ' +
      '(`null`: removed), also without any; errors are text all the same',
  },
  verbose: { short: 'v', kind: 'flag', help: 'say on standard error what is done' },
  'control-path': {
    kind: 'text',
    argument: '<path>',
    completes: 'files',
    help: "the daemon's control socket",
    fallback: '`$RUNTIME_DIRECTORY/control.sock`, else `/run/ramzswap/control.sock`',
  },
  completion: {
    kind: 'choice',
    argument: '<what>',
    choices: ['bash', 'devices'],
    help: 'for shells: a script that completes these options, or the names of devices',
    details:
      'for shells: `bash` prints a script that completes these options, `devices` the names that it ' +
      'asks for',
  },
  version: { short: 'V', kind: 'flag', help: 'print the version' },
  help: { short: 'h', kind: 'flag', help: 'print these options' },
} as const satisfies Record<string, ControlOptionSpec>;

/** Of `rzscontrol top`. No short letter is one of the table above, which holds behind `top` as well. */
export const TOP_OPTIONS = {
  interval: {
    kind: 'text',
    argument: '<seconds>',
    help: 'how long rates are measured before they are shown, such as 0.5',
    fallback: '1',
  },
  sort: {
    kind: 'choice',
    argument: '<key>',
    choices: ['name', 'memory', 'reads', 'writes', 'failed'],
    help: 'what devices are sorted by',
    fallback: 'name',
  },
  batch: {
    kind: 'flag',
    help: 'plain text, one frame after the other, also on a terminal',
  },
  frames: {
    short: 'n',
    kind: 'count',
    argument: '<n>',
    help: 'end after that many frames of plain text',
    fallback:
      '1 where the output is no terminal; without end with `--batch`, and with `--json` on a terminal',
  },
  once: {
    kind: 'flag',
    help: 'one frame of plain text: --batch -n 1',
    details: 'one frame of plain text: `--batch -n 1`',
  },
} as const satisfies Record<string, ControlOptionSpec>;

export type ControlOption = keyof typeof CONTROL_OPTIONS;
export type TopOption = keyof typeof TOP_OPTIONS;
export type SortKey = (typeof TOP_OPTIONS.sort.choices)[number];

/** What was said on the command line, unchecked but for choices. */
export type Said<Option extends string> = { readonly [O in Option]?: string | boolean };

/** `-b, --backing_swap <path>`. */
export function optionFlags(name: string, { short, argument }: ControlOptionSpec): string {
  const long = argument === undefined ? `--${name}` : `--${name} ${argument}`;
  return short === undefined ? long : `-${short}, ${long}`;
}
