/**
 * One request queue of a block device: pops chains, parses the request, executes it against a
 * PageDevice in slices of pages, writes the status, pushes the used element.
 *
 * A request is first *decided* (parse: kind, range, what is wrong with it) and then *done* (run: a
 * bounded number of pages a turn, resumable). Requests of a queue complete in order.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { joinU64, readHalf } from '../base/u64.ts';
import { PAGE_BYTES, SECTORS_PER_PAGE } from '../base/units.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { WINDOW_BOUNCE_OFFSET, type Window } from '../memory/window.ts';
import { ChainCursor, DescriptorChain } from '../virtio/chain.ts';
import { INDIRECT_ENTRIES_MAX, POP_BROKEN, POP_EMPTY, Virtqueue } from '../virtio/virtqueue.ts';
import { DISCARD_SECTORS_MAX, DISCARD_SEGMENTS_MAX } from './config-space.ts';
import { type PageDevice, REQUESTS } from './page-device.ts';
import {
  DISCARD_SEGMENT,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_REQ,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
} from './protocol.ts';

/** Completions are shown to the driver in batches: reads gain 5–18%, latency nothing. */
const PUBLISH_BATCH = 4;
/** A request that moves no page costs about as much as one page. */
const REQUEST_PAGES = 1;
/** Freeing a page costs a fraction of compressing one. */
const FREES_PER_PAGE = 16;

export class BlockQueue<W extends Window = Window> {
  readonly ring: Virtqueue<W>;

  readonly #device: PageDevice<W>;
  readonly #counts: Float64Array;
  readonly #serial: Uint8Array;
  readonly #notify: () => void;
  readonly #memory: GuestMemory<W>;
  #chain = new DescriptorChain(INDIRECT_ENTRIES_MAX);
  #cursor: ChainCursor<W>;
  /** Copies of the header, then of a discard's segments: checked and used as copied. */
  readonly #bytes = new Uint8Array(DISCARD_SEGMENTS_MAX * DISCARD_SEGMENT.SIZE);

  // The request being executed; #isActive while there is one.
  #isActive = false;
  #type = 0;
  #dataBytes = 0;
  #status = VIRTIO_BLK_S_OK;
  /** Next page of a read or write, and how many are left. */
  #page = 0;
  #pagesLeft = 0;
  /** Discard, write zeroes: the next segment, how many are left, and the current one's range. */
  #segment = 0;
  #segmentsLeft = 0;
  #sector = 0;
  #sectorsLeft = 0;
  #unmap = false;
  #statusWindow: W | undefined;
  #statusOffset = 0;

  constructor(
    memory: GuestMemory<W>,
    device: PageDevice<W>,
    counts: Float64Array,
    serial: string,
    notify: () => void,
  ) {
    this.#memory = memory;
    this.#device = device;
    this.#counts = counts;
    this.#serial = new Uint8Array(VIRTIO_BLK_ID_BYTES);
    this.#serial.set(Buffer.from(serial, 'latin1').subarray(0, VIRTIO_BLK_ID_BYTES));
    this.#notify = notify;
    this.ring = new Virtqueue(memory);
    this.#cursor = new ChainCursor(memory, this.#chain);
  }

  /** Whether a request is half done. */
  get isActive(): boolean {
    return this.#isActive;
  }

