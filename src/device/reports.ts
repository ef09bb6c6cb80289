/**
 * What a thread says of its devices, within bounds. Front ends and guests cause most reports, as often as
 * they like, and a report costs the control thread, which writes it down, far more than it costs them.
 *
 * Each kind of report of each device has a budget of its own, so a flood of one kind leaves the others
 * theirs. What is beyond it is left out, but for the last, which is said when there is room again, with
 * how many there were: so how things stand in the end is always told.
 */

import { sooner } from '../base/wait.ts';

export type ReportLevel = 'info' | 'warn' | 'error';

/** What a report is about, as far as somebody else than its operator can cause it at will. */
export type ReportKind =
  /** The disk and its pages: by order, or told once for each change. */
  | 'device'
  | 'session'
  /** Of a second front end. */
  | 'other connection'
  | 'refused request'
  | 'stopped ring'
  | 'broken ring'
  | 'new guest';

/** What a thread tells the control thread: once per change of state, never per request. */
export type Report = (level: ReportLevel, message: string, kind?: ReportKind) => void;

/** All that a device of many queues says when one thing happens to it is longer; the rest is counted. */
export const REPORTS_AT_ONCE = 10;
/** One more each time. */
export const REPORT_MILLIS = 1000;

interface Budget {
  /** Reports that may be said now; as of `since`. */
  room: number;
  since: number;
  /** Left out since the last that was said. */
  count: number;
  level: ReportLevel;
  message: string;
}

type Say = (device: string, level: ReportLevel, message: string) => void;

export class Reports {
  readonly #say: Say;
  readonly #millis: () => number;
  readonly #devices = new Map<string, Map<ReportKind, Budget>>();
  /** Budgets with a count. */
  #held = 0;

  /** `millis`: a clock. */
  constructor(say: Say, millis: () => number = () => performance.now()) {
    this.#say = say;
    this.#millis = millis;
  }

  report(device: string, level: ReportLevel, message: string, kind: ReportKind = 'device'): void {
    const budget = this.#budget(device, kind);
    budget.level = level;
    budget.message = message;
    if (budget.count === 0) this.#held++;
    budget.count++;
    this.#sayIfRoom(device, budget);
  }

  /** For what belongs to the device alone. */
  of(device: string): Report {
    return (...said) => this.report(device, ...said);
  }

  /**
   * HOT PATH: no allocation while nothing is held back. Milliseconds until there is room for it; -1:
   * nothing is.
   */
  maintain(): number {
    return this.#held === 0 ? -1 : this.#sayHeld();
  }

  /** The device is gone: what was held back of it is said. */
  end(device: string): void {
    for (const budget of this.#devices.get(device)?.values() ?? []) this.#sayLast(device, budget);
    this.#devices.delete(device);
  }

  /** The thread ends. */
  endAll(): void {
    for (const device of [...this.#devices.keys()]) this.end(device);
  }

  #budget(device: string, kind: ReportKind): Budget {
    let kinds = this.#devices.get(device);
    if (kinds === undefined) {
      kinds = new Map();
      this.#devices.set(device, kinds);
    }
    let budget = kinds.get(kind);
    if (budget === undefined) {
      const since = this.#millis();
      budget = { room: REPORTS_AT_ONCE, since, count: 0, level: 'info', message: '' };
      kinds.set(kind, budget);
    }
    return budget;
  }

  #sayHeld(): number {
    let millis = -1;
    for (const [device, kinds] of this.#devices) {
      for (const budget of kinds.values()) {
        if (budget.count > 0) millis = sooner(millis, this.#sayIfRoom(device, budget));
      }
    }
    return millis;
  }

  /** Milliseconds until there is room; -1: it was said. */
  #sayIfRoom(device: string, budget: Budget): number {
    const passed = this.#millis() - budget.since;
    const more = Math.floor(passed / REPORT_MILLIS);
    budget.room = Math.min(budget.room + more, REPORTS_AT_ONCE);
    budget.since += more * REPORT_MILLIS;
    if (budget.room === 0) return Math.ceil(REPORT_MILLIS - (passed - more * REPORT_MILLIS));
    budget.room--;
    this.#sayLast(device, budget);
    return -1;
  }

  #sayLast(device: string, budget: Budget): void {
    const { level, message, count } = budget;
    if (count === 0) return;
    const others = count === 1 ? '' : ` (and ${count - 1} more like it, which were not logged)`;
    budget.count = 0;
    this.#held--;
    this.#say(device, level, `${message}${others}`);
  }
}
