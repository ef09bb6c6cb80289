// Pages of one repeated value, which need no compression: finding them and writing them.
// Not part of LZO; it lives here because both loops want SIMD on linear memory.

const PAGE_BYTES: u32 = 4096;

/**
 * The period of the 4096-byte page at `src`, any alignment: 1, 4 or 8 when it repeats its first
 * 1, 4 or 8 bytes throughout, else 0.
 *
 * A guest may write to the page meanwhile. The period then describes some mixture of old and new
 * bytes, as a compressed copy would: the caller reads the pattern itself once and stores that.
 */
export function fillPeriod(src: u32): u32 {
  const pattern = load<u64>(src);
  const wanted = i64x2.splat(pattern);
  // Most pages differ in the first bytes: look at 16 before starting on 64 at a time.
  if (v128.any_true(v128.xor(v128.load(src), wanted))) return 0;

  const end = src + PAGE_BYTES;
  for (let p = src; p < end; p += 64) {
    const a = v128.xor(v128.load(p), wanted);
    const b = v128.xor(v128.load(p, 16), wanted);
    const c = v128.xor(v128.load(p, 32), wanted);
    const d = v128.xor(v128.load(p, 48), wanted);
    if (v128.any_true(v128.or(v128.or(a, b), v128.or(c, d)))) return 0;
  }

  if (pattern != rotl<u64>(pattern, 32)) return 8;
  return pattern == rotl<u64>(pattern, 8) ? 1 : 4;
}

/** Writes a 4096-byte page that repeats the eight bytes `lo`, `hi` (little-endian). */
export function fill(dst: u32, lo: u32, hi: u32): void {
  const pattern = i64x2.splat((<u64>lo) | ((<u64>hi) << 32));
  const end = dst + PAGE_BYTES;
  for (let p = dst; p < end; p += 64) {
    v128.store(p, pattern);
    v128.store(p, pattern, 16);
    v128.store(p, pattern, 32);
    v128.store(p, pattern, 48);
  }
}
