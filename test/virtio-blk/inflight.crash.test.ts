/**
 * A process that ends between any two writes to what outlives it: used ring, status bytes, data and
 * in-flight region, systematically, after each one. Another queue takes over from what is there; the
 * driver sees every request returned once, with the right result. With a region, for operations that
 * end in any order; without, where the used index must say it all.
 */

import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../src/base/units.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import { PageWindow } from '../../src/store/page-window.ts';
import { InflightRegion } from '../../src/virtio/inflight.ts';
import { availRingBytes, descTableBytes, usedRingBytes } from '../../src/virtio/split-ring.ts';
import { BlockQueue } from '../../src/virtio-blk/block-queue.ts';
import { VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_IN } from '../../src/virtio-blk/protocol.ts';
import { type Completion, GuestDriver, type Ticket } from '../driver/guest-driver.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { randomLayout } from '../driver/layouts.ts';
import { PendingPageDevice } from '../driver/pending-page-device.ts';
import { Random } from '../driver/random.ts';
import { makeFigures } from '../driver/request-figures.ts';
import { clear, read, write } from '../driver/requests.ts';
import { recordWrites, withRecordedAtomics } from '../models/recording-memory.ts';

const SIZE = 32;
const SLOTS = 24;
const STEPS = 70;
const RAM_BYTES = 256 << 10;
/** Indices wrap around in the middle. */
const START_INDEX = 65_526;
/** Copies are cut in such pieces; of writes one behind the other all of the first count, then few. */
const PIECE_BYTES = 1024;
const RUN_COUNTED = 4;
const RUN_STEP = 256;
const REGION_AT = 64;

type Views = Pick<Window, 'u8' | 'u16' | 'i32'>;

class Crash extends Error {}

/** Counts writes to windows while it is recording, and ends the process after some number. */
class Crasher {
  writes = 0;
  /** The write after which the process ends. */
  end = Number.POSITIVE_INFINITY;
  readonly #windows: { window: Window; plain: Views; recorded: Views }[] = [];

  watch(window: Window): void {
    const { u8, u16, i32 } = window;
    let last = -1;
    let run = 0;
    const wrote = (at: number) => {
      run = at === last + 1 ? run + 1 : 0;
      last = at;
      if (run >= RUN_COUNTED && run % RUN_STEP !== 0) return;
      this.writes++;
      if (this.writes === this.end) throw new Crash();
    };
    const recorded = {
      u8: recordWrites(u8, PIECE_BYTES, wrote),
      u16: recordWrites(u16, PIECE_BYTES, wrote),
      i32: recordWrites(i32, PIECE_BYTES, wrote),
    };
    this.#windows.push({ window, plain: { u8, u16, i32 }, recorded });
  }

