/** What it is to be refused as a backing swap. */

import { closeSync } from 'node:fs';
import { expect } from 'vitest';
import { openBackingFile } from '../../src/backing/backing-file.ts';
import { RefusedError } from '../../src/base/errors.ts';
import { countOpenFds } from '../models/descriptors.ts';
import { fingerprint } from './file-systems.ts';

/** Refused with exactly this reason; nothing stays open, and the file `unchanged` is as it was. */
export function expectRefused(path: string, reason: string, unchanged?: string): void {
  const before = unchanged === undefined ? undefined : fingerprint(unchanged);
  const fds = countOpenFds();
  let error: unknown;
  try {
    closeSync(openBackingFile(path, 4096).fd);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(RefusedError);
  expect((error as Error).message).toBe(`backing swap ${path}: ${reason}`);
  expect(countOpenFds()).toBe(fds);
  if (unchanged !== undefined) expect(fingerprint(unchanged)).toEqual(before);
}
