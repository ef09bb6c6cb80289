/**
 * Boots a test guest by hand, with a swap disk from a daemon of its own or from any vhost-user-blk
 * back end: `npx tsx guest/run.ts arm64 --memory 128 --cmd 'fillverify 320 1'`; a shell without
 * --cmd. Prints the console and a summary; exit status 0 when the workload ended with 0.
 * `make guest` calls it.
 */
import { Argument, Command, InvalidArgumentError, Option } from 'commander';
import { ensureTools, GUEST_TOOLS } from '../scripts/setup.ts';
import type { GuestDisk, GuestHardware, GuestOrders } from './command-line.ts';
import { GuestDaemon } from './daemon.ts';
import { DEFAULT_GUEST, GUEST_NAMES, GUESTS, type GuestName, type Transport } from './guests.ts';
import { findMarker, GuestTimeoutError, runGuest, runGuestShell } from './qemu.ts';

type Flags = {
  memory: number;
  cpus: number;
  disksize: string;
  socket?: string;
  disk: boolean;
  transport?: Transport;
  queues?: number;
  reconnect?: number;
  cmd?: string;
  order: GuestOrders;
  timeout: number;
};

const program = new Command('guest/run.ts')
  .description('Boots a test guest with a swap disk: a shell, or a command.')
  .addArgument(new Argument('[guest]', 'which').choices(GUEST_NAMES).default(DEFAULT_GUEST))
  .option('--memory <MiB>', 'memory of the guest', wholeNumber, 128)
  .option('--cpus <N>', 'virtual CPUs', wholeNumber, 1)
  .option('--disksize <SIZE>', 'of the disk that a daemon is started for', '512M')
  .option('--socket <PATH>', 'a vhost-user-blk back end to use instead')
  .option('--no-disk', 'no swap disk at all')
  .addOption(new Option('--transport <KIND>', 'of the disk').choices(['pci', 'mmio']))
  .option('--queues <N>', 'virtqueues of the disk (default: one per CPU)', wholeNumber)
  .option('--reconnect <seconds>', 'connect again when the back end goes away', wholeNumber)
  .option('--cmd <COMMAND>', 'shell command to run, such as "fillverify 320 1" or "scan 320 3"')
  .option('--order <NAME=VALUE>', 'to init, repeatable: see command-line.ts', addOrder, {})
  .option('--timeout <seconds>', 'kill the guest after this long', wholeNumber, 300);

function wholeNumber(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('Expected a whole number.');
  return Number(text);
}

function addOrder(text: string, orders: GuestOrders): GuestOrders {
  const [, name, value] = text.match(/^(\w+)=(\S*)$/) ?? [];
  if (name === undefined) throw new InvalidArgumentError('Expected NAME=VALUE.');
  return { ...orders, [name]: value };
}

function hardware(guest: GuestName, flags: Flags, socketPath: string | undefined): GuestHardware {
  const disk = (path: string): GuestDisk => ({
    socketPath: path,
    ...(flags.transport !== undefined && { transport: flags.transport }),
    ...(flags.queues !== undefined && { numQueues: flags.queues }),
    ...(flags.reconnect !== undefined && { reconnectSeconds: flags.reconnect }),
  });
  return {
    guest,
    memoryMiB: flags.memory,
    cpus: flags.cpus,
    disks: socketPath === undefined ? [] : [disk(socketPath)],
    orders: flags.order,
  };
}

async function boot(options: GuestHardware, flags: Flags): Promise<number> {
  if (flags.cmd === undefined) return runGuestShell(options);
  const result = await runGuest({
    ...options,
    commands: [flags.cmd],
    timeoutMs: flags.timeout * 1000,
    onLine: (line) => console.log(line),
  });
  const exit = findMarker(result, 'cmd')?.values.exit;
  const seconds = (result.elapsedMs / 1000).toFixed(1);
  const end = result.poweredOff ? 'powered off' : `did not power off (QEMU: ${result.exitCode})`;
  console.log(`guest: workload exit ${exit ?? 'none'}, ${end}, ${seconds} s`);
  return result.poweredOff && exit === '0' ? 0 : 1;
}

async function main(): Promise<number> {
  program.parse();
  const flags = program.opts<Flags>();
  const guest = program.processedArgs[0] as GuestName;
  await ensureTools([...GUEST_TOOLS, GUESTS[guest].qemu, GUESTS[guest].compiler]);
  const { pageBytes } = GUESTS[guest];
  const daemonArgs = ['--disksize', flags.disksize, '--guest-page-size', String(pageBytes)];
  const own =
    flags.disk && flags.socket === undefined ? await GuestDaemon.start(...daemonArgs) : undefined;
  try {
    return await boot(hardware(guest, flags, flags.socket ?? own?.socketPath), flags);
  } finally {
    await own?.stop();
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof GuestTimeoutError)) throw error;
  // The console has been printed as it came.
  console.error(error.message.split('\n', 1)[0]);
  process.exitCode = 1;
}
