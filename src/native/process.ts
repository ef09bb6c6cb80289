/**
 * Ending the process from any thread at any moment.
 *
 * JUSTIFICATION: `process.exit()` waits for worker threads, and a worker blocked in a foreign call
 * never ends; `process.abort()` does not exist in a worker.
 */

import { writeSync } from 'node:fs';
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
