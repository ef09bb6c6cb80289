#!/usr/bin/env node
/** ramzswapd: arguments and exit codes. Everything else is control/daemon.ts. */

import { Command, CommanderError, Option } from 'commander';
import { RefusedError, SystemError, UsageError } from '../base/errors.ts';
import { parseSize } from '../base/units.ts';
import { type DaemonOptions, runDaemon } from '../control/daemon.ts';
import { defaultControlPath } from '../control/paths.ts';
import { VERSION } from '../control/version.ts';
import { BACKING_IO_KINDS, type BackingIoKind } from '../device/backing.ts';
import { NEW_GUEST_POLICIES, type NewGuestPolicy } from '../device/front-end-process.ts';
import { INCOMPRESSIBLE_BYTES_MAX } from '../store/page-store.ts';

const QUEUES_MAX = 256;
const QUEUE_THREADS_MAX = 16;
/** vhost-user.json's VhostUserBackendCapabilities: neither --read-only nor --blk-file. */
const CAPABILITIES = { type: 'block', features: [] };

interface Options {
  socketPath?: string;
  socketGroup?: string;
  fd?: string;
  printCapabilities?: boolean;
  name: string;
  disksize?: string;
  maxDisksize?: string;
  guestRam?: string;
  guestPageSize: string;
  logicalBlockSize: string;
  poolLimit?: string;
  storeDir?: string;
  fdstore?: boolean;
  takeOver?: boolean;
  onNewGuest: NewGuestPolicy;
  mlock?: boolean;
  wipeOnFree?: boolean;
  numQueues: string;
  queueThreads: string;
  controlPath?: string;
  backingSwap?: string;
  backingIo: BackingIoKind;
  memlimit?: string;
  incompressibleBytes?: string;
  logLevel: string;
}

function command(): Command {
  const begun = new Command('ramzswapd')
    .description('Compressed swap disk in host memory for a QEMU guest, over vhost-user-blk')
    .version(VERSION)
    .option('--socket-path <path>', 'listen for the front end (QEMU) on this Unix socket')
    .option('--socket-group <group>', 'let this group connect there too (default: our own)')
    .option('--fd <number>', 'use this inherited socket, listening or connected, instead')
    .option('--print-capabilities', 'print what this back end can do as JSON, and exit')
    .option('--name <name>', 'device name; also its serial and swap label', 'ramzswap0')
    .option('--disksize <size>', 'uncompressed capacity, such as 512M (default: 25% of RAM)')
    .option(
      '--max-disksize <size>',
      'how far the disk may grow while the guest runs (default: not at all)',
    )
    .option(
      '--guest-ram <size>',
      "the guest's RAM, which defaults are taken from (default: host's)",
    )
    .addOption(
      new Option('--guest-page-size <bytes>', "the guest's page size")
        .choices(['4096', '16384', '65536'])
        .default('4096'),
    )
    .addOption(
      new Option('--logical-block-size <bytes>', 'what requests are whole numbers of')
        .choices(['512', '4096'])
        .default('4096'),
    )
    .option('--backing-swap <path>', 'swap partition or swap file for what memory does not hold')
    .option(
      '--memlimit <size>',
      'compressed bytes in memory before pages go to the backing swap (default: the smaller of ' +
        '15% of RAM and its size)',
    )
    .addOption(
      new Option('--backing-io <kind>', 'how the backing swap is read and written')
        .choices(BACKING_IO_KINDS)
        .default('auto'),
    )
    .option(
      '--incompressible-bytes <n>',
      'a page that compresses to more is kept as it is, or goes to the backing swap ' +
        '(default: 3072; with a backing swap 2048)',
    )
    .option('--pool-limit <size>', 'hard limit of host memory for stored pages');
  return withStoreOptions(begun)
    .option(
      '--take-over',
      'go on with what the daemon at the control socket does, without its guest noticing',
    )
    .addOption(
      new Option('--on-new-guest <what>', 'what another front-end process finds than the last one')
        .choices(NEW_GUEST_POLICIES)
        .default('empty'),
    )
    .option('--num-queues <n>', 'request queues offered to the guest', '64')
    .option('--queue-threads <n>', 'threads that serve them (without a backing swap)', '1')
    .option('--control-path <path>', 'control socket (default: SOCKET.control)')
    .addOption(
      new Option('--log-level <level>', 'least severity that is logged, as JSON on stderr')
        .choices(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
        .default('info'),
    )
    .addHelpText('after', '\nSizes take K, M, G, T (powers of 1024). Ends on SIGTERM, status 0.')
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^error: /, 'ramzswapd: ')),
    })
    .exitOverride();
}

/** Where the store's memory is, and how it is treated. */
function withStoreOptions(command: Command): Command {
  return command
    .option(
      '--store-dir <path>',
      'directory on a tmpfs where the store outlives this process (default: gone with it)',
    )
    .option(
      '--fdstore',
      "keep the store in the service manager's file descriptor store, where it outlives this " +
        'process (systemd: Type=notify, FileDescriptorStoreMax=2)',
    )
    .option('--mlock', 'never let the host swap out the memory of stored pages')
    .option('--wipe-on-free', 'zero the memory of pages that are freed or moved, at once');
}

function parseCount(text: string, what: string, min: number, max: number): number {
  const count = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(count >= min && count <= max)) {
    throw new UsageError(`${what}: expected a number from ${min} to ${max}, got '${text}'`);
  }
  return count;
}

