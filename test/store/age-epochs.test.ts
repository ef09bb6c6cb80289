/**
 * Ages of pages over days and years of a clock that the test moves: as old as they are, within an
 * epoch or a quarter; in bounded steps; and through a store, as its pages come, move and go.
 */

import { describe, expect, it } from 'vitest';
import { SpinLock } from '../../src/memory/spin-lock.ts';
import { AgeEpochs, EPOCH_SECONDS, MERGED_SHARE } from '../../src/store/age-epochs.ts';
import { AGE_WORDS, EPOCHS, oldestBeginning, PageAges } from '../../src/store/page-ages.ts';
import { PageStore } from '../../src/store/page-store.ts';
import { readStatistics } from '../../src/store/statistics.ts';
import { BackedBench } from '../models/backed-bench.ts';
import { type Random, replayable, SEED, seededRandom } from '../models/random.ts';
import { StoreBench } from '../models/store-bench.ts';

const MINUTE = 60;
const DAY = 86_400;
const YEAR = 365 * DAY;

/** Notes how much one step has done. */
class WatchedAges extends PageAges {
  looked = 0;
  renumbered = 0;

  override numberOf(slot: number): number {
    this.looked++;
    return super.numberOf(slot);
  }

  override renumber(slot: number, number: number): void {
    this.renumbered++;
    super.renumber(slot, number);
  }
}

class Bench {
  readonly numbers: Uint8Array;
  readonly words = new Int32Array(AGE_WORDS);
  readonly ages: WatchedAges;
  /** Seconds since boot. */
  now = 1000;
  /** When each page was written. */
  readonly written = new Map<number, number>();
  #epochs: AgeEpochs;
  /** Steps that were part of a merger, and the most that one has done. */
  merging = 0;
  looked = 0;
  renumbered = 0;

  constructor(slots: number) {
    this.numbers = new Uint8Array(slots);
    this.ages = new WatchedAges(this.numbers, this.words, 0, 1, 0);
    this.ages.current = 1;
    this.#epochs = this.#makeEpochs();
  }

  #makeEpochs(): AgeEpochs {
    const words = new Int32Array(64);
    const locks = Array.from({ length: 4 }, (_, i) => new SpinLock(words, 16 * i));
    return new AgeEpochs(this.ages, locks, () => this.now);
  }

  /** Another process finds it. */
  restart(): void {
    this.ages.recount((slot) => this.written.has(slot));
    this.#epochs = this.#makeEpochs();
  }

  write(slot: number): void {
    this.ages.note(slot, true);
    this.written.set(slot, this.now);
  }

  free(slot: number): void {
    this.ages.note(slot, false);
    this.written.delete(slot);
  }

  /** Steps until there is nothing to do now; when there is again, or undefined. */
  rest(): number | undefined {
    for (let steps = 0; ; steps++) {
      if (steps > 10_000) throw new Error('upkeep never comes to an end');
      [this.ages.looked, this.ages.renumbered] = [0, 0];
      const wait = this.#epochs.step((this.now * 1_000_000) | 0);
      // What is renumbered is looked at twice.
      this.looked = Math.max(this.looked, this.ages.looked - this.ages.renumbered);
      this.renumbered = Math.max(this.renumbered, this.ages.renumbered);
      if (this.ages.looked > 0) this.merging++;
      if (wait < 0) return undefined;
      // Milliseconds, never too few: an epoch then ends in this very second.
      if (wait !== 0) return this.now + Math.floor(wait / 1000);
    }
  }

  /** Time passes; upkeep wakes when it has asked for it, as in a reactor. */
  pass(seconds: number): void {
    const end = this.now + seconds;
    for (let due = this.rest(); due !== undefined && due <= end; due = this.rest()) this.now = due;
    this.now = end;
  }

  get reported(): number {
    return this.now - (oldestBeginning(this.words) ?? this.now);
  }

  /** No page is younger than it is, nor much older; and the oldest is. */
  compare(): void {
    this.rest();
    let oldest = 0;
    for (const [slot, at] of this.written) {
      const age = this.now - at;
      const told = this.now - this.ages.beginningOf(this.numbers[slot]!);
      if (told < age || told > age + Math.max(EPOCH_SECONDS, age / MERGED_SHARE)) {
        throw new Error(`page ${slot} is ${age} s old, not ${told}`);
      }
      oldest = Math.max(oldest, told);
    }
    expect(this.reported).toBe(oldest);
    let counted = 0;
    for (let number = 1; number < EPOCHS; number++) counted += this.ages.countOf(number);
    if (counted !== this.written.size) throw new Error(`${counted} counted`);
  }
}

