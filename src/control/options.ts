/**
 * All options of the daemon, in one table: the command line (bin/ramzswapd.ts), the configuration
 * file, `init` of the control protocol, the table in the README and the manual page are made from it.
 * Values are checked one by one here; which go together is plan.ts's to say.
 */

import { RefusedError, UsageError } from '../base/errors.ts';
import { parseSize } from '../base/units.ts';
import { BACKING_IO_KINDS } from '../device/backing.ts';
import { NEW_GUEST_POLICIES } from '../device/front-end-process.ts';
import { INCOMPRESSIBLE_BYTES_MAX } from '../store/page-store.ts';

export type OptionKind = 'size' | 'count' | 'choice' | 'flag' | 'text';
export type OptionValue = string | number | boolean;

export interface OptionSpec {
  readonly kind: OptionKind;
  /** What stands for its value in help; flags have none. */
  readonly argument?: string;
  /** One line, for --help. */
  readonly help: string;
  /** For the README and the manual page, in Markdown, where there is more to say. */
  readonly details?: string;
  /** What holds without it, for people. */
  readonly fallback?: string;
  readonly choices?: readonly string[];
  /** Of a count; of a size 0, which then means that there is none. */
  readonly min?: number;
  readonly max?: number;
}

/** Of one device: in the configuration file and at `init`, too. */
export const DEVICE_OPTIONS = {
  disksize: {
    kind: 'size',
    argument: '<size>',
    help: 'uncompressed capacity, such as 512M',
    details: 'uncompressed capacity, rounded down to pages',
    fallback: '25% of RAM',
  },
  'max-disksize': {
    kind: 'size',
    argument: '<size>',
    help: 'how far the disk may grow while the guest runs',
    fallback: 'not at all',
  },
  'guest-ram': {
    kind: 'size',
    argument: '<size>',
    help: "the guest's RAM, which defaults are taken from",
    fallback: "the host's",
  },
  'guest-page-size': {
    kind: 'choice',
    argument: '<bytes>',
    help: "the guest's page size",
    details: "the guest's page size: where it looks for the swap header",
    choices: ['4096', '16384', '65536'],
    fallback: '4096',
  },
  'logical-block-size': {
    kind: 'choice',
    argument: '<bytes>',
    help: 'what requests are whole numbers of',
    details:
      'what requests are whole numbers of. Swap wants pages; 512 is for file systems and programs ' +
      'that want less',
    choices: ['512', '4096'],
    fallback: '4096',
  },
  'backing-swap': {
    kind: 'text',
    argument: '<path>',
    help: 'swap partition or swap file for what memory does not hold',
    details: 'swap partition or swap file for what memory does not hold; not with `--disksize`',
    fallback: 'none',
  },
  memlimit: {
    kind: 'size',
    argument: '<size>',
    help: 'compressed bytes in memory before pages go to the backing swap',
    fallback: 'the smaller of 15% of RAM and its size',
  },
  'backing-io': {
    kind: 'choice',
    argument: '<kind>',
    help: 'how the backing swap is read and written',
    details: '`io_uring`, `aio` (Linux AIO), or `auto`: the first that the kernel allows',
    choices: BACKING_IO_KINDS,
    fallback: 'auto',
  },
  'incompressible-bytes': {
    kind: 'count',
    argument: '<n>',
    help: 'a page that compresses to more is kept as it is, or goes to the backing swap',
    min: 1,
    max: INCOMPRESSIBLE_BYTES_MAX,
    fallback: '3072; with a backing swap 2048',
  },
  'pool-limit': {
    kind: 'size',
    argument: '<size>',
    help: 'hard limit of host memory for stored pages; 0: none',
    details:
      'hard limit of host memory for stored pages, used up in blocks of 64 KiB; writes beyond it go ' +
      'to the backing swap or fail, reads never. 0: none',
    min: 0,
    fallback: 'none',
  },
  guarantee: {
    kind: 'size',
    argument: '<size>',
    help: 'memory of the budget that no other device can take; 0: none',
    details: 'memory of the budget (`--budget`) that no other device can take. 0: none',
    min: 0,
    fallback: 'none',
  },
  mlock: {
    kind: 'flag',
    help: 'never let the host swap out the memory of stored pages',
    details:
      "the store's memory is never swapped out by the host; wants RLIMIT_MEMLOCK of some twice the " +
      'disk, for each queue thread, and says how much',
    fallback: 'swappable',
  },
  'wipe-on-free': {
    kind: 'flag',
    help: 'zero the memory of pages that are freed or moved, at once',
    details:
      'zero the memory of a page when it is freed, overwritten or moved, at once; see ' +
      '[SECURITY.md](SECURITY.md)',
    fallback: 'zeroed when it goes back to the host',
  },
  'on-new-guest': {
    kind: 'choice',
    argument: '<what>',
    help: 'what another front-end process finds than the last one',
    details:
      'what another front-end process finds than the last one (one whose in-flight area names this ' +
      'store has its pages in any case): `empty`, all is freed first and the swap header is new, or `keep`',
    choices: NEW_GUEST_POLICIES,
    fallback: 'empty',
  },
  'num-queues': {
    kind: 'count',
    argument: '<n>',
    help: 'request queues offered to the guest',
    details: 'request queues offered; a guest takes one per CPU',
    min: 1,
    max: 256,
    fallback: '64',
  },
} as const satisfies Record<string, OptionSpec>;

