/** The lines that guests report with: `RZS: name word … key=value …`, in any order after the name. */

export interface Marker {
  readonly name: string;
  readonly words: readonly string[];
  readonly values: Readonly<Record<string, string>>;
  /** Since QEMU was started. */
  readonly atMs: number;
}

/** Not anchored at the start: the firmware leaves escape sequences on the console's first line. */
export function parseMarker(line: string, atMs: number): Marker | undefined {
  const start = line.indexOf('RZS: ');
  if (start < 0) return undefined;
  const [name = '', ...rest] = line.slice(start).trim().split(/\s+/).slice(1);
  const words = rest.filter((word) => !word.includes('='));
  const pairs = rest.filter((word) => word.includes('='));
  const values = Object.fromEntries(
    pairs.map((pair) => {
      const equals = pair.indexOf('=');
      return [pair.slice(0, equals), pair.slice(equals + 1)];
    }),
  );
  return { name, words, values, atMs };
}