/** Slots near 0 are written often, those far away seldom. */
function someSlot(random: Random, slots: number): number {
  const share = random.pick([0.2, 0.5, 0.8, 1]) * (random.below(1000) / 1000);
  return random.rarely(3) ? random.below(slots) : Math.floor(slots ** share) - 1;
}

function runOn(bench: Bench, random: Random, rounds: number, someGap: () => number): void {
  for (let i = 0; i < rounds; i++) {
    const slot = someSlot(random, bench.numbers.length);
    if (random.rarely(5)) bench.free(slot);
    else bench.write(slot);
    bench.rest();
    bench.pass(someGap());
    if (random.rarely(3)) bench.compare();
    if (random.rarely(200)) bench.restart();
  }
}

describe('the age of the oldest page', () => {
  it('is told within an epoch, or a quarter of it, over days of steady work', () => {
    replayable((random) => {
      const bench = new Bench(10_000);
      bench.write(9999);
      runOn(bench, random, 10_000, () => random.between(20, 100));
      expect(bench.now).toBeGreaterThan(6 * DAY);
      expect(bench.merging).toBeGreaterThan(10);
    });
  });

  it('is told over decades, with pauses of any length', () => {
    replayable((random) => {
      const bench = new Bench(3000);
      const gaps = [1, MINUTE, 10 * MINUTE, DAY, YEAR / 12];
      runOn(bench, random, 4000, () => random.between(1, random.pick(gaps)));
      expect(bench.now).toBeGreaterThan(30 * YEAR);
      // The clock's microseconds wrap every 72 minutes.
      expect(bench.merging).toBeGreaterThan(0);
    }, SEED + 1);
  });

  it('is gone with the page: the next oldest has its own', () => {
    const bench = new Bench(10);
    bench.write(1);
    bench.pass(10 * DAY);
    bench.write(2);
    bench.pass(MINUTE);
    expect(bench.reported).toBe(10 * DAY + MINUTE);
    bench.write(1);
    bench.rest();
    expect(bench.reported).toBe(MINUTE);
    for (const slot of [1, 2]) bench.free(slot);
    expect(bench.reported).toBe(0);
  });
});

describe('upkeep of epochs', () => {
  it('waits for nothing while nothing was written, and wakes once after the last page', () => {
    const bench = new Bench(10);
    expect(bench.rest()).toBeUndefined();
    bench.now += DAY;
    bench.write(1);
    expect(bench.rest()).toBe(bench.now + EPOCH_SECONDS);
    bench.now += EPOCH_SECONDS;
    expect(bench.rest()).toBeUndefined();
    bench.now += DAY;
    // A page that comes after a pause is not as old as the pause.
    bench.write(2);
    bench.free(1);
    bench.rest();
    expect(bench.reported).toBe(0);
  });

  it('merges in steps of a bounded size, however many slots there are', () => {
    const bench = new Bench(100_000);
    // A page of each epoch, until all numbers are in use; and many of one that will be merged.
    for (let i = 0; i < EPOCHS - 1; i++) {
      bench.write(i);
      if (i === 1) for (let slot = 50_000; slot < 60_000; slot++) bench.write(slot);
      bench.pass(EPOCH_SECONDS);
    }
    bench.compare();
    expect(new Set(bench.numbers).size - 1).toBeLessThan(150);
    expect(bench.merging).toBeGreaterThan(100_000 / 8192 + 10_000 / 512 - 2);
    expect(bench.looked).toBeLessThanOrEqual(8192);
    expect(bench.renumbered).toBe(512);
  });

  it('goes on where beginnings are damaged', () => {
    replayable((random) => {
      for (let round = 0; round < 20; round++) {
        const bench = new Bench(300);
        for (let slot = 0; slot < 300; slot++) bench.write(slot);
        for (let slot = 0; slot < 300; slot++) bench.numbers[slot] = 1 + (slot % 255);
        const some = random.pick([() => random.uint32() | 0, () => 0, () => 2 ** 31 - 1]);
        for (let number = 1; number < EPOCHS; number++) bench.words[number] = some();
        bench.restart();
        for (let i = 0; i < 100; i++) {
          bench.write(random.below(300));
          bench.pass(random.between(1, 200));
        }
        let counted = 0;
        for (let number = 1; number < EPOCHS; number++) counted += bench.ages.countOf(number);
        expect(counted).toBe(300);
      }
    });
  });
});

