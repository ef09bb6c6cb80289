/**
 * The memory of a guest that means harm, with canaries around everything of ours: between the
 * regions of its file, in regions that no descriptor names and that lie behind each of the others
 * in the same window, in the window beyond the last, and between the parts of the work area. And a
 * store that notes what is done to it.
 */

import { PAGE_DONE, type PageResult } from '../../src/base/page-operation.ts';
import { LZO1X_DICT_BYTES, lzo1xWorstCase } from '../../src/lzo-wasm/lzo1x.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { WINDOW_BOUNCE_OFFSET } from '../../src/memory/window.ts';
import { PageStore } from '../../src/store/page-store.ts';
import {
  PageWindow,
  WORK_IN,
  WORK_OUT,
  WORK_PAGE,
  WORK_WHOLE,
} from '../../src/store/page-window.ts';
import type { PageDevice } from '../../src/virtio-blk/page-device.ts';
import { GuestRam, type RamRegion, USER_BASE } from '../driver/guest-ram.ts';
import type { Random } from '../driver/random.ts';
import { Canary, check } from './budget.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
const TWO_32 = 2 ** 32;
/** guest-memory.ts: a part also maps so much of what follows it. */
const OVERLAP = 2 ** 20;
const GUARD = 65536;
/** Where regions of canaries begin in guest memory: far from all others. */
const CANARY_BASE = 0x55_0000_0000;

/** A range of guest addresses. */
export interface Area {
  readonly start: number;
  readonly end: number;
}

interface Plan {
  readonly start: number;
  readonly bytes: number;
  /** How far behind a page boundary of the file it begins. */
  readonly lead?: number;
}

/** Region 0 holds the rings; the others are for requests. */
const PLANS: readonly (readonly Plan[])[] = [
  [
    { start: GIB, bytes: 65536 },
    { start: 0, bytes: 0x40000 },
  ],
  // Neighbours across 4 GiB that lie apart in the window; sizes and places that are no pages.
  [
    { start: 2 ** 46, bytes: 65536 + 24, lead: 16 },
    { start: TWO_32 - 65536, bytes: 65536 },
    { start: TWO_32, bytes: 65536 + 1000 },
    { start: TWO_32 + 66536, bytes: 0x20000, lead: 512 },
  ],
  // As high as numbers go.
  [
    { start: 2 ** 40, bytes: 65536 },
    { start: 2 ** 53 - 1 - 0x20000, bytes: 0x20000, lead: 7 },
  ],
  // More than one part: two windows.
  [
    { start: 2 ** 41, bytes: 65536 },
    { start: TWO_32, bytes: GIB + 0x20000 },
  ],
];
export const PLAN_COUNT = PLANS.length;

export class HostileGuest {
  readonly ram: GuestRam;
  readonly memory: GuestMemory<PageWindow>;
  readonly rings: Area;
  /** Where buffers lie: the regions, or the ends of their parts where they are large. */
  readonly areas: Area[];
  readonly #windows = new Set<PageWindow>();
  readonly #canaries: Canary[] = [];
  /** What of each window the guest may see, as [window, from, to]. */
  readonly #visible: [PageWindow, number, number][] = [];

  constructor(plan: number) {
    const plans = PLANS[plan]!;
    const regions: RamRegion[] = [];
    const gaps: [number, number][] = [];
    let end = 0;
    plans.forEach(({ start, bytes, lead = 0 }, i) => {
      const mmapOffset = Math.ceil(end / PAGE) * PAGE + PAGE + lead;
      const userAddress = USER_BASE + i * 2 ** 34;
      gaps.push([end, mmapOffset]);
      regions.push({ guestAddress: start, userAddress, bytes, mmapOffset });
      const behind = Math.ceil((mmapOffset + bytes) / PAGE) * PAGE;
      gaps.push([mmapOffset + bytes, behind]);
      const guestAddress = CANARY_BASE + i * 2 ** 24;
      regions.push({
        guestAddress,
        userAddress: userAddress + 2 ** 33,
        bytes: PAGE,
        mmapOffset: behind,
      });
      end = behind + PAGE;
    });
    this.ram = new GuestRam(end + PAGE, regions);
    this.memory = new GuestMemory((bytes) => {
      const window = new PageWindow(bytes);
      this.#windows.add(window);
      return window;
    });
    for (const region of regions) this.memory.addRegion(region, this.ram.fd);
    for (const [from, to] of gaps) {
      this.#canaries.push(new Canary(this.ram.window.u8.subarray(from, to), `file at ${from}`));
    }
    this.rings = { start: plans[0]!.start, end: plans[0]!.start + plans[0]!.bytes };
    this.areas = plans.slice(1).flatMap(areasOf);
    this.#guardWindows(regions);
  }

