/**
 * Descriptors whose last close frees memory (a guest's RAM when its QEMU has ended, the store of a device
 * that is reset): 0.2 s a GiB, in which a reactor would serve nobody. It reports them to the control
 * thread, which closes them one at a time in a thread of Node's pool: so that takes no
 * more than one processor, and nobody waits for it who does not want to.
 */

import { close, fstatSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { closeFd, discardTo } from '../native/fd.ts';
import type { Discarded, ReactorReport } from './orders.ts';

/**
 * Open at most, of all devices of a reactor: as many as a guest with every memory slot filled has. A
 * front end that is faster than the control thread waits for its own.
 */
export const DISCARDED_MAX = 512;

/**
 * And so many more each millisecond once there were as many: each costs the control thread some 50 µs,
 * and a front end that shares the same file again and again nothing.
 */
const DISCARDED_PER_MILLI = 0.5;
/** What holds less is closed at once: that takes 0.2 ms. */
const LARGE_BYTES = 2 ** 20;

/** From now on this thread reports what it discards, of files that hold much. `millis`: a clock. */
export function reportDiscarded(
  discarded: Discarded,
  post: (report: ReactorReport) => void,
  millis = () => performance.now(),
): void {
  let room = DISCARDED_MAX;
  let since = millis();
  const isRoomFor = (count: number) => {
    const now = millis();
    room = Math.min(DISCARDED_MAX, room + (now - since) * DISCARDED_PER_MILLI);
    since = now;
    return count <= room && Atomics.load(discarded, 0) + count <= DISCARDED_MAX;
  };
  discardTo((fds) => {
    const large = fds.filter(isLarge);
    const reported = large.length > 0 && isRoomFor(large.length) ? large : [];
    for (const fd of fds) if (!reported.includes(fd)) closeFd(fd);
    if (reported.length === 0) return;
    room -= reported.length;
    Atomics.add(discarded, 0, reported.length);
    post({ kind: 'discarded', fds: reported });
  });
}

/** A peer's file system may answer with an error. */
function isLarge(fd: number): boolean {
  try {
    return fstatSync(fd).blocks * 512 >= LARGE_BYTES;
  } catch {
    return false;
  }
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
