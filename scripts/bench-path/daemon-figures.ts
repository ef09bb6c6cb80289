/**
 * What our daemon costs while it does nothing, and whether the memory that it says it uses is what
 * its files hold. Peers have no such figures here: theirs are QEMU's.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { GuestDaemon } from '../../guest/daemon.ts';
import { BenchClient } from './client.ts';

const DEVICE_COST = fileURLToPath(new URL('./device-cost.ts', import.meta.url));
const ARENA = '/memfd:ramzswap-arena';
const DISK = '512M';
const IDLE_MILLIS = 10_000;
/** V8 collects once more, about eight seconds after start-up (40 ms), and then never while idle. */
const START_UP_MILLIS = 12_000;
/** What is spare has been given back: within a second and a half. */
const SETTLE_MILLIS = 2_000;
const KEEP = 8;

/** Of the arena: blocks of its file, and what statistics say is used. */
export interface HeldMemory {
  readonly fileBytes: number;
  readonly usedBytes: number;
}

export interface DaemonFigures {
  readonly residentBytes: number;
  /** Of 64 MiB, its files included. */
  readonly furtherDeviceBytes: number;
  /** Of one processor. */
  readonly idleCpuPercent: number;
  readonly connectedIdleCpuPercent: number;
  readonly full: HeldMemory;
  readonly discarded: HeldMemory;
}

async function cpuPercent(daemon: GuestDaemon): Promise<number> {
  const [cpu, start] = [daemon.cpuMillis(), performance.now()];
  await sleep(IDLE_MILLIS);
  return ((daemon.cpuMillis() - cpu) / (performance.now() - start)) * 100;
}

async function heldMemory(daemon: GuestDaemon): Promise<HeldMemory> {
  await sleep(SETTLE_MILLIS);
  const fds = `/proc/${daemon.pid}/fd`;
  const arena = readdirSync(fds).find((fd) => isArena(join(fds, fd)));
  if (arena === undefined) throw new Error(`no file ${ARENA} in ${fds}`);
  const { mem_used_total: usedBytes } = await daemon.statistics();
  return { fileBytes: statSync(join(fds, arena)).blocks * 512, usedBytes };
}

function isArena(fd: string): boolean {
  try {
    return readlinkSync(fd).startsWith(ARENA);
  } catch {
    // Closed meanwhile.
    return false;
  }
}

/** `diskPages` of its disk are filled and then mostly discarded. About half a minute. */
export async function measureDaemon(corpusPath: string, diskPages: number): Promise<DaemonFigures> {
  const args = ['--import', 'tsx', '--expose-gc', DEVICE_COST];
  const furtherDeviceBytes = Number(execFileSync('node', args, { encoding: 'utf8' }));
  const daemon = await GuestDaemon.start('--disksize', DISK, '--log-level', 'error');
  try {
    await sleep(START_UP_MILLIS);
    const residentBytes = daemon.residentBytes();
    const idleCpuPercent = await cpuPercent(daemon);
    const { socketPath, pid: backendPid } = daemon;
    const client = await BenchClient.connect({ socketPath, backendPid, corpusPath, diskPages });
    try {
      await client.run('fill');
      const full = await heldMemory(daemon);
      const connectedIdleCpuPercent = await cpuPercent(daemon);
      await client.run(`discard ${KEEP}`);
      const discarded = await heldMemory(daemon);
      await client.run('verify');
      return {
        ...{ residentBytes, furtherDeviceBytes, idleCpuPercent, connectedIdleCpuPercent },
        ...{ full, discarded },
      };
    } finally {
      await client.close();
    }
  } finally {
    await daemon.stop();
  }
}
