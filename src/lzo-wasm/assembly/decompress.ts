// LZO1X decompression of any input, wanted or hostile: no byte outside the two given ranges is
// read or written, whatever the stream says. Called through ../lzo1x.ts.
//
// Two functions share the work. `decompress` runs while both ends are far enough away for copies
// wider than asked; it commits nothing before an instruction is proven to fit, and leaves the
// first doubtful one (near an end, reaching too far back) and all that follow to `exactly`, which
// checks each byte and names the error.
//
// What bounds the speed is mispredicted branches, then how many instructions lie on the way from
// one tag to the next. Hence the frequent forms share no code, nothing in the loop calls another
// function (the engine would keep its variables in memory: a third slower), and a check follows a
// load or store: the compiler would make two checks in a row into one of thrice the instructions.
// Decoding M2 and M3 without a branch between them was slower by 5 to 10%; copies of 32 bytes
// whatever the length, and loads that no fresh store overlaps, changed nothing.
//
// Instructions, after the stream description (Documentation/staging/lzo.rst of the Linux kernel);
// L length, D and H distance, S literals that follow, `state` S of the instruction before:
//
//   0000LLLL            state 0     literal run of 3 + L (0: 15 + 255 per zero byte + byte)
//   0000DDSS H          state 1-3   length 2, distance (H << 2) + D + 1
//   0000DDSS H          state 4     length 3, distance (H << 2) + D + 2049
//   0001HLLL DDDDDDSS D             length 2 + L (0: 7 + ...), distance (H << 14) + D + 16384;
//                                   a distance of 16384 ends the stream
//   001LLLLL DDDDDDSS D             length 2 + L (0: 31 + ...), distance D + 1
//   01LDDDSS H                      length 3 + L, distance (H << 3) + D + 1
//   1LLDDDSS H                      length 5 + L, distance (H << 3) + D + 1
//
// `state` is 0 to 3, or 4 after a literal run. The first byte alone may also be 18 to 255: a run of
// that many less 17 literals.

const LZO_E_INPUT_OVERRUN: i32 = -4;
const LZO_E_OUTPUT_OVERRUN: i32 = -5;
const LZO_E_LOOKBEHIND_OVERRUN: i32 = -6;
const LZO_E_EOF_NOT_FOUND: i32 = -7;
const LZO_E_INPUT_NOT_CONSUMED: i32 = -8;

/** State after a literal run of four bytes or more. */
const AFTER_RUN: u32 = 4;

/** State before the first byte, which alone may be a run of 18 to 255 less 17 literals. */
const FIRST: u32 = 5;

/** The fast loop needs eight bytes of input: tag, length, two of distance, four of literals. */
const INPUT_MARGIN: u32 = 8;
/** And twelve of output: M2's single step of eight bytes, four of literals. Others check theirs. */
const OUTPUT_MARGIN: u32 = 12;
/** Room for a step of 16 bytes behind what an instruction is known to write. */
const WIDE: u32 = 16;
/** Below this, margins would lie before the start. */
const FAST_BYTES_MIN: u32 = 32;

