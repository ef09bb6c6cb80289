/** A file system of its own for the tests of one `describe`. */

import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { Disks, type FileSystemKind, type MadeFileSystem } from './file-systems.ts';

export interface Mounted {
  readonly disks: Disks;
  /** Where it is mounted. */
  readonly folder: string;
  /** Of a file that is not there yet. */
  newPath(): string;
}

/** Made before the first test and undone after the last; to be used within tests only. */
export function mountedForAll(kind: FileSystemKind): Mounted {
  let disks: Disks | undefined;
  let made: MadeFileSystem | undefined;
  let files = 0;

  beforeAll(() => {
    disks = new Disks();
    made = disks.make(kind);
  });
  afterAll(() => disks?.undo());

  return {
    get disks() {
      return disks!;
    },
    get folder() {
      return made!.folder;
    },
    newPath: () => join(made!.folder, `swap${files++}`),
  };
}
