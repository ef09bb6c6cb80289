/**
 * A walker of the allocator's pages that trusts nothing: it reads the header words by the diagram
 * in src/xvmalloc/xvmalloc.ts, with constants of its own, and says what contradicts it.
 */

const PAGE_WORDS = 1024;
const SIZE_MASK = 0xffff;
const FREE = 1 << 16;
const PREVIOUS_FREE = 1 << 17;
const LISTED_BYTES_MIN = 32;
/** Lists are 8 bytes apart: 32, 40, … 4088. */
const LISTS = 508;

export interface Block {
  /** Position of the header word, unsigned. */
  readonly header: number;
  readonly bytes: number;
  readonly isFree: boolean;
}

function check(condition: boolean, claim: string): void {
  if (!condition) throw new Error(`broken page: ${claim}`);
}

function wordAt(segments: readonly Int32Array[], position: number): number {
  const segment = segments[Math.floor(position / 2 ** 28)];
  check(segment !== undefined, `position ${position} is in no segment`);
  return segment![position % 2 ** 28]!;
}

/** The blocks of one page of the pool; throws where an invariant does not hold. */
export function walkPage(segments: readonly Int32Array[], page: number): Block[] {
  const start = page * PAGE_WORDS;
  const blocks: Block[] = [];
  let previous = 0;
  let isPreviousFree = false;
  let word = 0;
  while (word < PAGE_WORDS) {
    const header = wordAt(segments, start + word);
    const where = `page ${page}, word ${word}`;
    const isFree = (header & FREE) !== 0;
    const bytes = header & SIZE_MASK;
    check(isFree || bytes >= 1, `${where}: a live object has a size`);
    check(!isFree || bytes % 4 === 0, `${where}: a free block is whole words, not ${bytes} bytes`);
    check(!(isFree && isPreviousFree), `${where}: two free neighbours`);
    check(((header & PREVIOUS_FREE) !== 0) === isPreviousFree, `${where}: PREVIOUS_FREE is wrong`);
    check(header >>> 18 === previous, `${where}: previous is ${header >>> 18}, not ${previous}`);
    blocks.push({ header: start + word, bytes, isFree });
    previous = word;
    isPreviousFree = isFree;
    word += 1 + Math.ceil(bytes / 4);
  }
  check(word === PAGE_WORDS, `page ${page}: blocks end at word ${word}`);
  check(blocks.length > 1 || !blocks[0]!.isFree, `page ${page}: nothing is left in it`);
  return blocks;
}

/** Checks that the lists hold exactly `free`, each block in the list of its size. */
export function checkLists(
  segments: readonly Int32Array[],
  lists: Int32Array,
  free: readonly Block[],
): void {
  const unlisted = new Map(
    free.filter((block) => block.bytes >= LISTED_BYTES_MIN).map((block) => [block.header, block]),
  );
  for (let list = 0; list < LISTS; list++) {
    const isMarked = (lists[LISTS + (list >> 5)]! & (1 << (list & 31))) !== 0;
    check(isMarked === (lists[list] !== 0), `list ${list}: the bitmap contradicts its head`);
    let previous = 0;
    for (let at = lists[list]! >>> 0; at !== 0; at = wordAt(segments, at + 1) >>> 0) {
      const block = unlisted.get(at);
      check(block !== undefined, `list ${list}: ${at} is no free block, or is listed twice`);
      check(Math.floor((block!.bytes - 32) / 8) === list, `list ${list}: ${block!.bytes} bytes`);
      check(wordAt(segments, at + 2) >>> 0 === previous, `list ${list}: ${at} points back wrongly`);
      unlisted.delete(at);
      previous = at;
    }
  }
  check(unlisted.size === 0, `${unlisted.size} free blocks are in no list`);
}
