/**
 * Guest memory: regions as the front end names them (guest address, user address, size, file and
 * offset), mapped into windows; translation of guest addresses to (window, offset). Every bounds
 * check on a guest's address is here.
 *
 * A region larger than a window is cut into parts of PART_BYTES; each part also maps the
 * OVERLAP_BYTES that follow it, so that anything contiguous up to that size (a ring, a table, a
 * page) lies in one window wherever it begins.
 *
 * Life of a region: add (checked against its file, mapped) → resolve, any number → remove or clear
 * (anonymous memory is laid over it).
 */

import { assert } from '../base/assert.ts';
import { errnoText, RefusedError } from '../base/errors.ts';
import { PAGE_BYTES, roundUp } from '../base/units.ts';
import {
  bytesToAlignment,
  forgetResidentPages,
  mapFileOver,
  tryMapAnonymousOver,
} from '../native/mapping.ts';
import { DirtyLog } from './dirty-log.ts';
import { sharedFile } from './shared-file.ts';
import { WINDOW_BYTES_MAX, WINDOW_WORK_BYTES, type Window } from './window.ts';

const PART_BYTES = 2 ** 30;
const OVERLAP_BYTES = 2 ** 20;
/** 1024 page-table entries, of pages that are all there: half a millisecond on a slow host. */
const FORGET_STEP_BYTES = 2 ** 22;
/**
 * Windows come in multiples of this (address space, not memory): small regions share them, and
 * whatever sizes a front end adds and removes, few windows serve them all again.
 */
const WINDOW_STEP_BYTES = 2 ** 26;
/** What a board with every memory slot filled needs; also KVM's number of user slots. */
export const REGIONS_MAX = 509;
/**
 * More is no guest: a window of address space is reserved for every GiB, 5 ms and 10 GiB of the
 * process's 128 TiB each, and nothing else is served meanwhile.
 */
export const GUEST_BYTES_MAX = 2 ** 40;
const TWO_32 = 2 ** 32;

/** A memory region as vhost-user describes it; all numbers are bytes below 2^53. */
export interface GuestRegion {
  readonly guestAddress: number;
  readonly userAddress: number;
  readonly bytes: number;
  readonly mmapOffset: number;
}

/** Whether both are the same for REM_MEM_REG: the mmap offset is not compared. */
export function isSameRegion(a: GuestRegion, b: GuestRegion): boolean {
  return (
    a.guestAddress === b.guestAddress && a.userAddress === b.userAddress && a.bytes === b.bytes
  );
}

interface Part<W extends Window> {
  readonly region: GuestRegion;
  /** Offset of this part in its region, and how much of the region it answers for. */
  readonly start: number;
  readonly bytes: number;
  /** Bytes readable from the part's beginning: `bytes` and the overlap. */
  readonly mappedBytes: number;
  readonly window: W;
  readonly offset: number;
  /** The mapping itself: page aligned, maybe beginning before `offset`. */
  readonly mapOffset: number;
  readonly mapBytes: number;
  readonly isHuge: boolean;
}

interface WindowUse<W extends Window> {
  readonly window: W;
  next: number;
  parts: number;
}

export class GuestMemory<W extends Window = Window> {
  /** Where the last successful resolve ended: valid until the next. */
  window: W | undefined;
  offset = 0;
  /** Whoever writes to guest memory marks it here, right after the write. */
  readonly log: DirtyLog;
  /** Called when memory could not be unmapped: it is held until its window is collected. */
  onTrouble: (what: string) => void = () => {};

  readonly #makeWindow: (bytes: number) => W;
  readonly #unmap: typeof tryMapAnonymousOver;
  readonly #uses: WindowUse<W>[] = [];
  #parts: Part<W>[] = [];
  #regions: GuestRegion[] = [];
  /** Per part, sorted by guest address: first and end address. */
  #bounds = new Float64Array(0);
  #last = 0;
  /** How far forgetResidentStep() has come. */
  #forgetPart = 0;
  #forgetBytes = 0;

  /** `unmap`: lays anonymous memory over a range; 0 or the negated errno. */
  constructor(makeWindow: (bytes: number) => W, unmap = tryMapAnonymousOver) {
    this.#makeWindow = makeWindow;
    this.#unmap = unmap;
    this.log = new DirtyLog(unmap);
  }

  get regions(): readonly GuestRegion[] {
    return this.#regions;
  }

  /** Bytes of guest memory described by the front end. */
  get bytes(): number {
    return this.#regions.reduce((sum, region) => sum + region.bytes, 0);
  }

