/**
 * A zram of the host's as a disk to be served by somebody: added for the purpose and removed again,
 * so that those that are there, in use or not, are never touched.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { getuid } from 'node:process';

const CONTROL = '/sys/class/zram-control';
const REMOVE_MILLIS_MAX = 3000;
const ALGORITHM = 'lzo';

const sleepWord = new Int32Array(new SharedArrayBuffer(4));

export interface Zram {
  /** The block device. */
  readonly path: string;
  /** Synchronous: a process that ends has only that. Whoever has it open ends first. */
  remove(): void;
}

/** An empty disk of that size, compressed as ours is. */
export function addZram(bytes: number): Zram {
  const index = readFileSync(`${CONTROL}/hot_add`, 'utf8').trim();
  const zram = { path: `/dev/zram${index}`, remove: () => hotRemove(index) };
  try {
    writeFileSync(`/sys/block/zram${index}/comp_algorithm`, ALGORITHM);
    writeFileSync(`/sys/block/zram${index}/disksize`, String(bytes));
    if (!existsSync(zram.path)) throw new Error(`${zram.path} does not appear`);
    return zram;
  } catch (error) {
    zram.remove();
    throw error;
  }
}

/** Why no zram is to be had here; undefined: one is. */
export function zramMissing(): string | undefined {
  if (!existsSync(CONTROL)) return 'no zram on this host (modprobe zram)';
  if (getuid?.() !== 0) return 'zram is for root';
  try {
    addZram(2 ** 20).remove();
    return undefined;
  } catch (error) {
    return `no zram with ${ALGORITHM}: ${(error as Error).message}`;
  }
}

function hotRemove(index: string): void {
  const deadline = Date.now() + REMOVE_MILLIS_MAX;
  for (;;) {
    try {
      writeFileSync(`${CONTROL}/hot_remove`, index);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
      Atomics.wait(sleepWord, 0, 0, 20);
    }
  }
}
