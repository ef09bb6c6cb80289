/**
 * LZO1X over a WebAssembly memory: loads the codec and is the only door to it.
 *
 * Sources and targets are byte offsets into the memory given at construction, and are used in place.
 * This class owns no memory and checks no offset: the callers (the store and the guest-memory code)
 * vouch for the ranges, the codec guarantees to stay inside them whatever bytes they hold. It knows
 * nothing of pages in swap, tables or allocation.
 */
import { readFileSync } from 'node:fs';

/** Scratch the compressor needs at `dictOffset`, of any alignment; contents never matter. */
export const LZO1X_DICT_BYTES = 8192;

/** Errors of `decompress`, named and numbered as in liblzo2. */
export const LZO_E_INPUT_OVERRUN = -4;
export const LZO_E_OUTPUT_OVERRUN = -5;
export const LZO_E_LOOKBEHIND_OVERRUN = -6;
export const LZO_E_EOF_NOT_FOUND = -7;
export const LZO_E_INPUT_NOT_CONSUMED = -8;

/** Room to leave at `dst` for compressing `bytes`: the longest stream, and wide stores beside it. */
export function lzo1xWorstCase(bytes: number): number {
  return bytes + Math.floor(bytes / 16) + 64 + 3;
}

interface Exports {
  compress(src: number, srcLen: number, dst: number, dict: number): number;
  decompress(src: number, srcLen: number, dst: number, dstCapacity: number): number;
  fillPeriod(src: number): number;
  fill(dst: number, lo: number, hi: number): void;
  checksum(src: number, seed: number): number;
}

let compiled: WebAssembly.Module | undefined;

/**
 * Compiled once per thread: every further instance over another memory is cheap. Called early by
 * whoever must not find the file missing late.
 */
export function codecModule(): WebAssembly.Module {
  if (compiled) return compiled;
  const url = new URL('./lzo1x.wasm', import.meta.url);
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = readFileSync(url);
  } catch (cause) {
    throw new Error(`cannot read ${url.pathname}: make it with "npm run build"`, { cause });
  }
  compiled = new WebAssembly.Module(bytes);
  return compiled;
}

export class Lzo1x {
  readonly #codec: Exports;
  readonly #dictOffset: number;

  constructor(memory: WebAssembly.Memory, dictOffset: number) {
    const instance = new WebAssembly.Instance(codecModule(), { env: { memory } });
    this.#codec = instance.exports as unknown as Exports;
    this.#dictOffset = dictOffset;
  }

  // HOT PATH: no allocation, no BigInt, no closures, no await

  /**
   * Compresses `srcLen` (1 to 65535) bytes; returns the length of the stream. `dst` has room for
   * `lzo1xWorstCase(srcLen)` bytes, all of which may be overwritten.
   *
   * The source may change meanwhile (a guest owns it): the stream then decodes to `srcLen` bytes of
   * some mixture, never to anything else.
   */
  compress(src: number, srcLen: number, dst: number): number {
    return this.#codec.compress(src, srcLen, dst, this.#dictOffset);
  }

  /** Bytes written to `dst`, or a negative LZO_E_ error; on error `dst` holds anything. */
  decompress(src: number, srcLen: number, dst: number, dstCapacity: number): number {
    return this.#codec.decompress(src, srcLen, dst, dstCapacity);
  }

  /** 1, 4 or 8 when the 4096-byte page repeats its first so many bytes throughout, else 0. */
  fillPeriod(src: number): number {
    return this.#codec.fillPeriod(src);
  }

  /** Fills a 4096-byte page with an eight-byte pattern: `lo` first, both little-endian. */
  fill(dst: number, lo: number, hi: number): void {
    this.#codec.fill(dst, lo, hi);
  }

  /** The low half of XXH64 over a 4096-byte page, as a signed 32-bit integer. */
  checksum(src: number, seed: number): number {
    return this.#codec.checksum(src, seed);
  }
}
