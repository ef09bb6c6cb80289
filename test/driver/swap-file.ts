/** Swap files for tests, made by the programs that people use: fallocate and mkswap. */

import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from './sockets.ts';

const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;

export interface SwapFile {
  readonly path: string;
  readonly remove: () => void;
}

/** A swap file of unwritten extents in a folder of its own. `mkswapArgs`: such as `-L name`. */
export function makeSwapFile(bytes: number, ...mkswapArgs: string[]): SwapFile {
  const folder = makeFolder();
  const path = join(folder.path, 'swap');
  const env = { ...process.env, PATH };
  execFileSync('fallocate', ['-l', `${bytes}`, path], { env });
  chmodSync(path, 0o600);
  execFileSync('mkswap', [...mkswapArgs, path], { env, stdio: 'ignore' });
  return { path, remove: folder.remove };
}

/** The first page of a swap area. */
export function headerOf(path: string): Buffer {
  return readFileSync(path).subarray(0, 4096);
}
