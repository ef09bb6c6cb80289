/** Folders where stores may be kept: in memory, for their owner alone. */

import { mkdtempSync, rmSync } from 'node:fs';

export interface TmpfsFolder {
  readonly path: string;
  readonly remove: () => void;
}

export function makeTmpfsFolder(): TmpfsFolder {
  const path = mkdtempSync('/dev/shm/rz-test-');
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}
