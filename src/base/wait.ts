/** How long whoever does upkeep may sleep: milliseconds; 0: not at all, -1: for nothing. */

/** HOT PATH: no allocation. The sooner of two waits. */
export function sooner(a: number, b: number): number {
  if (a < 0) return b;
  return b < 0 || a < b ? a : b;
}
