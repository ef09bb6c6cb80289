/**
 * The dirty log: a bitmap that the front end shares while it migrates a guest, a bit for each page of
 * 4096 bytes from guest address 0 on. We set the bits of pages that we have written; the front end
 * takes bits out at any moment and copies those pages again. It knows no ring: who writes to guest
 * memory says so by mark().
 *
 *   guest address  …  │ bit │ page │           page = address / 4096
 *                     47   15     12    0      log[page / 8] |= 1 << page % 8
 *
 * Order: first the bytes, then their bit. The front end takes a bit out and only then copies the
 * page, so whatever bit it takes, the bytes before it are copied with it, and a bit set later brings
 * the page back; the other way round it could copy between bit and bytes. So that the bytes are seen
 * before the bit, setting it is an atomic read-modify-write, a full barrier on the machines this runs
 * on; and it is done also where the bit was set already, for it may be taken out meanwhile.
 *
 * Life: isOn by VHOST_F_LOG_ALL, map() by SET_LOG_BASE, in any order and any number of times → drop()
 * or release(). On without a log, or written beyond it: missed, and told once.
 */

import { errnoText, RefusedError } from '../base/errors.ts';
import { PAGE_BYTES, roundUp } from '../base/units.ts';
import { mapFileOver, tryMapAnonymousOver } from '../native/mapping.ts';
import { signalPeerEventFd } from '../native/peer-eventfd.ts';
import { sharedFile } from './shared-file.ts';
import { WINDOW_BYTES_MAX, Window } from './window.ts';

/** VHOST_LOG_PAGE: whatever the guest's own pages are. */
export const LOG_PAGE_BYTES = 4096;
const PAGES_PER_BYTE = 8;
const LOG_PAGE_SHIFT = 12;
/** What a byte of the log covers, and where a high half leaves the largest log. */
const BYTE_SHIFT = 15;
const HIGH_SHIFT = 14;
const TWO_32 = 2 ** 32;
const NOTHING = new Uint8Array(0);

/** Where the log lies in its file; bytes, below 2^53. */
export interface LogArea {
  readonly mmapSize: number;
  readonly mmapOffset: number;
}

export class DirtyLog {
  /** Whether writes are to be marked: the front end has acknowledged VHOST_F_LOG_ALL. */
  isOn = false;
  /** To be signalled when a bit is set that was not; the caller's. */
  eventFd: number | undefined;
  /** Called once until release(), when a write could not be marked. */
  onMiss: (what: string) => void = () => {};

  /** Called when it could not be unmapped. */
  onTrouble: (what: string) => void = () => {};

  readonly #unmap: typeof tryMapAnonymousOver;
  #window: Window | undefined;
  #u8: Uint8Array = NOTHING;
  /** Bytes of the log; 0: there is none. */
  #bytes = 0;
  #mappedBytes = 0;
  #hasMissed = false;

  /** `unmap`: lays anonymous memory over a range; 0 or the negated errno. */
  constructor(unmap = tryMapAnonymousOver) {
    this.#unmap = unmap;
  }

  /**
   * From now on bits are set in this part of the file `fd`, which the caller keeps and may close. A
   * RefusedError for what the log cannot be leaves the one before in force.
   */
  map(area: LogArea, fd: number): void {
    checkAgainstFile(area, fd);
    this.drop();
    const length = roundUp(area.mmapSize, PAGE_BYTES);
    if (this.#window === undefined || this.#window.bytes < length) {
      // Twice as large each time: a window that is let go of is address space until it is collected.
      this.#window = makeWindow(Math.min(2 ** Math.ceil(Math.log2(length)), WINDOW_BYTES_MAX));
    }
    mapFileOver(this.#window.u8, 0, length, fd, area.mmapOffset);
    this.#mappedBytes = length;
    this.#u8 = this.#window.u8;
    this.#bytes = area.mmapSize;
  }

  /** There is no log any more; the window stays for the next. */
  drop(): void {
    this.#bytes = 0;
    this.#u8 = NOTHING;
    if (this.#mappedBytes === 0) return;
    const result = this.#unmap(this.#window!.u8, 0, this.#mappedBytes);
    this.#mappedBytes = 0;
    if (result === 0) return;
    // It goes with its window, when that is collected.
    this.#window = undefined;
    this.onTrouble(`the dirty log stays mapped: mmap: ${errnoText(-result)}`);
  }

  /** As made. */
  release(): void {
    this.drop();
    this.#window = undefined;
    this.#hasMissed = false;
    this.isOn = false;
    this.eventFd = undefined;
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * `bytes` at this guest address (two halves, signed or not) have been written.
   */
  mark(lo: number, hi: number, bytes: number): void {
    if (this.isOn) this.#setBits(lo, hi, bytes);
  }

  /** Apart from mark(), which is small enough to be compiled into its callers. */
  #setBits(lo: number, hi: number, bytes: number): void {
    // The byte is address / 2^15. A log has at most 2^31 of them: high halves from 2^14 on are
    // beyond it, and below them all of this is small integers.
    let at =
      hi >>> HIGH_SHIFT === 0 ? (hi << (32 - BYTE_SHIFT)) | (lo >>> BYTE_SHIFT) : this.#bytes;
    let bit = (lo >>> LOG_PAGE_SHIFT) & (PAGES_PER_BYTE - 1);
    const inPage = lo & (LOG_PAGE_BYTES - 1);
    for (let end = inPage + bytes; end > 0; end -= LOG_PAGE_BYTES) {
      if (at >= this.#bytes) {
        this.#miss(lo, hi, bytes);
        return;
      }
      const mask = 1 << bit;
      const before = Atomics.or(this.#u8, at, mask);
      if (this.eventFd !== undefined && (before & mask) === 0) signalPeerEventFd(this.eventFd);
      bit++;
      if (bit === PAGES_PER_BYTE) {
        bit = 0;
        at++;
      }
    }
  }

  /** Cold path: it tells once. */
  #miss(lo: number, hi: number, bytes: number): void {
    if (this.#hasMissed) return;
    this.#hasMissed = true;
    const end = (hi >>> 0) * TWO_32 + (lo >>> 0) + bytes;
    const needed = Math.ceil(end / (LOG_PAGE_BYTES * PAGES_PER_BYTE));
    this.onMiss(
      `written up to guest address 0x${end.toString(16)}, which is not in the dirty log ` +
        `(expected ${needed} bytes of it, got ${this.#bytes}): a migration may miss it`,
    );
  }
}

function makeWindow(bytes: number): Window {
  try {
    return new Window(bytes);
  } catch (error) {
    // What WebAssembly.Memory throws when address space or commit limit are used up.
    if (!(error instanceof RangeError)) throw error;
    throw new RefusedError(`no address space for a dirty log of ${bytes} bytes`);
  }
}

/** As for guest memory: pages beyond the end of a file would end the process. */
function checkAgainstFile({ mmapSize, mmapOffset }: LogArea, fd: number): void {
  if (mmapSize <= 0 || mmapSize > WINDOW_BYTES_MAX) {
    throw new RefusedError(`dirty log: expected 1 to ${WINDOW_BYTES_MAX} bytes, got ${mmapSize}`);
  }
  if (mmapOffset % PAGE_BYTES !== 0) {
    throw new RefusedError(
      `dirty log: expected an offset of whole pages of ${PAGE_BYTES} bytes, got ${mmapOffset}`,
    );
  }
  sharedFile('dirty log', fd, mmapOffset + mmapSize);
}
