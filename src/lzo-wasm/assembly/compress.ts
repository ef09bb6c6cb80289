// LZO1X-1 compression into a "version 0" stream (not lzo-rle). Called through ../lzo1x.ts; the
// instruction forms are listed in decompress.ts.
//
// The source may be guest memory, and may change under our hands. So nothing is concluded from two
// reads being equal: lengths and distances are differences of positions, positions only grow and
// stay below `end`, and candidates come from the dictionary, which the guest cannot reach. A change
// meanwhile costs bytes that match no moment of the page, never the form of the stream.
//
// Room at `dst`, srcLen + srcLen / 16 + 67 bytes: a match takes at least one byte less than it
// covers, a run of 4 to 18 literals one more, a run of t >= 19 at most 2 + t / 255 more. So before
// the end the output exceeds the input by at most a sixteenth; the remainder covers the last
// run's head, the end marker and stores of up to 20 bytes where fewer are wanted.
//
// What bounds the speed is a chain from each match to the next (length, position, word, slot,
// candidate) and the branches mispredicted on it, not the number of instructions. Hence
// - four words are looked up one after the other, written out: each has branches of its own, and
//   nothing is counted or checked in between (a loop over positions: a tenth slower);
// - right after a match, which word matched says how many literals there are: each of the four
//   answers puts its own (counting them behind the loop: 4% slower);
// - nothing calls another function, M4 is not used, and matches of up to 11 bytes share no code
//   with longer ones, so that the engine keeps all of the chain in registers (2% each).
// Lengths by 16 bytes at once, hits gathered without branches and words carried over in registers
// from one match to the next were all slower.

/**
 * 2048 positions of 32 bits: whole addresses need no arithmetic on the chain. Half the slots cost
 * 0.6 to 1.3% of size, twice as many gain 0.3 to 0.6% and take 3% more time to empty.
 * LZO1X_DICT_BYTES in ../lzo1x.ts is this size.
 */
const DICT_BITS: u32 = 11;
const DICT_BYTES: u32 = 4 << DICT_BITS;

/** The last position looked up is this far from the end: loads behind what it finds stay inside. */
const TAIL_BYTES: u32 = 20;

const M2_DISTANCE_MAX: u32 = 2048;
const M2_LENGTH_MAX: u32 = 8;
const M3_DISTANCE_MAX: u32 = 16384;
const M3_LENGTH_MAX: u32 = 33;

/** Returns the length of the stream. See ../lzo1x.ts for the contract. */
export function compress(src: u32, srcLen: u32, dst: u32, dict: u32): u32 {
  const end = src + srcLen;
  if (srcLen <= TAIL_BYTES) return finish(dst, dst, src, end) - dst;
  const last = end - TAIL_BYTES;
  let limit = src; // The last position for which the dictionary is good.
  let op = dst;
  let anchor = src; // Everything before is in the stream.
  let ip = src + 1;
  while (true) {
    let candidate: u32 = 0;
    while (true) {
      if (ip > limit) {
        if (ip > last) return finish(op, dst, anchor, end) - dst;
        // Equal input must give equal output, so nothing stays from the page before. An empty slot
        // names the position before the first looked up, a candidate like any other. A source of
        // more than 16 KiB, which no page is, begins again: so no distance needs M4.
        empty(dict, ip - 1);
        limit = min(last, ip - 1 + M3_DISTANCE_MAX - 3);
      }
      // Amid literals a match of four bytes saves one, or none when more literals follow it: asking
      // for five costs 0.4 to 1.1% of size, and decompressing gets 1 to 3% faster.
      const bytes = load<u64>(ip);
      candidate = exchange(dict, <u32>bytes, ip);
      if (fiveEqual(candidate, bytes)) break;
      candidate = exchange(dict, <u32>(bytes >> 8), ip + 1);
      if (fiveEqual(candidate, bytes >> 8)) {
        ip += 1;
        break;
      }
      candidate = exchange(dict, <u32>(bytes >> 16), ip + 2);
      if (fiveEqual(candidate, bytes >> 16)) {
        ip += 2;
        break;
      }
      candidate = exchange(dict, <u32>(bytes >> 24), ip + 3);
      if (fiveEqual(candidate, bytes >> 24)) {
        ip += 3;
        break;
      }
      // The longer nothing matches, the wider the steps.
      ip += 4 + ((ip - anchor) >> 5);
    }
    op = putRun(op, dst, anchor, ip - anchor);

    while (true) {
      const far = ip - candidate - 1;
      const differing = load<u64>(ip, 4) ^ load<u64>(candidate, 4);
      if (differing != 0) {
        const length = 4 + (<u32>ctz(differing) >> 3);
        op = putShortMatch(op, far, length);
        ip += length;
      } else {
        const stop = matchEnd(ip + 12, far + 1, end);
        op = putLongMatch(op, far, stop - ip);
        ip = stop;
      }

      if (ip > limit) break;
      const bytes = load<u64>(ip);
      candidate = exchange(dict, <u32>bytes, ip);
      if (load<u32>(candidate) == <u32>bytes) continue;
      // Pages are full of records that resemble a neighbour except for a few bytes. So look at the
      // same distance: ten equal bytes at least, after three literals at most. Fewer would miss
      // better matches elsewhere. So would doing this first: a page of records that differ in a
      // few bytes each may as a whole repeat at a greater distance. It makes streams 1.2 to 1.8%
      // shorter, and both directions 2% faster, for there are fewer matches.
      const equal = i8x16.bitmask(i8x16.eq(v128.load(ip), v128.load(ip - far - 1)));
      if ((equal & 0x1ff8) == 0x1ff8) {
        const count = 32 - clz(~equal & 7); // Up to the last of the differing bytes.
        op = putFewLiterals(op, <u32>bytes, count);
        ip += count;
        candidate = ip - far - 1;
        continue;
      }
      candidate = exchange(dict, <u32>(bytes >> 8), ip + 1);
      if (load<u32>(candidate) == <u32>(bytes >> 8)) {
        op = putFewLiterals(op, <u32>bytes, 1);
        ip += 1;
        continue;
      }
      candidate = exchange(dict, <u32>(bytes >> 16), ip + 2);
      if (load<u32>(candidate) == <u32>(bytes >> 16)) {
        op = putFewLiterals(op, <u32>bytes, 2);
        ip += 2;
        continue;
      }
      candidate = exchange(dict, <u32>(bytes >> 24), ip + 3);
      if (load<u32>(candidate) == <u32>(bytes >> 24)) {
        op = putFewLiterals(op, <u32>bytes, 3);
        ip += 3;
        continue;
      }
      break;
    }
    anchor = ip;
    ip += 4;
  }
  return 0; // Not reached; the compiler wants it.
}