describe('a store', () => {
  const random = seededRandom(SEED);
  const noise = () => random.bytes(4096);
  const text = new Uint8Array(Buffer.from('what a guest has swapped out; '.repeat(137), 'latin1'));
  const TEXT = text.slice(0, 4096);

  /** A clock that starts here, and what is told at its time. */
  function clocked() {
    const clock = { now: 5000 };
    const ageClock = () => clock.now;
    const told = (store: PageStore) => {
      const process = { cpuMicros: 0, bootSeconds: clock.now };
      return readStatistics(null, store.mapped, process).oldest_page_seconds;
    };
    /** As a reactor would, if it were asleep for all that time. */
    const pass = (store: { maintain(now: number): number }, seconds: number) => {
      const rest = () => {
        let wait = 0;
        for (let i = 0; wait === 0 && i < 1000; i++) wait = store.maintain((clock.now * 1e6) | 0);
      };
      rest();
      clock.now += seconds;
      rest();
    };
    return { ageClock, told, pass };
  }

  it('tells how long it holds its oldest page, which overwriting and freeing end', () => {
    const { ageClock, told, pass } = clocked();
    const bench = new StoreBench({ slots: 16, ageClock, headerSlots: 1 });
    const { store } = bench;
    // Nobody asks how old the swap header is.
    store.writeRaw(0, noise());
    bench.write(0, noise());
    pass(store, DAY);
    expect(told(store)).toBe(0);
    bench.write(1, noise());
    pass(store, 100);
    expect(told(store)).toBe(100);
    bench.write(2, TEXT);
    bench.zero(3);
    pass(store, 100);
    bench.write(1, TEXT);
    pass(store, 100);
    expect(told(store)).toBe(200);
    bench.writePart(2, 512, noise().subarray(0, 512));
    pass(store, 7);
    expect(told(store)).toBe(107);
    for (const slot of [1, 2]) bench.zero(slot);
    pass(store, DAY);
    // What is filled takes no room.
    expect(told(store)).toBe(0);
  });

  it('forgets all ages with a reset, and knows them after a restart', () => {
    const { ageClock, told, pass } = clocked();
    const options = { slots: 16, ageClock };
    const bench = new StoreBench(options);
    bench.write(1, noise());
    pass(bench.store, 200);
    bench.write(2, noise());
    pass(bench.store, 1);
    const [found] = PageStore.recover(options, bench.store.mapped);
    pass(found, DAY);
    expect(told(found)).toBe(201 + DAY);
    found.freePage(1);
    pass(found, 1);
    expect(told(found)).toBe(DAY + 2);
    found.reset(1, false);
    pass(found, DAY);
    expect(told(found)).toBe(0);
  });

  it('knows a page that moves to the backing swap by its age, and one that is written there', () => {
    const { ageClock, told, pass } = clocked();
    const bench = new BackedBench({ slots: 32, memlimitBytes: 1 << 20, ageClock });
    const { store, memory } = bench;
    bench.write(5, TEXT);
    bench.write(6, noise());
    bench.settle();
    pass(store, 300);
    expect(told(memory)).toBe(300);
    expect(bench.statistics.pages_on_backing).toBe(1);
    bench.write(6, noise());
    bench.settle();
    store.memlimitBytes = 1;
    pass(store, 0);
    bench.settle();
    expect(bench.statistics).toMatchObject({ pages_on_backing: 2, pages_moved_out: 1 });
    pass(store, 100);
    expect(told(memory)).toBe(400);
    bench.free(5);
    pass(store, 1);
    expect(told(memory)).toBe(101);
  });
});