  /** Makes room for chains as long as the ring; called before it starts. */
  prepare(): void {
    if (this.ring.size <= this.#chain.capacity) return;
    this.#chain = new DescriptorChain(this.ring.size);
    this.#cursor = new ChainCursor(this.#memory, this.#chain);
  }

  /**
   * Gives up the request being executed: it will be popped again. Pages already moved are moved
   * again then: the same data, counted twice.
   */
  suspend(): void {
    if (!this.#isActive) return;
    this.#isActive = false;
    this.ring.unpop();
  }

  /**
   * Serves the ring for about `budget` pages. Returns what is left of the budget: more than zero
   * means that nothing was waiting any more, or that the ring is broken.
   */
  serve(budget: number): number {
    let left = budget;
    let unpublished = 0;
    while (left > 0) {
      if (!this.#isActive) {
        const popped = this.ring.pop(this.#chain);
        if (popped === POP_EMPTY) break;
        if (popped === POP_BROKEN || !this.#parse()) break;
        left -= REQUEST_PAGES;
      }
      left = this.#run(left);
      if (this.#isActive) break;
      unpublished++;
      if (unpublished === PUBLISH_BATCH) {
        unpublished = 0;
        if (this.ring.publish()) this.#notify();
      }
    }
    if (unpublished > 0 && this.ring.publish()) this.#notify();
    return left;
  }

  /**
   * Decides what the popped chain asks for. False: no status can be written, the ring is broken.
   * Whatever else is wrong with a request ends in its status.
   */
  #parse(): boolean {
    const chain = this.#chain;
    const cursor = this.#cursor;
    this.#isActive = true;
    this.#status = VIRTIO_BLK_S_OK;
    this.#pagesLeft = 0;
    this.#segmentsLeft = 0;
    this.#sectorsLeft = 0;
    cursor.toWritable();
    cursor.skip(chain.writableBytes - 1);
    if (chain.writableBytes === 0 || cursor.next(1) === 0) {
      return this.#breakRing('request: no writable byte of guest memory for its status');
    }
    this.#statusWindow = cursor.window;
    this.#statusOffset = cursor.offset;
    cursor.toReadable();
    if (
      chain.readableBytes < VIRTIO_BLK_REQ.HEADER_BYTES ||
      !this.#readBytes(VIRTIO_BLK_REQ.HEADER_BYTES)
    ) {
      this.#refuse();
      return true;
    }
    this.#type = readHalf(this.#bytes, VIRTIO_BLK_REQ.type);
    this.#decide();
    return true;
  }

  /** The cursor stands behind the header. */
  #decide(): void {
    const counts = this.#counts;
    const outBytes = this.#chain.readableBytes - VIRTIO_BLK_REQ.HEADER_BYTES;
    const inBytes = this.#chain.writableBytes - 1;
    this.#dataBytes = 0;
    switch (this.#type) {
      case VIRTIO_BLK_T_IN:
        counts[REQUESTS.read]!++;
        this.#cursor.toWritable();
        this.#decideTransfer(inBytes);
        return;
      case VIRTIO_BLK_T_OUT:
        counts[REQUESTS.write]!++;
        this.#decideTransfer(outBytes);
        return;
      case VIRTIO_BLK_T_DISCARD:
      case VIRTIO_BLK_T_WRITE_ZEROES:
        counts[REQUESTS.discard]!++;
        this.#decideSegments(outBytes);
        return;
      case VIRTIO_BLK_T_GET_ID:
        counts[REQUESTS.other]!++;
        this.#cursor.toWritable();
        this.#writeSerial(inBytes);
        return;
      case VIRTIO_BLK_T_FLUSH:
        // What a completed write stored is stored: memory has no cache to flush.
        counts[REQUESTS.other]!++;
        return;
      default:
        counts[REQUESTS.other]!++;
        this.#status = VIRTIO_BLK_S_UNSUPP;
    }
  }

  #decideTransfer(bytes: number): void {
    const lo = readHalf(this.#bytes, VIRTIO_BLK_REQ.sector);
    const hi = readHalf(this.#bytes, VIRTIO_BLK_REQ.sector + 4);
    const pages = bytes / PAGE_BYTES;
    const sector = joinU64(lo, hi);
    const page = sector / SECTORS_PER_PAGE;
    if (
      sector < 0 ||
      (lo & (SECTORS_PER_PAGE - 1)) !== 0 ||
      bytes % PAGE_BYTES !== 0 ||
      page + pages > this.#device.slots
    ) {
      this.#refuse();
      return;
    }
    this.#page = page | 0;
    this.#pagesLeft = pages | 0;
    this.#dataBytes = bytes;
  }

  /** All segments are checked before the first is carried out: a refused request changes nothing. */
  #decideSegments(bytes: number): void {
    const count = bytes / DISCARD_SEGMENT.SIZE;
    if (bytes === 0 || bytes % DISCARD_SEGMENT.SIZE !== 0 || count > DISCARD_SEGMENTS_MAX) {
      this.#refuse();
      return;
    }
    if (!this.#readBytes(bytes)) {
      this.#refuse();
      return;
    }
    for (let i = 0; i < count; i++) {
      if (!this.#hasKnownFlags(i)) {
        this.#status = VIRTIO_BLK_S_UNSUPP;
        return;
      }
      if (!this.#isInRange(i)) {
        this.#refuse();
        return;
      }
    }
    this.#segment = 0;
    this.#segmentsLeft = count;
  }

  /** §5.2.6.2: UNSUPP "if any unknown flag is set", and "for discard commands if the unmap flag". */
  #hasKnownFlags(segment: number): boolean {
    const flags = this.#segmentWord(segment, DISCARD_SEGMENT.flags);
    const known = this.#type === VIRTIO_BLK_T_DISCARD ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    return (flags & ~known) === 0;
  }

  #isInRange(segment: number): boolean {
    const sector = this.#segmentSector(segment);
    const count = this.#segmentWord(segment, DISCARD_SEGMENT.num_sectors);
    const sectors = this.#device.slots * SECTORS_PER_PAGE;
    return count >= 0 && count <= DISCARD_SECTORS_MAX && sector >= 0 && sector + count <= sectors;
  }

  #segmentWord(segment: number, field: number): number {
    return readHalf(this.#bytes, segment * DISCARD_SEGMENT.SIZE + field);
  }

  #segmentSector(segment: number): number {
    const field = DISCARD_SEGMENT.sector;
    return joinU64(this.#segmentWord(segment, field), this.#segmentWord(segment, field + 4));
  }

  /** §5.2.6: 20 bytes; a shorter buffer gets what fits. */
  #writeSerial(bytes: number): void {
    const wanted = Math.min(bytes, VIRTIO_BLK_ID_BYTES);
    for (let i = 0; i < wanted; i++) {
      if (this.#cursor.next(1) === 0) {
        this.#refuse();
        return;
      }
      this.#cursor.window!.u8[this.#cursor.offset] = this.#serial[i]!;
    }
    this.#dataBytes = wanted;
  }

