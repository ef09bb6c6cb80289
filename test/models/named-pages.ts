/**
 * Pages that say whose they are: slot and version in the first two words, the rest follows from them.
 * So whatever is read can be named, and a page that is torn or another slot's is found out.
 */

import { PAGE_BYTES } from '../../src/base/units.ts';

/** The version of an empty slot: zeros. */
export const EMPTY = 0;

const WORDS = PAGE_BYTES / 4;
/** Words of noise, by version: they compress in some way, to something between; or not at all. */
const NOISY_WORDS = [2, 40, 300, 700, 1000];
/** Of so many versions one is a pattern of eight bytes: its name over and over. */
const PATTERN_PERIOD = 7;

/** Writes the page of a version at word `at`. */
export function fillVersion(words: Int32Array, at: number, slot: number, version: number): void {
  words.fill(0, at, at + WORDS);
  if (version === EMPTY) return;
  const isPattern = version % PATTERN_PERIOD === 0;
  for (let i = 0; i < (isPattern ? WORDS : 2); i += 2) {
    words[at + i] = slot + 1;
    words[at + i + 1] = version;
  }
  if (isPattern) return;
  const noisy = NOISY_WORDS[version % NOISY_WORDS.length]!;
  let x = version | 1;
  for (let i = 2; i < noisy; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) | 0;
    words[at + i] = x ^ (x >>> 13);
  }
}

const expected = new Int32Array(WORDS);

/** The version that a page is; throws when it is torn, another slot's, or nobody's. */
export function versionOf(words: Int32Array, at: number, slot: number): number {
  const version = words[at + 1]!;
  fillVersion(expected, 0, slot, version);
  for (let i = 0; i < WORDS; i++) {
    if (words[at + i] === expected[i]) continue;
    const found = `${words[at + i]}, not ${expected[i]}`;
    throw new Error(`slot ${slot}, version ${version}: word ${i} is ${found}`);
  }
  return version;
}
