/**
 * One request queue of a block device: pops chains, parses the request, executes it against a
 * PageDevice in slices of pages, writes the status, pushes the used element.
 *
 * A request is first *decided* (parse: kind, range, what is wrong with it) and then *done* (run: a
 * bounded number of pages a turn, resumable). It is whole logical blocks; where those are less than a
 * page, its first and last page may be moved in part. One is done at a time; those with pages that the
 * device has not ended yet are held meanwhile, and returned as completion-order.ts says.
 *
 * HOT PATH throughout: no allocation, no BigInt, no closures, no await.
 */

import { assert } from '../base/assert.ts';
import {
  PAGE_DONE,
  PAGE_FAILED,
  PAGE_PENDING,
  type PageClient,
  type PageResult,
} from '../base/page-operation.ts';
import type { TurnClock } from '../base/turn-clock.ts';
import { joinU64, readHalf } from '../base/u64.ts';
import { PAGE_BYTES, SECTOR_BYTES, SECTORS_PER_PAGE } from '../base/units.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { WINDOW_BOUNCE_OFFSET, type Window } from '../memory/window.ts';
import { ChainCursor, DescriptorChain } from '../virtio/chain.ts';
import { INDIRECT_ENTRIES_MAX, POP_BROKEN, POP_EMPTY, Virtqueue } from '../virtio/virtqueue.ts';
import { BlockRequest, HELD_MAX, HELD_SEGMENTS_MAX } from './block-request.ts';
import { ClearRanges } from './clear-ranges.ts';
import { CompletionOrder } from './completion-order.ts';
import { type PageDevice, REQUESTS } from './page-device.ts';
import {
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
} from './protocol.ts';
import { type RequestFigures, RequestTimes } from './request-times.ts';
import { FREES_PER_PAGE, PART_FREES, REQUEST_PAGES, requestPages } from './turn-costs.ts';

/**
 * Completions are shown to the driver in batches, of half of what waits in the ring: a driver that
 * has many requests in flight is woken twice a round, and goes on while the other half is done.
 * Batches of one cost reads 5–18%; at depth 32, 16 against 4 halves the wake-ups twice.
 */
const PUBLISH_BATCH_MIN = 4;
const PUBLISH_BATCH_MAX = 16;
/** A batch of larger requests than of a page reads the clock after so many, 100 to 200 µs. */
const CLOCK_PAGES = PUBLISH_BATCH_MAX * (REQUEST_PAGES + 1);

export class BlockQueue<W extends Window = Window> implements PageClient<W> {
  readonly ring: Virtqueue<W>;

  readonly #memory: GuestMemory<W>;
  #device: PageDevice<W>;
  #counts: Float64Array;
  readonly #clock: TurnClock;
  readonly #times: RequestTimes;
  readonly #serial: Uint8Array;
  readonly #notify: () => void;
  /** What requests are whole numbers of: 512 bytes or a page. */
  readonly #blockBytes: number;
  readonly #order: CompletionOrder<W>;
  /** Used elements pushed and not yet shown to the driver. */
  #unpublished = 0;
  /** How many there may be before they are. */
  #batch = PUBLISH_BATCH_MIN;
  /** The chain popped last, and where its execution has come to. */
  #chain = new DescriptorChain(INDIRECT_ENTRIES_MAX);
  readonly #cursor: ChainCursor<W>;
  /** A copy of the request's header: checked and used as copied. */
  readonly #header = new Uint8Array(VIRTIO_BLK_REQ.HEADER_BYTES);

  /** All records, by index, and those not in use. */
  readonly #requests: BlockRequest[] = [];
  readonly #unused: BlockRequest[] = [];
  #held = 0;
  #heldSegments = 0;
  /** Finds the pages of requests with pending operations, behind #cursor or ahead of it. */
  readonly #finder: ChainCursor<W>;
  /** The byte of data that the finder stands before, and whose; none: #foundIn is undefined. */
  #foundIn: BlockRequest | undefined;
  #foundByte = 0;

  // The request being executed: #request while there is one, and the state of its execution.
  #request: BlockRequest | undefined;
  /** Next page of a read or write, its number in the request, and how many are left. */
  #page = 0;
  #pageNumber = 0;
  #pagesLeft = 0;
  /** What is left of a discard or write zeroes. */
  readonly #ranges = new ClearRanges();
  #statusWindow: W | undefined;
  #statusOffset = 0;
  /** Its guest address. */
  #statusLo = 0;
  #statusHi = 0;

