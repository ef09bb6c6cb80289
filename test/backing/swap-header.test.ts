/**
 * The swap header: read field by field at the kernel's offsets, and by the programs that guests
 * use, blkid, swaplabel and file, where this machine has them.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { makeSwapHeader } from '../../src/store/swap-header.ts';
import { judgeBy, withFolder } from '../models/descriptors.ts';

const UUID = '01234567-89ab-4cde-8f01-23456789abcd';
const uuid = Uint8Array.from(Buffer.from(UUID.replaceAll('-', ''), 'hex'));
const GUEST_PAGES = [4096, 16384, 65536];
const MIB = 2 ** 20;

function header(guestPageBytes: number, diskBytes = 64 * MIB, label = 'ramzswap0'): Buffer {
  return Buffer.from(makeSwapHeader({ guestPageBytes, diskBytes, uuid, label }));
}

describe.each(GUEST_PAGES)('for guest pages of %i bytes', (guestPageBytes) => {
  it('has the fields of union swap_header, and zeros elsewhere', () => {
    const page = header(guestPageBytes);
    expect(page).toHaveLength(guestPageBytes);
    expect(page.readUInt32LE(1024)).toBe(1);
    expect(page.readUInt32LE(1028)).toBe((64 * MIB) / guestPageBytes - 1);
    expect(page.readUInt32LE(1032)).toBe(0);
    expect(page.subarray(1036, 1052).equals(uuid)).toBe(true);
    expect(page.toString('latin1', 1052, 1068)).toBe('ramzswap0\0\0\0\0\0\0\0');
    expect(page.toString('latin1', guestPageBytes - 10)).toBe('SWAPSPACE2');
    const rest = page.fill(0, 1024, 1068).fill(0, guestPageBytes - 10);
    expect(rest.every((byte) => byte === 0)).toBe(true);
  });

  it('is a swap area to blkid, with its UUID and label', (context) => {
    withFolder((folder) => {
      const path = join(folder, 'disk');
      writeFileSync(path, Buffer.concat([header(guestPageBytes, MIB), Buffer.alloc(MIB)]));
      const told = judgeBy('blkid', ['-p', '-o', 'export', path]);
      if (told === undefined) return context.skip();
      const lines = told.split('\n');
      expect(lines).toContain('TYPE=swap');
      expect(lines).toContain('VERSION=1');
      expect(lines).toContain(`UUID=${UUID}`);
      expect(lines).toContain('LABEL=ramzswap0');
    });
  });
});

it('is a swap area to file and swaplabel', (context) => {
  withFolder((folder) => {
    const path = join(folder, 'disk');
    writeFileSync(path, Buffer.concat([header(4096, MIB), Buffer.alloc(MIB - 4096)]));
    const labels = judgeBy('swaplabel', [path]);
    const kind = judgeBy('file', ['-b', path]);
    if (labels === undefined && kind === undefined) return context.skip();
    if (labels !== undefined) expect(labels).toMatch(new RegExp(`ramzswap0[^]*${UUID}`));
    if (kind !== undefined) {
      expect(kind).toMatch(/^Linux(\/i386)? swap file.*version 1.*size 255 pages.*\b0 bad pages/);
      expect(kind).toContain(UUID);
    }
  });
});

describe('last_page', () => {
  it('counts whole guest pages, less one', () => {
    expect(header(4096, 10 * 4096 + 4095).readUInt32LE(1028)).toBe(9);
    expect(header(65536, 10 * 65536 + 65535).readUInt32LE(1028)).toBe(9);
    expect(header(4096, 2 ** 40).readUInt32LE(1028)).toBe(2 ** 28 - 1);
  });
});

describe('the label', () => {
  it('may fill its field, and ends there', () => {
    const page = header(4096, MIB, 'sixteen-bytes-ok');
    expect(page.toString('latin1', 1052, 1069)).toBe('sixteen-bytes-ok\0');
    const cut = header(4096, MIB, 'sixteen-bytes-ok and more');
    expect(cut.equals(page)).toBe(true);
  });

  it('may be missing', () => {
    expect(header(4096, MIB, '').readBigUInt64LE(1052)).toBe(0n);
  });
});

it('takes a UUID of 16 bytes only', () => {
  const fields = { guestPageBytes: 4096, diskBytes: MIB, label: '' };
  expect(() => makeSwapHeader({ ...fields, uuid: uuid.subarray(1) })).toThrow(AssertionError);
});
