/** Pages of every kind that guests swap, from seeded numbers. */

import type { Random } from './random.ts';

const PAGE_BYTES = 4096;
const WORDS = [
  'the',
  'page',
  'swap',
  'kernel',
  'memory',
  'of',
  'and',
  'zero',
  'compressed',
  'host',
  'guest',
  '\n',
];

function repeated(pattern: Uint8Array): Uint8Array {
  return Uint8Array.from({ length: PAGE_BYTES }, (_, i) => pattern[i % pattern.length]!);
}

function text(random: Random): Uint8Array {
  let written = '';
  while (written.length < PAGE_BYTES) written += `${random.pick(WORDS)} `;
  return new Uint8Array(Buffer.from(written.slice(0, PAGE_BYTES)));
}

/** 64-bit pointers into one heap, some of them null. */
function pointers(random: Random): Uint8Array {
  const words = new BigUint64Array(PAGE_BYTES / 8);
  const heap = 0x7f00_0000_0000n + (BigInt(random.uint32()) << 12n);
  for (let i = 0; i < words.length; i++) {
    words[i] = random.rarely(3) ? 0n : heap + BigInt(random.below(1 << 16) * 16);
  }
  return new Uint8Array(words.buffer);
}

function partlyRandom(random: Random, randomBytes: number): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  page.set(random.bytes(randomBytes));
  return page;
}

/** `randomBytes` that do not compress, then text. */
function randomThenText(random: Random, randomBytes: number): Uint8Array {
  const page = text(random);
  page.set(random.bytes(randomBytes));
  return page;
}

/** A page whose compressed length, by `measure`, is exactly `wanted` (1000 to 3500 will do). */
export function pageCompressingTo(
  wanted: number,
  random: Random,
  measure: (page: Uint8Array) => number,
): Uint8Array {
  let randomBytes = wanted;
  for (let i = 0; i < 20_000; i++) {
    const page = randomThenText(random, randomBytes);
    const length = measure(page);
    if (length === wanted) return page;
    const step = Math.sign(wanted - length) * random.between(1, 40);
    randomBytes = Math.min(3900, Math.max(0, randomBytes + step));
  }
  throw new Error(`found no page that compresses to ${wanted} bytes`);
}

/** One byte unlike the rest, at the places where a test for equality could stop too early. */
function almostFilled(random: Random): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES).fill(random.pick([0, 0, 0x5a]));
  page[random.pick([0, 3, 4, 7, 8, 2048, PAGE_BYTES - 8, PAGE_BYTES - 1])] = 1;
  return page;
}

export const PAGE_KINDS: Record<string, (random: Random) => Uint8Array> = {
  zero: () => new Uint8Array(PAGE_BYTES),
  byteFill: (random) => new Uint8Array(PAGE_BYTES).fill(random.pick([1, 0x7f, 0x80, 0xff])),
  twoByteFill: (random) => repeated(random.bytes(2)),
  fourByteFill: (random) => repeated(random.bytes(4)),
  eightByteFill: (random) => repeated(random.bytes(8)),
  // What a test for periods of 8 must not take for one.
  twelveByteFill: (random) => repeated(random.bytes(12)),
  almostFilled,
  text,
  pointers,
  halfRandom: (random) => partlyRandom(random, 2048),
  // Around the threshold of three quarters of a page.
  aboutThreeQuarters: (random) => randomThenText(random, random.between(1800, 2300)),
  random: (random) => random.bytes(PAGE_BYTES),
};

export function somePage(random: Random): Uint8Array {
  return PAGE_KINDS[random.pick(Object.keys(PAGE_KINDS))]!(random);
}

/** Where any part of a page begins, and its bytes: by sectors, or not; some of them zeros. */
export function somePart(random: Random): [from: number, part: Uint8Array] {
  const step = random.pick([512, 512, 1]);
  const from = random.below(PAGE_BYTES / step);
  const to = random.between(from + 1, PAGE_BYTES / step);
  const page = random.rarely(3) ? new Uint8Array(PAGE_BYTES) : somePage(random);
  return [from * step, page.slice(from * step, to * step)];
}
