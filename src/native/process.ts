/**
 * Ending the process from any thread at any moment.
 *
 * JUSTIFICATION: `process.exit()` waits for worker threads, and a worker blocked in a foreign call
 * never ends; `process.abort()` does not exist in a worker.
 */

import { readFileSync, readlinkSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { libcFunction } from './libc.ts';

const c = {
  _exit: libcFunction('void _exit(int status)'),
  abort: libcFunction('void abort()'),
};

/** Ends the process at once: no handlers, no waiting for threads. */
export function exitNow(status: number): never {
  c._exit(status);
  throw new Error('_exit returned');
}

/** One line on stderr, then SIGABRT: for an error that nobody caught, in any thread. */
export function abortWith(thread: string, error: unknown): never {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  try {
    writeSync(2, `ramzswapd: fatal error in ${thread}: ${text.replaceAll('\n', ' | ')}\n`);
  } catch {
    // stderr is gone; there is nobody left to tell.
  }
  c.abort();
  throw new Error('abort returned');
}

/** What the kernel calls the thread that asks; undefined: that may not be seen. */
export function threadId(): number | undefined {
  try {
    return Number(basename(readlinkSync('/proc/thread-self')));
  } catch {
    return undefined;
  }
}

/**
 * When a process began, in clock ticks after boot: with its number a name that is never used twice.
 * Undefined: there is none, or it may not be seen (proc_pid_stat(5)).
 */
export function processStart(pid: number): number | undefined {
  const start = Number(processFields(pid)?.[STAT.start]);
  return Number.isSafeInteger(start) ? start : undefined;
}

/** Whether the process that began then is no more. False also where that cannot be seen. */
export function hasProcessEnded(pid: number, start: number): boolean {
  const fields = processFields(pid);
  // Others' processes may be hidden (hidepid); whether there is one can be asked all the same.
  if (fields === undefined) return !isProcess(pid);
  if (Number(fields[STAT.start]) !== start) return true;
  // Nobody has asked for its status yet.
  return fields[STAT.state] === 'Z' && Number(fields[STAT.threads]) <= 1;
}

/** Fields of proc_pid_stat(5), from the third on: the second is a name and may hold anything. */
const STAT = { state: 0, threads: 17, start: 19 } as const;

function processFields(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

function isProcess(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}