function queueThreads(o: Options, numQueues: number): number {
  const count = parseCount(o.queueThreads, '--queue-threads', 1, QUEUE_THREADS_MAX);
  if (count > numQueues) {
    throw new UsageError(
      `--queue-threads: expected a queue for each (--num-queues: ${numQueues}), got ${count}`,
    );
  }
  if (count > 1 && o.backingSwap !== undefined) {
    throw new UsageError(
      '--queue-threads: expected 1 with --backing-swap: one thread keeps the order of its I/O',
    );
  }
  return count;
}

function frontEndSocket({ socketPath, socketGroup, fd }: Options): DaemonOptions['socket'] {
  if ((socketPath === undefined) === (fd === undefined)) {
    throw new UsageError('expected one of --socket-path PATH and --fd N');
  }
  if (socketPath !== undefined) {
    return { path: socketPath, ...(socketGroup === undefined ? {} : { group: socketGroup }) };
  }
  if (socketGroup !== undefined) {
    throw new UsageError('--socket-group: expected --socket-path with it, not --fd');
  }
  return { fd: parseCount(fd ?? '', '--fd', 3, 2 ** 31 - 1) };
}

function daemonOptions(o: Options): DaemonOptions {
  const socket = frontEndSocket(o);
  if (o.backingSwap !== undefined && o.disksize !== undefined) {
    throw new UsageError(
      '--disksize, --backing-swap: expected one of them; the disk is as large as the backing swap',
    );
  }
  if (o.backingSwap !== undefined && o.maxDisksize !== undefined) {
    throw new UsageError('--max-disksize: expected no --backing-swap with it, which sets the size');
  }
  if (o.memlimit !== undefined && o.backingSwap === undefined) {
    throw new UsageError(
      '--memlimit: expected --backing-swap with it; without one, see --pool-limit',
    );
  }
  if (o.backingIo !== 'auto' && o.backingSwap === undefined) {
    throw new UsageError('--backing-io: expected --backing-swap with it');
  }
  if (o.fdstore === true && o.storeDir !== undefined) {
    throw new UsageError('--fdstore, --store-dir: expected one of them');
  }
  if (o.fdstore === true && o.name.includes(':')) {
    throw new UsageError(`--fdstore: expected a --name without a colon with it, got '${o.name}'`);
  }
  if (!/^[\x21-\x7e]{1,20}$/.test(o.name) || o.name.includes('/')) {
    throw new UsageError(
      `--name: expected 1 to 20 printable characters without /, got '${o.name}'`,
    );
  }
  const numQueues = parseCount(o.numQueues, '--num-queues', 1, QUEUES_MAX);
  const size = (text: string | undefined, what: string) =>
    text === undefined ? undefined : parseSize(text, what);
  const diskBytes = size(o.disksize, '--disksize');
  const diskBytesMax = size(o.maxDisksize, '--max-disksize');
  const guestRamBytes = size(o.guestRam, '--guest-ram');
  const poolLimitBytes = size(o.poolLimit, '--pool-limit');
  const memlimitBytes = size(o.memlimit, '--memlimit');
  const incompressibleBytes =
    o.incompressibleBytes === undefined
      ? undefined
      : parseCount(o.incompressibleBytes, '--incompressible-bytes', 1, INCOMPRESSIBLE_BYTES_MAX);
  return {
    name: o.name,
    socket,
    controlPath: o.controlPath ?? defaultControlPath(o.socketPath),
    isControlOptional: o.controlPath === undefined,
    guestPageBytes: Number(o.guestPageSize),
    logicalBlockBytes: Number(o.logicalBlockSize),
    numQueues,
    queueThreads: queueThreads(o, numQueues),
    onNewGuest: o.onNewGuest,
    isTakeOver: o.takeOver === true,
    usesFdStore: o.fdstore === true,
    logLevel: o.logLevel,
    isLocked: o.mlock === true,
    wipesOnFree: o.wipeOnFree === true,
    ...(diskBytes === undefined ? {} : { diskBytes }),
    ...(diskBytesMax === undefined ? {} : { diskBytesMax }),
    ...(guestRamBytes === undefined ? {} : { guestRamBytes }),
    ...(poolLimitBytes === undefined ? {} : { poolLimitBytes }),
    ...(memlimitBytes === undefined ? {} : { memlimitBytes }),
    ...(o.storeDir === undefined ? {} : { storeDirectory: o.storeDir }),
    ...(incompressibleBytes === undefined ? {} : { incompressibleBytes }),
    ...(o.backingSwap === undefined ? {} : { backingSwap: o.backingSwap, backingIo: o.backingIo }),
  };
}

async function main(): Promise<void> {
  // "Other options and arguments should be ignored": also those that would not parse.
  if (process.argv.includes('--print-capabilities')) {
    process.stdout.write(`${JSON.stringify(CAPABILITIES)}\n`);
    return;
  }
  await runDaemon(daemonOptions(command().parse().opts<Options>()));
}

main().catch((error: unknown) => {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  const isKnown =
    error instanceof UsageError || error instanceof RefusedError || error instanceof SystemError;
  process.stderr.write(`ramzswapd: ${isKnown ? error.message : (error as Error).stack}\n`);
  process.exit(error instanceof UsageError ? 2 : 1);
});
