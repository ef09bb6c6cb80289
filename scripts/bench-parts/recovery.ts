/**
 * One process with a store in files, for main.ts: `fill DIRECTORY` writes a GiB of compressed pages and
 * ends without a word to the store, `recover DIRECTORY` finds it and prints what that took as JSON.
 */

import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { makeStore, mapStore } from '../../src/store/mapped-store.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { COUNTER } from '../../src/store/statistics.ts';
import { openStoreFiles } from '../../src/store/store-files.ts';
import { storeShape } from '../../src/store/store-options.ts';
import { seededRandom } from '../../test/models/random.ts';

const PAGE_BYTES = 4096;
/** Of 600 to 1800 bytes compressed: a GiB. */
const SLOTS = 880_000;
const NAME = 'bench';

export interface RecoveryFigures {
  readonly pages: number;
  readonly bytes: number;
  readonly millis: number;
  /** Of processor time, kernel's included. */
  readonly cpuMillis: number;
}

function fill(directory: string): void {
  const files = openStoreFiles(directory, { name: NAME, slots: SLOTS, backing: undefined });
  const options = { name: NAME, slots: SLOTS };
  const store = PageStore.make(options, makeStore(storeShape(options), files));
  store.mapped.header.complete();
  const random = seededRandom(1);
  const window = new PageWindow(2 * WINDOW_WORK_BYTES);
  const noise = random.bytes(PAGE_BYTES);
  const slots = Uint32Array.from({ length: SLOTS }, (_, slot) => slot);
  for (let i = SLOTS - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [slots[i], slots[other]] = [slots[other]!, slots[i]!];
  }
  // In no order, and every fifth page twice: guests do not swap from one end to the other.
  for (let i = 0; i < SLOTS * 1.2; i++) {
    const slot = i < SLOTS ? slots[i]! : random.below(SLOTS);
    window.u8.fill(0, WINDOW_WORK_BYTES, WINDOW_WORK_BYTES + PAGE_BYTES);
    // A head of noise compresses to its own length and little more.
    window.u8.set(noise.subarray(0, random.between(580, 1780)), WINDOW_WORK_BYTES);
    store.writePage(slot, window, WINDOW_WORK_BYTES);
  }
}

function recover(directory: string): RecoveryFigures {
  const begun = process.cpuUsage();
  const start = performance.now();
  const files = openStoreFiles(directory, { name: NAME, slots: SLOTS, backing: undefined });
  const options = { name: NAME, slots: SLOTS };
  const [store] = PageStore.recover(options, mapStore(storeShape(options), files));
  const millis = performance.now() - start;
  const { user, system } = process.cpuUsage(begun);
  const { counters } = store;
  return {
    pages: counters[COUNTER.pagesStored]!,
    bytes: counters[COUNTER.comprDataSize]!,
    millis,
    cpuMillis: (user + system) / 1000,
  };
}

const [order, directory] = process.argv.slice(2) as [string, string];
if (order === 'fill') fill(directory);
else process.stdout.write(JSON.stringify(recover(directory)));
