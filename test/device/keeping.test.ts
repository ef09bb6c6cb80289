/** Who keeps a store when its daemon ends, and who comes back for it: then it is there, else it is gone. */

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD, RZSCONTROL, until } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { CHILD_PAGE, CHILD_SLOT, frontEndChild } from '../driver/front-end-child.ts';
import { read, write } from '../driver/requests.ts';

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
