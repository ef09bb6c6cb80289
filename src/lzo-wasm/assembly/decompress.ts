// LZO1X decompression of any input, wanted or hostile: no byte outside the two given ranges is
// read or written, whatever the stream says. Called through ../lzo1x.ts.
//
// Two loops share the work. The fast one runs while both ends are far enough away for copies wider
// than asked; it commits nothing before an instruction is proven to fit, and leaves every doubtful
// one (near an end, reaching too far back) to the exact one, which takes a single instruction,
// checks each byte and names the error.
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

/** The fast loop needs eight bytes of input: tag, two of distance, four of literals, one spare. */
const INPUT_MARGIN: u32 = 7;
/** Room beyond a match's own length: its last step of 16 bytes, or four bytes of literals. */
const WIDE: u32 = 16;

/** See ../lzo1x.ts for the contract. */
export function decompress(src: u32, srcLen: u32, dst: u32, dstCapacity: u32): i32 {
  const ipEnd = src + srcLen;
  const opEnd = dst + dstCapacity;
  const ipFast = srcLen > INPUT_MARGIN ? ipEnd - INPUT_MARGIN : src; // Exclusive.
  let ip = src;
  let op = dst;
  let state: u32 = 0;

  if (srcLen == 0) return LZO_E_EOF_NOT_FOUND;
  const first = <u32>load<u8>(ip);
  if (first > 17) {
    const count = first - 17;
    if (count > srcLen - 1) return LZO_E_INPUT_OVERRUN;
    if (count > dstCapacity) return LZO_E_OUTPUT_OVERRUN;
    memory.copy(op, ip + 1, count);
    ip += 1 + count;
    op += count;
    state = min(count, AFTER_RUN);
  }

  while (true) {
    // Loads and stores span few bytes where few are wanted: the next match often reads them back,
    // and a load that covers several fresh stores waits for all of them.
    while (ip < ipFast) {
      const tag = <u32>load<u8>(ip);
      let length: u32 = 0;
      let distance: u32 = 0;
      let next: u32 = 0; // Position behind the instruction, before its literals.
      let trailing: u32 = 0; // How many literals.

      if (tag >= 64) {
        distance = ((<u32>load<u8>(ip, 1)) << 3) + ((tag >> 2) & 7) + 1;
        if (distance > op - dst || opEnd - op < WIDE) break;
        if (distance >= 8) store<u64>(op, load<u64>(op - distance));
        else v128.store(op, repeated(op, distance));
        op += (tag >> 5) + 1;
        trailing = tag & 3;
        store<u32>(op, load<u32>(ip, 2));
        op += trailing;
        ip += 2 + trailing;
        state = trailing;
        continue;
      }

      if (tag >= 32) {
        length = (tag & 31) + 2;
        next = ip + 1;
        if (tag == 32) {
          length = 33;
          let byte = <u32>load<u8>(next++);
          while (byte == 0 && next < ipFast && length < opEnd - op) {
            length += 255;
            byte = <u32>load<u8>(next++);
          }
          if (byte == 0 || next > ipFast) break;
          length += byte;
        }
        const low = <u32>load<u16>(next);
        next += 2;
        distance = (low >> 2) + 1;
        trailing = low & 3;
      } else if (tag >= 16) {
        break; // The end of the stream, or a distance that no page has.
      } else if (state != 0) {
        length = state == AFTER_RUN ? 3 : 2;
        distance = ((<u32>load<u8>(ip, 1)) << 2) + (tag >> 2) + (state == AFTER_RUN ? 2049 : 1);
        next = ip + 2;
        trailing = tag & 3;
      } else if (tag != 0) {
        if (ipEnd - ip < 21 || opEnd - op < 20) break;
        v128.store(op, v128.load(ip, 1));
        store<u32>(op, load<u32>(ip, 17), 16);
        ip += tag + 4;
        op += tag + 3;
        state = AFTER_RUN;
        continue;
      } else {
        next = ip + 1;
        length = 18;
        let byte = <u32>load<u8>(next++);
        while (byte == 0 && next < ipFast && length < opEnd - op) {
          length += 255;
          byte = <u32>load<u8>(next++);
        }
        if (byte == 0) break;
        length += byte;
        if (length + WIDE > ipEnd - next || length + WIDE > opEnd - op) break;
        for (let i: u32 = 0; i < length; i += 16) v128.store(op + i, v128.load(next + i));
        ip = next + length;
        op += length;
        state = AFTER_RUN;
        continue;
      }

      if (distance > op - dst || length + WIDE > opEnd - op) break;
      if (distance >= 8) {
        const from = op - distance;
        store<u64>(op, load<u64>(from));
        store<u64>(op, load<u64>(from, 8), 8);
        for (let i: u32 = 16; i < length; i += 16) {
          store<u64>(op + i, load<u64>(from + i));
          store<u64>(op + i, load<u64>(from + i, 8), 8);
        }
      } else {
        const pattern = repeated(op, distance);
        v128.store(op, pattern);
        if (length > 16) {
          const step: u32 = 16 - 16 % distance;
          for (let i = step; i < length; i += step) v128.store(op + i, pattern);
        }
      }
      op += length;
      store<u32>(op, load<u32>(next));
      op += trailing;
      ip = next + trailing;
      state = trailing;
    }

    // One instruction, byte for byte.
    if (ip >= ipEnd) return LZO_E_EOF_NOT_FOUND;
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
  return LZO_E_EOF_NOT_FOUND; // Not reached; the compiler wants it.
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
  for (; op < end; op++) store<u8>(op, load<u8>(op - distance));
  return op;
}
