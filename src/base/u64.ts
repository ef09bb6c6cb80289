/**
 * 64-bit unsigned fields as two 32-bit halves. A BigInt read allocates and costs about ten times a
 * pair of u32 reads, so the data path never makes one: it joins halves into a double, which is
 * exact below 2^53; anything at or above that is no address or sector of a real guest.
 */

const TWO_32 = 4294967296;
/** High halves from here on do not fit a safe integer. */
const HIGH_LIMIT = 0x200000;

/**
 * The halves as one exact number, or -1 when the value is 2^53 or more. Halves may be signed or
 * unsigned: typed arrays deliver both.
 */
export function joinU64(lo: number, hi: number): number {
  const high = hi >>> 0;
  return high < HIGH_LIMIT ? high * TWO_32 + (lo >>> 0) : -1;
}

/** Low half of a safe integer, as a signed 32-bit integer (never a heap number). */
export function lowHalf(value: number): number {
  return value | 0;
}

/** High half of a safe integer, as a signed 32-bit integer. */
export function highHalf(value: number): number {
  return Math.floor(value / TWO_32) | 0;
}

/** HOT PATH: no allocation. A little-endian half at any byte address, as a signed 32-bit integer. */
export function readHalf(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}
