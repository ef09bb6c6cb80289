/**
 * Runs one test guest under QEMU: builds its command line, follows its console, collects the
 * markers and sees to it that QEMU is gone afterwards. Knows no daemon: whatever vhost-user-blk back
 * end listens at the socket will do. Called by the guest scenarios in test/ and by run.ts.
 */
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { buildInitramfs, type GuestImage } from './image.ts';

/** What `init` is told, as `rzs.NAME=VALUE` on the kernel's command line. */
export type GuestOrders = {
  /** The workload, for `sh -c`. Default: none. */
  cmd?: string;
  /** The swap device, or `none`. Default: /dev/vda with a socket, else none. */
  swap?: string;
  /** `swapon` discards: freed clusters and once at the start (yes), one of them, or nothing. */
  discard?: 'yes' | 'no' | 'once' | 'pages';
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
  /** An interactive shell on the console after the workload. */
  shell?: 'yes' | 'no';
};

export type GuestOptions = {
  memoryMiB: number;
  cpus?: number;
  /** A vhost-user-blk back end's socket; without it the guest has no disk. */
  socketPath?: string;
  /** Virtqueues of the disk; QEMU's default is one per virtual CPU. */
  numQueues?: number;
  /** Connect again after this many seconds when the back end goes away. Default: never. */
  reconnectSeconds?: number;
  append?: GuestOrders;
  /** Further words for the kernel's command line, such as `idle=poll`. */
  kernelArgs?: readonly string[];
  timeoutMs: number;
  extraArgs?: readonly string[];
  onMarker?: (marker: Marker) => void;
  onLine?: (line: string) => void;
  /** Ends QEMU at once, as a crash would; the result is then an ordinary one. */
  signal?: AbortSignal;
};

/** `RZS: name word … key=value …`, in any order after the name. */
export type Marker = {
  name: string;
  words: string[];
  values: Record<string, string>;
  /** Since QEMU was started. */
  atMs: number;
};

export type GuestResult = {
  /** QEMU's; undefined when a signal ended it. */
  exitCode: number | undefined;
  /** Init ran to its end. Not so after a kernel panic, which ends QEMU with status 0 as well. */
  poweredOff: boolean;
  markers: Marker[];
  console: string[];
  elapsedMs: number;
};

/** The guest did not finish in time, and was killed. Policy: fails the scenario. */
export class GuestTimeoutError extends Error {
  override readonly name = 'GuestTimeoutError';
}

/** Enough to see what a stuck guest was doing. */
const CONSOLE_TAIL_LINES = 30;

/** x86's COMMAND_LINE_SIZE, 2048, less the NUL: the kernel cuts the rest off silently. */
const COMMAND_LINE_BYTES_MAX = 2047;

/** Boots the guest and resolves when QEMU has ended; rejects with GuestTimeoutError if it does not. */
export async function runGuest(options: GuestOptions): Promise<GuestResult> {
  const image = await buildInitramfs();
  const started = performance.now();
  const args = [...qemuArguments(options, image), '-serial', 'stdio'];
  const subprocess = execa('setpriv', [...DIES_WITH_US, ...args], {
    stdin: 'ignore',
    all: true,
    buffer: false,
    reject: false,
    timeout: options.timeoutMs,
    killSignal: 'SIGKILL',
    ...(options.signal && { cancelSignal: options.signal }),
  });
  const result: GuestResult = {
    exitCode: undefined,
    poweredOff: false,
    markers: [],
    console: [],
    elapsedMs: 0,
  };
  try {
    for await (const line of createInterface({ input: subprocess.all })) {
      followLine(line.replaceAll('\r', ''), performance.now() - started, options, result);
    }
  } finally {
    // Only a caller's callback that threw leaves the loop while QEMU runs.
    subprocess.kill('SIGKILL');
  }
  const ended = await subprocess;
  result.exitCode = ended.exitCode;
  result.elapsedMs = performance.now() - started;
  if (ended.timedOut) {
    const tail = result.console.slice(-CONSOLE_TAIL_LINES).join('\n');
    throw new GuestTimeoutError(`guest not done after ${options.timeoutMs} ms:\n${tail}`);
  }
  return result;
}