  /** Executes up to `budget` pages of the request; completes it when nothing is left of it. */
  #run(budget: number): number {
    let left = budget;
    while (this.#pagesLeft > 0 && left > 0) {
      this.#movePage();
      left--;
    }
    while ((this.#segmentsLeft > 0 || this.#sectorsLeft > 0) && left > 0) {
      if (this.#sectorsLeft > 0) {
        this.#clearPages(FREES_PER_PAGE);
        left--;
      } else {
        this.#nextSegment();
      }
    }
    if (this.#pagesLeft === 0 && this.#segmentsLeft === 0 && this.#sectorsLeft === 0) {
      this.#complete();
    }
    return left;
  }

  /** One page of a read or write. A page in one piece is moved in place, else by the bounce page. */
  #movePage(): void {
    const cursor = this.#cursor;
    const isWrite = this.#type === VIRTIO_BLK_T_OUT;
    const slot = this.#page;
    this.#page++;
    this.#pagesLeft--;
    const found = cursor.next(PAGE_BYTES);
    if (found === 0) {
      this.#refuse();
      return;
    }
    const window = cursor.window!;
    const isWhole = found === PAGE_BYTES;
    const offset = isWhole ? cursor.offset : WINDOW_BOUNCE_OFFSET;
    if (isWrite && !isWhole && !this.#moveBounce(window, found, true)) {
      this.#refuse();
      return;
    }
    const isDone = isWrite
      ? this.#device.writePage(slot, window, offset)
      : this.#device.readPage(slot, window, offset);
    if (!isDone) this.#fail();
    if (isWrite || isWhole) return;
    // The cursor comes out behind the page; after a failed read the bounce page holds another's.
    if (!isDone) cursor.skip(PAGE_BYTES - found);
    else if (!this.#moveBounce(window, found, false)) this.#refuse();
  }

