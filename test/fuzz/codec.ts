/**
 * Fuzzes the codec through its only door, src/lzo-wasm/lzo1x.ts: streams that are valid (ours and
 * liblzo2's), damaged, or noise, into any capacity. Whatever comes, the answer is a length within
 * the capacity or a named error; what a valid stream gives is exact; no byte outside the target is
 * written; and a read past the source traps, because sources end where the memory ends.
 */

import {
  LZO_E_INPUT_NOT_CONSUMED,
  LZO_E_INPUT_OVERRUN,
  LZO_E_OUTPUT_OVERRUN,
  LZO1X_DICT_BYTES,
  Lzo1x,
  lzo1xWorstCase,
} from '../../src/lzo-wasm/lzo1x.ts';
import type { Random } from '../driver/random.ts';
import { loadLiblzo2 } from '../lzo-wasm/liblzo2.ts';
import { type Budget, canary, check, runCases } from './budget.ts';

const MEMORY_PAGES = 8;
const MEMORY_BYTES = MEMORY_PAGES * 65536;
/** Targets begin somewhere here; sources lie at the end. */
const TARGET = 65536;
const GUARD = 256;
const TARGET_BYTES_MAX = 3 * 65536;
const PAGE = 4096;

const memory = new WebAssembly.Memory({ initial: MEMORY_PAGES, maximum: MEMORY_PAGES });
const u8 = new Uint8Array(memory.buffer);
const codec = new Lzo1x(memory, 0);
const lzo2 = loadLiblzo2();
const guard = Uint8Array.from({ length: TARGET_BYTES_MAX + 2 * GUARD }, (_, i) => canary(i));

export function fuzzCodec(seed: number, budget: Budget): number {
  return runCases('codec', seed, budget, (random) => {
    if (random.oneIn(4)) fuzzCompress(random);
    else fuzzDecompress(random);
  });
}

// ── Compression ─────────────────────────────────────────────────────────────────────────────────

/** A source that ends with the memory, or a little before. */
function fuzzCompress(random: Random): void {
  const plain = randomPlain(random);
  const source = MEMORY_BYTES - plain.length - (random.oneIn(2) ? 0 : random.below(32));
  const room = lzo1xWorstCase(plain.length);
  u8.set(plain, source);
  const target = TARGET + random.below(64);
  guardTarget(target, room);
  // The dictionary's contents never matter.
  for (let i = 0; i < 64; i++) u8[random.below(LZO1X_DICT_BYTES)] = random.u32();
  const bytes = codec.compress(source, plain.length, target);
  check(bytes > 0 && bytes <= room, `compress: ${plain.length} bytes became ${bytes}`);
  checkGuards(target, room, 'compress');
  const dictionary = Buffer.from(u8.subarray(LZO1X_DICT_BYTES, LZO1X_DICT_BYTES + GUARD));
  check(
    dictionary.every((byte) => byte === 0),
    'compress: wrote behind its dictionary',
  );
  const stream = u8.slice(target, target + bytes);
  expectPlain(stream, plain, 'ours, by our decoder');
  if (lzo2 === undefined || !random.oneIn(4)) return;
  const judged = lzo2.decompress(Buffer.from(stream), plain.length);
  check(judged?.equals(plain) === true, 'ours, by liblzo2: differs');
}

function expectPlain(stream: Uint8Array, plain: Uint8Array, what: string): void {
  const source = MEMORY_BYTES - stream.length;
  u8.set(stream, source);
  guardTarget(TARGET, plain.length);
  const bytes = codec.decompress(source, stream.length, TARGET, plain.length);
  check(bytes === plain.length, () => `${what}: expected ${plain.length} bytes, got ${bytes}`);
  const got = u8.subarray(TARGET, TARGET + bytes);
  check(Buffer.compare(got, plain) === 0, `${what}: other bytes`);
  checkGuards(TARGET, plain.length, what);
}

// ── Decompression ───────────────────────────────────────────────────────────────────────────────

