// XXH64 of a page, for what lies outside our memory: a page on the backing swap is recognised when
// it comes back. Not part of LZO; it lives here because the loop wants 64-bit arithmetic on linear
// memory. The algorithm is public (xxHash, "XXH64 algorithm description").

const PAGE_BYTES: u32 = 4096;
const PRIME64_1: u64 = 0x9e3779b185ebca87;
const PRIME64_2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME64_3: u64 = 0x165667b19e3779f9;
const PRIME64_4: u64 = 0x85ebca77c2b2ae63;

// Decorators of functions are AssemblyScript only.
@inline
function round(acc: u64, lane: u64): u64 {
  return rotl<u64>(acc + lane * PRIME64_2, 31) * PRIME64_1;
}

// Decorators of functions are AssemblyScript only.
@inline
function merge(hash: u64, acc: u64): u64 {
  return (hash ^ round(0, acc)) * PRIME64_1 + PRIME64_4;
}

/** The low half of XXH64(the 4096 bytes at `src`, any alignment; `seed`). */
export function checksum(src: u32, seed: u32): u32 {
  let v1: u64 = <u64>seed + PRIME64_1 + PRIME64_2;
  let v2: u64 = <u64>seed + PRIME64_2;
  let v3: u64 = <u64>seed;
  let v4: u64 = <u64>seed - PRIME64_1;
  const end = src + PAGE_BYTES;
  for (let p = src; p < end; p += 32) {
    v1 = round(v1, load<u64>(p));
    v2 = round(v2, load<u64>(p, 8));
    v3 = round(v3, load<u64>(p, 16));
    v4 = round(v4, load<u64>(p, 24));
  }
  let hash = rotl<u64>(v1, 1) + rotl<u64>(v2, 7) + rotl<u64>(v3, 12) + rotl<u64>(v4, 18);
  hash = merge(merge(merge(merge(hash, v1), v2), v3), v4) + PAGE_BYTES;
  hash = (hash ^ (hash >> 33)) * PRIME64_2;
  hash = (hash ^ (hash >> 29)) * PRIME64_3;
  return <u32>(hash ^ (hash >> 32));
}
