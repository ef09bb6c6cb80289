/**
 * Disks of a test's own: loop devices over sparse images, the file systems on them, swap areas
 * turned on. Whatever is made is undone in reverse order, also after a test that failed half-way.
 * Needs root and loop devices; `canMakeDisks` says so, loudly, where they are missing.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd, reserveRange } from '../../src/native/fd.ts';
import type { FileExtent } from '../../src/native/file-extents.ts';
import { isRoot } from '../models/descriptors.ts';
import type { Random } from '../models/random.ts';

const MIB = 2 ** 20;

export interface FileSystemKind {
  readonly name: string;
  readonly type: string;
  /** mkfs.xfs wants 300 MiB. Images are sparse: this much is not used. */
  readonly bytes: number;
  readonly blockBytes: number;
  readonly mkfs: readonly string[];
  /** chattr of the folder that files are made in; they inherit it. */
  readonly attributes?: string;
}

const QUICK_EXT4 = ['-q', '-m', '0'];
export const EXT4_1K: FileSystemKind = {
  name: 'ext4 in blocks of 1 KiB',
  type: 'ext4',
  bytes: 64 * MIB,
  blockBytes: 1024,
  mkfs: [...QUICK_EXT4, '-b', '1024'],
};
export const EXT4_4K: FileSystemKind = {
  name: 'ext4 in blocks of 4 KiB',
  type: 'ext4',
  bytes: 64 * MIB,
  blockBytes: 4096,
  mkfs: [...QUICK_EXT4, '-b', '4096'],
};
export const XFS: FileSystemKind = {
  name: 'xfs',
  type: 'xfs',
  bytes: 320 * MIB,
  blockBytes: 4096,
  mkfs: ['-q'],
};
export const BTRFS: FileSystemKind = {
  name: 'btrfs',
  type: 'btrfs',
  bytes: 256 * MIB,
  blockBytes: 4096,
  mkfs: ['-q'],
};
export const BTRFS_NOCOW: FileSystemKind = {
  ...BTRFS,
  name: 'btrfs (chattr +C)',
  attributes: '+C',
};

export const FILE_SYSTEMS = [EXT4_1K, EXT4_4K, XFS, BTRFS, BTRFS_NOCOW];

export interface MadeFileSystem {
  readonly kind: FileSystemKind;
  readonly folder: string;
  readonly device: string;
  /** The device's bytes, in a file of the machine's own file system. */
  readonly image: string;
}