  /** Everything as it was at the beginning of a case, so that cases do not depend on one another. */
  reset(byte: number): void {
    for (const { start, end } of [this.rings, ...this.areas]) {
      this.ram.fill(start, end - start, byte);
    }
  }

  checkCanaries(): void {
    for (const canary of this.#canaries) canary.check();
  }

  /** Whether a page at `offset` is one that requests may be about. */
  isPlaceOfPage(window: PageWindow, offset: number): boolean {
    if (offset === WINDOW_BOUNCE_OFFSET) return this.#windows.has(window);
    return this.#visible.some(
      ([visible, from, to]) => visible === window && offset >= from && offset + PAGE <= to,
    );
  }

  /** Writes what of `bytes` lies in guest memory. */
  poke(address: number, bytes: Uint8Array): void {
    const inside = [this.rings, ...this.areas].some(
      ({ start, end }) => address >= start && address + bytes.length <= end,
    );
    if (inside) this.ram.write(address, bytes);
  }

  /** An address for `bytes`: anywhere, often just before or across the end of an area. */
  place(random: Random, bytes: number, align = 1, skew = 0): number {
    const { start, end } = random.pick(this.areas);
    const room = Math.max(1, end - start - bytes);
    let address = start + random.below(room);
    if (random.oneIn(5)) address = end - bytes;
    else if (random.oneIn(12)) address = end - random.below(bytes + 1);
    return address - (address % align) + skew;
  }

  /** An address that should be nobody's, or is at the edge of being somebody's. */
  wildAddress(random: Random): bigint {
    const { start, end } = random.pick(this.areas);
    const near = random.pick([start, end]);
    const off = random.pick([0, 1, -1, 15, -15, 16, -16, 511, -511, 4095, -4095, 4096, -4096]);
    const edge = BigInt(near) + BigInt(off);
    const wild = random.pick([
      edge,
      edge,
      edge,
      edge + 0x1_0000_0000n,
      edge ^ (1n << BigInt(random.below(64))),
      0n,
      0xffff_ffffn,
      1n << 53n,
      1n << 63n,
      -1n,
      -16n,
      -4096n,
    ]);
    return BigInt.asUintN(64, wild);
  }

  /** Whether a buffer touches the rings themselves: then nothing about them can be relied on. */
  touchesRings(address: bigint, bytes: number): boolean {
    return address < BigInt(this.rings.end) && address + BigInt(bytes) > BigInt(this.rings.start);
  }

  #guardWindows(regions: readonly RamRegion[]): void {
    const ends = new Map<PageWindow, number>();
    for (const region of regions) {
      for (let start = 0; start < region.bytes; start += GIB) {
        const address = region.guestAddress + start;
        const found = this.memory.resolve(address | 0, Math.floor(address / TWO_32), 1);
        check(found === 1, 'a region can be resolved');
        const window = this.memory.window!;
        const { offset } = this.memory;
        const bytes = Math.min(GIB + OVERLAP, region.bytes - start);
        ends.set(
          window,
          Math.max(ends.get(window) ?? 0, Math.ceil((offset + bytes) / PAGE) * PAGE),
        );
        if (region.guestAddress < CANARY_BASE || region.guestAddress > CANARY_BASE + 2 ** 30) {
          this.#visible.push([window, offset, offset + bytes]);
        } else {
          const canary = window.u8.subarray(offset, offset + bytes);
          this.#canaries.push(new Canary(canary, `region behind 0x${address.toString(16)}`));
        }
      }
    }
    for (const [window, end] of ends) {
      const behind = window.u8.subarray(end, Math.min(end + GUARD, window.bytes));
      this.#canaries.push(new Canary(behind, 'window behind its regions'));
      for (const [from, to] of [
        [LZO1X_DICT_BYTES, WORK_OUT],
        [WORK_OUT + lzo1xWorstCase(PAGE) + 32, WORK_IN],
        [WORK_IN + PAGE, WORK_PAGE],
        [WORK_WHOLE + PAGE, WINDOW_BOUNCE_OFFSET],
      ] as const) {
        this.#canaries.push(new Canary(window.u8.subarray(from, to), `work area from ${from}`));
      }
    }
  }
}

