/**
 * The kinds of swap that are measured beside each other, in the same guest: what serves each on the
 * host, how it is attached, and how the guest sets it up. All but the old disk are set up alike.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import type { GuestDisk, GuestOrders } from '../../guest/command-line.ts';
import { GuestDaemon, socketAppears } from '../../guest/daemon.ts';
import { CACHE_DIR } from '../fetch.ts';

/**
 * A disk of 10,000 rpm, as the ancestor was measured against: half a turn and a mean seek are
 * 3 + 4.5 ms, so some 133 requests a second; its platters give about 70 MB/s. A real one would do
 * more than 133 requests in a row of neighbours.
 */
const OLD_DISK = { iopsMax: 133, bytesPerSecond: 70_000_000 } as const;

export interface RunningSwap {
  readonly disks: readonly GuestDisk[];
  readonly orders: GuestOrders;
  readonly extraArgs: readonly string[];
  /** Shell, in the guest, before the workload. */
  readonly prepare: string;
  stop(): Promise<void>;
}

export interface SwapKind {
  readonly name: string;
  start(sizeMiB: number): Promise<RunningSwap>;
}

const NOTHING: RunningSwap = {
  disks: [],
  orders: {},
  extraArgs: [],
  prepare: ':',
  stop: async () => {},
};

/** No mkswap for ours: it comes with a header. The rest is what the doctor would do. */
async function startRamzswap(sizeMiB: number): Promise<RunningSwap> {
  const daemon = await GuestDaemon.start('--disksize', `${sizeMiB}M`);
  return {
    ...NOTHING,
    disks: [{ socketPath: daemon.socketPath }],
    orders: { swap: '/dev/vda' },
    stop: async () => void (await daemon.stop()),
  };
}

async function startZram(sizeMiB: number): Promise<RunningSwap> {
  const steps = [
    '{ modprobe -q lzo; modprobe zram; } && echo lzo >/sys/block/zram0/comp_algorithm',
    `echo ${sizeMiB}M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null`,
    '/bin/swapon -d /dev/zram0 && echo 0 >/proc/sys/vm/page-cluster',
  ];
  return { ...NOTHING, prepare: steps.join(' && ') };
}

/** The same protocol and guest driver as ours, over a file on the host's disk (O_DIRECT). */
async function startStorageDaemon(sizeMiB: number): Promise<RunningSwap> {
  const folder = mkdtempSync(join(CACHE_DIR, 'bench-guest-'));
  const file = imageIn(folder, sizeMiB);
  const socketPath = join(folder, 'qsd.sock');
  const blockdev = `driver=file,node-name=f0,filename=${file},cache.direct=on`;
  const exported = 'type=vhost-user-blk,id=e0,node-name=f0,writable=on,iothread=io0';
  const daemon = execa(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `${blockdev},aio=io_uring`, '--object', 'iothread,id=io0'],
      ...['--export', `${exported},addr.type=unix,addr.path=${socketPath}`],
    ],
    { reject: false, stdio: 'ignore' },
  );
  const stop = async () => {
    daemon.kill('SIGTERM');
    await daemon;
    rmSync(folder, { recursive: true });
  };
  if (!(await socketAppears(socketPath, daemon))) {
    await stop();
    throw new Error('qemu-storage-daemon did not start');
  }
  return { ...NOTHING, disks: [{ socketPath }], orders: { swap: '/dev/vda', mkswap: 'yes' }, stop };
}

/** QEMU's own disk, throttled; the guest takes it for what it claims to be, a rotating one. */
async function startOldDisk(sizeMiB: number): Promise<RunningSwap> {
  const folder = mkdtempSync(join(CACHE_DIR, 'bench-guest-'));
  const throttle = [
    `throttling.iops-total=${OLD_DISK.iopsMax}`,
    `throttling.bps-total=${OLD_DISK.bytesPerSecond}`,
  ].join(',');
  const drive = `if=none,id=old,format=raw,cache=none,file=${imageIn(folder, sizeMiB)}`;
  return {
    ...NOTHING,
    orders: { swap: '/dev/vda', mkswap: 'yes', rotational: '1', pagecluster: '3', discard: 'no' },
    extraArgs: ['-drive', `${drive},${throttle}`, '-device', 'virtio-blk-pci,drive=old'],
    stop: async () => rmSync(folder, { recursive: true }),
  };
}

function imageIn(folder: string, sizeMiB: number): string {
  const file = join(folder, 'image');
  // Written out: the first write to a hole would cost an allocation as well.
  writeFileSync(file, Buffer.alloc(sizeMiB * 2 ** 20, 0x5a));
  return file;
}

export const NO_SWAP: SwapKind = { name: 'no swap', start: async () => NOTHING };
export const SWAPS: readonly SwapKind[] = [
  { name: 'ramzswap', start: startRamzswap },
  { name: 'zram in the guest', start: startZram },
  { name: 'qemu-storage-daemon, file', start: startStorageDaemon },
  { name: 'disk of 10,000 rpm', start: startOldDisk },
];
