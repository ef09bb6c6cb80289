/**
 * The judge of reads that race with writes: each slot must behave like one register. A read may see
 * a value that was written before it or beside it, unless another write has replaced that value in
 * between for certain: begun after it had ended, and ended before the read began.
 */

export interface Timed {
  readonly version: number;
  readonly start: number;
  readonly end: number;
}

/**
 * The reads of one slot that no register would give, given all its writes (frees included, as writes
 * of the version of an empty slot). `first`: what it held before.
 */
export function impossibleReads(
  writes: readonly Timed[],
  reads: readonly Timed[],
  first: Timed,
): Timed[] {
  const all = [first, ...writes];
  // For each moment, the latest start among the writes that have ended by then.
  const byEnd = all.toSorted((a, b) => a.end - b.end);
  const latestStart: number[] = [];
  for (const { start } of byEnd) latestStart.push(Math.max(start, latestStart.at(-1) ?? -Infinity));
  const byVersion = groupByVersion(all);
  return reads.filter((read) => {
    const ended = countBelow(byEnd, read.start);
    const replacedBefore = ended === 0 ? -Infinity : latestStart[ended - 1]!;
    const candidates = byVersion.get(read.version) ?? [];
    return !candidates.some(({ start, end }) => start < read.end && end >= replacedBefore);
  });
}

function groupByVersion(writes: readonly Timed[]): Map<number, Timed[]> {
  const groups = new Map<number, Timed[]>();
  for (const write of writes) {
    const group = groups.get(write.version);
    if (group === undefined) groups.set(write.version, [write]);
    else group.push(write);
  }
  return groups;
}

/** How many have ended before `time`; `byEnd` is in the order of ends. */
function countBelow(byEnd: readonly Timed[], time: number): number {
  let [low, high] = [0, byEnd.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (byEnd[middle]!.end < time) low = middle + 1;
    else high = middle;
  }
  return low;
}
