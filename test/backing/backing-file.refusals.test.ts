/**
 * Files that must not become a backing swap: each is refused with its own reason, and its contents,
 * size and time of change stay as they were. On real file systems, and with real swap areas.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  checkUnusedAsSwap,
  openBackingFile,
  openFreeBackingFile,
} from '../../src/backing/backing-file.ts';
import { RefusedError } from '../../src/base/errors.ts';
import { closeFd } from '../../src/native/fd.ts';
import { lockFile } from '../../src/native/file-extents.ts';
import {
  BTRFS,
  canMakeDisks,
  Disks,
  EXT4_4K,
  fingerprint,
  type MadeFileSystem,
  makeFile,
  makeSwap,
  run,
  XFS,
} from '../driver/file-systems.ts';
import { mountedForAll } from '../driver/mounted.ts';
import { expectRefused } from '../driver/refusals.ts';
import { countOpenFds, withFolder } from '../models/descriptors.ts';
import { SEED, seededRandom } from '../models/random.ts';

const MIB = 2 ** 20;
const IN_USE = 'is in use as swap on this host';

const hasDisks = canMakeDisks();

/** A plain file is refused with this reason, and left as it was. */
function expectRefusedUnchanged(path: string, reason: string): void {
  expectRefused(path, reason, path);
}

function makeSwapFile(path: string, ...options: string[]): string {
  makeFile(path, MIB, 'written', seededRandom(SEED));
  makeSwap(path, ...options);
  return path;
}

describe('what is neither a file nor a block device is refused', () => {
  const kinds: [string, string, (path: string) => void][] = [
    ['a directory', 'a directory', (path) => mkdirSync(path)],
    ['a FIFO, without waiting for its other end', 'a pipe', (path) => run('mkfifo', path)],
  ];

  it.each(kinds)('%s', (_, kind, make) => {
    withFolder((folder) => {
      const path = join(folder, 'path');
      make(path);
      expectRefused(path, `expected a block device or a regular file, got ${kind}`);
    });
  });

  it('a character device', () => {
    const reason = 'expected a block device or a regular file, got a character device';
    expectRefused('/dev/null', reason);
    expectRefused('/dev/zero', reason);
  });

  it('a socket', async () => {
    const disks = new Disks();
    const path = join(disks.folder, 'socket');
    const server = createServer();
    try {
      await new Promise<void>((resolve) => server.listen(path, resolve));
      expectRefused(path, 'expected a block device or a regular file, got a socket');
    } finally {
      server.close();
      disks.undo();
    }
  });

  it('a link to one', () => {
    withFolder((folder) => {
      const path = join(folder, 'link');
      run('ln', '--symbolic', '/dev', path);
      expectRefused(path, 'expected a block device or a regular file, got a directory');
    });
  });
});

describe('a path is refused', () => {
  it('that leads nowhere', () => {
    withFolder((folder) => {
      expectRefused(join(folder, 'none'), 'ENOENT (no such file or directory)');
      run('ln', '--symbolic', 'none', join(folder, 'dangling'));
      expectRefused(join(folder, 'dangling'), 'ENOENT (no such file or directory)');
      run('ln', '--symbolic', 'circle', join(folder, 'circle'));
      const circle = 'ELOOP (too many symbolic links encountered)';
      expectRefused(join(folder, 'circle'), circle);
    });
    expectRefused('', 'ENOENT (no such file or directory)');
    expectRefused('/dev/null/none', 'ENOTDIR (not a directory)');
    expectRefused(`/${'n'.repeat(256)}`, 'ENAMETOOLONG (name too long)');
  });

  it('regression: that no file can have, as a refusal and not as a fault of ours', () => {
    expect(() => openBackingFile('/swap\0file', 4096)).toThrow(RefusedError);
  });
});

