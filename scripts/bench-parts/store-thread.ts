/**
 * One thread that writes and reads pages of a store as fast as it can, for main.ts: rounds begin
 * when the parent says so, last as long as it says, and end with a count.
 */

import { parentPort, workerData } from 'node:worker_threads';
import { WINDOW_WORK_BYTES } from '../../src/memory/window.ts';
import { PageStore, type StoreShare } from '../../src/store/page-store.ts';
import { PageWindow } from '../../src/store/page-window.ts';

const PAGE_BYTES = 4096;
/** Between two looks at the clock. */
const BATCH = 64;

export type Kind = 'write' | 'read';

export interface ThreadData {
  readonly share: StoreShare;
  readonly thread: number;
  /** The slots that this thread uses: from first on, as many as there are pages. */
  readonly first: number;
  readonly corpus: SharedArrayBuffer;
}

export interface Round {
  readonly kind: Kind;
  readonly millis: number;
}

function main({ share, thread, first, corpus }: ThreadData): void {
  const store = PageStore.join(share, thread);
  const pages = corpus.byteLength / PAGE_BYTES;
  const window = new PageWindow(WINDOW_WORK_BYTES + corpus.byteLength + PAGE_BYTES);
  window.u8.set(new Uint8Array(corpus), WINDOW_WORK_BYTES);
  const target = WINDOW_WORK_BYTES + corpus.byteLength;
  let x = thread + 1;
  const next = () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return Math.floor((x / 2 ** 32) * pages);
  };
  parentPort!.on('message', ({ kind, millis }: Round) => {
    let count = 0;
    const start = performance.now();
    const end = start + millis;
    let now = start;
    for (; now < end; now = performance.now()) {
      for (let i = 0; i < BATCH; i++) {
        const slot = first + next();
        if (kind === 'write') {
          store.writePage(slot, window, WINDOW_WORK_BYTES + next() * PAGE_BYTES);
        } else {
          store.readPage(slot, window, target);
        }
      }
      count += BATCH;
    }
    parentPort!.postMessage((count / (now - start)) * 1000);
  });
  for (let i = 0; i < pages; i++) {
    store.writePage(first + i, window, WINDOW_WORK_BYTES + i * PAGE_BYTES);
  }
  parentPort!.postMessage(0);
}

main(workerData as ThreadData);
