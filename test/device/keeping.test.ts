/** Who keeps a store when its daemon ends, and who comes back for it: then it is there, else it is gone. */

import { lstatSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { listenUnix } from '../../src/native/socket.ts';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD, RZSCONTROL, until } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { CHILD_PAGE, CHILD_SLOT, frontEndChild } from '../driver/front-end-child.ts';
import { Random } from '../driver/random.ts';
import { read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { DatagramPlace } from '../native/datagram-place.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const FILES = ['ramzswap0.arena', 'ramzswap0.table'];

function tmpfsFolder(): string {
  const path = mkdtempSync('/dev/shm/rz-keeping-');
  cleanUps.push(() => rmSync(path, { recursive: true, force: true }));
  return join(path, 'store');
}

function attach(daemon: Daemon): AttachedDriver {
  const attached = AttachedDriver.connect(daemon);
  cleanUps.push(() => attached.close());
  return attached;
}

/** A service manager's file descriptor store, played. */
class Keeper {
  readonly place = new DatagramPlace(join(folder(), 'notify'));
  readonly kept: { name: string; fd: number }[] = [];
  /** As FileDescriptorStoreMax=. */
  max = 2;

  constructor() {
    cleanUps.push(() => {
      this.take();
      for (const { fd } of this.kept.splice(0)) closeFd(fd);
      this.place.close();
    });
  }

  /** Does what it was told; whether the last start was ready. */
  take(): boolean {
    let isReady = false;
    for (let got = this.place.receive(); got !== undefined; got = this.place.receive()) {
      const { text, fds } = got;
      const name = /^FDNAME=(.*)$/m.exec(text)?.[1];
      if (text.startsWith('READY=1')) isReady = true;
      if (/^FDSTORE=1$/m.test(text)) this.#keep(name!, fds);
      else fds.forEach(closeFd);
      if (/^FDSTOREREMOVE=1$/m.test(text)) this.drop(name!);
    }
    return isReady;
  }

  #keep(name: string, fds: readonly number[]): void {
    for (const fd of fds) {
      if (this.kept.length < this.max) this.kept.push({ name, fd });
      else closeFd(fd);
    }
  }

  drop(name: string): void {
    for (let i = this.kept.length - 1; i >= 0; i--) {
      if (this.kept[i]!.name === name) closeFd(this.kept.splice(i, 1)[0]!.fd);
    }
  }

  get names(): string[] {
    return this.kept.map(({ name }) => name).sort();
  }

  /** Starts a daemon, to which is passed what is kept, as systemd does it. */
  async start(args: readonly string[] = ['--fdstore'], env = {}): Promise<Daemon> {
    const all = {
      NOTIFY_SOCKET: this.place.path,
      LISTEN_FDS: `${this.kept.length}`,
      LISTEN_FDNAMES: this.kept.map(({ name }) => name).join(':'),
      ...env,
    };
    const asListener = ['sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh'];
    const fds = this.kept.map(({ fd }) => fd);
    const daemon = await Daemon.start(args, all, makeFolder(), [], asListener, fds);
    cleanUps.push(() => daemon.stop());
    await until(() => this.take(), 'the daemon is ready', 5000);
    return daemon;
  }
}

async function kill(daemon: Daemon): Promise<void> {
  daemon.child.kill('SIGKILL');
  await daemon.child;
  daemon.folder.remove();
}

function folder(): string {
  const made = makeFolder();
  cleanUps.push(made.remove);
  return made.path;
}

/** Of a page that this process has the daemon keep. */
const SLOT = 50;
const PAGE = new Uint8Array(4096).map((_, i) => (i * 13) % 241);

function writePage(attached: AttachedDriver): void {
  attached.driver.submit(write(SLOT, PAGE));
  attached.driver.flush();
  expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
}

function readPage(attached: AttachedDriver, slot = SLOT): Uint8Array {
  attached.driver.submit(read(slot, 1));
  attached.driver.flush();
  const [done] = attached.completeAll();
  expect(done!.status).toBe(0);
  return done!.data;
}