/** Runs a program; its output. Throws with what it said where it fails. */
export function run(program: string, ...args: string[]): string {
  const env = { ...process.env, LC_ALL: 'C', PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  const result = spawnSync(program, args, { encoding: 'utf8', env });
  if (result.error !== undefined) throw result.error;
  if (result.status !== 0) {
    throw new Error(`${program} ${args.join(' ')}: status ${result.status}: ${result.stderr}`);
  }
  return result.stdout;
}

export class Disks {
  /** For whatever else a test needs on the machine's own file system. */
  readonly folder = mkdtempSync(join(tmpdir(), 'rz-disks-'));
  #undo: (() => void)[] = [];
  readonly #swaps = new Set<string>();
  #named = 0;

  /** A sparse file. */
  image(bytes: number): string {
    const path = this.#newPath('image');
    const fd = openSync(path, 'w');
    ftruncateSync(fd, bytes);
    closeSync(fd);
    return path;
  }

  /** The path of a loop device over `image`; options are losetup's. */
  attach(image: string, ...options: string[]): string {
    const device = run('losetup', ...options, '--find', '--show', image).trim();
    this.#undo.push(() => run('losetup', '--detach', device));
    return device;
  }

  /** The folder where `device` is mounted now. */
  mount(device: string, ...options: string[]): string {
    const folder = this.#newPath('mounted');
    mkdirSync(folder);
    this.mountOver(folder, device, ...options);
    return folder;
  }

  mountOver(folder: string, device: string, ...options: string[]): void {
    run('mount', ...options, device, folder);
    // A descriptor that a failed test left open must not keep the mount.
    this.#undo.push(() => run('umount', '--lazy', folder));
  }

  /** A fresh file system: a folder in it, and what is under it. */
  make(kind: FileSystemKind): MadeFileSystem {
    const image = this.image(kind.bytes);
    run(`mkfs.${kind.type}`, ...kind.mkfs, image);
    const device = this.attach(image);
    const folder = join(this.mount(device), 'files');
    mkdirSync(folder);
    if (kind.attributes !== undefined) run('chattr', kind.attributes, folder);
    return { kind, folder, device, image };
  }

  /** The machine swaps to `path`, until swapOff() or undo(). False, loudly, where it may not. */
  swapOn(path: string): boolean {
    try {
      run('swapon', path);
    } catch (error) {
      console.warn(`skipped: ${(error as Error).message}`);
      return false;
    }
    this.#swaps.add(path);
    this.#undo.push(() => this.swapOff(path));
    return true;
  }

  swapOff(path: string): void {
    if (!this.#swaps.has(path)) return;
    run('swapoff', path);
    this.#swaps.delete(path);
  }

  /** Undoes everything, last to first, whatever of it fails; then throws the first failure. */
  undo(): void {
    const failures: unknown[] = [];
    for (const step of this.#undo.reverse()) {
      try {
        step();
      } catch (error) {
        failures.push(error);
      }
    }
    this.#undo = [];
    rmSync(this.folder, { recursive: true, force: true });
    if (failures.length > 0) throw failures[0];
  }

  #newPath(what: string): string {
    return join(this.folder, `${what}${this.#named++}`);
  }
}

/** Runs `use` with disks of its own. */
export function withDisks<T>(use: (disks: Disks) => T): T {
  const disks = new Disks();
  try {
    return use(disks);
  } finally {
    disks.undo();
  }
}

/** Whether this process may; says so, loudly, if not. */
export function canMakeDisks(): boolean {
  try {
    if (!isRoot) throw new Error('not root');
    withDisks((disks) => disks.attach(disks.image(MIB)));
    return true;
  } catch (error) {
    console.warn(`skipped: needs root and loop devices: ${(error as Error).message}`);
    return false;
  }
}

export type Fill = 'reserved' | 'written' | 'sparse';

/** A file of `bytes`: its blocks reserved but not written, written with noise, or missing. */
export function makeFile(path: string, bytes: number, fill: Fill, random?: Random): void {
  const fd = openSync(path, 'wx', 0o600);
  try {
    if (fill === 'reserved') reserve(fd, 0, bytes);
    else if (fill === 'sparse') ftruncateSync(fd, bytes);
    else writeFileSync(fd, random === undefined ? new Uint8Array(bytes) : noise(bytes, random));
  } finally {
    closeFd(fd);
  }
}

/** Every page different from every other. */
function noise(bytes: number, random: Random): Uint32Array {
  const words = new Uint32Array(bytes / 4);
  for (let i = 0; i < words.length; i++) words[i] = random.uint32();
  return words;
}

function reserve(fd: number, offset: number, bytes: number): void {
  const result = reserveRange(fd, offset, bytes);
  if (result < 0) throw new Error(`fallocate of ${bytes} bytes: errno ${-result}`);
}

/** Puts the header of a swap area into a file or device; options are mkswap's. */
export function makeSwap(path: string, ...options: string[]): void {
  run('mkswap', '--quiet', ...options, path);
}

export interface Crumbs {
  readonly pieces: number;
  /** Sizes are multiples of `step`, up to `most` bytes. */
  readonly step: number;
  readonly most: number;
}

/**
 * A file in pieces, reserved, not written: between them lie those of another file, made in turn.
 * Returns its bytes.
 */
export function makeCrumbs(path: string, random: Random, crumbs: Crumbs): number {
  const fd = openSync(path, 'wx', 0o600);
  const between = openSync(`${path} between`, 'wx');
  try {
    const sizes = Array.from({ length: crumbs.pieces }, () => {
      return random.between(1, crumbs.most / crumbs.step) * crumbs.step;
    });
    let end = 0;
    sizes.forEach((bytes, i) => {
      reserve(fd, end, bytes);
      reserve(between, i * crumbs.step, crumbs.step);
      end += bytes;
    });
    return end;
  } finally {
    closeFd(fd);
    closeFd(between);
  }
}

/** Where the bytes of a file lie, as e2fsprogs sees it; in bytes, without flags. */
export function extentsByFilefrag(path: string): FileExtent[] {
  const UNIT = 1024;
  // "ext: logical_offset: physical_offset: length: expected: flags", first and last block of each.
  const line = /^ *\d+: +(\d+)\.\. *\d+: +(\d+)\.\. *\d+: +(\d+):/gm;
  return [...run('filefrag', '-v', '-s', `-b${UNIT}`, path).matchAll(line)].map((fields) => {
    const [fileOffset, physical, bytes] = fields.slice(1).map((field) => Number(field) * UNIT);
    return { fileOffset: fileOffset!, physical: physical!, bytes: bytes!, flags: 0 };
  });
}

/** What must not change of a file that is refused. */
export function fingerprint(path: string): { hash: string; size: number; mtime: bigint } {
  const { size, mtimeNs } = statSync(path, { bigint: true });
  const hash = createHash('sha256').update(readFileSync(path)).digest('hex');
  return { hash, size: Number(size), mtime: mtimeNs };
}
