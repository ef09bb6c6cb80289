/**
 * A walker of the allocator's pool blocks that trusts nothing: it reads the header words by the diagram
 * in src/xvmalloc/xvmalloc.ts, with constants of its own, and says what contradicts it.
 */

const BLOCK_WORDS = 16384;
const SIZE_MASK = 0xffff;
const FREE = 1 << 16;
const PREVIOUS_FREE = 1 << 17;
const LISTED_BYTES_MIN = 32;
/** Lists are 8 bytes apart: 32, 40, … 4088, and the last for all from 4096 up. */
const LISTS = 509;
/** Where the heads begin in a shard's words, behind its lock. */
const HEADS = 16;

export interface Chunk {
  /** Position of the header word, unsigned. */
  readonly header: number;
  readonly bytes: number;
  readonly isFree: boolean;
}

function check(condition: boolean, claim: string): void {
  if (!condition) throw new Error(`broken block: ${claim}`);
}

function wordAt(segments: readonly Int32Array[], position: number): number {
  const segment = segments[Math.floor(position / 2 ** 28)];
  check(segment !== undefined, `position ${position} is in no segment`);
  return segment![position % 2 ** 28]!;
}

/** The chunks of one pool block; throws where an invariant does not hold. */
export function walkBlock(segments: readonly Int32Array[], block: number): Chunk[] {
  const start = block * BLOCK_WORDS;
  const chunks: Chunk[] = [];
  let previous = 0;
  let isPreviousFree = false;
  let word = 0;
  while (word < BLOCK_WORDS) {
    const header = wordAt(segments, start + word);
    const where = `block ${block}, word ${word}`;
    const isFree = (header & FREE) !== 0;
    const bytes = header & SIZE_MASK;
    check(isFree || bytes >= 1, `${where}: a live object has a size`);
    check(!isFree || bytes % 4 === 0, `${where}: a free chunk is whole words, not ${bytes} bytes`);
    check(!(isFree && isPreviousFree), `${where}: two free neighbours`);
    check(((header & PREVIOUS_FREE) !== 0) === isPreviousFree, `${where}: PREVIOUS_FREE is wrong`);
    check(header >>> 18 === previous, `${where}: previous is ${header >>> 18}, not ${previous}`);
    chunks.push({ header: start + word, bytes, isFree });
    previous = word;
    isPreviousFree = isFree;
    word += 1 + Math.ceil(bytes / 4);
  }
  check(word === BLOCK_WORDS, `block ${block}: chunks end at word ${word}`);
  check(chunks.length > 1 || !chunks[0]!.isFree, `block ${block}: nothing is left in it`);
  return chunks;
}

/** Checks that a shard's lists hold exactly `free`, each chunk in the list of its size. */
export function checkLists(
  segments: readonly Int32Array[],
  shard: Int32Array,
  free: readonly Chunk[],
): void {
  const unlisted = new Map(
    free.filter((chunk) => chunk.bytes >= LISTED_BYTES_MIN).map((chunk) => [chunk.header, chunk]),
  );
  const heads = shard.subarray(HEADS, HEADS + LISTS);
  const bitmap = shard.subarray(HEADS + LISTS);
  for (let list = 0; list < LISTS; list++) {
    const isMarked = (bitmap[list >> 5]! & (1 << (list & 31))) !== 0;
    check(isMarked === (heads[list] !== 0), `list ${list}: the bitmap contradicts its head`);
    let previous = 0;
    for (let at = heads[list]! >>> 0; at !== 0; at = wordAt(segments, at + 1) >>> 0) {
      const chunk = unlisted.get(at);
      check(chunk !== undefined, `list ${list}: ${at} is no free chunk, or is listed twice`);
      const wanted = Math.min(Math.floor((chunk!.bytes - 32) / 8), LISTS - 1);
      check(wanted === list, `list ${list}: ${chunk!.bytes} bytes`);
      check(wordAt(segments, at + 2) >>> 0 === previous, `list ${list}: ${at} points back wrongly`);
      unlisted.delete(at);
      previous = at;
    }
  }
  check(unlisted.size === 0, `${unlisted.size} free chunks are in no list`);
}