function fuzzDecompress(random: Random): void {
  const plain = randomPlain(random);
  const valid = random.oneIn(16) ? undefined : compressed(random, plain);
  let stream = valid ?? random.bytes(random.between(1, 600));
  const isDamaged = valid === undefined || !random.oneIn(6);
  if (isDamaged) for (let i = random.between(1, 4); i > 0; i--) stream = damage(random, stream);
  const capacity = random.oneIn(3) ? random.below(2 * PAGE) : plain.length;
  const source = MEMORY_BYTES - stream.length - (random.oneIn(4) ? random.below(16) : 0);
  const target = TARGET + GUARD + random.below(64);
  u8.set(stream, source);
  guardTarget(target, capacity);
  const result = codec.decompress(source, stream.length, target, capacity);
  checkGuards(target, capacity, `decompress of ${stream.length} bytes`);
  check(
    (result >= 0 && result <= capacity) ||
      (result <= LZO_E_INPUT_OVERRUN && result >= LZO_E_INPUT_NOT_CONSUMED),
    () => `decompress: ${stream.length} bytes into ${capacity} gave ${result}`,
  );
  const output = u8.subarray(target, target + Math.max(0, result));
  if (!isDamaged) {
    if (capacity < plain.length)
      check(result === LZO_E_OUTPUT_OVERRUN, `short capacity gave ${result}`);
    else check(Buffer.compare(output, plain) === 0, 'valid stream: other bytes');
  }
  if (lzo2 === undefined || capacity === 0 || !random.oneIn(4)) return;
  const judged = lzo2.decompress(Buffer.from(stream), capacity);
  // liblzo2 takes an end marker of any length for one; we refuse lengths beyond the capacity first.
  if (judged !== undefined && result === LZO_E_OUTPUT_OVERRUN) return;
  check((judged !== undefined) === result >= 0, () => `we say ${result}, liblzo2 does not`);
  if (judged !== undefined) check(judged.equals(output), 'liblzo2 gives other bytes');
}

/** A stream for `plain`, by one of three encoders. */
function compressed(random: Random, plain: Uint8Array): Uint8Array {
  const encoder = random.below(4);
  if (lzo2 !== undefined && encoder === 0) return lzo2.compress(Buffer.from(plain));
  if (lzo2 !== undefined && encoder === 1) return lzo2.compress999(Buffer.from(plain));
  const source = MEMORY_BYTES - plain.length;
  u8.set(plain, source);
  return u8.slice(TARGET, TARGET + codec.compress(source, plain.length, TARGET));
}

function damage(random: Random, stream: Uint8Array): Uint8Array {
  if (stream.length === 0) return stream;
  const at = random.below(stream.length);
  const changed = Uint8Array.from(stream);
  switch (random.below(9)) {
    case 0:
      return stream.slice(0, random.below(stream.length + 1));
    case 1:
      changed[at]! ^= 1 << random.below(8);
      return changed;
    case 2:
      // Tags at the borders of what each instruction means.
      changed[at] = random.pick([0, 1, 15, 16, 17, 18, 24, 31, 32, 33, 63, 64, 127, 128, 255]);
      return changed;
    case 3:
      return splice(stream, at, random.between(1, 4), new Uint8Array(0));
    case 4:
      return splice(stream, at, 0, random.bytes(random.between(1, 4)));
    case 5: {
      // A length that goes on and on: a tag without a length, then zeros.
      const zeros = new Uint8Array(random.oneIn(8) ? random.below(70_000) : random.below(40));
      const tag = random.pick([0, 16, 24, 32]);
      return splice(stream, at, 0, Uint8Array.of(tag, ...zeros, random.below(256)));
    }
    case 6: {
      const other = random.below(stream.length);
      const count = Math.min(3, stream.length - Math.max(at, other));
      changed.copyWithin(at, other, other + count);
      changed.set(stream.subarray(at, at + count), other);
      return changed;
    }
    case 7:
      return splice(stream, stream.length, 0, random.bytes(random.between(1, 30)));
    default:
      changed.fill(0, at, Math.min(stream.length, at + random.below(24)));
      return changed;
  }
}

function splice(bytes: Uint8Array, at: number, remove: number, insert: Uint8Array): Uint8Array {
  return Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
}

// ── Data and guards ─────────────────────────────────────────────────────────────────────────────

/** Mostly pages; now and then any length, long ones and those below every threshold included. */
function randomPlain(random: Random): Uint8Array {
  const page = random.page();
  if (!random.oneIn(4)) return page;
  if (random.oneIn(2)) return page.slice(0, random.between(1, 80));
  const length = random.oneIn(4) ? random.between(1, 65535) : random.between(1, PAGE);
  const plain = new Uint8Array(length);
  for (let at = 0; at < length; at += PAGE) plain.set(page.subarray(0, length - at), at);
  for (let i = random.below(40); i > 0; i--) plain[random.below(length)] = random.u32();
  return plain;
}

function guardTarget(target: number, bytes: number): void {
  const start = target - Math.min(GUARD, target - TARGET);
  u8.set(guard.subarray(0, Math.min(bytes, TARGET_BYTES_MAX) + target - start + GUARD), start);
}

function checkGuards(target: number, bytes: number, what: string): void {
  const start = target - Math.min(GUARD, target - TARGET);
  for (const [from, to] of [
    [start, target],
    [target + bytes, target + bytes + GUARD],
  ] as const) {
    for (let at = from; at < to; at++) {
      check(u8[at] === guard[at - start], () => `${what}: byte ${at - target} was overwritten`);
    }
  }
}