  constructor(
    memory: GuestMemory<W>,
    device: PageDevice<W>,
    figures: RequestFigures,
    serial: string,
    notify: () => void,
    logicalBlockBytes = PAGE_BYTES,
  ) {
    this.#memory = memory;
    this.#device = device;
    this.#blockBytes = logicalBlockBytes;
    this.#counts = figures.counts;
    this.#clock = figures.clock;
    this.#times = new RequestTimes(figures);
    this.#serial = new Uint8Array(VIRTIO_BLK_ID_BYTES);
    this.#serial.set(Buffer.from(serial, 'latin1').subarray(0, VIRTIO_BLK_ID_BYTES));
    this.#notify = notify;
    this.ring = new Virtqueue(memory);
    this.#order = new CompletionOrder(this.ring, this.#times);
    this.#cursor = new ChainCursor(memory, this.#chain);
    this.#finder = new ChainCursor(memory, this.#chain);
  }

  /** From now on requests are for these pages, and counted there; none is under way. */
  setDevice(device: PageDevice<W>, { counts, latencies }: RequestFigures): void {
    assert(this.outstanding === 0, 'a request is about one disk');
    this.#device = device;
    this.#counts = counts;
    this.#times.countIn(latencies);
  }

  /** Whether a request is half done. */
  get isActive(): boolean {
    return this.#request !== undefined;
  }

  /** Requests popped and not returned. */
  get outstanding(): number {
    return this.#order.outstanding;
  }

