/**
 * Both sides of a ring racing in two processes, as fast as they go: the driver here, the device in
 * a child (kick-duel-device.ts), each with a mapping of its own of the same memory. A kick is a
 * counter, and waiting is looking at that counter alone, without a sleep as long as it is short: an
 * enable and a publication meet within nanoseconds, millions of times a minute. Whoever waits while
 * there is something for it, and is not signalled within LOST_MILLIS, has lost a wake-up.
 */

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Window } from '../../src/memory/window.ts';
import { monotonicMicros } from '../../src/native/clock.ts';
import { DriverRing } from '../driver/driver-ring.ts';
import { sleepMillis } from '../driver/front-end.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { Random } from '../driver/random.ts';

/** The other side, and where it finds the memory file. */
const DEVICE = fileURLToPath(new URL('./kick-duel-device.ts', import.meta.url));
export const DUEL_FD = 3;

/** Counted by the clock of a running thread; the other may have to wait for a processor. */
const LOST_MILLIS = 1500;
const RING_SIZE = 16;
const RAM_BYTES = 1 << 20;
const BURST_MAX = 4;
const SPINS_PER_CLOCK = 256;
const STEP_MICROS_MAX = 200;
/** The other side has died. */
const IDLE_MILLIS_MAX = 20_000;

/** Words shared by the two sides, in the guest's memory, a cache line each. */
export const DUEL = { ready: 0, kicks: 16, calls: 32, stop: 48, lost: 64, COUNT: 80 } as const;

export interface DuelSetup {
  /** Guest address of the shared words. */
  readonly words: number;
  readonly regions: GuestRam['regions'];
  readonly addresses: DriverRing['userAddresses'];
  readonly size: number;
  readonly startIndex: number;
  readonly eventIdx: boolean;
  readonly seed: number;
}

export interface DuelOptions {
  readonly seed: number;
  readonly rounds: number;
  readonly eventIdx: boolean;
  /** The rounds that fit into this are run. Default: all. */
  readonly millisMax?: number;
}

export interface DuelResult {
  readonly rounds: number;
  readonly kicks: number;
  readonly calls: number;
  /** Which wake-up was lost, if one was. */
  readonly lost: 'kick' | 'call' | undefined;
}

/**
 * Spins until `word` differs from `seen` or the duel is over; false when something was due all the
 * time and it did not for LOST_MILLIS. A thread that was not running learns it from the clock: only
 * time that passed in small steps counts.
 */
export function spinUntilSignalled(
  words: Int32Array,
  word: number,
  seen: number,
  isDue: () => boolean,
): boolean {
  let last = monotonicMicros();
  let due = 0;
  let idle = 0;
  for (;;) {
    for (let i = 0; i < SPINS_PER_CLOCK; i++) {
      if (Atomics.load(words, word) !== seen) return true;
    }
    if (Atomics.load(words, DUEL.stop) + Atomics.load(words, DUEL.lost) !== 0) return true;
    // The other side may be waiting for this processor.
    if (idle > STEP_MICROS_MAX) sleepMillis(0.01);
    const now = monotonicMicros();
    const step = Math.min((now - last) | 0, STEP_MICROS_MAX);
    last = now;
    due = isDue() ? due + step : 0;
    idle += step;
    if (due > LOST_MILLIS * 1000) return false;
    if (idle > IDLE_MILLIS_MAX * 1000) throw new Error('the other side does not answer');
  }
}

/** A few nanoseconds to a few hundred: so that the two sides meet at every phase. */
export function dawdle(random: Random): void {
  const dice = random.u32();
  const turns = (dice & 7) === 0 ? (dice >>> 8) & 255 : (dice >>> 8) & 15;
  for (let i = 0; i < turns; i++) random.u32();
}

export async function runDuel(options: DuelOptions): Promise<DuelResult> {
  const { seed, eventIdx } = options;
  const ram = new GuestRam(RAM_BYTES);
  const startIndex = 65_000;
  const ring = new DriverRing(ram, RING_SIZE, { eventIdx, startIndex });
  const wordsAt = ram.allocate(DUEL.COUNT * 4, 64);
  const words = wordsIn(ram.window, ram.offsetOf(wordsAt));
  const page = ram.allocate(4096, 4096);
  for (let i = 0; i < RING_SIZE; i++) {
    ring.setDescriptor(i, { address: page + 64 * i, bytes: 16, flags: 0, next: 0 });
  }
  const setup: DuelSetup = {
    words: wordsAt,
    regions: ram.regions,
    addresses: ring.userAddresses,
    size: RING_SIZE,
    startIndex,
    eventIdx,
    seed: seed + 1,
  };
  const args = ['--import', 'tsx', DEVICE, JSON.stringify(setup)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit', ram.fd] });
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  try {
    await untilReady(words, () => child.exitCode !== null);
    return drive(ring, words, page, options);
  } finally {
    Atomics.store(words, DUEL.stop, 1);
    await ended;
    ram.close();
  }
}

/** The shared words as they lie at `offset` of a mapping. */
export function wordsIn(window: Window, offset: number): Int32Array {
  return new Int32Array(window.memory.buffer, offset, DUEL.COUNT);
}

async function untilReady(words: Int32Array, isOver: () => boolean): Promise<void> {
  while (Atomics.load(words, DUEL.ready) === 0) {
    if (isOver()) throw new Error('the device did not start');
    await new Promise((done) => setTimeout(done, 5));
  }
}

/** The driver: bursts of 1 to 4 chains, each round to its end, waiting in one of two ways. */
function drive(
  ring: DriverRing,
  words: Int32Array,
  page: number,
  { seed, rounds, millisMax = Number.POSITIVE_INFINITY }: DuelOptions,
): DuelResult {
  const at = ring.ram.offsetOf(page) >> 2;
  const isDue = () => ring.usedCount > 0;
  const random = new Random(seed);
  const end = Date.now() + millisMax;
  let sequence = 0;
  let awaited = 0;
  const result = (round: number, lost: DuelResult['lost']): DuelResult => {
    const [kicks, calls] = [words[DUEL.kicks]!, words[DUEL.calls]!];
    return { rounds: round, kicks, calls, lost };
  };
  let round = 0;
  for (; round < rounds && (round % 1024 !== 0 || Date.now() < end); round++) {
    const burst = 1 + (random.u32() % BURST_MAX);
    for (let i = 0; i < burst; i++) {
      const head = sequence % RING_SIZE;
      ring.ram.window.i32[at + 16 * head] = sequence;
      ring.offer(head);
      sequence = (sequence + 1) | 0;
      if (random.oneIn(3) && ring.publish()) Atomics.add(words, DUEL.kicks, 1);
    }
    if (ring.publish()) Atomics.add(words, DUEL.kicks, 1);
    while (awaited !== sequence) {
      const seen = Atomics.load(words, DUEL.calls);
      for (let used = ring.takeUsed(); used !== undefined; used = ring.takeUsed()) {
        if (used.len !== awaited >>> 0) throw new Error(`element ${used.len}, not ${awaited}`);
        awaited = (awaited + 1) | 0;
      }
      if (awaited === sequence || ring.enableInterrupts()) continue;
      if (!spinUntilSignalled(words, DUEL.calls, seen, isDue)) return result(round, 'call');
      if (Atomics.load(words, DUEL.lost) !== 0) return result(round, 'kick');
    }
    if (random.oneIn(2)) ring.disableInterrupts();
    dawdle(random);
  }
  return result(round, undefined);
}
