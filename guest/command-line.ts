/**
 * QEMU's command line for a test guest, and the kernel's within it. Decides only; qemu.ts runs it.
 */
import { GUESTS, type Guest, type GuestName, type Transport } from './guests.ts';
import type { GuestImage } from './image.ts';

/** What `init` is told, as `rzs.NAME=VALUE` on the kernel's command line; no value has a space. */
export type GuestOrders = {
  /**
   * What to swap on: whatever the doctor finds, set up as it advises; or devices, separated by
   * commas, set up by the orders below; or nothing. Default: doctor with disks, else none.
   */
  swap?: 'doctor' | 'none' | `/dev/${string}`;
  /** `swapon` discards: freed clusters and once at the start (yes), one of them, or nothing. */
  discard?: 'yes' | 'no' | 'once' | 'pages';
  /** Default: the kernel's, one below the last for each swap. */
  priority?: string;
  /** Default no: the disk comes with a swap header. */
  mkswap?: 'yes' | 'no';
  /** What the kernel is to think of the disk. Default 0. */
  rotational?: '0' | '1';
  /** `vm.page-cluster`: 2^N pages are read around a fault. Default 0. */
  pagecluster?: string;
  /** After the workload: swapoff (default), the same and discard all but page 0, or nothing. */
  after?: 'swapoff' | 'discard' | 'nothing';
  /** Seconds to sleep before powering off, for the host to look at what is left. */
  hold?: string;
};

export interface GuestDisk {
  /** A vhost-user-blk back end's socket. */
  readonly socketPath: string;
  /** Default: the first that the guest has. */
  readonly transport?: Transport;
  /** Virtqueues of the disk; QEMU's default is one per virtual CPU. */
  readonly numQueues?: number;
  /** Connect again after this many seconds when the back end goes away. Default: never. */
  readonly reconnectSeconds?: number;
}

export interface GuestHardware {
  /** Default: amd64. */
  readonly guest?: GuestName;
  readonly memoryMiB: number;
  readonly cpus?: number;
  readonly disks?: readonly GuestDisk[];
  readonly orders?: GuestOrders;
  /** Whether it has mkfs.ext4 and e2fsck. */
  readonly hasFileSystemTools?: boolean;
  /** Further words for the kernel's command line, such as `idle=poll`. */
  readonly kernelArgs?: readonly string[];
  readonly extraArgs?: readonly string[];
}

/** How this run talks to `init`, besides what the caller orders. */
export type Conversation = 'commands' | 'shell' | 'none';

/** All but the console and the monitor, which are the runner's. */
export function qemuArguments(
  options: GuestHardware & { guest: GuestName },
  image: GuestImage,
  conversation: Conversation,
): string[] {
  const { memoryMiB, cpus = 1, disks = [] } = options;
  const guest = GUESTS[options.guest];
  return [
    ['-nodefaults', '-no-user-config', '-display', 'none'],
    // TCG and not KVM: it works everywhere, also inside other virtual machines.
    ['-accel', 'tcg,thread=multi', '-cpu', guest.cpu, '-smp', String(cpus)],
    ['-m', `${memoryMiB}M`],
    // A back end in another process can only serve memory that is shared.
    ['-object', `memory-backend-memfd,id=mem,size=${memoryMiB}M,share=on`],
    ['-machine', `${guest.machine},memory-backend=mem`],
    ['-kernel', image.kernel, '-initrd', image.initrd],
    ['-append', kernelCommandLine(guest, options, conversation)],
    ...disks.map((disk, index) => diskArguments(guest, disk, index)),
    options.extraArgs ?? [],
  ].flat();
}

/** The disks are rzs0, rzs1, … to QEMU: their chardevs' ids; the devices' are disk0, disk1, …. */
function diskArguments(guest: Guest, disk: GuestDisk, index: number): string[] {
  const { socketPath, transport = guest.transports[0], numQueues, reconnectSeconds } = disk;
  const queues = numQueues === undefined ? '' : `,num-queues=${numQueues}`;
  const reconnect = reconnectSeconds === undefined ? '' : `,reconnect=${reconnectSeconds}`;
  const model = transport === 'mmio' ? 'vhost-user-blk' : 'vhost-user-blk-pci';
  return [
    ...['-chardev', `socket,id=rzs${index},path=${socketPath}${reconnect}`],
    ...['-device', `${model},chardev=rzs${index},id=disk${index}${queues}`],
  ];
}

function kernelCommandLine(
  guest: Guest,
  options: GuestHardware,
  conversation: Conversation,
): string {
  const swap = (options.disks ?? []).length > 0 ? 'doctor' : 'none';
  const orders = Object.entries({ swap, talk: conversation, ...options.orders });
  const words = [
    `console=${guest.console}`,
    'quiet',
    // A panic reboots at once, which ends QEMU unless it was told to let guests reboot.
    'panic=-1',
    // A tmpfs, which is the default, is swapped out like any memory.
    'rootfstype=ramfs',
    // Emulated processors leak nothing, and emulating the defences costs 5 to 10%.
    'mitigations=off',
    ...(options.kernelArgs ?? []),
    ...orders.map(([name, value]) => `rzs.${name}=${value}`),
  ];
  const line = words.join(' ');
  if (Buffer.byteLength(line) > guest.commandLineBytesMax) {
    throw new Error(
      `kernel command line: expected at most ${guest.commandLineBytesMax} bytes, got ${Buffer.byteLength(line)}`,
    );
  }
  return line;
}