/** See ../lzo1x.ts for the contract. */
export function decompress(src: u32, srcLen: u32, dst: u32, dstCapacity: u32): i32 {
  const ipEnd = src + srcLen;
  const opEnd = dst + dstCapacity;
  let ip = src;
  let op = dst;
  let state: u32 = 0;
  if (srcLen < FAST_BYTES_MIN || dstCapacity < FAST_BYTES_MIN) {
    return exactly(ip, ipEnd, op, dst, opEnd, FIRST);
  }
  const first = <u32>load<u8>(ip);
  if (first > 17) {
    const count = first - 17;
    if (1 + count + WIDE > srcLen || count + WIDE > dstCapacity) {
      return exactly(ip, ipEnd, op, dst, opEnd, FIRST);
    }
    for (let i: u32 = 0; i < count; i += 16) v128.store(op + i, v128.load(ip + i, 1));
    ip += 1 + count;
    op += count;
    state = min(count, AFTER_RUN);
  }

  // Inclusive, as all limits below. Distances are compared as addresses, which are signed here:
  // offsets stay below 2^31, but one that reaches too far back may be below zero.
  const ipFast = ipEnd - INPUT_MARGIN;
  const opFast = opEnd - OUTPUT_MARGIN;
  while (ip <= ipFast) {
    const tag = <u32>load<u8>(ip);
    if (op > opFast) break;

    if (tag >= 64) {
      const far = ((<u32>load<u8>(ip, 1)) << 3) + ((tag >> 2) & 7); // Distance less one.
      const from = op - 1 - far;
      if (<i32>from < <i32>dst) break;
      if (far >= 7) {
        store<u64>(op, load<u64>(from));
      } else {
        if (op > opEnd - WIDE) break;
        v128.store(op, repeated(op, far + 1));
      }
      op += (tag >> 5) + 1;
      store<u32>(op, load<u32>(ip, 2));
      state = tag & 3;
      op += state;
      ip += 2 + state;
      continue;
    }

    if (tag > 32) {
      const low = <u32>load<u16>(ip, 1);
      const far = low >> 2;
      const from = op - 1 - far;
      if (<i32>from < <i32>dst) break;
      const next = op + tag - 30;
      if (far >= 15) {
        const piece = v128.load(from);
        if (next > opEnd - WIDE) break;
        v128.store(op, piece);
        if (tag > 46) {
          v128.store(op, v128.load(from, 16), 16);
          if (tag == 63) store<u8>(op, load<u8>(from, 32), 32);
        }
      } else {
        if (next > opEnd - WIDE) break;
        putRepeated(op, far + 1, next);
      }
      store<u32>(next, load<u32>(ip, 3));
      state = low & 3;
      op = next + state;
      ip += 3 + state;
      continue;
    }

    if (tag < 16) {
      if (state != 0) {
        let far = (<u32>load<u8>(ip, 1) << 2) + (tag >> 2);
        if (state == AFTER_RUN) far += 2048;
        const from = op - 1 - far;
        if (<i32>from < <i32>dst) break;
        store<u8>(op, load<u8>(from));
        store<u8>(op, load<u8>(from, 1), 1);
        store<u8>(op, load<u8>(from, 2), 2);
        op += state == AFTER_RUN ? 3 : 2;
        store<u32>(op, load<u32>(ip, 2));
        state = tag & 3;
        op += state;
        ip += 2 + state;
        continue;
      }
      if (tag != 0) {
        if (ip > ipEnd - 21) break;
        const piece = v128.load(ip, 1);
        if (op > opEnd - 20) break;
        v128.store(op, piece);
        store<u32>(op, load<u32>(ip, 17), 16);
        ip += tag + 4;
        op += tag + 3;
        state = AFTER_RUN;
        continue;
      }
      let from = ip + 1;
      let length: u32 = 18;
      let byte = <u32>load<u8>(from++);
      while (byte == 0) {
        length += 255;
        if (from >= ipFast) break;
        byte = <u32>load<u8>(from++);
        if (length > opEnd - op) break;
      }
      if (byte == 0) break;
      length += byte;
      if (length + WIDE > ipEnd - from || length + WIDE > opEnd - op) break;
      for (let i: u32 = 0; i < length; i += 16) v128.store(op + i, v128.load(from + i));
      ip = from + length;
      op += length;
      state = AFTER_RUN;
      continue;
    }

    if (tag != 32) break; // The end of the stream, or a distance that no page has.
    let after = ip + 1;
    let length: u32 = 33;
    let byte = <u32>load<u8>(after++);
    while (byte == 0) {
      length += 255;
      if (after >= ipFast) break;
      byte = <u32>load<u8>(after++);
      if (length > opEnd - op) break;
    }
    if (byte == 0 || after > ipFast) break;
    length += byte;
    const low = <u32>load<u16>(after);
    const far = low >> 2;
    const from = op - 1 - far;
    if (<i32>from < <i32>dst || length + WIDE > opEnd - op) break;
    const next = op + length;
    if (far >= 15) {
      // At least 34 bytes, and room for 50: three steps without a look at the length between them.
      v128.store(op, v128.load(from));
      v128.store(op, v128.load(from, 16), 16);
      v128.store(op, v128.load(from, 32), 32);
      for (let i: u32 = 48; i < length; i += 16) v128.store(op + i, v128.load(from + i));
    } else {
      putRepeated(op, far + 1, next);
    }
    store<u32>(next, load<u32>(after, 2));
    state = low & 3;
    op = next + state;
    ip = after + 2 + state;
  }
  return exactly(ip, ipEnd, op, dst, opEnd, state);
}