  /** Whether serve() could do anything now. */
  get hasWork(): boolean {
    if (this.#unpublished > 0) return true;
    if (this.#request !== undefined) return !this.#device.isFull;
    return this.#mayHold && this.ring.hasAvailable();
  }

  get #mayHold(): boolean {
    return this.#held < HELD_MAX && this.#heldSegments < HELD_SEGMENTS_MAX;
  }

  /** The ring is attached and has started: makes room for chains as long as it, and for as many. */
  begin(): void {
    const { size, hasInflight } = this.ring;
    this.#order.reset(size, !hasInflight);
    // A batch that is nearly full, and then all others at once.
    this.#times.reset(PUBLISH_BATCH_MAX + size);
    if (size > this.#chain.capacity) this.#chain = new DescriptorChain(size);
  }

  /**
   * Gives up all requests that were not returned, begun or not: they will be popped again. Pages
   * already moved are moved again then: the same data, counted twice.
   */
  suspend(): void {
    // Requests may have ended since this queue was served, with those of another.
    if (this.ring.isAttached) this.#publish();
    const count = this.#order.outstanding;
    if (count === 0) return;
    this.ring.unpop(count);
    this.#order.forget();
    this.#device.abandon(this);
    this.#request = undefined;
    this.#held = 0;
    this.#heldSegments = 0;
    this.#foundIn = undefined;
    this.#unused.length = 0;
    for (const request of this.#requests) {
      request.release();
      this.#unused.push(request);
    }
  }

  /**
   * Goes on with what has begun, and begins nothing new: about `budget` pages. Whether requests are
   * still not returned.
   */
  finish(budget: number): boolean {
    if (this.#request !== undefined) this.#run(budget);
    this.#publish();
    return this.#order.outstanding > 0;
  }

  /**
   * Serves the ring for about `budget` pages. Returns what is left of the budget: more than zero
   * means that nothing is to be done now, or that the ring is broken. The clock was read just before,
   * and is again at the end, if anything was done.
   */
  serve(budget: number): number {
    let left = budget;
    /** What was left when the clock was read. */
    let timed = budget;
    const wanted = this.ring.available >> 1;
    this.#batch = Math.max(PUBLISH_BATCH_MIN, Math.min(wanted, PUBLISH_BATCH_MAX));
    while (left > 0) {
      if (this.#request === undefined) {
        if (!this.#mayHold) break;
        if (timed - left >= CLOCK_PAGES) {
          this.#clock.read();
          timed = left;
        }
        const popped = this.ring.pop(this.#chain);
        if (popped === POP_EMPTY) break;
        if (popped === POP_BROKEN || !this.#parse()) break;
        left -= requestPages(this.#chain.count);
      }
      left = this.#run(left);
      if (this.#request !== undefined) break;
      if (this.#unpublished < this.#batch) continue;
      this.#publish();
      timed = left;
    }
    if (this.#unpublished > 0) this.#publish();
    else if (left < timed) this.#clock.read();
    return left;
  }

  // ── PageClient ────────────────────────────────────────────────────────────────────────────────

  takePage(index: number, page: number, window: W, offset: number, bytes: number): boolean {
    const request = this.#requests[index]!;
    if (request.type === VIRTIO_BLK_T_WRITE_ZEROES) {
      window.u8.fill(0, offset, offset + bytes);
      return true;
    }
    this.#find(request, page, bytes);
    if (this.#finder.gather(window, offset, bytes)) return true;
    this.#foundIn = undefined;
    return false;
  }

  endPage(index: number, page: number, isDone: boolean, window: W, offset: number): void {
    const request = this.#requests[index]!;
    request.pending--;
    if (!isDone) {
      request.status = VIRTIO_BLK_S_IOERR;
    } else if (request.type === VIRTIO_BLK_T_IN) {
      const from = request.partFrom(page);
      const bytes = request.partTo(page) - from;
      this.#find(request, page, bytes);
      if (!this.#finder.scatter(window, offset + from, bytes)) {
        this.#foundIn = undefined;
        // A request is invalid once, however many of its pages are.
        if (request.status === VIRTIO_BLK_S_OK) this.#refuse(request);
      }
    }
    if (request.pending === 0 && request.isHeld) {
      this.#held--;
      this.#heldSegments -= request.chain.count;
      this.#complete(request);
      // The driver need not wait for the rest of what has ended meanwhile.
      if (this.#unpublished >= this.#batch) this.#publish();
    }
  }

  /** Puts the finder before page `page` of a read or write; the caller passes over its `bytes`. */
  #find(request: BlockRequest, page: number, bytes: number): void {
    const finder = this.#finder;
    const byte = request.firstByte(page);
    if (this.#foundIn !== request || this.#foundByte > byte) {
      finder.follow(request.isHeld ? request.chain : this.#chain);
      if (request.type === VIRTIO_BLK_T_IN) finder.toWritable();
      else finder.skip(VIRTIO_BLK_REQ.HEADER_BYTES);
      this.#foundByte = 0;
    }
    finder.skip(byte - this.#foundByte);
    this.#foundIn = request;
    this.#foundByte = byte + bytes;
  }

  #publish(): void {
    if (this.#unpublished === 0) return;
    this.#unpublished = 0;
    if (this.ring.publish()) this.#notify();
    // Not before: the driver need not wait for this.
    this.#times.published();
  }

  /**
   * Decides what the popped chain asks for. False: no status can be written, the ring is broken.
   * Whatever else is wrong with a request ends in its status.
   */
  #parse(): boolean {
    const chain = this.#chain;
    const cursor = this.#cursor;
    if (this.#order.isFull) {
      return this.#breakRing(`avail ring: more than ${this.ring.size} chains not returned yet`);
    }
    cursor.follow(chain);
    if (!this.#findStatus(cursor, chain)) {
      return this.#breakRing('request: no writable byte of guest memory for its status');
    }
    this.#statusWindow = cursor.window;
    this.#statusOffset = cursor.offset;
    this.#statusLo = cursor.addressLo;
    this.#statusHi = cursor.addressHi;
    const request = this.#unused.pop() ?? this.#makeRequest();
    request.begin(this.#order.begin(), this.#clock.micros);
    this.#request = request;
    this.#pagesLeft = 0;
    this.#ranges.clear();
    cursor.toReadable();
    const { HEADER_BYTES } = VIRTIO_BLK_REQ;
    if (chain.readableBytes < HEADER_BYTES || !cursor.read(this.#header, HEADER_BYTES)) {
      this.#refuse(request);
      return true;
    }
    request.type = readHalf(this.#header, VIRTIO_BLK_REQ.type);
    this.#decide(request);
    return true;
  }

  /** Puts the cursor at the status, the last device-writable byte (§5.2.6). False: there is none. */
  #findStatus(cursor: ChainCursor<W>, chain: DescriptorChain): boolean {
    if (chain.writableBytes === 0) return false;
    cursor.toWritable();
    cursor.skip(chain.writableBytes - 1);
    return cursor.next(1) === 1;
  }

  #makeRequest(): BlockRequest {
    const request = new BlockRequest(this.#requests.length);
    this.#requests.push(request);
    return request;
  }

  /** The cursor stands behind the header. */
  #decide(request: BlockRequest): void {
    const outBytes = this.#chain.readableBytes - VIRTIO_BLK_REQ.HEADER_BYTES;
    const inBytes = this.#chain.writableBytes - 1;
    switch (request.type) {
      case VIRTIO_BLK_T_IN:
        request.kind = REQUESTS.read;
        this.#cursor.toWritable();
        this.#decideTransfer(request, inBytes);
        break;
      case VIRTIO_BLK_T_OUT:
        request.kind = REQUESTS.write;
        this.#decideTransfer(request, outBytes);
        break;
      case VIRTIO_BLK_T_DISCARD:
      case VIRTIO_BLK_T_WRITE_ZEROES:
        request.kind = REQUESTS.discard;
        this.#decideRanges(request, outBytes);
        break;
      case VIRTIO_BLK_T_GET_ID:
        this.#cursor.toWritable();
        this.#writeSerial(request, inBytes);
        break;
      case VIRTIO_BLK_T_FLUSH:
        // What a completed write stored is stored, and the backing swap is written past all caches.
        break;
      default:
        request.status = VIRTIO_BLK_S_UNSUPP;
    }
    this.#counts[request.kind]!++;
  }

  #decideTransfer(request: BlockRequest, bytes: number): void {
    const lo = readHalf(this.#header, VIRTIO_BLK_REQ.sector);
    const hi = readHalf(this.#header, VIRTIO_BLK_REQ.sector + 4);
    const sector = joinU64(lo, hi);
    const blockSectors = this.#blockBytes / SECTOR_BYTES;
    if (
      sector < 0 ||
      (lo & (blockSectors - 1)) !== 0 ||
      (bytes & (this.#blockBytes - 1)) !== 0 ||
      sector + bytes / SECTOR_BYTES > this.#device.slots * SECTORS_PER_PAGE
    ) {
      this.#refuse(request);
      return;
    }
    request.inPage = (lo & (SECTORS_PER_PAGE - 1)) * SECTOR_BYTES;
    request.dataBytes = bytes;
    this.#page = Math.floor(sector / SECTORS_PER_PAGE) | 0;
    this.#pageNumber = 0;
    this.#pagesLeft = bytes === 0 ? 0 : Math.ceil((request.inPage + bytes) / PAGE_BYTES);
  }

  #decideRanges(request: BlockRequest, bytes: number): void {
    if (!ClearRanges.isSize(bytes) || !this.#cursor.read(this.#ranges.bytes, bytes)) {
      this.#refuse(request);
      return;
    }
    const status = this.#ranges.decide(request.type, bytes, this.#device.slots);
    if (status === VIRTIO_BLK_S_IOERR) this.#refuse(request);
    else request.status = status;
  }

  /** §5.2.6: 20 bytes; a shorter buffer gets what fits. */
  #writeSerial(request: BlockRequest, bytes: number): void {
    const wanted = Math.min(bytes, VIRTIO_BLK_ID_BYTES);
    for (let i = 0; i < wanted; i++) {
      if (this.#cursor.next(1) === 0) {
        this.#refuse(request);
        return;
      }
      this.#cursor.window!.u8[this.#cursor.offset] = this.#serial[i]!;
      this.#cursor.wrote(1);
    }
    request.dataBytes = wanted;
  }

  /**
   * Executes up to `budget` pages of the request, as far as the device has room; when nothing is left
   * to begin, completes it or holds it.
   */
  #run(budget: number): number {
    const request = this.#request!;
    const device = this.#device;
    let left = budget;
    while (this.#pagesLeft > 0 && left > 0 && !device.isFull) {
      this.#movePage(request);
      left--;
    }
    while (!this.#ranges.isEmpty && left > 0 && !device.isFull) {
      left -= this.#clearPages(request, left);
    }
    if (this.#pagesLeft > 0 || !this.#ranges.isEmpty) return left;
    this.#request = undefined;
    if (request.pending === 0) this.#complete(request);
    else this.#hold(request);
    return left;
  }

  /**
   * One page of a read or write. A page in one piece is moved in place; one in pieces, and what is
   * less than a page, goes by the bounce page.
   */
  #movePage(request: BlockRequest): void {
    const cursor = this.#cursor;
    const slot = this.#page;
    const number = this.#pageNumber;
    const from = request.partFrom(number);
    const bytes = request.partTo(number) - from;
    this.#page++;
    this.#pageNumber++;
    this.#pagesLeft--;
    const found = cursor.next(bytes);
    if (found === 0) {
      this.#refuse(request);
      return;
    }
    const window = cursor.window!;
    const isInPlace = found === PAGE_BYTES;
    const offset = isInPlace ? cursor.offset : WINDOW_BOUNCE_OFFSET;
    if (!isInPlace) cursor.unread(found);
    if (request.type === VIRTIO_BLK_T_OUT) {
      if (!isInPlace && !cursor.gather(window, offset, bytes)) {
        this.#refuse(request);
        return;
      }
      this.#note(request, this.#writeBytes(request, slot, window, offset, number));
      return;
    }
    const result = this.#device.readPage(slot, window, offset, this, request.index, number);
    this.#note(request, result);
    if (isInPlace) {
      if (result === PAGE_DONE) cursor.wrote(PAGE_BYTES);
      return;
    }
    // The cursor comes out behind the page; without a page the bounce page holds another's.
    if (result !== PAGE_DONE) cursor.skip(bytes);
    else if (!cursor.scatter(window, offset + from, bytes)) this.#refuse(request);
  }

  #writeBytes(
    request: BlockRequest,
    slot: number,
    window: W,
    offset: number,
    number: number,
  ): PageResult {
    const device = this.#device;
    const { index } = request;
    const from = request.partFrom(number);
    const to = request.partTo(number);
    return to - from === PAGE_BYTES
      ? device.writePage(slot, window, offset, this, index, number)
      : device.writePart(slot, from, to, window, offset, this, index, number);
  }

  #note(request: BlockRequest, result: PageResult): void {
    if (result === PAGE_PENDING) request.pending++;
    else if (result === PAGE_FAILED) request.status = VIRTIO_BLK_S_IOERR;
  }

  /**
   * Frees or zeroes pages for about `budget` pages; what it cost. Pages that are covered in part: a
   * discard passes over them; write zeroes, which promises zeros, zeroes the part.
   */
  #clearPages(request: BlockRequest, budget: number): number {
    const device = this.#device;
    const ranges = this.#ranges;
    const end = budget * FREES_PER_PAGE;
    let frees = 0;
    while (frees < end && !device.isFull && ranges.next()) {
      const { slot } = ranges;
      const punched = device.punchedPages;
      if (!ranges.isWholePage) {
        if (request.type !== VIRTIO_BLK_T_DISCARD) {
          this.#clearPart(request, slot);
          frees += PART_FREES;
        }
      } else if (ranges.unmap) {
        this.#note(request, device.freePage(slot, this, request.index));
      } else {
        this.#note(request, device.zeroPage(slot, this, request.index));
      }
      frees += 1 + ((device.punchedPages - punched) | 0) * FREES_PER_PAGE;
    }
    return Math.ceil(frees / FREES_PER_PAGE);
  }

  #clearPart(request: BlockRequest, slot: number): void {
    const { from, to } = this.#ranges;
    const window = this.#statusWindow!;
    const at = WINDOW_BOUNCE_OFFSET;
    window.u8.fill(0, at, at + to - from);
    const { index } = request;
    this.#note(request, this.#device.writePart(slot, from, to, window, at, this, index, 0));
  }

  /** Nothing of the request is left to begin, but operations are pending. */
  #hold(request: BlockRequest): void {
    request.hold(this.#chain);
    this.#held++;
    this.#heldSegments += request.chain.count;
    if (this.#foundIn === request) this.#foundIn = undefined;
  }

  /** All of the request is done: status, used element, and the record goes back to the pool. */
  #complete(request: BlockRequest): void {
    const chain = request.isHeld ? request.chain : this.#chain;
    if (request.isHeld) this.#writeHeldStatus(request);
    else this.#writeStatus(request);
    // §2.7.8.2: `len` bytes from the first writable one have been written. After a failed read
    // that is none, unless the status byte itself is the first.
    const isRead = request.type === VIRTIO_BLK_T_IN || request.type === VIRTIO_BLK_T_GET_ID;
    const moved = isRead && request.status === VIRTIO_BLK_S_OK ? request.dataBytes : 0;
    const bytes = moved === chain.writableBytes - 1 ? moved + 1 : moved;
    this.#unpublished += this.#order.end(request, chain.head, bytes);
    if (this.#foundIn === request) this.#foundIn = undefined;
    request.release();
    this.#unused.push(request);
  }

  #writeStatus(request: BlockRequest): void {
    this.#statusWindow!.u8[this.#statusOffset] = request.status;
    this.#memory.log.mark(this.#statusLo, this.#statusHi, 1);
  }

  /** Memory may have changed meanwhile: where the status was is no answer to where it is. */
  #writeHeldStatus(request: BlockRequest): void {
    const finder = this.#finder;
    this.#foundIn = undefined;
    finder.follow(request.chain);
    if (this.#findStatus(finder, request.chain)) {
      finder.window!.u8[finder.offset] = request.status;
      finder.wrote(1);
    } else this.ring.brokenReason = 'request: its status is no longer in guest memory';
  }

  /** The request is not one that can be executed: nothing (more) of it is begun. */
  #refuse(request: BlockRequest): void {
    this.#counts[REQUESTS.invalid]!++;
    request.status = VIRTIO_BLK_S_IOERR;
    if (request !== this.#request) return;
    this.#pagesLeft = 0;
    this.#ranges.clear();
  }

  /** The chain popped last is none that can be served: it stays the next. */
  #breakRing(reason: string): boolean {
    this.#publish();
    this.ring.unpop();
    this.ring.brokenReason = reason;
    return false;
  }
}