describe.skipIf(!isBuilt)('the files of --store-dir, when the daemon is told to stop,', () => {
  async function start(directory: string, args: readonly string[] = []): Promise<Daemon> {
    const daemon = await Daemon.start(['--store-dir', directory, ...args]);
    cleanUps.push(() => daemon.stop());
    expect(readdirSync(directory).sort()).toEqual(FILES);
    return daemon;
  }

  it.each(['SIGTERM', 'SIGINT'] as const)(
    'are removed if nobody was served (%s)',
    async (signal) => {
      const directory = tmpfsFolder();
      const daemon = await start(directory);
      daemon.child.kill(signal);
      expect((await daemon.child).exitCode).toBe(0);
      expect(readdirSync(directory)).toEqual([]);
      expect(daemon.stderr).toContain('nobody can come back for its pages: the store is removed');
    },
  );

  it('are kept with a front end attached, started or not, and when it lives on', async () => {
    const directory = tmpfsFolder();
    const first = await start(directory);
    const idle = FrontEnd.connect(first.socketPath);
    cleanUps.push(() => idle.close());
    idle.negotiate(0n, 0n);
    await first.stop();
    expect(readdirSync(directory).sort()).toEqual(FILES);
    const second = await start(directory);
    const attached = AttachedDriver.connect(second);
    writePage(attached);
    await second.stop();
    attached.close();
    expect(readdirSync(directory).sort()).toEqual(FILES);
    const third = await start(directory);
    expect(readPage(attach(third))).toEqual(PAGE);
    await third.stop();
    expect(readdirSync(directory).sort()).toEqual(FILES);
  });

  it('are removed if the front end’s process has ended, also where this daemon never saw it', async () => {
    const directory = tmpfsFolder();
    const first = await start(directory);
    const { close } = await frontEndChild(first.socketPath);
    first.child.kill('SIGKILL');
    await first.child;
    first.folder.remove();
    expect(readdirSync(directory).sort()).toEqual(FILES);
    const second = await start(directory);
    await second.stop();
    // It lives still.
    expect(readdirSync(directory).sort()).toEqual(FILES);
    await close();
    const third = await start(directory);
    await third.stop();
    expect(readdirSync(directory)).toEqual([]);
  });

  it('are kept for another front end where that may have what the last one left', async () => {
    const directory = tmpfsFolder();
    const keep = ['--on-new-guest', 'keep'];
    const first = await start(directory, keep);
    const { close } = await frontEndChild(first.socketPath);
    await close();
    await first.stop();
    expect(readdirSync(directory).sort()).toEqual(FILES);
    const second = await start(directory, keep);
    expect(readPage(attach(second), CHILD_SLOT)).toEqual(CHILD_PAGE);
  });

  it('are removed after a reset, whose front end lives on', async () => {
    const directory = tmpfsFolder();
    const daemon = await start(directory);
    const attached = AttachedDriver.connect(daemon);
    writePage(attached);
    attached.close();
    await until(() => daemon.stderr.includes('disconnected'), 'the front end has left', 5000);
    const args = ['--control-path', daemon.controlPath, 'ramzswap0', '--reset'];
    await execa(process.execPath, [RZSCONTROL, ...args]);
    await daemon.stop();
    expect(readdirSync(directory)).toEqual([]);
  });

  it('are left where others have been put in their place', async () => {
    const directory = tmpfsFolder();
    const daemon = await start(directory);
    for (const file of FILES) rmSync(join(directory, file));
    await execa(
      'touch',
      FILES.map((file) => join(directory, file)),
    );
    await daemon.stop();
    expect(readdirSync(directory).sort()).toEqual(FILES);
  });
});

