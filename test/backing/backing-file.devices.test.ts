/**
 * Backing swaps on block devices: loop devices of several kinds, taken as they are after mkswap, and
 * refused while something else has them.
 */

import { closeSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkUnusedAsSwap, openBackingFile } from '../../src/backing/backing-file.ts';
import { canMakeDisks, Disks, EXT4_4K, makeSwap, run } from '../driver/file-systems.ts';
import { expectRefused } from '../driver/refusals.ts';

const MIB = 2 ** 20;
const IN_USE = 'is in use as swap on this host';
const CLAIMED = 'is in use: mounted, or claimed by another program';

const hasDisks = canMakeDisks();
let disks: Disks;

beforeEach(() => {
  disks = new Disks();
});

afterEach(() => disks.undo());

/** A loop device with a swap header. */
function swapDevice(bytes: number, ...options: string[]): { device: string; image: string } {
  const image = disks.image(bytes);
  makeSwap(image);
  return { device: disks.attach(image, ...options), image };
}

describe.skipIf(!hasDisks)('a block device is accepted', () => {
  it.each([
    ['of whole pages', 8 * MIB, 2048],
    ['of a page and seven sectors more', 8 * MIB + 4096 + 3584, 2049],
    ['of ten pages, the least that mkswap takes', 10 * 4096, 10],
    ['beyond 4 GiB', 6 * 2 ** 30, 6 * 2 ** 18],
    ['beyond 1 TiB', 2 ** 40 + MIB, 2 ** 28 + 256],
  ])('%s, with all of them', (_, bytes, pages) => {
    const { device, image } = swapDevice(bytes);
    const { fd, map, start, path } = openBackingFile(device, 4096);
    closeSync(fd);
    expect(path).toBe(device);
    expect(map.extents).toEqual([{ page: 0, pages, fileOffset: 0, physical: 0 }]);
    expect(map.pages).toBe(pages);
    if (bytes > 8 * MIB + 65536) return;
    const begin = readFileSync(image).subarray(0, 65536);
    expect(Buffer.from(start).subarray(0, begin.length).equals(begin)).toBe(true);
  });

  it('up to where its header says that the area ends', () => {
    const image = disks.image(MIB);
    makeSwap(image);
    run('truncate', '--size', String(4 * MIB), image);
    const { fd, map } = openBackingFile(disks.attach(image), 4096);
    closeSync(fd);
    expect(map.pages).toBe(256);
  });

  it('with sectors of 4096 bytes', () => {
    const { device } = swapDevice(MIB, '--sector-size', '4096');
    const { fd, map } = openBackingFile(device, 4096);
    closeSync(fd);
    expect(map.pages).toBe(256);
  });

  it('with a header that mkswap has just written to the device itself', () => {
    const device = disks.attach(disks.image(MIB));
    makeSwap(device);
    closeSync(openBackingFile(device, 4096).fd);
  });

  it('while the machine swaps to another one', (context) => {
    const { device } = swapDevice(MIB);
    const { device: other } = swapDevice(MIB);
    if (!disks.swapOn(device)) return context.skip();
    closeSync(openBackingFile(other, 4096).fd);
  });

  it('again when it was closed', () => {
    const { device } = swapDevice(MIB);
    for (let i = 0; i < 3; i++) closeSync(openBackingFile(device, 4096).fd);
  });
});

describe.skipIf(!hasDisks)('a block device is refused', () => {
  it('without a swap header', () => {
    const image = disks.image(MIB);
    const reason = 'has no swap header: expected SWAPSPACE2 at byte 4086; use mkswap';
    expectRefused(disks.attach(image), reason, image);
  });

  it('that is smaller than its header says', () => {
    const { device, image } = swapDevice(MIB, '--sizelimit', String(MIB - 512));
    expectRefused(device, 'swap header: expected last_page 254 at most, got 255', image);
  });

  it('that is read-only', () => {
    const { device, image } = swapDevice(MIB, '--read-only');
    expectRefused(device, 'is read-only (the device)', image);
  });

  it('with blocks larger than a page, where there are such', (context) => {
    let made: { device: string; image: string };
    try {
      made = swapDevice(MIB, '--sector-size', '8192');
    } catch {
      console.warn('skipped: this kernel has no loop devices with blocks of 8192 bytes');
      return context.skip();
    }
    const reason = 'expected logical blocks of 4096 bytes at most, got 8192';
    expectRefused(made.device, reason, made.image);
  });

  it('that is mounted', () => {
    const { device, image, folder } = disks.make(EXT4_4K);
    expectRefused(device, CLAIMED, image);
    run('umount', join(folder, '..'));
    const reason = 'has no swap header: expected SWAPSPACE2 at byte 4086; use mkswap';
    expectRefused(device, reason, image);
    run('mount', device, join(folder, '..'));
  });

  it('that another backing swap is on', () => {
    const { device, image } = swapDevice(MIB);
    const { fd } = openBackingFile(device, 4096);
    try {
      expectRefused(device, CLAIMED, image);
    } finally {
      closeSync(fd);
    }
  });

  it('that this machine swaps to, by any name', (context) => {
    const { device, image } = swapDevice(MIB);
    const { major, minor } = numbersOf(device);
    const alias = join(disks.folder, 'alias');
    run('mknod', alias, 'b', String(major), String(minor));
    const link = join(disks.folder, 'link');
    run('ln', '--symbolic', device, link);
    if (!disks.swapOn(device)) return context.skip();
    for (const path of [device, alias, link]) expectRefused(path, IN_USE, image);
    disks.swapOff(device);
    closeSync(openBackingFile(device, 4096).fd);
  });

  it('that the text of /proc/swaps names', () => {
    const { device } = swapDevice(MIB);
    const { device: other } = swapDevice(MIB);
    const swaps = `Filename\tType\tSize\tUsed\tPriority\n${device}  partition\t1020\t0\t-2\n`;
    expect(() => checkUnusedAsSwap(statSync(device), swaps)).toThrow(IN_USE);
    expect(() => checkUnusedAsSwap(statSync(other), swaps)).not.toThrow();
  });
});

function numbersOf(device: string): { major: number; minor: number } {
  const [major, minor] = run('stat', '--format', '%Hr %Lr', device).trim().split(' ').map(Number);
  return { major: major!, minor: minor! };
}
