/**
 * The swap header: read field by field at the kernel's offsets, and by the programs that guests
 * use, blkid, swaplabel and file, where this machine has them. Headers to be checked are mkswap's.
 */

import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  checkSwapHeader,
  makeSwapHeader,
  takeOverSwapHeader,
} from '../../src/backing/swap-header.ts';
import { AssertionError } from '../../src/base/assert.ts';
import { RefusedError } from '../../src/base/errors.ts';
import { makeSwap } from '../driver/file-systems.ts';
import { judgeBy, withFolder } from '../models/descriptors.ts';

const UUID = '01234567-89ab-4cde-8f01-23456789abcd';
const uuid = Uint8Array.from(Buffer.from(UUID.replaceAll('-', ''), 'hex'));
const GUEST_PAGES = [4096, 16384, 65536];
const MIB = 2 ** 20;

function header(guestPageBytes: number, diskBytes = 64 * MIB, label = 'ramzswap0'): Buffer {
  return Buffer.from(makeSwapHeader({ guestPageBytes, diskBytes, uuid, label }));
}

const START_BYTES = 65536;

/** What mkswap makes of a file of zeros: all of it. */
function madeByMkswap(bytes: number, ...options: string[]): Buffer {
  return withFolder((folder) => {
    const path = join(folder, 'area');
    writeFileSync(path, '');
    truncateSync(path, bytes);
    makeSwap(path, ...options);
    return readFileSync(path);
  });
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

describe.each(GUEST_PAGES)('an area that mkswap made for pages of %i bytes', (guestPageBytes) => {
  const bytes = MIB + 3 * 4096;
  const made = madeByMkswap(bytes, '--pagesize', String(guestPageBytes));
  const start = made.subarray(0, START_BYTES);

  it('is accepted, and has all its whole pages', () => {
    expect(checkSwapHeader(start, guestPageBytes, bytes)).toBe(bytes - (bytes % guestPageBytes));
  });

  it('is accepted in something larger, and has as many bytes as it says', () => {
    const areaBytes = bytes - (bytes % guestPageBytes);
    expect(checkSwapHeader(start, guestPageBytes, 8 * MIB)).toBe(areaBytes);
  });

  it('is refused in something smaller', () => {
    const last = Math.floor(bytes / guestPageBytes) - 1;
    const smaller = last * guestPageBytes + guestPageBytes - 1;
    expect(() => checkSwapHeader(start, guestPageBytes, smaller)).toThrow(
      `swap header: expected last_page ${last - 1} at most, got ${last}`,
    );
    expect(checkSwapHeader(start, guestPageBytes, smaller + 1)).toBe(smaller + 1);
  });

  it('is refused for a guest with other pages, which are named', () => {
    for (const other of GUEST_PAGES.filter((size) => size !== guestPageBytes)) {
      expect(() => checkSwapHeader(start, other, bytes)).toThrow(
        `its swap header is for pages of ${guestPageBytes} bytes, the guest has ${other}`,
      );
    }
  });

  it('is checked where the header lies, not at the beginning of its buffer', () => {
    const buffer = Buffer.concat([Buffer.alloc(4), start, Buffer.alloc(4)]);
    const within = buffer.subarray(4, 4 + START_BYTES);
    expect(checkSwapHeader(within, guestPageBytes, bytes)).toBe(bytes - (bytes % guestPageBytes));
  });
});

describe('an area is refused', () => {
  const bytes = MIB;
  const made = madeByMkswap(bytes).subarray(0, START_BYTES);

  /** The header of mkswap with a few bytes changed. */
  function changed(at: number, text: string | number[]): Buffer {
    const start = Buffer.from(made);
    Buffer.from(text as string, 'latin1').copy(start, at);
    return start;
  }

  const cases: [string, Buffer, string][] = [
    [
      'without a header',
      Buffer.alloc(START_BYTES),
      'has no swap header: expected SWAPSPACE2 at byte 4086; use mkswap',
    ],
    [
      'with half a magic',
      changed(4086, 'SWAPSPACE3'),
      'has no swap header: expected SWAPSPACE2 at byte 4086; use mkswap',
    ],
    [
      'with the magic of version 0',
      changed(4086, 'SWAP-SPACE'),
      'its swap header is of version 0: use mkswap',
    ],
    [
      'of the other byte order',
      changed(1024, [0, 0, 0, 1]),
      'its swap header is of the other byte order: use mkswap here',
    ],
    ['of version 2', changed(1024, [2, 0, 0, 0]), 'swap header: expected version 1, got 2'],
    ['of version 0', changed(1024, [0, 0, 0, 0]), 'swap header: expected version 1, got 0'],
    [
      'of version 2^31 + 1',
      changed(1024, [1, 0, 0, 0x80]),
      'swap header: expected version 1, got 2147483649',
    ],
    ['with bad pages', changed(1032, [3, 0, 0, 0]), 'swap header: expected no bad pages, got 3'],
    [
      'of one page, its header',
      changed(1028, [0, 0, 0, 0]),
      'swap header: expected pages, got last_page 0',
    ],
    [
      'that goes one page beyond its end',
      changed(1028, [0, 1, 0, 0]),
      'swap header: expected last_page 255 at most, got 256',
    ],
    [
      'of 2^32 pages',
      changed(1028, [255, 255, 255, 255]),
      'swap header: expected last_page 255 at most, got 4294967295',
    ],
    ...['S1SUSPEND\0', 'S2SUSPEND\0', 'ULSUSPEND\0', 'LINHIB0001'].map(
      (magic): [string, Buffer, string] => [
        `that holds a hibernated system (${magic.slice(0, 9)})`,
        changed(4086, magic),
        'holds a hibernated system',
      ],
    ),
  ];

  it.each(cases)('%s', (_, start, text) => {
    let error: unknown;
    try {
      checkSwapHeader(start, 4096, bytes);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(RefusedError);
    expect((error as Error).message).toBe(text);
  });

  it('that is hibernated with pages of another size, by a guest of that size', () => {
    const start = Buffer.from(made);
    start.write('S1SUSPEND\0', 65526, 'latin1');
    expect(() => checkSwapHeader(start, 65536, bytes)).toThrow('holds a hibernated system');
  });

  it('not, unchanged', () => {
    expect(checkSwapHeader(made, 4096, bytes)).toBe(bytes);
  });
});

describe.each(GUEST_PAGES)('a header taken over, for pages of %i bytes', (guestPageBytes) => {
  const LABEL = 'swap-on-disk';
  const options = ['--pagesize', String(guestPageBytes), '--uuid', UUID, '--label', LABEL];
  const made = madeByMkswap(4 * MIB, ...options);
  const start = made.subarray(0, START_BYTES);
  const taken = () =>
    Buffer.from(takeOverSwapHeader(Uint8Array.from(start), guestPageBytes, MIB + 12345));

  it('is the one of the area, but for last_page', () => {
    const page = taken();
    expect(page).toHaveLength(guestPageBytes);
    expect(page.readUInt32LE(1028)).toBe(
      MIB / guestPageBytes - 1 + Math.floor(12345 / guestPageBytes),
    );
    expect(page.subarray(1036, 1052).equals(uuid)).toBe(true);
    made.copy(page, 1028, 1028, 1032);
    expect(page.equals(made.subarray(0, guestPageBytes))).toBe(true);
  });

  it.each([
    ['an array', () => Uint8Array.from(start)],
    ['regression: a Buffer, whose slice() is no copy', () => Buffer.from(start)],
  ])('leaves the area itself as it was, in %s', (_, copy) => {
    const area = copy();
    takeOverSwapHeader(area, guestPageBytes, MIB).fill(0xff, 0, 1024);
    expect(Buffer.compare(area, start)).toBe(0);
  });

  it('passes the check for a disk of that size, and of no less', () => {
    const page = Buffer.concat([taken(), Buffer.alloc(START_BYTES - guestPageBytes)]);
    const bytes = MIB + 12345 - ((MIB + 12345) % guestPageBytes);
    expect(checkSwapHeader(page, guestPageBytes, bytes)).toBe(bytes);
    expect(() => checkSwapHeader(page, guestPageBytes, bytes - 1)).toThrow('last_page');
  });

  it('has its UUID, label and size to blkid, swaplabel and file', (context) => {
    withFolder((folder) => {
      const path = join(folder, 'disk');
      writeFileSync(path, Buffer.concat([taken(), Buffer.alloc(MIB)]));
      const told = judgeBy('blkid', ['-p', '-o', 'export', path]);
      const labels = judgeBy('swaplabel', [path]);
      const kind = judgeBy('file', ['-b', path]);
      const all = [told, labels, kind].filter((text) => text !== undefined);
      if (all.length === 0) return context.skip();
      for (const text of all) {
        expect(text).toContain(UUID);
        expect(text).toContain(LABEL);
      }
      if (kind !== undefined) {
        expect(kind).toContain(`size ${Math.floor((MIB + 12345) / guestPageBytes) - 1} pages`);
      }
    });
  });
});

it('agrees with makeSwapHeader: what it makes is accepted, and taken over as it is', () => {
  for (const guestPageBytes of GUEST_PAGES) {
    const start = Buffer.alloc(START_BYTES);
    header(guestPageBytes, MIB).copy(start);
    expect(checkSwapHeader(start, guestPageBytes, MIB)).toBe(MIB);
    const taken = takeOverSwapHeader(start, guestPageBytes, MIB);
    expect(Buffer.from(taken).equals(header(guestPageBytes, MIB))).toBe(true);
  }
});
