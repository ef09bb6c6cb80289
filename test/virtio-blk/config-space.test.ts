/** struct virtio_blk_config field by field, at the offsets of VIRTIO 1.2 §5.2.4. */

import { describe, expect, it } from 'vitest';
import { BLOCK_FEATURES, BlockConfig } from '../../src/virtio-blk/config-space.ts';

const PAGES = 0x1_2345_6789;
const QUEUES = 64;

const view = (config: BlockConfig) => new DataView(config.bytes.buffer);

describe('the configuration space of a new device', () => {
  // Offsets counted from the struct in the specification, not from the code's own table.
  const fields: [string, number, 1 | 2 | 4 | 8, number][] = [
    ['capacity, in sectors of 512 bytes', 0, 8, PAGES * 8],
    ['size_max', 8, 4, 1 << 20],
    ['seg_max', 12, 4, 126],
    ['geometry.cylinders', 16, 2, 0],
    ['geometry.heads', 18, 1, 0],
    ['geometry.sectors', 19, 1, 0],
    ['blk_size', 20, 4, 4096],
    ['topology.physical_block_exp', 24, 1, 0],
    ['topology.alignment_offset', 25, 1, 0],
    ['topology.min_io_size, in blocks', 26, 2, 1],
    ['topology.opt_io_size, in blocks', 28, 4, 1],
    ['writeback', 32, 1, 1],
    ['unused0', 33, 1, 0],
    ['num_queues', 34, 2, QUEUES],
    ['max_discard_sectors', 36, 4, 8192],
    ['max_discard_seg', 40, 4, 16],
    ['discard_sector_alignment', 44, 4, 8],
    ['max_write_zeroes_sectors', 48, 4, 8192],
    ['max_write_zeroes_seg', 52, 4, 16],
    ['write_zeroes_may_unmap', 56, 1, 1],
  ];

  it.each(fields)('says %s', (_name, offset, bytes, value) => {
    const config = view(new BlockConfig(PAGES, QUEUES));
    const read = {
      1: () => config.getUint8(offset),
      2: () => config.getUint16(offset, true),
      4: () => config.getUint32(offset, true),
      8: () => Number(config.getBigUint64(offset, true)),
    };
    expect(read[bytes]()).toBe(value);
  });

  it('has room for the struct as later headers have it, 256 bytes at most in vhost-user', () => {
    expect(new BlockConfig(PAGES, QUEUES).bytes.length).toBe(256);
  });

  it('with logical blocks of 512 bytes still says that a page is the physical block', () => {
    const config = view(new BlockConfig(PAGES, QUEUES, 512));
    expect(Number(config.getBigUint64(0, true))).toBe(PAGES * 8);
    expect(config.getUint32(20, true)).toBe(512);
    expect(512 << config.getUint8(24)).toBe(4096);
    expect(config.getUint8(25)).toBe(0);
    expect(config.getUint16(26, true) * 512).toBe(4096);
    expect(config.getUint32(28, true) * 512).toBe(4096);
    expect(config.getUint32(44, true) * 512).toBe(4096);
  });

  it('leaves no byte beside the fields above non-zero', () => {
    const { bytes } = new BlockConfig(PAGES, QUEUES);
    const known = new Set(
      fields.flatMap(([, at, n]) => Array.from({ length: n }, (_, i) => at + i)),
    );
    bytes.forEach((byte, at) => {
      if (!known.has(at)) expect(byte, `byte ${at}`).toBe(0);
    });
  });

  it('offers exactly the features whose fields are filled', () => {
    const bits = { sizeMax: 1, segMax: 2, blkSize: 6, flush: 9, topology: 10, configWce: 11 };
    const more = { mq: 12, discard: 13, writeZeroes: 14 };
    const expected = Object.values({ ...bits, ...more }).reduce(
      (sum, n) => sum | (1n << BigInt(n)),
      0n,
    );
    expect(BLOCK_FEATURES).toBe(expected);
  });
});

describe('writing', () => {
  it('writeback may be set to 0 and 1, and nothing else', () => {
    const config = new BlockConfig(PAGES, QUEUES);
    expect(config.write(32, 0, Uint8Array.of(0))).toBeUndefined();
    expect(config.bytes[32]).toBe(0);
    expect(config.write(32, 0, Uint8Array.of(1))).toBeUndefined();
    expect(config.bytes[32]).toBe(1);
    expect(config.write(32, 0, Uint8Array.of(2))).toMatch(/writeback: expected 0 or 1, got 2/);
    expect(config.bytes[32]).toBe(1);
  });

  it('no other place and no other length may be written', () => {
    const config = new BlockConfig(PAGES, QUEUES);
    const before = config.bytes.slice();
    for (const [offset, bytes] of [
      [0, 8],
      [31, 1],
      [33, 1],
      [32, 0],
      [32, 2],
      [255, 1],
      [256, 1],
      [4_000_000_000, 1],
    ] as const) {
      const wrong = config.write(offset, 0, new Uint8Array(bytes));
      expect(wrong).toMatch(new RegExp(`expected one byte at 32.*got ${bytes} bytes at ${offset}`));
    }
    expect(config.bytes).toEqual(before);
  });

  it('a migration restores the whole space; only writeback is taken from it', () => {
    const config = new BlockConfig(PAGES, QUEUES);
    const before = config.bytes.slice();
    expect(config.write(0, 1, new Uint8Array(60).fill(0))).toBeUndefined();
    expect(config.bytes[32]).toBe(0);
    before[32] = 0;
    expect(config.bytes).toEqual(before);
    expect(config.write(0, 1, new Uint8Array(8).fill(0xff))).toBeUndefined();
    expect(config.bytes).toEqual(before);
    expect(config.write(30, 1, Uint8Array.of(9, 9, 1))).toBeUndefined();
    before[32] = 1;
    expect(config.bytes).toEqual(before);
  });

  it('the capacity can change', () => {
    const config = new BlockConfig(PAGES, QUEUES);
    config.setCapacity(2 ** 31);
    expect(view(config).getBigUint64(0, true)).toBe(2n ** 34n);
  });
});
