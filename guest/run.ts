/**
 * Boots the test guest by hand, against any vhost-user-blk back end:
 * `npx tsx guest/run.ts --memory 128 --socket PATH --cmd 'fillverify 320 1'`.
 * Prints the console and a summary; exit status 0 when the workload ended with 0.
 */
import { Command, InvalidArgumentError } from 'commander';
import {
  findMarker,
  type GuestOptions,
  type GuestOrders,
  GuestTimeoutError,
  runGuest,
  runGuestShell,
} from './qemu.ts';

type Flags = {
  memory: number;
  cpus: number;
  socket?: string;
  queues?: number;
  reconnect?: number;
  cmd?: string;
  order: GuestOrders;
  timeout: number;
  shell?: true;
};

const program = new Command('guest/run.ts')
  .description('Boots the test guest, with a swap disk if a back end’s socket is given.')
  .option('--memory <MiB>', 'memory of the guest', wholeNumber, 128)
  .option('--cpus <N>', 'virtual CPUs', wholeNumber, 1)
  .option('--socket <PATH>', 'socket of a vhost-user-blk back end')
  .option('--queues <N>', 'virtqueues of the disk (default: one per CPU)', wholeNumber)
  .option('--reconnect <seconds>', 'connect again when the back end goes away', wholeNumber)
  .option('--cmd <COMMAND>', 'shell command to run, such as "fillverify 320 1" or "scan 320 3"')
  .option('--order <NAME=VALUE>', 'any other order to init, repeatable: see qemu.ts', addOrder, {})
  .option('--timeout <seconds>', 'kill the guest after this long', wholeNumber, 300)
  .option('--shell', 'a shell on the console, after the command; Ctrl-A X ends QEMU');

function wholeNumber(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('Expected a whole number.');
  return Number(text);
}

function addOrder(text: string, orders: GuestOrders): GuestOrders {
  const [, name, value] = text.match(/^(\w+)=(.*)$/) ?? [];
  if (name === undefined) throw new InvalidArgumentError('Expected NAME=VALUE.');
  return { ...orders, [name]: value };
}

function guestOptions(flags: Flags): GuestOptions {
  return {
    memoryMiB: flags.memory,
    cpus: flags.cpus,
    ...(flags.socket !== undefined && { socketPath: flags.socket }),
    ...(flags.queues !== undefined && { numQueues: flags.queues }),
    ...(flags.reconnect !== undefined && { reconnectSeconds: flags.reconnect }),
    append: { ...(flags.cmd !== undefined && { cmd: flags.cmd }), ...flags.order },
    timeoutMs: flags.timeout * 1000,
    onLine: (line) => console.log(line),
  };
}

async function main(): Promise<number> {
  const flags = program.parse().opts<Flags>();
  if (flags.shell) {
    await runGuestShell(guestOptions(flags));
    return 0;
  }
  const result = await runGuest(guestOptions(flags));
  const exit = findMarker(result, 'cmd')?.values.exit;
  const seconds = (result.elapsedMs / 1000).toFixed(1);
  const end = result.poweredOff ? 'powered off' : `did not power off (QEMU: ${result.exitCode})`;
  console.log(`guest: workload exit ${exit ?? 'none'}, ${end}, ${seconds} s`);
  return result.poweredOff && (exit === '0' || flags.cmd === undefined) ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof GuestTimeoutError)) throw error;
  // The console has been printed as it came.
  console.error(error.message.split('\n', 1)[0]);
  process.exitCode = 1;
}