  /**
   * Gathers a page's pieces into the bounce page of `window`, or scatters it to them. The cursor
   * has just found the first, of `found` bytes, in the same window.
   */
  #moveBounce(window: W, found: number, isGather: boolean): boolean {
    const cursor = this.#cursor;
    let done = 0;
    let piece = found;
    for (;;) {
      const from = isGather ? cursor.offset : WINDOW_BOUNCE_OFFSET + done;
      const to = isGather ? WINDOW_BOUNCE_OFFSET + done : cursor.offset;
      const other = cursor.window!;
      if (other === window) window.u8.copyWithin(to, from, from + piece);
      else if (isGather) copyBytes(other.u8, from, window.u8, to, piece);
      else copyBytes(window.u8, from, other.u8, to, piece);
      done += piece;
      if (done === PAGE_BYTES) return true;
      piece = cursor.next(PAGE_BYTES - done);
      if (piece === 0) return false;
    }
  }

  #nextSegment(): void {
    const segment = this.#segment;
    this.#segment++;
    this.#segmentsLeft--;
    this.#sector = this.#segmentSector(segment);
    this.#sectorsLeft = this.#segmentWord(segment, DISCARD_SEGMENT.num_sectors);
    const flags = this.#segmentWord(segment, DISCARD_SEGMENT.flags);
    this.#unmap = this.#type === VIRTIO_BLK_T_DISCARD || flags !== 0;
  }

  /**
   * Frees or zeroes up to `pages` pages of the current segment. Pages that it covers in part: a
   * discard passes over them; write zeroes, which promises zeros, zeroes the part.
   */
  #clearPages(pages: number): void {
    for (let i = 0; i < pages && this.#sectorsLeft > 0; i++) {
      const inPage = this.#sector % SECTORS_PER_PAGE;
      const rest = SECTORS_PER_PAGE - inPage;
      const count = Math.min(this.#sectorsLeft, rest);
      const slot = ((this.#sector - inPage) / SECTORS_PER_PAGE) | 0;
      if (count < SECTORS_PER_PAGE) this.#clearPart(slot, inPage, count);
      else if (this.#unmap) this.#device.freePage(slot);
      else this.#device.zeroPage(slot);
      this.#sector += count;
      this.#sectorsLeft -= count;
    }
  }

  #clearPart(slot: number, sector: number, count: number): void {
    if (this.#type === VIRTIO_BLK_T_DISCARD) return;
    const unit = PAGE_BYTES / SECTORS_PER_PAGE;
    const from = sector * unit;
    const to = (sector + count) * unit;
    const window = this.#statusWindow!;
    if (!this.#device.zeroPartOfPage(slot, from, to, window, WINDOW_BOUNCE_OFFSET)) this.#fail();
  }

  #complete(): void {
    const isOk = this.#status === VIRTIO_BLK_S_OK;
    this.#statusWindow!.u8[this.#statusOffset] = this.#status;
    // §2.7.8.2: `len` bytes from the first writable one have been written. After a failed read
    // that is none, unless the status byte itself is the first.
    const isRead = this.#type === VIRTIO_BLK_T_IN || this.#type === VIRTIO_BLK_T_GET_ID;
    const dataIn = this.#chain.writableBytes - 1;
    const moved = isRead && isOk ? this.#dataBytes : 0;
    this.ring.push(this.#chain.head, moved === dataIn ? moved + 1 : moved);
    this.#isActive = false;
  }

  /** The request is not one that can be executed: nothing (more) of it is. */
  #refuse(): void {
    this.#counts[REQUESTS.invalid]!++;
    this.#fail();
    this.#pagesLeft = 0;
    this.#segmentsLeft = 0;
  }

  #fail(): void {
    this.#status = VIRTIO_BLK_S_IOERR;
  }

  #breakRing(reason: string): boolean {
    this.#isActive = false;
    this.ring.brokenReason = reason;
    return false;
  }

  /** Copies the next `count` bytes of the readable part, wherever they lie. */
  #readBytes(count: number): boolean {
    let done = 0;
    while (done < count) {
      const found = this.#cursor.next(count - done);
      if (found === 0) return false;
      copyBytes(this.#cursor.window!.u8, this.#cursor.offset, this.#bytes, done, found);
      done += found;
    }
    return true;
  }
}

function copyBytes(
  from: Uint8Array,
  fromIndex: number,
  to: Uint8Array,
  toIndex: number,
  count: number,
): void {
  for (let i = 0; i < count; i++) to[toIndex + i] = from[fromIndex + i]!;
}