describe.skipIf(!isBuilt)('a store in the service manager’s file descriptor store', () => {
  const STORE = ['ramzswap0.arena', 'ramzswap0.table'];

  it('is there again when the daemon was killed, as often as that is', async () => {
    const keeper = new Keeper();
    const first = await keeper.start();
    expect(keeper.names).toEqual(STORE);
    const attached = AttachedDriver.connect(first);
    writePage(attached);
    await kill(first);
    attached.close();
    for (let round = 0; round < 2; round++) {
      const next = await keeper.start();
      expect(next.stderr).toContain('store found, left by a process that was killed');
      const again = AttachedDriver.connect(next);
      expect(readPage(again)).toEqual(PAGE);
      // Nothing is given to it a second time, for which it has no room.
      expect(keeper.names).toEqual(STORE);
      await kill(next);
      again.close();
    }
  });

  it('is there again with a backing swap, by the same one alone', async () => {
    const [swap, other] = [makeSwapFile(32 << 20), makeSwapFile(32 << 20)];
    cleanUps.push(swap.remove, other.remove);
    const noise = new Random(3).bytes(4096);
    const keeper = new Keeper();
    const backed = ['--fdstore', '--backing-swap', swap.path];
    const first = await keeper.start(backed);
    const attached = AttachedDriver.connect(first);
    attached.driver.submit(write(SLOT, noise));
    attached.driver.flush();
    expect(attached.completeAll()).toMatchObject([{ status: 0 }]);
    await kill(first);
    attached.close();
    const withOther = keeper.start(['--fdstore', '--backing-swap', other.path]);
    await expect(withOther).rejects.toThrow(
      /ramzswap0\.table: backing swap: expected the one given, got another/,
    );
    expect(readPage(attach(await keeper.start(backed)))).toEqual(noise);
  });

  it('is the manager’s no more when the daemon is told to stop and nobody can come back', async () => {
    const keeper = new Keeper();
    const first = await keeper.start();
    const attached = AttachedDriver.connect(first);
    writePage(attached);
    await first.stop();
    attached.close();
    keeper.take();
    expect(keeper.names).toEqual(STORE);
    const second = await keeper.start();
    const args = ['--control-path', second.controlPath, 'ramzswap0', '--reset'];
    await execa(process.execPath, [RZSCONTROL, ...args]);
    await second.stop();
    keeper.take();
    expect(keeper.names).toEqual([]);
  });

  it('of another size is refused, with what to do, and left as it was', async () => {
    const keeper = new Keeper();
    const first = await keeper.start();
    const attached = AttachedDriver.connect(first);
    writePage(attached);
    await kill(first);
    attached.close();
    await expect(keeper.start(['--fdstore', '--disksize', '32M'])).rejects.toThrow(
      /store ramzswap0\.table: disk size .*: expected 32 MiB .*, got 64 MiB .*; to drop it: systemctl stop/,
    );
    keeper.take();
    expect(keeper.names).toEqual(STORE);
    expect(readPage(attach(await keeper.start()))).toEqual(PAGE);
  });

  it('is locked by the process that has it, though others have its descriptors', async () => {
    const keeper = new Keeper();
    const first = await keeper.start();
    await expect(keeper.start()).rejects.toThrow(/ramzswap0\.table: in use by another process/);
    expect(readPage(attach(first))).toEqual(new Uint8Array(4096));
  }, 60_000);

  it('of which half is there is made anew, with a warning, and kept whole', async () => {
    const keeper = new Keeper();
    await kill(await keeper.start());
    keeper.drop('ramzswap0.arena');
    const next = await keeper.start();
    expect(next.stderr).toContain('what the service manager has kept is no whole store');
    expect(keeper.names).toEqual(STORE);
    await kill(next);
    expect((await keeper.start()).stderr).toContain('store found');
  });

  it('that was never completed is made anew', async () => {
    const keeper = new Keeper();
    for (const name of STORE) keeper.kept.push({ name, fd: createMemfd(name, 1 << 20) });
    const daemon = await keeper.start();
    expect(daemon.stderr).toContain('what the service manager has kept is no whole store');
    expect(keeper.names).toEqual(STORE);
  });

  it('is not of two tables, nor of something that is no memory file', async () => {
    const keeper = new Keeper();
    await kill(await keeper.start());
    const second = createMemfd('table', 4096);
    keeper.kept.push({ name: 'ramzswap0.table', fd: second });
    await expect(keeper.start()).rejects.toThrow(/expected one of each, got 2 and 1; to drop it/);
    keeper.drop('ramzswap0.table');
    keeper.kept.push({ name: 'ramzswap0.table', fd: createEventFd() });
    await expect(keeper.start()).rejects.toThrow(
      /ramzswap0\.table: expected a memory file; to drop/,
    );
  });

  it('is not begun without a manager, nor with one that keeps less than it has', async () => {
    await expect(Daemon.start(['--fdstore'])).rejects.toThrow(
      '--fdstore: expected NOTIFY_SOCKET of a service manager',
    );
    const keeper = new Keeper();
    await expect(keeper.start(['--fdstore'], { FDSTORE: '1' })).rejects.toThrow(
      '--fdstore: expected FileDescriptorStoreMax=2 at least, got 1',
    );
    await keeper.start(['--fdstore'], { FDSTORE: '2' });
  });

  it('is not asked for with --store-dir, nor under a name that it cannot have', async () => {
    const start = (...args: string[]) => Daemon.start(['--fdstore', ...args]);
    await expect(start('--store-dir', '/dev/shm/x')).rejects.toThrow(
      '--fdstore, --store-dir: expected one of them',
    );
    await expect(start('--name', 'a:b')).rejects.toThrow(
      "--fdstore: expected names without a colon with it, got 'a:b'",
    );
  });

  it('leaves nothing with the manager when its daemon is refused its socket', async () => {
    const keeper = new Keeper();
    const args = [RAMZSWAPD, '--socket-path', '/nowhere/s', '--disksize', '16M', '--fdstore'];
    const env = { NOTIFY_SOCKET: keeper.place.path };
    const { exitCode } = await execa(process.execPath, args, { env, reject: false });
    keeper.take();
    expect([exitCode, keeper.names]).toEqual([1, []]);
  });

  it('goes from one daemon to the next that takes over, and is kept on', async () => {
    const keeper = new Keeper();
    const first = await keeper.start();
    const attached = attach(first);
    writePage(attached);
    const { socketPath } = first;
    const args = ['--socket-path', socketPath, '--disksize', '64M', '--fdstore', '--take-over'];
    const env = { NOTIFY_SOCKET: keeper.place.path };
    const second = execa(process.execPath, [RAMZSWAPD, ...args], { env, reject: false });
    cleanUps.push(() => second.kill('SIGKILL'));
    expect((await first.child).exitCode).toBe(0);
    await until(() => keeper.take(), 'the new one is ready', 5000);
    expect(readPage(attached)).toEqual(PAGE);
    second.kill('SIGKILL');
    await second;
    expect(keeper.names).toEqual(STORE);
    expect(readPage(attach(await keeper.start()))).toEqual(PAGE);
  });
});

