/**
 * liblzo2 by FFI, as a judge in tests: an independent encoder and decoder of the same streams.
 * The daemon never loads it. Called by lzo1x.test.ts only.
 */
import koffi from 'koffi';

export interface Liblzo2 {
  compress(plain: Buffer): Buffer;
  compress999(plain: Buffer): Buffer;
  /** The plain bytes, or undefined when it refuses the stream. */
  decompress(stream: Buffer, capacity: number): Buffer | undefined;
}

const WORK_BYTES = 14 * 16384 * 8;
const SIGNATURE = '(const void *src, size_t srcLen, void *dst, _Inout_ size_t *dstLen, void *work)';

/** Undefined when the library is not installed. */
export function loadLiblzo2(): Liblzo2 | undefined {
  let library: ReturnType<typeof koffi.load>;
  try {
    library = koffi.load('liblzo2.so.2');
  } catch {
    return undefined;
  }
  const one = library.func(`int lzo1x_1_compress${SIGNATURE}`);
  const nine = library.func(`int lzo1x_999_compress${SIGNATURE}`);
  const safe = library.func(`int lzo1x_decompress_safe${SIGNATURE}`);
  const work = Buffer.alloc(WORK_BYTES);

  function call(f: typeof one, source: Buffer, capacity: number): Buffer | undefined {
    const target = Buffer.alloc(capacity);
    const length = [capacity];
    return f(source, source.length, target, length, work) === 0
      ? target.subarray(0, Number(length[0]))
      : undefined;
  }
  const room = (plain: Buffer) => plain.length + Math.floor(plain.length / 16) + 67;
  return {
    compress: (plain) => call(one, plain, room(plain))!,
    compress999: (plain) => call(nine, plain, room(plain))!,
    decompress: (stream, capacity) => call(safe, stream, capacity),
  };
}