/** An interactive shell in a guest: this terminal is its console. Ctrl-A X ends QEMU. */
export async function runGuestShell(options: Omit<GuestOptions, 'timeoutMs'>): Promise<void> {
  const image = await buildInitramfs();
  const append: GuestOrders = { ...options.append, shell: 'yes' };
  const args = [...qemuArguments({ ...options, append }, image), '-serial', 'mon:stdio'];
  await execa('setpriv', [...DIES_WITH_US, ...args], { stdio: 'inherit', reject: false });
}

/** The last marker of that name, for the ones that come once. */
export function findMarker(result: GuestResult, name: string): Marker | undefined {
  return result.markers.findLast((marker) => marker.name === name);
}

/** execa ends QEMU when this process exits; this also covers being killed. setpriv becomes QEMU. */
const DIES_WITH_US = ['--pdeathsig', 'KILL', 'qemu-system-x86_64'] as const;

function qemuArguments(options: Omit<GuestOptions, 'timeoutMs'>, image: GuestImage): string[] {
  const { memoryMiB, cpus = 1, socketPath, numQueues, reconnectSeconds } = options;
  const queues = numQueues === undefined ? '' : `,num-queues=${numQueues}`;
  const reconnect = reconnectSeconds === undefined ? '' : `,reconnect=${reconnectSeconds}`;
  const disk = [
    ['-chardev', `socket,id=rzs,path=${socketPath}${reconnect}`],
    ['-device', `vhost-user-blk-pci,chardev=rzs${queues}`],
  ];
  return [
    ['-nodefaults', '-no-user-config', '-no-reboot'],
    ['-display', 'none'],
    // TCG and not KVM: it works everywhere, also inside other virtual machines.
    ['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', String(cpus)],
    ['-m', `${memoryMiB}M`],
    // A back end in another process can only serve memory that is shared.
    ['-object', `memory-backend-memfd,id=mem,size=${memoryMiB}M,share=on`],
    ['-machine', 'q35,memory-backend=mem'],
    ['-kernel', image.kernel, '-initrd', image.initrd],
    ['-append', kernelCommandLine(options)],
    ...(socketPath === undefined ? [] : disk),
    options.extraArgs ?? [],
  ].flat();
}

function kernelCommandLine(options: Omit<GuestOptions, 'timeoutMs'>): string {
  const swap = options.socketPath === undefined ? 'none' : '/dev/vda';
  const orders = Object.entries({ swap, ...options.append }).map(
    ([name, value]) => `rzs.${name}=${encodeURIComponent(value)}`,
  );
  const words = [
    'console=ttyS0',
    'quiet',
    // With -no-reboot, a panic that reboots at once ends QEMU.
    'panic=-1',
    // Emulated processors leak nothing, and emulating the defences costs 5 to 10%.
    'mitigations=off',
    ...(options.kernelArgs ?? []),
    ...orders,
  ];
  const line = words.join(' ');
  if (Buffer.byteLength(line) > COMMAND_LINE_BYTES_MAX) {
    throw new Error(
      `kernel command line: expected at most ${COMMAND_LINE_BYTES_MAX} bytes, got ${line.length}`,
    );
  }
  return line;
}

function followLine(line: string, atMs: number, options: GuestOptions, result: GuestResult): void {
  result.console.push(line);
  options.onLine?.(line);
  const marker = parseMarker(line, atMs);
  if (marker === undefined) return;
  result.markers.push(marker);
  if (marker.name === 'poweroff') result.poweredOff = true;
  options.onMarker?.(marker);
}

/** Not anchored at the start: the firmware leaves escape sequences on the console's first line. */
function parseMarker(line: string, atMs: number): Marker | undefined {
  const start = line.indexOf('RZS: ');
  if (start < 0) return undefined;
  const [name = '', ...rest] = line.slice(start).trim().split(/\s+/).slice(1);
  const words = rest.filter((word) => !word.includes('='));
  const pairs = rest.filter((word) => word.includes('='));
  const values = Object.fromEntries(
    pairs.map((pair) => {
      const equals = pair.indexOf('=');
      return [pair.slice(0, equals), pair.slice(equals + 1)];
    }),
  );
  return { name, words, values, atMs };
}
