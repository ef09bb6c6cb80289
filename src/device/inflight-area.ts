/**
 * The in-flight area as this back end makes it and finds it again: a memory file that the front end
 * keeps, with a region a queue (virtio/inflight.ts), and on the last page a mark that says which store
 * the requests in it were about.
 *
 *   ┌──────────┬──────────┬─ ─ ─ ─┬──────────────────────────┐
 *   │ region 0 │ region 1 │       │ mark: 8 bytes, uuid 16   │
 *   └──────────┴──────────┴─ ─ ─ ─┴──────────────────────────┘
 *
 * An area of another make has another size, no mark, and regions as large as its queue size says.
 */

import { readSync, writeSync } from 'node:fs';
import { errnoText, RefusedError } from '../base/errors.ts';
import { PAGE_BYTES, roundUp } from '../base/units.ts';
import { createMemoryFile, mapFileWindow } from '../memory/memory-file.ts';
import { sharedFile } from '../memory/shared-file.ts';
import type { Window } from '../memory/window.ts';
import { tryMapAnonymousOver } from '../native/mapping.ts';
import type { Inflight } from '../vhost-user-ts/index.ts';
import { InflightRegion, inflightRegionBytes } from '../virtio/inflight.ts';
import { VIRTQ_SIZE_MAX } from '../virtio/split-ring.ts';

/** QEMU 10 makes rings of 1024 whatever size it names here. */
const ENTRIES_MIN = 1024;
const BYTES_MAX = 2 ** 30;
const MARK = Buffer.from('rzswinfl');
const UUID_BYTES = 16;

/** An area and its file's descriptor. */
export interface TrackedInflight {
  readonly inflight: Inflight;
  readonly fd: number;
}

function ownRegionBytes(queueSize: number): number {
  return inflightRegionBytes(Math.max(queueSize, ENTRIES_MIN));
}

function ownBytes(queues: number, queueSize: number): number {
  return roundUp(queues * ownRegionBytes(queueSize), PAGE_BYTES) + PAGE_BYTES;
}

/** By its size, which front ends give back as they were told it. */
function isOwn({ mmapBytes, queues, queueSize }: Inflight): boolean {
  return mmapBytes === ownBytes(queues, queueSize);
}

/** A new area, all zeros; the descriptor is the caller's. Throws RefusedError. */
export function makeInflightArea(queues: number, queueSize: number): TrackedInflight {
  if (queues === 0 || queueSize === 0 || queueSize > VIRTQ_SIZE_MAX) {
    const got = `${queues} of ${queueSize}`;
    throw new RefusedError(`expected queues, of up to ${VIRTQ_SIZE_MAX} descriptors, got ${got}`);
  }
  const mmapBytes = ownBytes(queues, queueSize);
  const fd = createMemoryFile('ramzswap-inflight', mmapBytes);
  return { inflight: { mmapBytes, mmapOffset: 0, queues, queueSize }, fd };
}

export class InflightArea {
  readonly #window: Window;
  readonly #queues: number;
  readonly #regionBytes: number;
  readonly #entries: number;

  /**
   * Maps it as far as `queuesMax` queues need, however much more the front end has made; the caller
   * keeps `fd`. Throws RefusedError for what is no area.
   */
  constructor(inflight: Inflight, fd: number, queuesMax: number) {
    checkInflightArea(inflight, fd);
    const { queues, queueSize } = inflight;
    this.#queues = Math.min(queues, queuesMax);
    this.#entries = isOwn(inflight) ? Math.max(queueSize, ENTRIES_MIN) : queueSize;
    this.#regionBytes = inflightRegionBytes(this.#entries);
    this.#window = mapFileWindow(fd, inflight.mmapOffset, this.#queues * this.#regionBytes);
  }

  /** Unmaps it; nobody uses a region of it any more. 0, or the negated errno: it stays mapped. */
  release(): number {
    return tryMapAnonymousOver(this.#window.u8, 0, this.#window.bytes);
  }

  /** The region of a queue. Throws RefusedError where the area has none. */
  region(queue: number): InflightRegion {
    if (queue >= this.#queues) {
      throw new RefusedError(
        `in-flight area: expected one for queue ${queue}, got one for ${this.#queues} queues`,
      );
    }
    return new InflightRegion(this.#window, queue * this.#regionBytes, this.#entries);
  }
}

/** Throws RefusedError, with what was expected, unless the area can be mapped. */
export function checkInflightArea(inflight: Inflight, fd: number): void {
  const { mmapBytes, mmapOffset, queues, queueSize } = inflight;
  const refuse = (what: string) => {
    throw new RefusedError(`in-flight area: expected ${what}`);
  };
  if (queues === 0 || queueSize === 0 || queueSize > VIRTQ_SIZE_MAX) {
    refuse(`queues, of up to ${VIRTQ_SIZE_MAX} descriptors, got ${queues} of ${queueSize}`);
  }
  const least = queues * inflightRegionBytes(queueSize);
  if (mmapBytes < least || mmapBytes > BYTES_MAX) {
    refuse(`${least} to ${BYTES_MAX} bytes for ${queues} queues, got ${mmapBytes}`);
  }
  if (mmapOffset % PAGE_BYTES !== 0) refuse(`a page aligned offset, got ${mmapOffset}`);
  sharedFile('in-flight area', fd, mmapOffset + mmapBytes);
}

/**
 * The store that the area's requests are about; undefined: it does not say. Throws RefusedError where
 * the file cannot be read.
 */
export function markedStore(inflight: Inflight, fd: number): Uint8Array | undefined {
  if (!isOwn(inflight)) return undefined;
  const bytes = Buffer.alloc(MARK.length + UUID_BYTES);
  onFile('read', () => readSync(fd, bytes, 0, bytes.length, markOffset(inflight)));
  if (Buffer.compare(bytes.subarray(0, MARK.length), MARK) !== 0) return undefined;
  return new Uint8Array(bytes.subarray(MARK.length));
}

/** Throws RefusedError where the file cannot be written. */
export function markStore(inflight: Inflight, fd: number, uuid: Uint8Array): void {
  if (!isOwn(inflight)) return;
  const mark = Buffer.concat([MARK, uuid]);
  onFile('write', () => writeSync(fd, mark, 0, undefined, markOffset(inflight)));
}

function markOffset({ mmapBytes, mmapOffset }: Inflight): number {
  return mmapOffset + mmapBytes - PAGE_BYTES;
}

/** The file is the front end's, who may have truncated or sealed it meanwhile. */
function onFile(call: string, use: () => number): void {
  try {
    use();
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno === undefined) throw error;
    throw new RefusedError(`in-flight area: ${call}: ${errnoText(-errno)}`);
  }
}