function areasOf({ start, bytes }: Plan): Area[] {
  if (bytes < GIB) return [{ start, end: start + bytes }];
  return [
    { start, end: start + 65536 },
    { start: start + GIB - 65536, end: start + GIB + 65536 },
    { start: start + GIB + 65536, end: start + bytes },
  ];
}

/** A page store that counts, keeps a model of every slot, and refuses places that are not pages. */
export class CheckedStore implements PageDevice<PageWindow> {
  readonly slots: number;
  readonly isFull = false;
  readonly punchedPages = 0;
  /** Since startTurn(). */
  moved = 0;
  cleared = 0;
  /** The guest whose turn it is. */
  guest: HostileGuest | undefined;
  readonly #store: PageStore;
  readonly #model: Uint8Array[];
  readonly #scratch = new PageWindow(2 * 65536);

  constructor(slots: number) {
    this.slots = slots;
    this.#store = PageStore.make({ slots });
    this.#model = Array.from({ length: slots }, () => new Uint8Array(PAGE));
  }

  startTurn(): void {
    this.moved = 0;
    this.cleared = 0;
  }

  writePage(slot: number, window: PageWindow, offset: number): PageResult {
    this.#note(slot, window, offset);
    this.moved++;
    this.#model[slot]!.set(window.u8.subarray(offset, offset + PAGE));
    return this.#store.writePage(slot, window, offset);
  }

  readPage(slot: number, window: PageWindow, offset: number): PageResult {
    this.#note(slot, window, offset);
    this.moved++;
    const result = this.#store.readPage(slot, window, offset);
    check(result === PAGE_DONE, `slot ${slot}: cannot be read`);
    this.#compare(slot, window, offset);
    return result;
  }

  freePage(slot: number): PageResult {
    this.zeroPage(slot);
    return this.#store.freePage(slot);
  }

  zeroPage(slot: number): PageResult {
    check(slot >= 0 && slot < this.slots, `no slot ${slot}`);
    this.cleared++;
    this.#model[slot]!.fill(0);
    return this.#store.zeroPage(slot);
  }

  writePart(slot: number, from: number, to: number, window: PageWindow, at: number): PageResult {
    this.#note(slot, window, at);
    check(from >= 0 && from < to && to <= PAGE, `part [${from}, ${to}) of slot ${slot}`);
    this.cleared++;
    this.#model[slot]!.set(window.u8.subarray(at, at + to - from), from);
    return this.#store.writePart(slot, from, to, window, at);
  }

  abandon(): void {}

  /** The model of a slot. */
  page(slot: number): Uint8Array {
    return this.#model[slot]!;
  }

  /** Compares `count` slots from `first` on, around the end, with the model. */
  compareSlots(first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const slot = (first + i) % this.slots;
      const result = this.#store.readPage(slot, this.#scratch, 65536);
      check(result === PAGE_DONE, `slot ${slot}: cannot be read`);
      this.#compare(slot, this.#scratch, 65536);
    }
  }

  #compare(slot: number, window: PageWindow, offset: number): void {
    const got = window.u8.subarray(offset, offset + PAGE);
    check(Buffer.compare(got, this.#model[slot]!) === 0, `slot ${slot}: other bytes`);
  }

  #note(slot: number, window: PageWindow, offset: number): void {
    check(slot >= 0 && slot < this.slots, `no slot ${slot}`);
    check(
      this.guest === undefined || this.guest.isPlaceOfPage(window, offset),
      `slot ${slot}: a page at ${offset} is not the guest's`,
    );
  }
}
