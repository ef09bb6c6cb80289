/**
 * A device's backing swap put together: staging window, asynchronous I/O, pages in I/O, and the store
 * that decides what goes there. Belongs to one reactor.
 */

import type { BackingFile } from '../backing/backing-file.ts';
import { type Extent, ExtentMap } from '../backing/extent-map.ts';
import { FaultIo } from '../backing/fault-io.ts';
import { PageIo } from '../backing/page-io.ts';
import { SystemError } from '../base/errors.ts';
import { LATENCY } from '../base/latency.ts';
import { releaseWindow } from '../memory/memory-file.ts';
import { WINDOW_WORK_BYTES } from '../memory/window.ts';
import type { AsyncIo, IoPages } from '../native/async-io.ts';
import { IoUring } from '../native/io-uring.ts';
import { LinuxAio } from '../native/linux-aio.ts';
import { BackedStore, STAGING_PAGES, STAGING_WINDOW_BYTES } from '../store/backed-store.ts';
import type { PageStore } from '../store/page-store.ts';
import { PageWindow } from '../store/page-window.ts';

/** I/Os in flight: what a fast disk wants, and more than a ring of 128 asks for at once. */
const IO_DEPTH = 128;

export const BACKING_IO_KINDS = ['auto', 'io_uring', 'aio'] as const;
export type BackingIoKind = (typeof BACKING_IO_KINDS)[number];

/** A checked and opened backing swap, as plain data that another thread can be given. */
export interface BackingOptions {
  readonly path: string;
  /** Taken over: opened with O_DIRECT. */
  readonly fd: number;
  readonly extents: readonly Extent[];
  /** The beginning of the area: its swap header. */
  readonly start: Uint8Array;
  /** SHA-256 of what it is: file, size, extents. */
  readonly identity: Uint8Array;
  readonly memlimitBytes: number;
  readonly io: BackingIoKind;
  /** Faults can be ordered. */
  readonly hasFaults: boolean;
}

export function backingOptions(
  file: BackingFile,
  rest: Pick<BackingOptions, 'memlimitBytes' | 'io' | 'hasFaults'>,
): BackingOptions {
  const { path, fd, map, start, identity } = file;
  return { path, fd, extents: map.extents, start, identity, ...rest };
}

export interface Backing {
  readonly store: BackedStore;
  /** How I/O is done, for people. */
  readonly ioName: string;
  readonly faults: FaultIo | undefined;
  /** No I/O is under way. The backing swap's own descriptor stays the caller's. */
  close(): void;
}

/** Throws SystemError where the kernel offers neither way of asynchronous I/O. */
export function makeBacking(
  options: BackingOptions,
  memory: PageStore,
  headerSlots: number,
): Backing {
  const window = new PageWindow(STAGING_WINDOW_BYTES);
  const pages = { view: window.u8, offset: WINDOW_WORK_BYTES, count: STAGING_PAGES };
  const plain = makeIo(options, pages);
  const faults = options.hasFaults ? new FaultIo(plain, pages) : undefined;
  const { latencies } = memory.mapped;
  const store = new BackedStore({
    memory,
    window,
    headerSlots,
    memlimitBytes: options.memlimitBytes,
    pages: new PageIo({
      io: faults ?? plain,
      map: new ExtentMap(options.extents),
      stagingPages: STAGING_PAGES,
      readLatency: latencies.subarray(0, LATENCY.DOUBLES),
      writeLatency: latencies.subarray(LATENCY.DOUBLES),
    }),
  });
  const close = () => {
    try {
      plain.close();
    } finally {
      releaseWindow(window);
    }
  };
  return { store, ioName: plain.name, faults, close };
}

function makeIo({ fd, io }: BackingOptions, pages: IoPages): AsyncIo {
  if (io === 'aio') return new LinuxAio(fd, pages, IO_DEPTH);
  try {
    return new IoUring(fd, pages, IO_DEPTH);
  } catch (error) {
    // Forbidden in many containers, and by some distributions' default.
    if (io === 'io_uring' || !(error instanceof SystemError)) throw error;
    return new LinuxAio(fd, pages, IO_DEPTH);
  }
}
