/** What this process, or another, has open and uses: for tests that nothing leaks. */

import { readdirSync, readFileSync, readSync } from 'node:fs';

/** Open file descriptors of this process (the listing's own is not counted). */
export function openFds(): number {
  return readdirSync('/proc/self/fd').length - 1;
}

/** Nanoseconds that all threads of a process have spent on a processor. */
export function cpuNanoseconds(pid: number): number {
  let sum = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const text = readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8');
    sum += Number(text.split(' ')[0]);
  }
  return sum;
}

/** How often an eventfd was signalled since the last look. */
export function signals(fd: number): number {
  const bytes = Buffer.alloc(8);
  try {
    readSync(fd, bytes);
  } catch {
    return 0;
  }
  return Number(bytes.readBigUInt64LE());
}
