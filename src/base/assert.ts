/**
 * Assertions for our own bugs only. A peer's mistake or a refused system call is never an
 * assertion: those have error types of their own (see errors.ts). A failed assertion ends the
 * process; the store is rebuilt from its table.
 */

/** Policy: our bug; nothing catches it, the process ends. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

export function assert(condition: boolean, claim: string): asserts condition {
  if (!condition) throw new AssertionError(claim);
}
