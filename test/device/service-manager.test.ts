/** The service manager, played by a datagram socket: what it is told, given, and gives back. */

import { spawnSync } from 'node:child_process';
import { writeSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.ts';
import { ServiceManager } from '../../src/device/service-manager.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { listenUnix } from '../../src/native/socket.ts';
import { Daemon, isBuilt, RAMZSWAPD, until } from '../driver/daemon.ts';
import { makeFolder } from '../driver/sockets.ts';
import { countOpenFds, identityOf } from '../models/descriptors.ts';
import { DatagramPlace } from '../native/datagram-place.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function placeAt(path: string): DatagramPlace {
  const place = new DatagramPlace(path);
  cleanUps.push(() => place.close());
  return place;
}

function folder(): string {
  const made = makeFolder();
  cleanUps.push(made.remove);
  return made.path;
}

const PLACES = ['a path', 'an abstract name'] as const;
const makePlace = (kind: (typeof PLACES)[number]) =>
  placeAt(kind === 'a path' ? join(folder(), 'notify') : `@ramzswap-test-${process.pid}`);

describe.each(PLACES)('a manager at %s', (kind) => {
  it('is told what is sent, and is no longer named in the environment', () => {
    const place = makePlace(kind);
    const environment = { NOTIFY_SOCKET: place.path, OTHER: 'x' };
    const manager = new ServiceManager(environment);
    expect([manager.isThere, environment]).toEqual([true, { OTHER: 'x' }]);
    const before = countOpenFds();
    manager.notify('READY=1\nSTATUS=here');
    manager.notify('STOPPING=1');
    expect(countOpenFds()).toBe(before);
    expect([place.receive(), place.receive(), place.receive()]).toEqual([
      { text: 'READY=1\nSTATUS=here', fds: [] },
      { text: 'STOPPING=1', fds: [] },
      undefined,
    ]);
  });

  it('is given descriptors to keep, of one name, all in their order', () => {
    const place = makePlace(kind);
    const manager = new ServiceManager({ NOTIFY_SOCKET: place.path });
    const fds = Array.from({ length: 40 }, (_, i) => createMemfd(`n${i}`, 4096));
    manager.storeDescriptors('store', fds);
    manager.removeDescriptors('store');
    const [first, second, third] = [place.receive()!, place.receive()!, place.receive()!];
    const state = 'FDSTORE=1\nFDPOLL=0\nFDNAME=store';
    expect([first.text, second.text, third]).toEqual([
      state,
      state,
      { text: 'FDSTOREREMOVE=1\nFDNAME=store', fds: [] },
    ]);
    const kept = [...first.fds, ...second.fds];
    expect(kept.map(identityOf)).toEqual(fds.map(identityOf));
    [...fds, ...kept].forEach(closeFd);
  });
});

describe('a manager', () => {
  it('that is not there is told nothing, and has kept nothing', () => {
    for (const environment of [{}, { NOTIFY_SOCKET: '' }]) {
      const manager = new ServiceManager(environment);
      manager.notify('READY=1');
      expect([manager.isThere, manager.passed]).toEqual([false, []]);
      expect(manager.storeMax).toBeUndefined();
    }
  });

  it('may say how many descriptors it keeps', () => {
    const environment = { FDSTORE: '64', OTHER: 'x' };
    expect(new ServiceManager(environment).storeMax).toBe(64);
    expect(environment).toEqual({ OTHER: 'x' });
    expect(new ServiceManager({ FDSTORE: 'many' }).storeMax).toBeUndefined();
  });

  it('that cannot be told is an error with its address, and leaks nothing', () => {
    const before = countOpenFds();
    const gone = new ServiceManager({ NOTIFY_SOCKET: '/nowhere/notify' });
    expect(() => gone.notify('READY=1')).toThrow('/nowhere/notify: connect: ENOENT');
    const strange = new ServiceManager({ NOTIFY_SOCKET: 'vsock:2:1' });
    expect(() => strange.notify('X=1')).toThrow("expected /path or @name, got 'vsock:2:1'");
    expect(countOpenFds()).toBe(before);
  });

  it('that does not read is waited for, but not for ever', () => {
    const place = makePlace('a path');
    const manager = new ServiceManager({ NOTIFY_SOCKET: place.path });
    let sent = 0;
    const start = Date.now();
    const flood = () => {
      for (; sent < 100_000; sent++) manager.notify(`N=${sent}`);
    };
    expect(flood).toThrow('sendmsg: EAGAIN');
    expect(Date.now() - start).toBeGreaterThanOrEqual(950);
    for (let i = 0; i < sent; i++) expect(place.receive()!.text).toBe(`N=${i}`);
  });

  it('is given names that it can use', () => {
    const manager = new ServiceManager({});
    for (const name of ['', 'a:b', 'a\nFDSTORE=1', 'ä', 'x'.repeat(256)]) {
      expect(() => manager.storeDescriptors(name, [1])).toThrow(AssertionError);
    }
  });
});

