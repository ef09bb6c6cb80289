/**
 * The container of the `lzop` program, as much of it as one file of LZO1X blocks needs, so that
 * lzop can judge our streams and we can read its own. Not a general reader: one member, Adler-32
 * of the plain data, no filters. Called by lzo1x.test.ts only.
 */

const MAGIC = Buffer.from([0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a]);
const F_ADLER32_D = 0x1;
const F_ADLER32_C = 0x2;
const F_CRC32_D = 0x100;
const F_CRC32_C = 0x200;
const F_OS_UNIX = 0x03000000;
const M_LZO1X_1 = 1;

export interface LzopBlock {
  /** The stream, or the plain bytes when compressing did not make them shorter. */
  data: Buffer;
  plainBytes: number;
}

function adler32(bytes: Uint8Array): number {
  let a = 1;
  let b = 0;
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return ((b << 16) | a) >>> 0;
}

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => {
    bytes.writeUInt32BE(value >>> 0, index * 4);
  });
  return bytes;
}

/** A file that `lzop -d` turns into the concatenation of `plain`. */
export function writeLzop(streams: Buffer[], plain: Buffer[]): Buffer {
  const head = Buffer.concat([
    Buffer.from([0x10, 0x40, 0x20, 0xa0, 0x09, 0x40, M_LZO1X_1, 1]), // versions, method, level
    u32(F_OS_UNIX | F_ADLER32_D, 0o100644, 0, 0), // flags, mode, modification time
    Buffer.from([0]), // length of the name
  ]);
  const parts = [MAGIC, head, u32(adler32(head))];
  streams.forEach((stream, index) => {
    const bytes = plain[index]!;
    const data = stream.length < bytes.length ? stream : bytes;
    parts.push(u32(bytes.length, data.length, adler32(bytes)), data);
  });
  return Buffer.concat([...parts, u32(0)]);
}

/** The blocks of a file that lzop made. */
export function readLzop(file: Buffer): LzopBlock[] {
  if (!file.subarray(0, MAGIC.length).equals(MAGIC)) throw new Error('not an lzop file');
  const flags = file.readUInt32BE(17);
  let at = 33;
  at += 1 + file.readUInt8(at) + 4; // name, checksum of the head
  const blocks: LzopBlock[] = [];
  for (;;) {
    const plainBytes = file.readUInt32BE(at);
    if (plainBytes === 0) return blocks;
    const dataBytes = file.readUInt32BE(at + 4);
    at += 8;
    if (flags & F_ADLER32_D) at += 4;
    if (flags & F_CRC32_D) at += 4;
    if (flags & F_ADLER32_C && dataBytes < plainBytes) at += 4;
    if (flags & F_CRC32_C && dataBytes < plainBytes) at += 4;
    blocks.push({ data: file.subarray(at, at + dataBytes), plainBytes });
    at += dataBytes;
  }
}