/** Of the process. */
export const DAEMON_OPTIONS = {
  'socket-path': {
    kind: 'text',
    argument: '<path>',
    help: 'one device: listen for its front end (QEMU) on this Unix socket',
    details: 'one device: listen for its front end on this Unix socket',
  },
  fd: {
    kind: 'count',
    argument: '<number>',
    help: 'one device: use this inherited socket, listening or connected, instead',
    details:
      'one device: use this inherited socket, listening or connected (a connected one is served until ' +
      'it ends)',
    min: 3,
    max: 2 ** 31 - 1,
  },
  name: {
    kind: 'text',
    argument: '<name>',
    help: 'name of the one device; also its serial and swap label',
    fallback: 'ramzswap0',
  },
  'socket-dir': {
    kind: 'text',
    argument: '<dir>',
    help: 'many devices: a socket NAME.sock for each in this directory',
    details:
      'many devices: a socket `NAME.sock` for each in this directory, made if missing; they are ' +
      'initialised by `rzscontrol`',
  },
  'num-devices': {
    kind: 'count',
    argument: '<n>',
    help: 'how many there are at the start: ramzswap0, ramzswap1, …',
    min: 0,
    max: 32,
    fallback: '1; none with `--config`',
  },
  config: {
    kind: 'text',
    argument: '<path>',
    help: 'configuration file (YAML): devices, limits, defaults; SIGHUP reads it again',
  },
  'socket-group': {
    kind: 'text',
    argument: '<group>',
    help: 'let this group connect there too',
    details:
      "the socket's group, whose members may connect too: name or number; the daemon must be a member, " +
      'or root',
    fallback: "the daemon's own",
  },
  threads: {
    kind: 'count',
    argument: '<n>',
    help: 'threads that devices are spread over',
    min: 1,
    max: 64,
    fallback: "as many as devices, at most the host's CPUs",
  },
  'queue-threads': {
    kind: 'count',
    argument: '<n>',
    help: 'threads that serve the queues of each (without a backing swap)',
    details:
      'threads that serve the queues of a device, up to 16: queue *n* by thread *n* modulo N; with ' +
      '`--backing-swap` one does',
    min: 1,
    max: 16,
    fallback: '1',
  },
  budget: {
    kind: 'size',
    argument: '<size>',
    help: 'host memory for stored pages of all devices together',
    details:
      'host memory for stored pages of all devices together. When it runs short, writes of those over ' +
      'their share go to their backing swap or fail first, never of one under its guarantee',
    fallback: 'none',
  },
  'store-dir': {
    kind: 'text',
    argument: '<path>',
    help: 'directory on a tmpfs where the store outlives this process',
    details:
      'directory on a tmpfs (`/run`, `/dev/shm`; mode 0700, made if missing) where the store is kept in ' +
      'files `NAME.table` and `NAME.arena`: a daemon started again with the same name, sizes and backing ' +
      'swap finds every page, whether the last one ended or was killed. The files go when nobody can ' +
      'come back for the pages: see "When its memory is released"',
    fallback: 'gone with the process',
  },
  fdstore: {
    kind: 'flag',
    help: "keep the store in the service manager's file descriptor store",
    details:
      "keep the store in the service manager's file descriptor store, where it outlives this process; " +
      'not with `--store-dir`. systemd: `Type=notify`, `FileDescriptorStoreMax=` two for each device',
    fallback: 'gone with the process',
  },
  'take-over': {
    kind: 'flag',
    help: 'go on with what the daemon at the control socket does, without its guest noticing',
    details: 'one device: go on with what the daemon at the control socket does, which then ends',
  },
  'control-path': {
    kind: 'text',
    argument: '<path>',
    help: 'control socket',
    fallback:
      '`SOCKET.control`; of many devices `$RUNTIME_DIRECTORY/control.sock`, else `/run/ramzswap/control.sock`',
  },
  metrics: {
    kind: 'text',
    argument: '<where>',
    help: 'metrics and a status page over HTTP: 127.0.0.1:PORT or a path',
    details:
      'metrics for Prometheus and a status page over HTTP: a loopback address and port, such as ' +
      '`127.0.0.1:9178`, or the path of a Unix socket',
    fallback: 'none',
  },
  'log-level': {
    kind: 'choice',
    argument: '<level>',
    help: 'least severity that is logged, as JSON on stderr',
    choices: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    fallback: 'info',
  },
  'print-capabilities': {
    kind: 'flag',
    help: 'print what this back end can do as JSON, and exit',
  },
} as const satisfies Record<string, OptionSpec>;