  /** Whether `use` came to its end. */
  run(use: () => void): boolean {
    for (const { window, recorded } of this.#windows) Object.assign(window, recorded);
    try {
      withRecordedAtomics(use);
      return true;
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      return false;
    } finally {
      for (const { window, plain } of this.#windows) Object.assign(window, plain);
    }
  }
}

interface Expected {
  readonly slots: readonly number[];
  readonly pages: readonly Uint8Array[] | undefined;
}

/** Guest memory and area, the same for all scenes: making them takes longer than playing one. */
class Stage {
  readonly crasher = new Crasher();
  readonly ram = new GuestRam(RAM_BYTES);
  readonly memory: GuestMemory<PageWindow>;
  readonly area = new Window(65536);

  constructor() {
    this.memory = new GuestMemory((bytes) => {
      const window = new PageWindow(bytes);
      this.crasher.watch(window);
      return window;
    });
    for (const region of this.ram.regions) this.memory.addRegion(region, this.ram.fd);
    this.crasher.watch(this.area);
  }

  /** As if nobody had been here. */
  clear(): void {
    this.ram.window.u8.fill(0, 0, RAM_BYTES);
    this.area.u8.fill(0);
    this.crasher.writes = 0;
    this.crasher.end = Number.POSITIVE_INFINITY;
  }

  close(): void {
    this.memory.clear();
    this.ram.close();
  }
}

/** A driver, a device whose pages outlive the process, and the queues that come one after another. */
class Scene {
  readonly device = new PendingPageDevice(SLOTS);
  readonly driver: GuestDriver;
  readonly random: Random;
  readonly #stage: Stage;
  readonly #hasRegion: boolean;
  readonly #model = Array.from({ length: SLOTS }, () => new Uint8Array(PAGE_BYTES));
  readonly #expected = new Map<number, Expected>();
  readonly #busy = new Set<number>();
  #queue: BlockQueue<PageWindow> | undefined;

  constructor(stage: Stage, seed: number, hasRegion: boolean) {
    this.#stage = stage;
    this.random = new Random(seed);
    this.#hasRegion = hasRegion;
    stage.clear();
    this.driver = new GuestDriver(stage.ram, SIZE, { startIndex: START_INDEX });
    this.device.pages.isRecording = false;
    this.device.isSlow = () => this.random.oneIn(2);
  }

  /** A new process takes over. */
  begin(): void {
    if (this.#queue !== undefined) this.device.abandon(this.#queue);
    const { memory } = this.#stage;
    const queue = new BlockQueue(memory, this.device, makeFigures(), 'ramzswap0', () => {});
    this.#queue = queue;
    const { ring } = this.driver;
    expect(queue.ring.attach(SIZE, ring.userAddresses)).toBeUndefined();
    const region = this.#hasRegion
      ? new InflightRegion(this.#stage.area, REGION_AT, SIZE)
      : undefined;
    queue.ring.start(ring.usedIdx, { eventIdx: true, indirect: true }, region);
    queue.begin();
  }

  step(): void {
    switch (this.random.below(4)) {
      case 0:
      case 1:
        this.#submit();
        break;
      case 2:
        this.#queue!.serve(this.random.between(1, 6));
        if (this.device.pending > 0) this.device.settleOne(this.random);
        break;
      default:
        this.take();
    }
  }

  /** All that is in flight comes back. */
  finish(): void {
    for (let i = 0; this.driver.inFlight > 0; i++) {
      if (i > 100) throw new Error(`${this.driver.inFlight} requests are not returned`);
      this.#queue!.serve(64);
      this.device.settleAll(this.random);
      this.#queue!.serve(64);
      expect(this.#queue!.ring.brokenReason).toBeUndefined();
      this.take();
    }
  }

  take(): void {
    for (const done of this.driver.complete()) this.#check(done);
  }

  /** With nothing in flight: the ring's memory is the next one's. */
  close(): void {
    const { desc, avail, used } = this.driver.ring;
    const { ram } = this.#stage;
    ram.free(desc, descTableBytes(SIZE));
    ram.free(avail, availRingBytes(SIZE));
    ram.free(used, usedRingBytes(SIZE));
  }

  #submit(): void {
    const count = this.random.between(1, 2);
    const slot = this.random.below(SLOTS - count + 1);
    const slots = Array.from({ length: count }, (_, i) => slot + i);
    // A guest has one request at a page at a time.
    if (slots.some((each) => this.#busy.has(each))) return;
    if (this.driver.freeDescriptors < 8) return;
    const kind = this.random.below(5);
    let ticket: Ticket;
    if (kind < 2) {
      const request = read(slot, count);
      ticket = this.driver.submit(
        request,
        randomLayout(this.random, GuestDriver.sizes(request), 6, true),
      );
      const pages = slots.map((each) => this.#model[each]!);
      this.#expected.set(ticket.number, { slots, pages });
    } else {
      const data = new Uint8Array(this.random.bytes(count * PAGE_BYTES));
      const isWrite = kind < 4;
      const range = { sector: slot * 8, sectors: count * 8 };
      ticket = this.driver.submit(
        isWrite ? write(slot, data) : clear(VIRTIO_BLK_T_DISCARD, [range]),
      );
      this.#expected.set(ticket.number, { slots, pages: undefined });
      slots.forEach((each, i) => {
        const page = data.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES);
        this.#model[each] = isWrite ? page : new Uint8Array(PAGE_BYTES);
      });
    }
    for (const each of slots) this.#busy.add(each);
    this.driver.flush();
  }

  #check({ ticket, status, data, len }: Completion): void {
    const { slots, pages } = this.#expected.get(ticket.number)!;
    this.#expected.delete(ticket.number);
    for (const each of slots) this.#busy.delete(each);
    if (status !== 0) throw new Error(`request ${ticket.number}: status ${status}`);
    const isRead = ticket.request.type === VIRTIO_BLK_T_IN;
    if (len !== (isRead ? data.length : 0) + 1) throw new Error(`request ${ticket.number}: ${len}`);
    pages?.forEach((page, i) => {
      const got = data.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES);
      if (Buffer.compare(got, page) !== 0) throw new Error(`slot ${slots[i]}: another page`);
    });
  }
}

/** The same from the beginning, for a process that ends after write `end`. False: it lived. */
function crashAfter(stage: Stage, end: number, seed: number, hasRegion: boolean): boolean {
  const scene = new Scene(stage, seed, hasRegion);
  const { crasher } = stage;
  try {
    scene.begin();
    crasher.end = end;
    const isWhole = crasher.run(() => {
      for (let i = 0; i < STEPS; i++) scene.step();
    });
    if (isWhole) {
      scene.finish();
      return false;
    }
    // The next one ends too, somewhere on the way; then one has its peace.
    crasher.end = crasher.writes + 1 + (end % 37);
    crasher.run(() => {
      scene.begin();
      scene.finish();
    });
    scene.begin();
    scene.finish();
    crasher.end = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 10; i++) scene.step();
    scene.finish();
    return true;
  } catch (error) {
    throw new Error(`crash after write ${end}, seed ${seed}`, { cause: error });
  } finally {
    scene.close();
  }
}

describe('a process that ends after any write to the ring, to data or to the region', () => {
  it.each([
    ['with a region', true, 1],
    ['with a region', true, 2],
    ['with the used index alone', false, 3],
  ])('has lost nothing and repeats nothing, %s', async (_, hasRegion, seed) => {
    const stage = new Stage();
    let end = 1;
    while (crashAfter(stage, end, seed, hasRegion)) {
      end++;
      if (end % 50 === 0) await new Promise(setImmediate);
    }
    stage.close();
    expect(end).toBeGreaterThan(100);
  });
});