  /**
   * Maps a region of the file `fd`, which the caller keeps and may close afterwards. Throws
   * RefusedError where the region is malformed, overlaps another or exceeds its file.
   */
  addRegion(region: GuestRegion, fd: number): void {
    const blockBytes = checkAgainstFile(region, fd);
    this.#checkAgainstOthers(region);
    const added: Part<W>[] = [];
    try {
      const hugePart = blockBytes > OVERLAP_BYTES * 2;
      const overlap = hugePart ? 0 : Math.max(OVERLAP_BYTES, blockBytes);
      for (let start = 0; start < region.bytes; start += PART_BYTES) {
        const bytes = Math.min(PART_BYTES, region.bytes - start);
        const mappedBytes = Math.min(bytes + overlap, region.bytes - start);
        added.push(this.#mapPart({ region, start, bytes, mappedBytes }, blockBytes, fd));
      }
    } catch (error) {
      for (const part of added) this.#unmapPart(part);
      throw error;
    }
    this.#regions.push(region);
    this.#index([...this.#parts, ...added]);
  }

  /** Unmaps the region with these addresses and size; the mmap offset is not compared. */
  removeRegion(wanted: GuestRegion): void {
    const found = this.#regions.find((region) => isSameRegion(region, wanted));
    if (found === undefined) throw new RefusedError(`no such memory region: ${describe(wanted)}`);
    for (const part of this.#parts) if (part.region === found) this.#unmapPart(part);
    this.#regions = this.#regions.filter((region) => region !== found);
    this.#index(this.#parts.filter((part) => part.region !== found));
  }

  /** Unmaps everything; the windows stay, for the regions to come. */
  clear(): void {
    for (const part of this.#parts) this.#unmapPart(part);
    this.#regions = [];
    this.#index([]);
  }

  /**
   * Unmaps everything, the dirty log as well, and lets go of the windows: what the kernel will not unmap
   * goes with them, when they are collected. Throws SystemError then.
   */
  release(): void {
    try {
      this.clear();
    } finally {
      this.#regions = [];
      this.#index([]);
      this.#uses.length = 0;
      this.log.release();
    }
  }

  /**
   * HOT PATH: no allocation, no BigInt, no closures, no await.
   * Translates the guest address (two halves, signed or not): sets `window` and `offset` and returns
   * how many of `length` bytes are contiguous there; 0 when the address is in no region.
   */
  resolve(lo: number, hi: number, length: number): number {
    const address = (hi >>> 0) * TWO_32 + (lo >>> 0);
    const bounds = this.#bounds;
    let i = this.#last;
    if (!(address >= bounds[2 * i]! && address < bounds[2 * i + 1]!)) {
      i = this.#find(lo, hi);
      if (i < 0) return 0;
      this.#last = i;
    }
    const part = this.#parts[i]!;
    const inPart = (address - bounds[2 * i]!) | 0;
    this.window = part.window;
    this.offset = part.offset + inPart;
    const available = part.mappedBytes - inPart;
    return Math.min(available, length);
  }

  /**
   * Translates a user (front-end process) address, as ring addresses are given. Sets `window` and
   * `offset`, returns the contiguous bytes available there, 0 when in no region. Cold path.
   */
  resolveUser(address: number): number {
    for (const part of this.#parts) {
      const inPart = address - part.region.userAddress - part.start;
      if (inPart >= 0 && inPart < part.bytes) {
        this.window = part.window;
        this.offset = part.offset + inPart;
        return part.mappedBytes - inPart;
      }
    }
    return 0;
  }

  /**
   * Drops resident page-table entries of guest pages, a bounded number at a time; their contents stay
   * in the guest's file. Returns whether there are more. Huge pages stay: few entries, and kernels
   * before 5.18 cannot drop them.
   */
  forgetResidentStep(): boolean {
    const part = this.#parts[this.#forgetPart];
    if (part === undefined) {
      this.#forgetPart = 0;
      this.#forgetBytes = 0;
      return false;
    }
    const bytes = Math.min(FORGET_STEP_BYTES, part.mapBytes - this.#forgetBytes);
    if (bytes <= 0 || part.isHuge) {
      this.#forgetPart++;
      this.#forgetBytes = 0;
      return true;
    }
    const isDone = forgetResidentPages(part.window.u8, part.mapOffset + this.#forgetBytes, bytes);
    this.#forgetBytes = isDone ? this.#forgetBytes + bytes : part.mapBytes;
    return true;
  }

  /** Binary search; takes halves, not the sum, so that a cold call boxes no number. */
  #find(lo: number, hi: number): number {
    const address = (hi >>> 0) * TWO_32 + (lo >>> 0);
    const bounds = this.#bounds;
    let low = 0;
    let high = this.#parts.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (address < bounds[2 * middle]!) high = middle - 1;
      else if (address >= bounds[2 * middle + 1]!) low = middle + 1;
      else return middle;
    }
    return -1;
  }

  #checkAgainstOthers(region: GuestRegion): void {
    if (this.#regions.length >= REGIONS_MAX) {
      throw new RefusedError(`expected at most ${REGIONS_MAX} memory regions`);
    }
    if (this.bytes + region.bytes > GUEST_BYTES_MAX) {
      throw new RefusedError(
        `${describe(region)}: expected ${GUEST_BYTES_MAX} bytes of guest memory at most, ` +
          `got ${this.bytes + region.bytes}`,
      );
    }
    for (const other of this.#regions) {
      const apart = (a: number, b: number) => a + region.bytes <= b || b + other.bytes <= a;
      if (
        !apart(region.guestAddress, other.guestAddress) ||
        !apart(region.userAddress, other.userAddress)
      ) {
        throw new RefusedError(`${describe(region)} overlaps ${describe(other)}`);
      }
    }
  }

  #mapPart(
    piece: Pick<Part<W>, 'region' | 'start' | 'bytes' | 'mappedBytes'>,
    blockBytes: number,
    fd: number,
  ): Part<W> {
    const fileOffset = piece.region.mmapOffset + piece.start;
    const fileStart = fileOffset - (fileOffset % blockBytes);
    const lead = fileOffset - fileStart;
    const mapBytes = roundUp(lead + piece.mappedBytes, blockBytes);
    const use = this.#reserve(mapBytes, blockBytes);
    const mapOffset = use.next + bytesToAlignment(use.window.u8, use.next, blockBytes);
    mapFileOver(use.window.u8, mapOffset, mapBytes, fd, fileStart);
    use.next = mapOffset + mapBytes;
    use.parts++;
    const isHuge = blockBytes > PAGE_BYTES;
    return { ...piece, window: use.window, offset: mapOffset + lead, mapOffset, mapBytes, isHuge };
  }

  /** Never fails: what stays mapped is used no more, nor is its place in the window. */
  #unmapPart(part: Part<W>): void {
    const result = this.#unmap(part.window.u8, part.mapOffset, part.mapBytes);
    if (result !== 0) {
      this.onTrouble(`${describe(part.region)} stays mapped: mmap: ${errnoText(-result)}`);
      return;
    }
    const use = this.#uses.find((candidate) => candidate.window === part.window);
    assert(use !== undefined, 'a part lies in a known window');
    use.parts--;
    if (use.parts === 0) use.next = WINDOW_WORK_BYTES;
  }

