/**
 * What tests ask about file descriptors and the machine: how many are open, what they refer to,
 * how much memory a file holds, folders and mounts that disappear again.
 */

import { spawnSync } from 'node:child_process';
import { fstatSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { libcFunction } from '../../src/native/libc.ts';

const O_CLOEXEC = 0o2000000;
const O_NONBLOCK = 0o4000;
const fcntl = libcFunction('int fcntl(int fd, int command, long flags)');

export const isRoot = process.getuid?.() === 0;

/** Open descriptors of this process, without the one that counts them. */
export function countOpenFds(): number {
  return readdirSync('/proc/self/fd').length - 1;
}

/** Device and inode: equal for two descriptors of one file. */
export function identityOf(fd: number): string {
  const { dev, ino } = fstatSync(fd);
  return `${dev}:${ino}`;
}

/** Pages of memory that a memory file holds, as the kernel counts them. */
export function pagesHeldBy(fd: number): number {
  return (fstatSync(fd).blocks * 512) / PAGE_BYTES;
}

/** Of a process's mappings of files whose path has `name` in it: kilobytes that are locked. */
export function lockedKilobytes(pid: number, name: string): number {
  let isNamed = false;
  let sum = 0;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isNamed = line.includes(name);
    const locked = /^Locked:\s*(\d+) kB/.exec(line);
    if (isNamed && locked !== null) sum += Number(locked[1]);
  }
  return sum;
}

export function isCloseOnExec(fd: number): boolean {
  return (flagsOf(fd) & O_CLOEXEC) !== 0;
}

export function isNonBlocking(fd: number): boolean {
  return (flagsOf(fd) & O_NONBLOCK) !== 0;
}

/** An eventfd's counter, which is not read for that. */
export function counterOf(fd: number): bigint {
  const text = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
  return BigInt(`0x${/^eventfd-count:\s*([0-9a-f]+)$/m.exec(text)![1]!}`);
}

/** Reads and writes of this open file may wait, for all who hold it. */
export function setBlocking(fd: number): void {
  const F_SETFL = 4;
  if (fcntl(fd, F_SETFL, flagsOf(fd) & ~O_NONBLOCK) !== 0) throw new Error('fcntl failed');
}

function flagsOf(fd: number): number {
  const line = /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'));
  return Number.parseInt(line![1]!, 8);
}

/** Runs `use` with a temporary folder. */
export function withFolder<T>(use: (folder: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), 'rz-test-'));
  try {
    return use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs `use` in a fresh file system; false, with a warning, where it cannot be mounted. */
export function withMount(type: string, options: string, use: (folder: string) => void): boolean {
  return withFolder((folder) => {
    const mounted = isRoot && run('mount', ['-t', type, '-o', options, 'none', folder]);
    if (!mounted) {
      console.warn(`skipped: needs root and "mount -t ${type} -o ${options} none <folder>"`);
      return false;
    }
    try {
      use(folder);
    } finally {
      run('umount', ['-l', folder]);
    }
    return true;
  });
}

function run(program: string, args: string[]): boolean {
  return spawnSync(program, args).status === 0;
}

/** Standard output of a program, or undefined (with a warning) where it is not installed. */
export function judgeBy(program: string, args: string[]): string | undefined {
  const path = `${process.env.PATH}:/usr/sbin:/sbin`;
  const result = spawnSync(program, args, {
    encoding: 'utf8',
    env: { ...process.env, PATH: path },
  });
  if (result.error === undefined) return result.stdout;
  console.warn(`skipped: the program ${program} is not installed`);
  return undefined;
}
