/**
 * What is measured: our daemon, and qemu-storage-daemon over a file in memory and over a zram of the
 * host's. Each starts with an empty disk of its own, so that they can take turns.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { GuestDaemon, socketAppears } from '../../guest/daemon.ts';
import { findProgram } from '../setup.ts';
import { addZram, zramMissing } from './zram.ts';

/** A tmpfs on every Linux; in many containers too small, which is said. */
const TMPFS = '/dev/shm';

export interface RunningBackEnd {
  readonly socketPath: string;
  readonly pid: number;
  stop(): Promise<void>;
}

export interface BackEnd {
  readonly name: BackEndName;
  readonly text: string;
  /** Why it cannot be measured here; undefined: it can. */
  missing(): string | undefined;
  start(diskBytes: number): Promise<RunningBackEnd>;
}

export type BackEndName = 'ours' | 'a' | 'b-native' | 'b-io_uring';

async function startOurs(diskBytes: number): Promise<RunningBackEnd> {
  const daemon = await GuestDaemon.start('--disksize', `${diskBytes}`, '--log-level', 'error');
  return {
    socketPath: daemon.socketPath,
    pid: daemon.pid,
    stop: async () => void (await daemon.stop()),
  };
}

function storageDaemonMissing(): string | undefined {
  return findProgram('qemu-storage-daemon') ? undefined : 'no qemu-storage-daemon on this host';
}

/** Undoes something once: when it is called, or else when this process exits. */
function owed(undo: () => void): () => void {
  const once = () => {
    process.off('exit', once);
    undo();
  };
  process.once('exit', once);
  return once;
}

/**
 * qemu-storage-daemon's export of a block device as QEMU describes one, in a thread of its own.
 * `blockdevIn` may use the folder that goes with it; `undo` is for what lies elsewhere.
 */
async function startStorageDaemon(blockdevIn: (folder: string) => string, undo = () => {}) {
  const folder = mkdtempSync(join(TMPFS, 'bench-path-'));
  const remove = owed(() => {
    // It would wait for its front end to leave, and what it has open cannot be undone.
    daemon?.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
    undo();
  });
  let daemon: ReturnType<typeof spawnStorageDaemon> | undefined;
  try {
    const socketPath = join(folder, 'qsd.sock');
    daemon = spawnStorageDaemon(blockdevIn(folder), socketPath);
    if (!(await socketAppears(socketPath, daemon))) {
      daemon.kill('SIGKILL');
      throw new Error(`qemu-storage-daemon did not start:\n${(await daemon).stderr}`);
    }
    return { socketPath, pid: daemon.pid!, stop: async () => remove() };
  } catch (error) {
    remove();
    throw error;
  }
}

function spawnStorageDaemon(blockdev: string, socketPath: string) {
  const exported = [
    'type=vhost-user-blk,id=e0,node-name=f0,writable=on,iothread=io0,logical-block-size=4096',
    `addr.type=unix,addr.path=${socketPath}`,
  ];
  return execa(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `node-name=f0,cache.direct=on,discard=unmap,${blockdev}`],
      ...['--object', 'iothread,id=io0', '--export', exported.join(',')],
    ],
    { reject: false, stdio: ['ignore', 'ignore', 'pipe'] },
  );
}

/** aio=native: of the four ways to a file in tmpfs, the fastest in every row. */
function startFile(diskBytes: number): Promise<RunningBackEnd> {
  return startStorageDaemon((folder) => {
    const file = join(folder, 'disk');
    // Written out: the first write to a hole would cost an allocation as well.
    writeFileSync(file, Buffer.alloc(diskBytes, 0x5a));
    return `driver=file,filename=${file},aio=native`;
  });
}

function startZram(diskBytes: number, aio: string): Promise<RunningBackEnd> {
  const { path, remove } = addZram(diskBytes);
  return startStorageDaemon(() => `driver=host_device,filename=${path},aio=${aio}`, remove);
}

const zram = (aio: 'native' | 'io_uring'): BackEnd => ({
  name: `b-${aio}`,
  text: `qemu-storage-daemon, zram, ${aio}`,
  missing: () => storageDaemonMissing() ?? zramMissing(),
  start: (diskBytes) => startZram(diskBytes, aio),
});

export const BACK_ENDS: readonly BackEnd[] = [
  { name: 'ours', text: 'ramzswap', missing: () => undefined, start: startOurs },
  {
    ...{ name: 'a', text: 'qemu-storage-daemon, tmpfs', missing: storageDaemonMissing },
    start: startFile,
  },
  zram('native'),
  zram('io_uring'),
];
