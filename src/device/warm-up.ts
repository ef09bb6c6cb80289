/**
 * What a process does before it takes over from another: the code that serves pages is loaded, and
 * compiled by being used, so that a guest does not wait for that.
 */

import { WINDOW_WORK_BYTES } from '../memory/window.ts';
import { closeFd } from '../native/fd.ts';
import { PageStore } from '../store/page-store.ts';
import { PageWindow } from '../store/page-window.ts';

const SLOTS = 64;
const ROUNDS = 60;

/** Writes, reads and frees pages of a store of its own; some 50 ms. */
export function warmUp(): void {
  const store = PageStore.make({ slots: SLOTS });
  const window = new PageWindow(2 * WINDOW_WORK_BYTES);
  const offset = WINDOW_WORK_BYTES;
  const words = new Int32Array(window.memory.buffer, offset, 1024);
  for (let round = 0; round < ROUNDS; round++) {
    for (let slot = 0; slot < SLOTS; slot++) {
      // From pages that hardly compress to such that are nearly empty.
      const noisy = (slot * 1024) / SLOTS;
      words.fill(0);
      for (let i = 0; i < noisy; i++) words[i] = Math.imul(i + round, 0x9e3779b1) >> (slot & 15);
      store.writePage(slot, window, offset);
      store.readPage(slot, window, offset);
      if ((slot + round) % 3 === 0) store.freePage(slot);
    }
  }
  const { fd, arenaFd } = store.mapped.shared;
  store.mapped.release();
  closeFd(fd);
  closeFd(arenaFd);
}