/** The rest of the stream, byte for byte; or all of it, in state FIRST. */
function exactly(ip: u32, ipEnd: u32, op: u32, dst: u32, opEnd: u32, state: u32): i32 {
  const dstCapacity = opEnd - dst;
  if (state == FIRST) {
    if (ip == ipEnd) return LZO_E_EOF_NOT_FOUND;
    state = 0;
    const first = <u32>load<u8>(ip);
    if (first > 17) {
      const count = first - 17;
      if (count > ipEnd - ip - 1) return LZO_E_INPUT_OVERRUN;
      if (count > dstCapacity) return LZO_E_OUTPUT_OVERRUN;
      memory.copy(op, ip + 1, count);
      ip += 1 + count;
      op += count;
      state = min(count, AFTER_RUN);
    }
  }

  while (ip < ipEnd) {
    const tag = <u32>load<u8>(ip++);
    let length: u32;
    let distance: u32;

    if (tag < 16 && state == 0) {
      length = tag;
      if (length == 0) {
        const zeros = countZeros(ip, ipEnd);
        if (ip + zeros >= ipEnd) return LZO_E_INPUT_OVERRUN;
        if (zeros > dstCapacity / 255) return LZO_E_OUTPUT_OVERRUN;
        ip += zeros;
        length = 15 + zeros * 255 + <u32>load<u8>(ip++);
      }
      length += 3;
      if (length > ipEnd - ip) return LZO_E_INPUT_OVERRUN;
      if (length > opEnd - op) return LZO_E_OUTPUT_OVERRUN;
      memory.copy(op, ip, length);
      ip += length;
      op += length;
      state = AFTER_RUN;
      continue;
    }

    if (tag < 16 || tag >= 64) {
      if (ip >= ipEnd) return LZO_E_INPUT_OVERRUN;
      const high = <u32>load<u8>(ip++);
      if (tag >= 64) {
        length = (tag >> 5) + 1;
        distance = (high << 3) + ((tag >> 2) & 7) + 1;
      } else {
        length = state == AFTER_RUN ? 3 : 2;
        distance = (high << 2) + (tag >> 2) + (state == AFTER_RUN ? 2049 : 1);
      }
      state = tag & 3;
    } else {
      const lengthMask: u32 = tag >= 32 ? 31 : 7;
      length = tag & lengthMask;
      if (length == 0) {
        const zeros = countZeros(ip, ipEnd);
        if (ip + zeros >= ipEnd) return LZO_E_INPUT_OVERRUN;
        if (zeros > dstCapacity / 255) return LZO_E_OUTPUT_OVERRUN;
        ip += zeros;
        length = lengthMask + zeros * 255 + <u32>load<u8>(ip++);
      }
      length += 2;
      if (ipEnd - ip < 2) return LZO_E_INPUT_OVERRUN;
      const low = <u32>load<u16>(ip);
      ip += 2;
      distance = (low >> 2) + 1;
      if (tag < 32) {
        distance += ((tag & 8) << 11) + 16383;
        if (distance == 16384) return ip == ipEnd ? op - dst : LZO_E_INPUT_NOT_CONSUMED;
      }
      state = low & 3;
    }

    if (distance > op - dst) return LZO_E_LOOKBEHIND_OVERRUN;
    if (length > opEnd - op) return LZO_E_OUTPUT_OVERRUN;
    op = copyMatchExactly(op, distance, length);
    if (state > ipEnd - ip) return LZO_E_INPUT_OVERRUN;
    if (state > opEnd - op) return LZO_E_OUTPUT_OVERRUN;
    for (let i: u32 = 0; i < state; i++) store<u8>(op++, load<u8>(ip++));
  }
  return LZO_E_EOF_NOT_FOUND;
}

/** The sixteen bytes that follow `op` when the last `distance` bytes before it repeat. */
@inline
function repeated(op: u32, distance: u32): v128 {
  // Lane numbers modulo the distance: an unsigned minimum subtracts 8, 4, 2 and 1 distances, each
  // only where it does not wrap.
  const by1 = i8x16.splat(<i8>distance);
  const by2 = i8x16.add(by1, by1);
  const by4 = i8x16.add(by2, by2);
  const by8 = i8x16.add(by4, by4);
  let lane = i8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  lane = i8x16.min_u(lane, i8x16.sub(lane, by8));
  lane = i8x16.min_u(lane, i8x16.sub(lane, by4));
  lane = i8x16.min_u(lane, i8x16.sub(lane, by2));
  lane = i8x16.min_u(lane, i8x16.sub(lane, by1));
  return i8x16.swizzle(v128.load(op - distance), lane);
}

/** Writes up to `end`, and up to 15 bytes beyond, what follows when `distance` bytes repeat. */
@inline
function putRepeated(op: u32, distance: u32, end: u32): void {
  const pattern = repeated(op, distance);
  v128.store(op, pattern);
  op += 16;
  if (op >= end) return;
  const step: u32 = 16 - 16 % distance;
  for (op += step - 16; op < end; op += step) v128.store(op, pattern);
}

@inline
function countZeros(ip: u32, ipEnd: u32): u32 {
  const start = ip;
  while (ip < ipEnd && load<u8>(ip) == 0) ip++;
  return ip - start;
}

/** Writes `length` bytes and no more; long ones near the end of a page still go in wide steps. */
function copyMatchExactly(op: u32, distance: u32, length: u32): u32 {
  const end = op + length;
  if (distance >= 16) {
    for (; end - op >= 16; op += 16) v128.store(op, v128.load(op - distance));
  } else if (length >= 16) {
    const pattern = repeated(op, distance);
    const step = 16 - 16 % distance;
    for (; end - op >= 16; op += step) v128.store(op, pattern);
  }
  if (distance >= 8 && end - op >= 8) {
    store<u64>(op, load<u64>(op - distance));
    op += 8;
  }
  for (; op < end; op++) store<u8>(op, load<u8>(op - distance));
  return op;
}
