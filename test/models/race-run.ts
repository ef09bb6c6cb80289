/**
 * Load on a daemon while its front end does what a front end may do at any moment: stop and start
 * rings, disable and enable them, read and write configuration space, add and remove memory, go
 * away and come back. Tests run it for seconds, scripts/stress.ts for as long as asked.
 */

import { readdirSync, readFileSync } from 'node:fs';
import type { Daemon } from '../driver/daemon.ts';
import { GuestRam, type RamRegion } from '../driver/guest-ram.ts';
import { MultiQueueGuest } from '../driver/multi-queue.ts';
import type { Random } from '../driver/random.ts';
import { RaceLoad } from './race-load.ts';

export const RACE_QUEUES = 4;
export const RACE_DEPTH = 32;
/** Front ends are killed, and others look at what they have left. */
export const RACE_DAEMON_ARGS = [
  ...['--num-queues', `${RACE_QUEUES}`, '--on-new-guest', 'keep', '--log-level', 'error'],
];
const RING_SIZE = 256;
const RAM_BYTES = 12 << 20;
/** For 32 long reads on every queue. */
const LONG_RAM_BYTES = 64 << 20;
const CONFIG_BYTES = 60;
const WRITEBACK = 32;
/** Memory that no ring and no request has anything to do with. */
const OTHER: RamRegion = {
  guestAddress: 2 ** 40,
  userAddress: 2 ** 45,
  bytes: 2 << 20,
  mmapOffset: 0,
};

export function connectRaceGuest(socketPath: string, ram = new GuestRam(RAM_BYTES)) {
  const queues = Array.from({ length: RACE_QUEUES }, () => ({ size: RING_SIZE }));
  return MultiQueueGuest.connect(socketPath, { queues, ram });
}

export function openFdsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** VmRSS or VmSize, in bytes. */
export function memoryOf(pid: number, what: 'VmRSS' | 'VmSize'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${what}:\\s+(\\d+) kB$`, 'm').exec(status)![1]) * 1024;
}

export interface ControlFigures {
  readonly completed: number;
  readonly restarts: number;
  readonly disables: number;
  readonly configs: number;
  readonly regions: number;
}

/**
 * One session, its rings and memory changed under load until `isOver`, which is asked at each turn;
 * ends with all completed.
 */
export function runRingRaces(
  daemon: Daemon,
  seed: number,
  isOver: (figures: ControlFigures) => boolean,
): ControlFigures {
  const guest = connectRaceGuest(daemon.socketPath, new GuestRam(LONG_RAM_BYTES));
  const load = new RaceLoad({ seed, queues: RACE_QUEUES, depth: RACE_DEPTH });
  const races = new RingRaces(guest, load.random);
  const figures = () => ({ completed: load.completed, ...races.figures });
  try {
    while (!isOver(figures())) {
      const isLong = load.random.oneIn(8);
      if (isLong) load.fillWithLongReads(guest);
      else load.fill(guest);
      // In the middle of the long ones, before they are over.
      for (let i = isLong ? 4 : 1; i > 0; i--) races.step();
      for (let i = load.random.below(20); i > 0; i--) load.take(guest);
    }
    races.putRight();
    load.drain(guest);
    load.settle(guest);
    return figures();
  } catch (error) {
    throw new Error(`seed ${seed}, ${load.completed} requests: ${(error as Error).message}`);
  } finally {
    guest.close();
  }
}

class RingRaces {
  readonly #guest: MultiQueueGuest;
  readonly #random: Random;
  /** Rings that are stopped, with the index to resume from; and disabled ones. */
  readonly #stopped = new Map<number, number>();
  readonly #disabled = new Set<number>();
  #hasOther = false;
  readonly figures = { restarts: 0, disables: 0, configs: 0, regions: 0 };

  constructor(guest: MultiQueueGuest, random: Random) {
    this.#guest = guest;
    this.#random = random;
  }

  step(): void {
    const index = this.#random.below(RACE_QUEUES);
    switch (this.#random.below(6)) {
      case 0:
        this.#stopOrStart(index);
        return;
      case 1:
        this.#enableOrDisable(index);
        return;
      case 2:
        this.#configure();
        return;
      case 3:
        this.#changeMemory();
        return;
      default:
        return;
    }
  }

  /** Everything stopped is started, everything disabled enabled. */
  putRight(): void {
    for (const index of [...this.#stopped.keys()]) this.#stopOrStart(index);
    for (const index of [...this.#disabled]) this.#enableOrDisable(index);
  }

  /** Requests of a queue complete in order: the base is exactly what has come back. */
  #stopOrStart(index: number): void {
    const base = this.#stopped.get(index);
    if (base !== undefined) {
      this.#stopped.delete(index);
      this.#guest.startAt(index, base);
      return;
    }
    this.figures.restarts++;
    const { ring } = this.#guest.queues[index]!.driver;
    const stoppedAt = this.#guest.frontEnd.getBase(index);
    if (stoppedAt !== ring.usedIdx) {
      throw new Error(`ring ${index}: base ${stoppedAt}, but used.idx ${ring.usedIdx}`);
    }
    if (this.#random.oneIn(2)) this.#stopped.set(index, stoppedAt);
    else this.#guest.startAt(index, stoppedAt);
  }

  #enableOrDisable(index: number): void {
    const isDisabled = this.#disabled.delete(index);
    this.#guest.frontEnd.setEnabled(index, isDisabled);
    if (isDisabled) return;
    this.figures.disables++;
    this.#disabled.add(index);
  }

  #configure(): void {
    const { frontEnd } = this.#guest;
    const writeback = this.#random.below(2);
    frontEnd.setConfig(WRITEBACK, Uint8Array.of(writeback));
    const config = frontEnd.getConfig(0, CONFIG_BYTES);
    if (config?.[WRITEBACK] !== writeback) throw new Error('configuration space forgets');
    this.figures.configs++;
  }

  #changeMemory(): void {
    const { frontEnd, ram } = this.#guest;
    if (this.#hasOther) frontEnd.removeRegion(OTHER);
    else frontEnd.addRegion(OTHER, ram.fd);
    this.#hasOther = !this.#hasOther;
    this.figures.regions++;
  }
}

export interface ReconnectFigures {
  readonly connections: number;
  readonly completed: number;
}

/**
 * Front ends that go at any moment, with requests in flight, each followed by another that finds
 * every page whole. `isOver` is asked after each.
 */
export function runReconnects(
  daemon: Daemon,
  seed: number,
  isOver: (connections: number) => boolean,
): ReconnectFigures {
  const load = new RaceLoad({ seed, queues: RACE_QUEUES, depth: RACE_DEPTH });
  for (let connections = 1; ; connections++) {
    const guest = connectRaceGuest(daemon.socketPath);
    try {
      load.settle(guest);
      for (let i = load.random.below(12); i > 0; i--) {
        load.fill(guest);
        load.take(guest);
      }
      if (load.random.oneIn(4)) load.drain(guest);
    } catch (error) {
      throw new Error(`seed ${seed}, connection ${connections}: ${(error as Error).message}`);
    } finally {
      guest.close();
      load.abandon();
    }
    if (isOver(connections)) return { connections, completed: load.completed };
  }
}
