/**
 * The environment's and the user's errors. Protocol errors of a vhost-user peer live with the
 * protocol (vhost-user-ts/errors.ts); our own bugs are assertions (assert.ts).
 */

import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

/** By value. Where a value has two names (EAGAIN, EWOULDBLOCK) the first, which libc prefers. */
const ERRNO_NAMES = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, value]) => [value, name]),
);

/** The symbolic name of an errno value, for messages: 28 → `ENOSPC`. */
export function errnoName(errno: number): string {
  return ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
}

/** An errno value for people: 2 → `ENOENT (no such file or directory)`. */
export function errnoText(errno: number): string {
  const text = getSystemErrorMap().get(-errno)?.[1];
  return text === undefined ? errnoName(errno) : `${errnoName(errno)} (${text})`;
}

/**
 * A system call was refused. Policy: at start-up the process exits with the message; on a
 * connection that connection is dropped; on the data path it never appears (errno results do).
 */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  readonly call: string;
  readonly errno: number;
  readonly code: string;

  constructor(call: string, errno: number, context?: string) {
    super(`${context === undefined ? '' : `${context}: `}${call}: ${errnoText(errno)}`);
    this.call = call;
    this.errno = errno;
    this.code = errnoName(errno);
  }
}

/** The command line is wrong. Policy: message on stderr, exit status 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** A well-formed order that cannot be carried out. Policy: message on stderr, exit status 1. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError';
}

/** What the user or the environment is to blame for, with what it is about before it; else `error`. */
export function about(subject: string, error: unknown): unknown {
  if (error instanceof UsageError) return new UsageError(`${subject}: ${error.message}`);
  if (!(error instanceof RefusedError || error instanceof SystemError)) return error;
  return new RefusedError(`${subject}: ${error.message}`);
}