export type DeviceOption = keyof typeof DEVICE_OPTIONS;
export type DaemonOption = keyof typeof DAEMON_OPTIONS;

/** What was said, and nothing else; checked, sizes in bytes. */
export type DeviceSettings = { readonly [Option in DeviceOption]?: OptionValue };
export type DaemonSettings = { readonly [Option in DaemonOption]?: OptionValue };

/**
 * The value of an option as it was written: text of a command line, or what a file or a message has.
 * Throws UsageError that begins with `where`.
 */
export function parseOption(spec: OptionSpec, raw: unknown, where: string): OptionValue {
  const refuse = (expected: string): never => {
    throw new UsageError(`${where}: expected ${expected}, got ${shown(raw)}`);
  };
  switch (spec.kind) {
    case 'flag':
      return typeof raw === 'boolean' ? raw : refuse('true or false');
    case 'size':
      if (typeof raw !== 'string' && typeof raw !== 'number') {
        return refuse('a size such as 512M or 2G');
      }
      if (spec.min === 0 && /^\s*0\s*$/.test(String(raw))) return 0;
      return parseSize(String(raw), where);
    case 'count': {
      const { min = 0, max = Number.MAX_SAFE_INTEGER } = spec;
      const count = /^\d+$/.test(String(raw)) ? Number(raw) : Number.NaN;
      return count >= min && count <= max ? count : refuse(`a number from ${min} to ${max}`);
    }
    case 'choice': {
      const { choices = [] } = spec;
      return choices.includes(String(raw)) ? String(raw) : refuse(`one of ${choices.join(', ')}`);
    }
    case 'text':
      return typeof raw === 'string' && raw !== '' ? raw : refuse('text that is not empty');
  }
}

function shown(raw: unknown): string {
  return typeof raw === 'string' ? `'${raw}'` : JSON.stringify(raw);
}

