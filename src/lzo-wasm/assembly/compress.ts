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

/**
 * 2048 positions of 16 bits, half as many as a page has bytes. Twice as many gain 0.3% of size and
 * cost clearing, and room in the nearest cache. LZO1X_DICT_BYTES in ../lzo1x.ts is this size.
 */
const DICT_BITS: u32 = 11;
const DICT_BYTES: u32 = 2 << DICT_BITS;

/** Probes end this far from the end, and matches begin up to three bytes later: loads stay inside. */
const TAIL_BYTES: u32 = 20;

const MATCH_BYTES_MIN: u32 = 4;
const M2_DISTANCE_MAX: u32 = 2048;
const M2_LENGTH_MAX: u32 = 8;
const M3_DISTANCE_MAX: u32 = 16384;
const M3_LENGTH_MAX: u32 = 33;
const M4_DISTANCE_MAX: u32 = 49151;
const M4_LENGTH_MAX: u32 = 9;

/** Returns the length of the stream. See ../lzo1x.ts for the contract. */
export function compress(src: u32, srcLen: u32, dst: u32, dict: u32): u32 {
  const end = src + srcLen;
  let op = dst;
  let anchor = src; // Everything before is in the stream.
  if (srcLen > TAIL_BYTES) {
    // Equal input must give equal output, so nothing stays from the page before. An empty slot
    // names position 0, a candidate like any other, which is why the search starts at 1.
    clear(dict);
    const limit = end - TAIL_BYTES;
    let ip = src + 1;
    while (ip <= limit) {
      // Most matches begin within four bytes: four probes in a row, without a loop around them,
      // take an eighth less than one at a time.
      const ahead = load<u64>(ip);
      let candidate = exchange(dict, src, ip, <u32>ahead);
      let skipped: u32 = 0;
      if (load<u32>(candidate) != <u32>ahead) {
        candidate = exchange(dict, src, ip + 1, <u32>(ahead >> 8));
        skipped = 1;
        if (load<u32>(candidate) != <u32>(ahead >> 8)) {
          candidate = exchange(dict, src, ip + 2, <u32>(ahead >> 16));
          skipped = 2;
          if (load<u32>(candidate) != <u32>(ahead >> 16)) {
            candidate = exchange(dict, src, ip + 3, <u32>(ahead >> 24));
            skipped = 3;
            if (load<u32>(candidate) != <u32>(ahead >> 24)) {
              // The longer nothing matches, the wider the steps.
              ip += 4 + ((ip + 4 - anchor) >> 5);
              continue;
            }
          }
        }
      }
      ip += skipped;
      let distance = ip - candidate;
      if (distance > M4_DISTANCE_MAX) {
        ip++;
        continue;
      }
      op = putLiterals(op, dst, anchor, ip - anchor);

      // One match often follows another at once.
      let start = ip;
      let known = ip + MATCH_BYTES_MIN; // Up to here it is known to match.
      while (true) {
        ip = matchEnd(known, distance, end);
        op = putMatch(op, distance, ip - start);
        if (ip > limit) break;
        const here = load<u64>(ip);
        const next = exchange(dict, src, ip, <u32>here);
        if (load<u32>(next) == <u32>here && ip - next <= M4_DISTANCE_MAX) {
          distance = ip - next;
          start = ip;
          known = ip + MATCH_BYTES_MIN;
          continue;
        }
        // Pages are full of words and records that resemble a neighbour except for the low bytes of
        // a word. So look at the same distance: five equal bytes after three literals at most, which
        // ride along in the match before. Asking for thirteen makes streams 2% smaller and takes a
        // fifth longer; not looking for a match at hand first makes them 2.5% larger.
        const differing = here ^ load<u64>(ip - distance);
        if (differing >= 0x1000000) break;
        start = ip + 8 - (<u32>clz(differing) >> 3); // Behind the last of the differing bytes.
        known = ip + 8;
        op = putFewLiterals(op, ip, start - ip);
      }
      anchor = ip;
      ip++; // Where it stands was looked at, or is the end.
    }
  }
  return finish(op, dst, anchor, end) - dst;
}

/** By stores of our own: memory.fill is a call out of WebAssembly. */
@inline
function clear(dict: u32): void {
  const zero = i64x2.splat(0);
  const end = dict + DICT_BYTES;
  for (let p = dict; p < end; p += 64) {
    v128.store(p, zero);
    v128.store(p, zero, 16);
    v128.store(p, zero, 32);
    v128.store(p, zero, 48);
  }
}

/** The last position with the same hash as these four bytes, which `ip` replaces. */
@inline
function exchange(dict: u32, src: u32, ip: u32, word: u32): u32 {
  const slot = slotOf(dict, word);
  const candidate = src + <u32>load<u16>(slot);
  store<u16>(slot, ip - src);
  return candidate;
}

/** Address of the slot for four bytes; the multiplier is 2^32 over the golden ratio. */
@inline
function slotOf(dict: u32, word: u32): u32 {
  return dict + (((word * 2654435761) >>> (32 - DICT_BITS)) << 1);
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

/** Puts literals that end at TAIL_BYTES before the source's end or earlier. */
@inline
function putLiterals(op: u32, dst: u32, from: u32, count: u32): u32 {
  if (op == dst) return putRun(op, dst, from, count);
  if (count <= 3) return putFewLiterals(op, from, count);
  if (count > 18) return putRun(op, dst, from, count);
  store<u8>(op, count - 3);
  v128.store(op, v128.load(from), 1);
  store<u32>(op, load<u32>(from, 16), 17);
  return op + 1 + count;
}

function putRun(op: u32, dst: u32, from: u32, count: u32): u32 {
  op = putRunHead(op, dst, count);
  for (let i: u32 = 0; i < count; i += 16) v128.store(op + i, v128.load(from + i));
  return op + count;
}

/** Up to three literals: counted in the two low bits of the match before, at its last but one. */
@inline
function putFewLiterals(op: u32, from: u32, count: u32): u32 {
  store<u8>(op - 2, load<u8>(op - 2) | count);
  store<u32>(op, load<u32>(from));
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

@inline
function putMatch(op: u32, distance: u32, length: u32): u32 {
  if (distance <= M3_DISTANCE_MAX) {
    const far = distance - 1;
    if (length <= M3_LENGTH_MAX) {
      // Two bytes or three is a toss of a coin: computing both beats a mispredicted branch.
      const short = <u32>(length <= M2_LENGTH_MAX) & <u32>(distance <= M2_DISTANCE_MAX);
      const m2 = ((length - 1) << 5) | ((far & 7) << 2) | ((far >> 3) << 8);
      const m3 = 32 | (length - 2) | (far << 10);
      store<u32>(op, select<u32>(m2, m3, short));
      return op + 3 - short;
    }
    store<u8>(op, 32);
    op = putLengthRest(op + 1, length - M3_LENGTH_MAX);
    store<u16>(op, far << 2);
    return op + 2;
  }
  const far = distance - M3_DISTANCE_MAX;
  const tag = 16 | ((far >> 11) & 8);
  if (length <= M4_LENGTH_MAX) {
    store<u8>(op++, tag | (length - 2));
  } else {
    store<u8>(op, tag);
    op = putLengthRest(op + 1, length - M4_LENGTH_MAX);
  }
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