  /** A window with room for `bytes` at any alignment up to `blockBytes`. */
  #reserve(bytes: number, blockBytes: number): WindowUse<W> {
    const slack = blockBytes > PAGE_BYTES ? blockBytes : 0;
    for (const use of this.#uses) {
      const start = use.next + bytesToAlignment(use.window.u8, use.next, blockBytes);
      if (start + bytes <= use.window.bytes) return use;
    }
    const wanted = roundUp(WINDOW_WORK_BYTES + slack + bytes, WINDOW_STEP_BYTES);
    const window = this.#newWindow(Math.min(wanted, WINDOW_BYTES_MAX));
    const start = WINDOW_WORK_BYTES + bytesToAlignment(window.u8, WINDOW_WORK_BYTES, blockBytes);
    if (start + bytes > window.bytes) {
      throw new RefusedError(`no window of address space for ${bytes} bytes in huge pages`);
    }
    const use = { window, next: WINDOW_WORK_BYTES, parts: 0 };
    this.#uses.push(use);
    return use;
  }

  #newWindow(bytes: number): W {
    try {
      return this.#makeWindow(bytes);
    } catch (error) {
      // What WebAssembly.Memory throws when address space or commit limit are used up.
      if (!(error instanceof RangeError)) throw error;
      throw new RefusedError(`no address space for ${bytes} bytes of guest memory`);
    }
  }

  #index(parts: Part<W>[]): void {
    const first = (part: Part<W>) => part.region.guestAddress + part.start;
    parts.sort((a, b) => first(a) - first(b));
    this.#parts = parts;
    // One empty pair when there are no parts: resolve() reads pair #last before it searches.
    this.#bounds = new Float64Array(Math.max(2, 2 * parts.length));
    parts.forEach((part, i) => {
      this.#bounds[2 * i] = first(part);
      this.#bounds[2 * i + 1] = first(part) + part.bytes;
    });
    this.#last = 0;
    this.#forgetPart = 0;
    this.#forgetBytes = 0;
    this.window = undefined;
  }
}

function describe(region: GuestRegion): string {
  const end = region.guestAddress + region.bytes;
  return `region 0x${region.guestAddress.toString(16)}–0x${end.toString(16)}`;
}

/** The file's block size (page, or huge page): mappings are aligned to it. */
function checkAgainstFile(region: GuestRegion, fd: number): number {
  const numbers = [region.guestAddress, region.userAddress, region.bytes, region.mmapOffset];
  const ends = [region.guestAddress, region.userAddress, region.mmapOffset].map(
    (start) => start + region.bytes,
  );
  if (![...numbers, ...ends].every((n) => Number.isSafeInteger(n) && n >= 0)) {
    throw new RefusedError(`${describe(region)}: expected addresses below 2^53`);
  }
  if (region.bytes === 0) throw new RefusedError(`${describe(region)}: expected a size, got 0`);
  const file = sharedFile(describe(region), fd, region.mmapOffset + region.bytes);
  // Only hugetlbfs reports a block larger than a megabyte; elsewhere it is a hint about I/O.
  return file.blksize >= 2 ** 21 && isPowerOfTwo(file.blksize) ? file.blksize : PAGE_BYTES;
}

function isPowerOfTwo(n: number): boolean {
  return Number.isSafeInteger(Math.log2(n));
}