/** Lets every slot name `position`. */
@inline
function empty(dict: u32, position: u32): void {
  const positions = i32x4.splat(position);
  for (let slot = dict; slot < dict + DICT_BYTES; slot += 128) {
    v128.store(slot, positions);
    v128.store(slot, positions, 16);
    v128.store(slot, positions, 32);
    v128.store(slot, positions, 48);
    v128.store(slot, positions, 64);
    v128.store(slot, positions, 80);
    v128.store(slot, positions, 96);
    v128.store(slot, positions, 112);
  }
}

/** Puts `position` into the slot for four bytes; returns whose place it takes. */
@inline
function exchange(dict: u32, word: u32, position: u32): u32 {
  // The multiplier is 2^32 over the golden ratio.
  const slot = dict + (((word * 2654435761) >>> (32 - DICT_BITS)) << 2);
  const before = load<u32>(slot);
  store<u32>(slot, position);
  return before;
}

/** Whether the bytes at `candidate` begin with the low five of `bytes`. */
@inline
function fiveEqual(candidate: u32, bytes: u64): bool {
  return (load<u64>(candidate) ^ bytes) << 24 == 0;
}

/** First position from `p` on that differs from the one `distance` before it; `end` at most. */
@inline
function matchEnd(p: u32, distance: u32, end: u32): u32 {
  while (end - p >= 16) {
    const equal = i8x16.bitmask(i8x16.eq(v128.load(p), v128.load(p - distance)));
    if (equal != 0xffff) return p + ctz(~equal);
    p += 16;
  }
  while (p < end && load<u8>(p) == load<u8>(p - distance)) p++;
  return p;
}

/** One literal or more at the stream's start, else four or more, TAIL_BYTES before the end. */
@inline
function putRun(op: u32, dst: u32, from: u32, count: u32): u32 {
  if (op != dst) {
    if (count <= 18) {
      store<u8>(op, count - 3);
      v128.store(op, v128.load(from), 1);
      store<u32>(op, load<u32>(from, 16), 17);
      return op + 1 + count;
    }
  }
  op = putRunHead(op, dst, count);
  for (let i: u32 = 0; i < count; i += 16) v128.store(op + i, v128.load(from + i));
  return op + count;
}

/** Up to three literals: counted in the two low bits of the match before, at its last but one. */
@inline
function putFewLiterals(op: u32, literals: u32, count: u32): u32 {
  store<u8>(op - 2, load<u8>(op - 2) | count);
  store<u32>(op, literals);
  return op + count;
}

/** What precedes a literal run: of one to 238 bytes at the stream's start, else of four or more. */
function putRunHead(op: u32, dst: u32, count: u32): u32 {
  if (op == dst && count <= 238) {
    store<u8>(op, 17 + count);
    return op + 1;
  }
  if (count <= 18) {
    store<u8>(op, count - 3);
    return op + 1;
  }
  store<u8>(op, 0);
  return putLengthRest(op + 1, count - 18);
}

/** A length beyond what its tag holds: a zero for every 255, then the rest of 1 to 255. */
@inline
function putLengthRest(op: u32, rest: u32): u32 {
  while (rest > 255) {
    store<u8>(op++, 0);
    rest -= 255;
  }
  store<u8>(op, rest);
  return op + 1;
}

/** A match of 4 to 11 bytes; `far` is its distance less one. */
@inline
function putShortMatch(op: u32, far: u32, length: u32): u32 {
  // M2 where both differences are negative.
  if (<i32>((length - M2_LENGTH_MAX - 1) & (far - M2_DISTANCE_MAX)) < 0) {
    store<u16>(op, ((length - 1) << 5) + ((far & 7) << 2) + ((far >> 3) << 8));
    return op + 2;
  }
  store<u32>(op, (far << 10) + 32 + length - 2);
  return op + 3;
}

/** A match of nine bytes or more; `far` is its distance less one. */
@inline
function putLongMatch(op: u32, far: u32, length: u32): u32 {
  if (length <= M3_LENGTH_MAX) {
    store<u32>(op, (far << 10) + 32 + length - 2);
    return op + 3;
  }
  store<u8>(op, 32);
  op = putLengthRest(op + 1, length - M3_LENGTH_MAX);
  store<u16>(op, far << 2);
  return op + 2;
}

/** The literals that remain, read exactly, and the end marker. */
function finish(op: u32, dst: u32, from: u32, end: u32): u32 {
  const count = end - from;
  if (count > 0) {
    if (op == dst || count > 3) op = putRunHead(op, dst, count);
    else store<u8>(op - 2, load<u8>(op - 2) | count);
    memory.copy(op, from, count);
    op += count;
  }
  store<u8>(op, 0x11);
  store<u16>(op, 0, 1);
  return op + 3;
}
