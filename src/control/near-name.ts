/** "Did you mean …?" for names of devices: the one that a slip of the keyboard made of it. */

/** More slips than this, or than a third of the name, make another name. */
const DISTANCE_MAX = 2;

/** The nearest of `names`, the first of equals; undefined: none is near. */
export function nearName(wanted: string, names: readonly string[]): string | undefined {
  const distanceMax = Math.min(DISTANCE_MAX, Math.floor(wanted.length / 3));
  let nearest: string | undefined;
  let least = distanceMax + 1;
  for (const name of names) {
    const distance = editDistance(wanted.toLowerCase(), name.toLowerCase());
    if (distance < least) [nearest, least] = [name, distance];
  }
  return nearest;
}

/**
 * How many letters to insert, leave out, replace, or swap with their neighbour (optimal string
 * alignment): row by row of the table of distances between beginnings of both.
 */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row[j] = Math.min(replaced, last[j]! + 1, row[j - 1]! + 1);
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwapped) row[j] = Math.min(row[j]!, beforeLast[j - 2]! + 1);
    }
    [beforeLast, last] = [last, row];
  }
  return last[b.length]!;
}