/** Of those in `specs`, parsed; `where` names each in errors. */
export function parseSettings<Option extends string>(
  specs: Readonly<Record<Option, OptionSpec>>,
  raw: Readonly<Record<string, unknown>>,
  where: (option: string) => string,
): { readonly [O in Option]?: OptionValue } {
  const entries = Object.entries(specs) as [Option, OptionSpec][];
  const parsed = entries
    .filter(([option]) => raw[option] !== undefined)
    .map(([option, spec]) => [option, parseOption(spec, raw[option], where(option))]);
  return Object.fromEntries(parsed) as { [O in Option]?: OptionValue };
}

/** A device's settings as they come in a message: sizes in bytes. Throws UsageError that names each. */
export function checkedSettings(settings: object = {}): DeviceSettings {
  return parseSettings(DEVICE_OPTIONS, settings as Record<string, unknown>, (option) => option);
}

/** Folders, and a command of rzscontrol (control-options.ts): its device could be given no orders. */
const NO_NAMES: readonly string[] = ['.', '..', 'top'];

/** A device's name is its serial, its swap label, a file's name and a word of a command line. */
export function checkName(name: string, where: string): string {
  if (!/^[\x21-\x7e]{1,20}$/.test(name) || name.includes('/') || name.startsWith('-')) {
    throw new UsageError(
      `${where}: expected 1 to 20 printable characters without /, got '${name}'`,
    );
  }
  if (NO_NAMES.includes(name)) {
    throw new UsageError(`${where}: expected a name that means nothing else, got '${name}'`);
  }
  return name;
}

/** The settings that a running device can be told to change. */
export const CHANGEABLE: ReadonlySet<DeviceOption> = new Set([
  'disksize',
  'memlimit',
  'pool-limit',
  'guarantee',
]);

/** What a front end knows a device by from the first moment: it stays as the device was added. */
export const AS_ADDED: ReadonlySet<DeviceOption> = new Set(['num-queues', 'logical-block-size']);

/** `settings`, but for what stays as it is in those that the device has. */
export function asAdded(settings: DeviceSettings, has: DeviceSettings): DeviceSettings {
  const stays = ([option]: [string, unknown]) => AS_ADDED.has(option as DeviceOption);
  return Object.fromEntries([
    ...Object.entries(settings).filter((entry) => !stays(entry)),
    ...Object.entries(has).filter(stays),
  ]);
}

/**
 * Throws UsageError with what cannot be said together; `where` names what is wrong, `other` what it does
 * or does not go with.
 */
export function checkTogether(
  settings: DeviceSettings,
  where: (option: string) => string,
  other = where,
): void {
  const has = (option: DeviceOption) => settings[option] !== undefined;
  const refuse = (options: readonly DeviceOption[], why: string) => {
    throw new UsageError(`${options.map(where).join(', ')}: ${why}`);
  };
  if (has('backing-swap') && has('disksize')) {
    refuse(
      ['disksize', 'backing-swap'],
      'expected one of them; the disk is as large as the backing swap',
    );
  }
  if (has('backing-swap') && has('max-disksize')) {
    refuse(['max-disksize'], `expected no ${other('backing-swap')} with it, which sets the size`);
  }
  if (has('memlimit') && !has('backing-swap')) {
    refuse(
      ['memlimit'],
      `expected ${other('backing-swap')} with it; without one, see ${other('pool-limit')}`,
    );
  }
  if (has('backing-io') && settings['backing-io'] !== 'auto' && !has('backing-swap')) {
    refuse(['backing-io'], `expected ${other('backing-swap')} with it`);
  }
}

/**
 * Throws RefusedError for settings of a device that do not go together, where those `before` an order
 * did: else what is ordered next may be what mends them.
 */
export function checkSettingsOf(
  name: string,
  settings: DeviceSettings,
  before: DeviceSettings = {},
): void {
  const wrong = wrongTogether(settings);
  if (wrong === undefined || wrongTogether(before) !== undefined) return;
  throw new RefusedError(`${name}: ${wrong}`);
}

function wrongTogether(settings: DeviceSettings): string | undefined {
  try {
    checkTogether(settings, (option) => option);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
