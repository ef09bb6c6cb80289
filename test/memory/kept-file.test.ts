/**
 * Files that outlive a process: the directory that they may lie in, what is taken for a file there, and
 * one process at a time that has it.
 */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmdirSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import {
  isFileAt,
  makePrivateDirectory,
  openLockedFile,
  openPrivateFile,
} from '../../src/memory/kept-file.ts';
import { countOpenFds, isRoot, withFolder, withMount } from '../models/descriptors.ts';
import { makeTmpfsFolder } from '../models/tmpfs.ts';

let folder: string;
let path: string;
let remove: () => void;

beforeEach(() => {
  ({ path: folder, remove } = makeTmpfsFolder());
  path = join(folder, 'file');
});

afterEach(() => remove());

/** Refused with exactly these words, and nothing stays open. */
function expectRefused(run: () => unknown, words: string): void {
  const fds = countOpenFds();
  let error: unknown;
  try {
    run();
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(RefusedError);
  expect((error as Error).message).toBe(words);
  expect(countOpenFds()).toBe(fds);
}

describe('a private directory', () => {
  it('is made, for its owner alone', () => {
    const directory = join(folder, 'new');
    makePrivateDirectory(directory);
    const { mode, uid } = statSync(directory);
    expect([mode & 0o7777, uid]).toEqual([0o700, process.geteuid!()]);
    makePrivateDirectory(directory);
  });

  it.each([0o755, 0o710, 0o701])('is refused with mode 0%o, and left so', (mode) => {
    chmodSync(folder, mode);
    const got = `0${mode.toString(8)}`;
    expectRefused(
      () => makePrivateDirectory(folder),
      `directory ${folder}: expected mode 0700, got ${got}`,
    );
    expect(statSync(folder).mode & 0o7777).toBe(mode);
  });

  it.skipIf(!isRoot)("is refused when it is somebody else's", () => {
    chownSync(folder, 12345, 0);
    expectRefused(
      () => makePrivateDirectory(folder),
      `directory ${folder}: expected an owner of user id 0, got 12345`,
    );
  });

  it('is refused when it is a file', () => {
    writeFileSync(path, '');
    expectRefused(
      () => makePrivateDirectory(path),
      `directory ${path}: expected a directory, got something else`,
    );
  });

  it('is refused on what is no tmpfs, and not made there', () => {
    withFolder((outside) => {
      const wanted = join(outside, 'store');
      const { stdout } = spawnSync('stat', ['--file-system', '--format', '%t', outside]);
      const found = `0x${stdout.toString().trim()}`;
      if (found === '0x1021994') {
        console.warn(`kept-file.test.ts: SKIPPED, ${outside} is on a tmpfs`);
        return;
      }
      expectRefused(
        () => makePrivateDirectory(wanted),
        `directory ${wanted}: expected a tmpfs, such as /run or /dev/shm, got a file system of type ${found}`,
      );
      expect(existsSync(wanted)).toBe(false);
    });
  });

  it('may be on a ramfs', () => {
    withMount('ramfs', 'mode=0700', (mounted) => makePrivateDirectory(mounted));
  });

  it('is not made where its parent is missing', () => {
    expect(() => makePrivateDirectory(join(folder, 'a', 'b'))).toThrow(/ENOENT/);
    expect(existsSync(join(folder, 'a'))).toBe(false);
  });
});

describe('a private file', () => {
  const words = () => `${path}: expected a regular file without further names`;

  it('is made for its owner alone, kept when it is there', () => {
    const fd = openPrivateFile(path);
    const { mode, size } = fstatSync(fd);
    expect([mode & 0o7777, size]).toEqual([0o600, 0]);
    closeSync(fd);
    writeFileSync(path, 'kept');
    closeSync(openPrivateFile(path));
    closeSync(openPrivateFile(path, true));
    expect(readFileSync(path, 'utf8')).toBe('kept');
  });

  it('is not made where it must exist', () => {
    expect(() => openPrivateFile(path, true)).toThrow(/ENOENT/);
    expect(existsSync(path)).toBe(false);
  });

  it('is no symbolic link, whatever that points to', () => {
    const target = join(folder, 'target');
    symlinkSync(target, path);
    expectRefused(() => openPrivateFile(path), words());
    expect(existsSync(target)).toBe(false);
    writeFileSync(target, 'another');
    expectRefused(() => openPrivateFile(path), words());
    expect(readFileSync(target, 'utf8')).toBe('another');
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
  });

  it('has no second name', () => {
    writeFileSync(path, 'linked');
    linkSync(path, join(folder, 'second'));
    expectRefused(() => openPrivateFile(path), words());
    expectRefused(() => openLockedFile(path), words());
    unlinkSync(join(folder, 'second'));
    closeSync(openPrivateFile(path));
  });

  it('is no directory', () => {
    mkdirSync(path);
    expectRefused(() => openPrivateFile(path), words());
    rmdirSync(path);
  });

  it('is no pipe, and nobody waits for its other end', () => {
    spawnSync('mkfifo', [path]);
    expect(lstatSync(path).isFIFO()).toBe(true);
    const start = performance.now();
    expectRefused(() => openPrivateFile(path), words());
    expectRefused(() => openPrivateFile(path, true), words());
    expect(performance.now() - start).toBeLessThan(1000);
  });

  it('is no socket', async () => {
    const server = createServer();
    server.listen(path);
    await once(server, 'listening');
    expectRefused(() => openPrivateFile(path), words());
    server.close();
  });
});

/** A child that opens the file, locks it, and does so until it ends. */
async function lockedByChild(seconds: number) {
  const script = `
    import('tsx/esm/api').then(async ({ register }) => {
      register();
      const { openLockedFile } = await import(${JSON.stringify(
        new URL('../../src/memory/kept-file.ts', import.meta.url).href,
      )});
      openLockedFile(${JSON.stringify(path)});
      console.log('locked');
      setTimeout(() => {}, ${seconds * 1000});
    });`;
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  return child;
}

describe('a locked file', () => {
  it("is another process's until that ends, killed or not", async () => {
    const child = await lockedByChild(60);
    const start = performance.now();
    expectRefused(
      () => openLockedFile(path),
      `${path}: in use by another process, which has it locked`,
    );
    // The last owner may just be ending.
    expect(performance.now() - start).toBeGreaterThan(4900);
    child.kill('SIGKILL');
    const fd = openLockedFile(path);
    expect(isFileAt(path, fd)).toBe(true);
    closeSync(fd);
    await once(child, 'exit');
  });

  it('is waited for while its last owner ends', async () => {
    const child = await lockedByChild(1);
    const inode = statSync(path).ino;
    const fd = openLockedFile(path);
    expect(fstatSync(fd).ino).toBe(inode);
    closeSync(fd);
    await once(child, 'exit');
  });

  it('that its owner removed is not the one that is opened', async () => {
    const child = await lockedByChild(1);
    const old = openSync(path, 'r');
    unlinkSync(path);
    const own = openLockedFile(path);
    expect(isFileAt(path, own)).toBe(true);
    expect(fstatSync(own).ino).not.toBe(fstatSync(old).ino);
    for (const fd of [old, own]) closeSync(fd);
    await once(child, 'exit');
  });

  it('that was removed while it was waited for is made anew', async () => {
    const child = await lockedByChild(60);
    const old = statSync(path).ino;
    const remover = spawn('sh', ['-c', `sleep 0.5; rm ${path}; kill -9 ${child.pid}`]);
    const fd = openLockedFile(path);
    expect(isFileAt(path, fd)).toBe(true);
    expect(fstatSync(fd).ino).not.toBe(old);
    closeSync(fd);
    await Promise.all([once(remover, 'exit'), once(child, 'exit')]);
  });

  it('is told apart from another of its name', () => {
    const fd = openLockedFile(path);
    unlinkSync(path);
    expect(isFileAt(path, fd)).toBe(false);
    writeFileSync(path, '');
    expect(isFileAt(path, fd)).toBe(false);
    closeSync(fd);
  });
});
