/**
 * A thread's clock as it was read last. A reading costs as much as a tenth of a page, so what happens
 * at about the same time shares one: whoever has done something that takes time reads it again, and
 * whoever comes next finds it read. Wrapping microseconds: only differences, taken with `| 0`, mean
 * anything.
 */

export interface TurnClock {
  /** When it was read last. */
  readonly micros: number;
  /** HOT PATH: no allocation. Reads it. */
  read(): number;
}
