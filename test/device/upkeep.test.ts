/** Rounds of upkeep: a few steps at a time, everybody's turn, and what is said about sleeping. */

import { describe, expect, it } from 'vitest';
import { type Maintained, Upkeep } from '../../src/device/upkeep.ts';
import { turnClock } from '../../src/native/clock.ts';

/** A device whose every step takes `micros`, and which says `wait` then. */
class Device implements Maintained {
  steps = 0;
  wait: number;
  micros: number;
  isPolled = false;

  constructor(wait = -1, micros = 0) {
    this.wait = wait;
    this.micros = micros;
  }

  maintain(now: number): number {
    expect(now).toBeDefined();
    this.steps++;
    const start = turnClock.read();
    while (((turnClock.read() - start) | 0) < this.micros);
    return this.wait;
  }

  mustPoll(): boolean {
    return this.isPolled;
  }
}

const step = (upkeep: Upkeep, devices: readonly Device[]) => upkeep.step(devices, turnClock.read());
const stepsOf = (devices: readonly Device[]) => devices.map(({ steps }) => steps);

describe('a step of upkeep', () => {
  it('is one of each device, and says who wants the next soonest', () => {
    const devices = [new Device(), new Device(70), new Device(40)];
    const upkeep = new Upkeep();
    expect(step(upkeep, devices)).toBe(40);
    devices[0]!.isPolled = true;
    expect(step(upkeep, devices)).toBe(1);
    devices[2]!.wait = 0;
    expect(step(upkeep, devices)).toBe(0);
    expect(stepsOf(devices)).toEqual([3, 3, 3]);
    expect(step(upkeep, [])).toBe(-1);
  });

  it('ends when its time is over, and the next begins behind it: nobody is left out', () => {
    const devices = [0, 1, 2, 3].map(() => new Device(0, 300));
    const upkeep = new Upkeep();
    for (let i = 0; i < 8; i++) {
      expect(step(upkeep, devices)).toBe(0);
      expect(devices.reduce((sum, { steps }) => sum + steps, 0)).toBe(i + 1);
    }
    expect(stepsOf(devices)).toEqual([2, 2, 2, 2]);
  });

  it('looks at the clock also where many devices have little to do each', () => {
    const devices = Array.from({ length: 64 }, () => new Device(-1, 100));
    const upkeep = new Upkeep();
    for (let i = 0; i < 3; i++) expect(step(upkeep, devices)).toBe(0);
    expect(stepsOf(devices)).toEqual(Array.from({ length: 64 }, (_, i) => (i < 48 ? 1 : 0)));
    // The round is over, and nobody waits for anything.
    expect(step(upkeep, devices)).toBe(-1);
  });
});

describe('when a round of several steps is over', () => {
  it('the first of it still wants what it wanted', () => {
    const devices = [new Device(20), ...Array.from({ length: 16 }, () => new Device(-1, 50))];
    const upkeep = new Upkeep();
    expect(step(upkeep, devices)).toBe(0);
    expect(step(upkeep, devices)).toBe(20);
  });

  it('but not if something was served meanwhile: then there is another', () => {
    const devices = Array.from({ length: 17 }, () => new Device(-1, 50));
    const upkeep = new Upkeep();
    upkeep.note();
    expect(step(upkeep, devices)).toBe(0);
    upkeep.note();
    expect(step(upkeep, devices)).toBe(0);
    expect(step(upkeep, devices)).toBe(0);
    expect(step(upkeep, devices)).toBe(-1);
    expect(stepsOf(devices)).toEqual(new Array(17).fill(2));
  });

  it('or if devices have gone', () => {
    const devices = Array.from({ length: 40 }, () => new Device(-1, 50));
    const upkeep = new Upkeep();
    expect(step(upkeep, devices)).toBe(0);
    const left = devices.slice(0, 3);
    expect(step(upkeep, left)).toBe(-1);
    expect(stepsOf(left)).toEqual([2, 2, 2]);
  });
});