describe.skipIf(!hasDisks)('a file is refused', () => {
  const made = mountedForAll(EXT4_4K);

  it('without a swap header', () => {
    const path = made.newPath();
    makeFile(path, MIB, 'written', seededRandom(SEED));
    const reason = 'has no swap header: expected SWAPSPACE2 at byte 4086; use mkswap';
    expectRefusedUnchanged(path, reason);
  });

  it.each([0, 1, 4085, 4096])('of only %i bytes', (bytes) => {
    const path = made.newPath();
    makeFile(path, MIB, 'reserved');
    truncateSync(path, bytes);
    const reason = 'has no swap header: expected SWAPSPACE2 at byte 4086; use mkswap';
    expectRefusedUnchanged(path, reason);
  });

  it('that is shorter than its header says', () => {
    const path = makeSwapFile(made.newPath());
    truncateSync(path, MIB - 1);
    expectRefusedUnchanged(path, 'swap header: expected last_page 254 at most, got 255');
  });

  it('with a header for pages of another size', () => {
    const path = makeSwapFile(made.newPath(), '--pagesize', '65536');
    const reason = 'its swap header is for pages of 65536 bytes, the guest has 4096';
    expectRefusedUnchanged(path, reason);
  });

  it('with a hole, punched into what was whole', () => {
    const path = makeSwapFile(made.newPath());
    run('fallocate', '--punch-hole', '--offset', '524288', '--length', '4096', path);
    expectRefusedUnchanged(path, 'has holes, the first at byte 524288');
  });

  it.each(['0444', '0400', '0555'])('that no one may write, mode %s', (mode) => {
    const path = makeSwapFile(made.newPath());
    run('chmod', mode, path);
    expectRefusedUnchanged(path, `is read-only (mode ${mode})`);
  });

  it('on a read-only mount', () => {
    const path = makeSwapFile(made.newPath());
    const readOnly = made.disks.mount(made.folder, '--bind', '-o', 'ro');
    expectRefusedUnchanged(join(readOnly, path.slice(made.folder.length)), 'is read-only (EROFS)');
  });

  it.each(['i', 'a'])('that chattr +%s protects', (attribute) => {
    const path = makeSwapFile(made.newPath());
    run('chattr', `+${attribute}`, path);
    try {
      expectRefusedUnchanged(path, 'may not be written (EPERM)');
    } finally {
      run('chattr', `-${attribute}`, path);
    }
  });

  it('that has a holder already', () => {
    const path = makeSwapFile(made.newPath());
    const { fd } = openBackingFile(path, 4096);
    try {
      expectRefusedUnchanged(path, 'is in use by another process, which has it locked');
      run('ln', path, `${path} linked`);
      const reason = 'is in use by another process, which has it locked';
      expectRefusedUnchanged(`${path} linked`, reason);
    } finally {
      closeSync(fd);
    }
    closeSync(openBackingFile(path, 4096).fd);
  });

  it('that another program has locked', () => {
    const path = makeSwapFile(made.newPath());
    const fd = openSync(path, 'r');
    expect(lockFile(fd)).toBe(true);
    expectRefusedUnchanged(path, 'is in use by another process, which has it locked');
    closeFd(fd);
  });

  it('but not before the one that has it was given time to let go', async () => {
    const path = makeSwapFile(made.newPath());
    const holder = spawn('flock', [path, 'sh', '-c', 'echo locked; sleep 0.4'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    await once(holder.stdout, 'data');
    let turns = 0;
    const turning = setInterval(() => turns++, 10);
    closeSync((await openFreeBackingFile(path, 4096)).fd);
    clearInterval(turning);
    // This thread did not wait with it.
    expect(turns).toBeGreaterThan(2);
    holder.kill();
  });

  it('when that time is over', async () => {
    const path = makeSwapFile(made.newPath());
    const { fd } = openBackingFile(path, 4096);
    const fds = countOpenFds();
    await expect(openFreeBackingFile(path, 4096, 50)).rejects.toThrow(
      `backing swap ${path}: is in use by another process, which has it locked`,
    );
    expect(countOpenFds()).toBe(fds);
    closeSync(fd);
  });

  it('at once for what no time mends', async () => {
    const path = made.newPath();
    await expect(openFreeBackingFile(path, 4096, 1e9)).rejects.toThrow('ENOENT');
  });

  it('after which it is not locked any more', () => {
    const path = made.newPath();
    makeFile(path, MIB, 'reserved');
    expect(() => openBackingFile(path, 4096)).toThrow('use mkswap');
    const fd = openSync(path, 'r');
    expect(lockFile(fd)).toBe(true);
    closeSync(fd);
  });
});

describe.skipIf(!hasDisks)('a file system is refused', () => {
  let disks: Disks;

  beforeEach(() => {
    disks = new Disks();
  });

  afterEach(() => disks.undo());

  it('in memory: it has no blocks', () => {
    const path = makeSwapFile(join(disks.mount('none', '-t', 'tmpfs'), 'swap'));
    const before = fingerprint(path);
    expect(() => openBackingFile(path, 4096)).toThrow(RefusedError);
    expect(() => openBackingFile(path, 4096)).toThrow(`backing swap ${path}: `);
    expect(fingerprint(path)).toEqual(before);
  });

  it('without O_DIRECT', () => {
    const path = makeSwapFile(join(disks.mount('none', '-t', 'ramfs'), 'swap'));
    expectRefusedUnchanged(path, 'is on a file system without O_DIRECT');
  });

  it.each([XFS, BTRFS])('where it shares the blocks of a file, on $name', (kind) => {
    const path = makeSwapFile(join(disks.make(kind).folder, 'swap'));
    closeSync(openBackingFile(path, 4096).fd);
    run('cp', '--reflink=always', path, `${path} copy`);
    expectRefusedUnchanged(path, 'shares blocks with another file (at byte 0)');
    expectRefusedUnchanged(`${path} copy`, 'shares blocks with another file (at byte 0)');
  });

  it('where it compresses a file', () => {
    const path = join(disks.make({ ...BTRFS, attributes: '+c' }).folder, 'swap');
    makeFile(path, MIB, 'written');
    run('sync', path);
    makeSwap(path);
    const before = fingerprint(path);
    expect(() => openBackingFile(path, 4096)).toThrow(
      / is compressed or encrypted \(at byte \d+\)/,
    );
    expect(fingerprint(path)).toEqual(before);
  });
});

describe.skipIf(!hasDisks)('a file that this machine swaps to is refused', () => {
  let disks: Disks;
  let made: MadeFileSystem;

  beforeEach(() => {
    disks = new Disks();
    made = disks.make(EXT4_4K);
  });

  afterEach(() => disks.undo());

  it.for(['swap', 'a swap file with blanks', 'tabs\tand\nlines', 'back\\slashes \\040', 'größer'])(
    'when its name is %j',
    (name, context) => {
      const path = makeSwapFile(join(made.folder, name));
      if (!disks.swapOn(path)) return context.skip();
      expectRefusedUnchanged(path, IN_USE);
      disks.swapOff(path);
      closeSync(openBackingFile(path, 4096).fd);
    },
  );

  it.for<[string, string]>([
    ['a no-break space', 'swap\u00a0file'],
    ['a carriage return', 'swap\rfile'],
    ['an ideographic space', 'swap\u3000file'],
  ])('regression: when its name has %s, which the kernel does not escape', ([, name], context) => {
    const path = makeSwapFile(join(made.folder, name));
    if (!disks.swapOn(path)) return context.skip();
    expectRefusedUnchanged(path, IN_USE);
  });

  it('by another name of the same file, and through a link or another mount', (context) => {
    const path = makeSwapFile(join(made.folder, 'swap'));
    run('ln', path, `${path} hard`);
    run('ln', '--symbolic', path, `${path} symbolic`);
    const elsewhere = disks.mount(made.folder, '--bind');
    if (!disks.swapOn(path)) return context.skip();
    for (const other of [`${path} hard`, `${path} symbolic`, join(elsewhere, 'swap')]) {
      expectRefusedUnchanged(other, IN_USE);
    }
  });

  it('when its folder has another name since', (context) => {
    const path = makeSwapFile(join(made.folder, 'swap'));
    if (!disks.swapOn(path)) return context.skip();
    const moved = `${made.folder} moved`;
    run('mv', made.folder, moved);
    try {
      expectRefusedUnchanged(join(moved, 'swap'), IN_USE);
    } finally {
      run('mv', moved, made.folder);
    }
  });

  it('regression: when what /proc/swaps calls it leads elsewhere, under another mount', (context) => {
    const path = makeSwapFile(join(made.folder, 'swap'));
    const elsewhere = disks.mount(made.folder, '--bind');
    if (!disks.swapOn(path)) return context.skip();
    disks.mountOver(made.folder, 'none', '-t', 'tmpfs');
    expectRefusedUnchanged(join(elsewhere, 'swap'), IN_USE);
  });

  it('but not another file, of the same name or on the same disk', (context) => {
    const path = makeSwapFile(join(made.folder, 'swap'));
    const second = makeSwapFile(join(made.folder, 'swap2'));
    const third = makeSwapFile(join(disks.make(EXT4_4K).folder, 'swap'));
    if (!disks.swapOn(path)) return context.skip();
    for (const other of [second, third]) closeSync(openBackingFile(other, 4096).fd);
  });
});

describe('the text of /proc/swaps', () => {
  const HEADING = 'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n';

  function withFiles(use: (path: string, other: string) => void): void {
    withFolder((folder) => {
      const path = join(folder, 'with blank\tand \\040 more');
      const other = join(folder, 'other');
      for (const one of [path, other]) makeFile(one, 4096, 'written');
      use(path, other);
    });
  }

  /** As the kernel prints a path: blanks and backslashes as octal numbers. */
  function line(path: string): string {
    const octal = (char: string) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`;
    const escaped = path.replace(/[ \t\n\\]/g, octal);
    return `${escaped.padEnd(39)} file\t\t1020\t\t0\t\t-2\n`;
  }

  it('names a file in use, whatever other lines say', () => {
    withFiles((path, other) => {
      const check = (text: string) => () => checkUnusedAsSwap(statSync(path), HEADING + text);
      expect(check(line(path))).toThrow(RefusedError);
      expect(check(line(path))).toThrow(IN_USE);
      expect(check(line(other) + line('/gone') + line(path))).toThrow(IN_USE);
      expect(check(line(path) + line(other))).toThrow(IN_USE);
      expect(check(line(other) + line('/gone/with/its/folder'))).not.toThrow();
      expect(check('')).not.toThrow();
    });
  });

  it('regression: may name what lies below a plain file by now, which is no reason', () => {
    withFiles((path, other) => {
      const swaps = HEADING + line(`${other}/gone`);
      expect(() => checkUnusedAsSwap(statSync(path), swaps)).not.toThrow();
    });
  });

  it('is of this form on this machine', () => {
    expect(readFileSync('/proc/swaps', 'utf8')).toMatch(/^Filename\s+Type\s+Size\s+Used\s+Prio/);
    expect(readFileSync('/proc/swaps', 'utf8').split('\n')[0]).toBe(HEADING.trimEnd());
  });
});
