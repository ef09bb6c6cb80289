/**
 * Writes initramfs archives: cpio "newc", gzipped, the form the kernel unpacks (its
 * Documentation/driver-api/early-userspace/buffer-format.rst). Write only; knows nothing of what
 * goes in. Same entries, same bytes: times and owners are all 0.
 */
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';

export type CpioEntry =
  | { kind: 'file'; path: string; mode: number; data: Uint8Array }
  | { kind: 'directory'; path: string; mode: number }
  | { kind: 'symlink'; path: string; target: string }
  | { kind: 'character device'; path: string; mode: number; major: number; minor: number };

/** File type bits of `c_mode`, as in stat(2). */
const S_IF = {
  file: 0o100000,
  directory: 0o040000,
  symlink: 0o120000,
  'character device': 0o020000,
} as const;

const MAGIC = '070701';

/** An archive ends with an entry of this name. */
const TRAILER = 'TRAILER!!!';

/**
 * The entries' parents must come before them, or the kernel drops them without a word. Compresses in
 * a thread of its own: this one may have another guest to follow meanwhile.
 */
export function gzippedCpio(entries: readonly CpioEntry[]): Promise<Buffer> {
  return promisify(gzip)(cpio(entries), { level: 9 });
}

function cpio(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => {
    const data = dataOf(entry);
    // Inode numbers only have to differ: equal ones would be hard links.
    return [...member(entry.path, modeOf(entry), index + 1, data, deviceOf(entry))];
  });
  return Buffer.concat([...parts, ...member(TRAILER, 0, 0, Buffer.alloc(0), [0, 0])]);
}

function member(
  path: string,
  mode: number,
  inode: number,
  data: Uint8Array,
  [rdevMajor, rdevMinor]: readonly [number, number],
): Uint8Array[] {
  const name = Buffer.from(`${path}\0`);
  const header = {
    c_ino: inode,
    c_mode: mode,
    c_uid: 0,
    c_gid: 0,
    c_nlink: 1,
    c_mtime: 0,
    c_filesize: data.length,
    c_maj: 0,
    c_min: 0,
    c_rmaj: rdevMajor,
    c_rmin: rdevMinor,
    c_namesize: name.length,
    c_chksum: 0,
  };
  const fields = Object.values(header).map((value) => value.toString(16).padStart(8, '0'));
  const start = Buffer.from(MAGIC + fields.join(''));
  return [start, name, padding(start.length + name.length), data, padding(data.length)];
}

/** Header with name, and data, each end on a multiple of 4. */
function padding(bytes: number): Buffer {
  return Buffer.alloc(-bytes & 3);
}

function dataOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === 'file') return entry.data;
  if (entry.kind === 'symlink') return Buffer.from(entry.target);
  return Buffer.alloc(0);
}

function modeOf(entry: CpioEntry): number {
  return S_IF[entry.kind] | (entry.kind === 'symlink' ? 0o777 : entry.mode);
}

function deviceOf(entry: CpioEntry): readonly [number, number] {
  return entry.kind === 'character device' ? [entry.major, entry.minor] : [0, 0];
}