describe.skipIf(!isBuilt)('a store that the service manager does not keep', () => {
  it('is not taken over by a daemon that wants it kept, and served on', async () => {
    const keeper = new Keeper();
    const first = await keeper.start([]);
    const attached = attach(first);
    writePage(attached);
    const args = ['--socket-path', first.socketPath, '--disksize', '64M', '--fdstore'];
    const env = { NOTIFY_SOCKET: keeper.place.path };
    const result = await execa(process.execPath, [RAMZSWAPD, ...args, '--take-over'], {
      env,
      reject: false,
    });
    expect([result.exitCode, result.stderr]).toEqual([
      1,
      expect.stringContaining('take-over: --fdstore: expected a daemon that was started with it'),
    ]);
    expect(readPage(attached)).toEqual(PAGE);
  });
});

describe.skipIf(!isBuilt)('what else the service manager passes', () => {
  it('is closed with a warning, also a store that is not asked for; but not sockets', async () => {
    const keeper = new Keeper();
    keeper.max = 3;
    keeper.kept.push({ name: 'other', fd: createMemfd('other', 4096) });
    keeper.kept.push({ name: 'ramzswap0.table', fd: createMemfd('table', 4096) });
    const path = join(folder(), 'passed.sock');
    keeper.kept.push({ name: 'vhost.socket', fd: listenUnix(path) });
    const daemon = await keeper.start([]);
    for (const name of ['other', 'ramzswap0.table']) {
      const warning = `the service manager has passed ${name}, which is of no use`;
      await until(() => daemon.stderr.includes(warning), warning, 5000);
    }
    expect(daemon.stderr).not.toContain('vhost.socket, which is of no use');
    const files = [3, 4, 5].map((fd) => {
      const link = `/proc/${daemon.pid}/fd/${fd}`;
      return lstatSync(link, { throwIfNoEntry: false }) === undefined ? '' : readlinkSync(link);
    });
    expect(files[2]).toMatch(/^socket:/);
    expect(files.join()).not.toMatch(/memfd:(other|table) /);
    expect(keeper.names).toEqual(['other', 'ramzswap0.table', 'vhost.socket']);
  });
});

describe.skipIf(!isBuilt)('a start that is refused', () => {
  const startWithoutSocket = (directory: string) => {
    const args = ['--socket-path', '/nowhere/s', '--disksize', '64M', '--store-dir', directory];
    return execa(process.execPath, [RAMZSWAPD, ...args], { reject: false });
  };

  it('leaves no files that it made, and those that were there', async () => {
    const directory = tmpfsFolder();
    expect((await startWithoutSocket(directory)).exitCode).toBe(1);
    expect(readdirSync(directory)).toEqual([]);
    const daemon = await Daemon.start(['--store-dir', directory]);
    cleanUps.push(() => daemon.stop());
    daemon.child.kill('SIGKILL');
    await daemon.child;
    expect((await startWithoutSocket(directory)).exitCode).toBe(1);
    expect(readdirSync(directory).sort()).toEqual(FILES);
  });
});
