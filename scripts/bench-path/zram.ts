/**
 * The host's own zram as a disk to be served by somebody: set up and taken down again. One that is in
 * use, by whomever, is left alone.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { getuid } from 'node:process';

export const ZRAM_DEVICE = '/dev/zram0';
const ZRAM = '/sys/block/zram0';
const RESET_MILLIS_MAX = 3000;
const ALGORITHM = 'lzo';

const sleepWord = new Int32Array(new SharedArrayBuffer(4));

function attribute(name: string): string {
  return readFileSync(`${ZRAM}/${name}`, 'utf8').trim();
}

/** Why the host's zram is not to be had; undefined: it is. */
export function zramMissing(): string | undefined {
  if (!existsSync(ZRAM)) return 'no zram0 on this host (modprobe zram)';
  if (getuid?.() !== 0) return 'zram0 is for root';
  if (
    !attribute('comp_algorithm')
      .split(/[\s[\]]+/)
      .includes(ALGORITHM)
  ) {
    return `zram0 does not know ${ALGORITHM}`;
  }
  const isSwap = /^\/dev\/zram0\s/m.test(readFileSync('/proc/swaps', 'utf8'));
  if (isSwap || attribute('initstate') !== '0' || attribute('disksize') !== '0') {
    return `zram0 is in use (if it is not: echo 1 >${ZRAM}/reset)`;
  }
  return undefined;
}

/** An empty disk of that size, compressed as ours is. */
export function setUpZram(bytes: number): void {
  const missing = zramMissing();
  if (missing !== undefined) throw new Error(missing);
  writeFileSync(`${ZRAM}/comp_algorithm`, ALGORITHM);
  writeFileSync(`${ZRAM}/disksize`, String(bytes));
}

/** Undoes setUpZram, synchronously: a process that ends has only that. Whoever has it open ends first. */
export function resetZram(): void {
  const deadline = Date.now() + RESET_MILLIS_MAX;
  for (;;) {
    try {
      writeFileSync(`${ZRAM}/reset`, '1');
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || Date.now() > deadline) throw error;
      Atomics.wait(sleepWord, 0, 0, 20);
    }
  }
}
