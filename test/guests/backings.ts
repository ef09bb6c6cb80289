/** What a scenario's disk is backed by: a swap file in many pieces, or a loop device. */

import { join } from 'node:path';
import { Disks, EXT4_1K, makeCrumbs, makeSwap } from '../driver/file-systems.ts';
import { SEED, seededRandom } from '../models/random.ts';

const MIB = 2 ** 20;
const BYTES = 512 * MIB;
/** Pieces of 1 to 128 KiB, half of that on average. */
const PIECE_BYTES_MAX = 128 * 1024;

export interface MadeBacking {
  readonly path: string;
  readonly remove: () => void;
}

/** 512 MiB in more than a thousand pieces, most of which do not begin at a page of the disk. */
export function fragmentedFile(): MadeBacking {
  const disks = new Disks();
  try {
    const { folder } = disks.make({ ...EXT4_1K, bytes: BYTES + 128 * MIB });
    const path = join(folder, 'swap');
    const pieces = Math.round((2 * BYTES) / PIECE_BYTES_MAX);
    makeCrumbs(path, seededRandom(SEED), { pieces, step: 1024, most: PIECE_BYTES_MAX });
    makeSwap(path);
    return { path, remove: () => disks.undo() };
  } catch (error) {
    disks.undo();
    throw error;
  }
}

export function loopDevice(): MadeBacking {
  const disks = new Disks();
  try {
    const path = disks.attach(disks.image(BYTES));
    makeSwap(path);
    return { path, remove: () => disks.undo() };
  } catch (error) {
    disks.undo();
    throw error;
  }
}
