/** The page checksum is XXH64: against another implementation here, and the xxHash program. */

import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { Lzo1x } from '../../src/lzo-wasm/lzo1x.ts';
import { somePage } from '../models/pages.ts';
import { SEED, seededRandom } from '../models/random.ts';

const PAGE = 4096;
const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
const bytes = new Uint8Array(memory.buffer);
const codec = new Lzo1x(memory, 0);
const MASK = (1n << 64n) - 1n;
const P = [
  0x9e3779b185ebca87n,
  0xc2b2ae3d27d4eb4fn,
  0x165667b19e3779f9n,
  0x85ebca77c2b2ae63n,
] as const;

function checksumOf(page: Uint8Array, seed: number, at = 32768): number {
  bytes.set(page, at);
  return codec.checksum(at, seed) >>> 0;
}

const rotl = (x: bigint, by: bigint) => ((x << by) | (x >> (64n - by))) & MASK;
const round = (acc: bigint, lane: bigint) => (rotl((acc + lane * P[1]) & MASK, 31n) * P[0]) & MASK;

/** XXH64 of a multiple of 32 bytes, as its description says it. */
function xxh64(page: Uint8Array, seed: bigint): bigint {
  const view = new DataView(page.buffer, page.byteOffset);
  const acc = [seed + P[0] + P[1], seed + P[1], seed, seed - P[0]].map((v) => v & MASK);
  for (let at = 0; at < page.length; at += 8) {
    const lane = (at / 8) % 4;
    acc[lane] = round(acc[lane]!, view.getBigUint64(at, true));
  }
  let hash = acc.reduce((sum, v, i) => sum + rotl(v, [1n, 7n, 12n, 18n][i]!), 0n) & MASK;
  for (const v of acc) hash = ((hash ^ round(0n, v)) * P[0] + P[3]) & MASK;
  hash = (hash + BigInt(page.length)) & MASK;
  hash = ((hash ^ (hash >> 33n)) * P[1]) & MASK;
  hash = ((hash ^ (hash >> 29n)) * P[2]) & MASK;
  return hash ^ (hash >> 32n);
}

describe('the checksum of a page', () => {
  const random = seededRandom(SEED);
  const pages = Array.from({ length: 60 }, () => somePage(random));

  it('is the low half of XXH64, for any seed', () => {
    for (const page of pages) {
      for (const seed of [0, 1, 77, 2 ** 31, 2 ** 32 - 1]) {
        expect(checksumOf(page, seed)).toBe(Number(xxh64(page, BigInt(seed)) & 0xffffffffn));
      }
    }
  });

  const hasXxhsum = spawnSync('xxhsum', ['--version']).status === 0;
  if (!hasXxhsum) console.warn('checksum.test.ts: SKIPPED the judge, xxhsum is not installed');

  it.skipIf(!hasXxhsum)("is what xxHash's own program says", () => {
    for (const page of pages.slice(0, 8)) {
      const { stdout } = spawnSync('xxhsum', ['-H1', '-'], { input: page, encoding: 'utf8' });
      const theirs = /^[0-9a-f]{16}/.exec(stdout)![0];
      expect(checksumOf(page, 0)).toBe(Number.parseInt(theirs.slice(8), 16));
    }
  });

  it('does not depend on where the page lies, but on every bit of it and on the seed', () => {
    const page = pages.find((each) => each.some((byte) => byte !== 0))!;
    const wanted = checksumOf(page, 5);
    for (const at of [1, 2, 3, 7, 4097]) expect(checksumOf(page, 5, 40_000 + at)).toBe(wanted);
    expect(checksumOf(page, 6)).not.toBe(wanted);
    for (let bit = 0; bit < PAGE * 8; bit += 61) {
      const changed = page.slice();
      changed[bit >> 3]! ^= 1 << (bit & 7);
      expect(checksumOf(changed, 5)).not.toBe(wanted);
    }
  });
});
