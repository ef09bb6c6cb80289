/**
 * Descriptors whose last close frees memory (a guest's RAM when its QEMU has ended, the store of a device
 * that is reset): 0.2 s a GiB, in which a reactor would serve nobody. It reports them to the control
 * thread, which closes them one at a time in a thread of Node's pool: so that takes no
 * more than one processor, and nobody waits for it who does not want to.
 */

import { close } from 'node:fs';
import { assert } from '../base/assert.ts';
import { closeFd, discardTo } from '../native/fd.ts';
import type { Discarded, ReactorReport } from './orders.ts';

/**
 * Open at most, of all devices of a reactor: as many as a guest with every memory slot filled has. A
 * front end that is faster than the control thread waits for its own.
 */
export const DISCARDED_MAX = 512;

/** From now on this thread reports what it discards. */
export function reportDiscarded(discarded: Discarded, post: (report: ReactorReport) => void): void {
  discardTo((fds) => {
    const before = Atomics.add(discarded, 0, fds.length);
    if (before + fds.length <= DISCARDED_MAX) {
      post({ kind: 'discarded', fds });
      return;
    }
    Atomics.sub(discarded, 0, fds.length);
    for (const fd of fds) closeFd(fd);
  });
}

/** The control thread's side. */
export class DiscardedFds {
  readonly discarded: Discarded = new Int32Array(new SharedArrayBuffer(4));
  #closed: Promise<void> = Promise.resolve();

  /** Takes them over. */
  take(fds: readonly number[]): void {
    for (const fd of fds) this.#closed = this.#closed.then(() => this.#close(fd));
  }

  /** When all that was taken until now is closed, and what that frees is free. */
  async settled(): Promise<void> {
    await this.#closed;
  }

  #close(fd: number): Promise<void> {
    return new Promise((resolve) => {
      close(fd, (error) => {
        // Whatever else it says, the descriptor is gone.
        assert(error?.code !== 'EBADF', 'a descriptor is closed once');
        Atomics.sub(this.discarded, 0, 1);
        resolve();
      });
    });
  }
}