describe('descriptors that were passed', () => {
  /** What a process with these descriptors from 3 on makes of its environment. */
  function passedTo(environment: Record<string, string>, fds: readonly number[], more = '') {
    const script = `
      import { fstatSync } from 'node:fs';
      import { ServiceManager } from '${new URL('../../src/device/service-manager.ts', import.meta.url)}';
      import { isCloseOnExec } from '${new URL('../models/descriptors.ts', import.meta.url)}';
      if (process.env.LISTEN_PID === 'self') process.env.LISTEN_PID = String(process.pid);
      const manager = new ServiceManager(process.env);
      const { passed } = manager;
      const rest = Object.keys(process.env).filter((name) => name.startsWith('LISTEN_'));
      console.log(JSON.stringify({ rest, passed: passed.map(({ fd, name }) => ({
        fd, name, inode: fstatSync(fd).ino, isClosed: isCloseOnExec(fd) })) }));
      ${more}
    `;
    const node = ['--import', 'tsx', '--input-type=module', '-e', script];
    return spawnSync(process.execPath, node, {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe', ...fds],
      encoding: 'utf8',
    });
  }

  it('are taken over with their names, close-on-exec, and are no longer in the environment', () => {
    const fds = [createMemfd('one', 4096), createEventFd(), createMemfd('three', 8192)];
    writeSync(fds[0]!, 'x');
    const environment = { LISTEN_PID: 'self', LISTEN_FDS: '3', LISTEN_FDNAMES: 'table:arena:' };
    const { stdout, stderr } = passedTo(environment, fds);
    expect(stderr).toBe('');
    const inode = (fd: number) => Number(identityOf(fd).split(':')[1]);
    expect(JSON.parse(stdout)).toEqual({
      rest: [],
      passed: ['table', 'arena', 'unknown'].map((name, i) => {
        return { fd: 3 + i, name, inode: inode(fds[i]!), isClosed: true };
      }),
    });
    fds.forEach(closeFd);
  });

  it('are whose who takes them, and the rest is closed, but for sockets', () => {
    const path = join(folder(), 's');
    const fds = [createMemfd('one', 0), createMemfd('two', 0), createEventFd(), listenUnix(path)];
    const environment = { LISTEN_PID: 'self', LISTEN_FDS: '4', LISTEN_FDNAMES: 'a:b:a:b' };
    const { stdout, stderr } = passedTo(
      environment,
      fds,
      `const isOpen = (fd) => { try { fstatSync(fd); return true; } catch { return false; } };
      const left = () => manager.passed.map(({ fd }) => fd);
      const found = [manager.take('c'), manager.take('a'), left()];
      found.push(manager.closeRest(), left(), [3, 4, 5, 6].map(isOpen));
      console.log(JSON.stringify(found));`,
    );
    expect(stderr).toBe('');
    const found = JSON.parse(stdout.trim().split('\n')[1]!);
    expect(found).toEqual([[], [3, 5], [4, 6], ['b'], [6], [true, false, true, true]]);
    fds.forEach(closeFd);
  });

  it('are another process’s where its number is named, and then left alone', () => {
    const fd = createMemfd('one', 4096);
    const { stdout } = passedTo({ LISTEN_PID: '1', LISTEN_FDS: '1' }, [fd]);
    expect(JSON.parse(stdout)).toEqual({ rest: [], passed: [] });
    closeFd(fd);
  });

  it.each(['-1', 'many', '1e3', '9999999'])('are not %s', (count) => {
    const environment = { LISTEN_PID: String(process.pid), LISTEN_FDS: count };
    expect(() => new ServiceManager(environment)).toThrow(
      `LISTEN_FDS: expected a number of descriptors, got '${count}'`,
    );
  });

  it.each([1, 2, 900])('are refused where there are %i fewer than was said', (fewer) => {
    const fds = [createMemfd('one', 0), createMemfd('two', 0)];
    const count = fds.length + fewer;
    const { stderr } = passedTo({ LISTEN_PID: 'self', LISTEN_FDS: `${count}` }, fds);
    expect(stderr).toContain(`LISTEN_FDS: expected ${count} descriptors from 3 on, got 2`);
    fds.forEach(closeFd);
  });

  it('are nobody’s where no process is named', () => {
    expect(new ServiceManager({ LISTEN_FDS: '1' }).passed).toEqual([]);
  });
});

describe.skipIf(!isBuilt)('the daemon', () => {
  it('says that it is ready when its socket is there, and that it stops', async () => {
    const place = makePlace('a path');
    const daemon = await Daemon.start([], { NOTIFY_SOCKET: place.path });
    cleanUps.push(() => daemon.stop());
    const text = `READY=1\nMAINPID=${daemon.pid}\nSTATUS=ramzswap0: 64 MiB`;
    expect(place.receive(5000)).toEqual({ text, fds: [] });
    daemon.child.kill('SIGTERM');
    expect(place.receive(5000)).toEqual({ text: 'STOPPING=1', fds: [] });
    expect((await daemon.child).exitCode).toBe(0);
  });

  it('never says that it is ready when it is refused its socket', async () => {
    const place = makePlace('a path');
    const args = [RAMZSWAPD, '--disksize', '16M', '--socket-path', '/nowhere/s'];
    const result = await execa(process.execPath, args, {
      env: { NOTIFY_SOCKET: place.path },
      reject: false,
    });
    expect([result.exitCode, place.receive()]).toEqual([1, undefined]);
  });

  it('serves all the same when nobody listens there, and says so', async () => {
    const daemon = await Daemon.start([], { NOTIFY_SOCKET: '/nowhere/notify' });
    cleanUps.push(() => daemon.stop());
    const said = () => daemon.stderr.includes('service manager not told: /nowhere/notify: connect');
    await until(said, 'a warning', 5000);
    expect(daemon.stderr).toContain('ready');
  });
});
