/**
 * The units of scripts/systemd, as far as they can be tried without systemd running: systemd's own
 * judgement of them, and the built daemon under what it will have to live with.
 */

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import { VIRTIO_BLK_T_DISCARD } from '../../src/virtio-blk/protocol.ts';
import { AttachedDriver, Daemon, isBuilt, RAMZSWAPD, sleep } from '../driver/daemon.ts';
import { AS_NOBODY, NOBODY, nobodysFolder, whyNotNobody } from '../driver/nobody.ts';
import { Random } from '../driver/random.ts';
import { clear, read, write } from '../driver/requests.ts';
import { makeFolder } from '../driver/sockets.ts';
import { makeSwapFile } from '../driver/swap-file.ts';
import { allowedCalls, filteredBy } from '../models/system-calls.ts';
import { DatagramPlace } from '../native/datagram-place.ts';

const FOLDER = fileURLToPath(new URL('../../scripts/systemd', import.meta.url));
const unitOf = (name: string) => readFileSync(join(FOLDER, name), 'utf8');
const UNIT = unitOf('ramzswapd@.service');
const SERVICES = ['ramzswapd.service', 'ramzswapd@.service'];
const SOCKETS = readdirSync(FOLDER).filter((name) => name.endsWith('.socket'));
const MIB = 2 ** 20;
/** Of 10: what systemd calls SAFE ends at 2. */
const EXPOSURE_MAX = 1;

const has = (program: string) => spawnSync(program, ['--version']).error === undefined;
const hasSystemd = has('systemd-analyze');
if (!hasSystemd) console.warn('systemd.test.ts: SKIPPED: systemd-analyze is not installed');
const whyNot = isBuilt ? whyNotNobody() : 'dist/ is missing: run "npm run build"';
if (whyNot !== undefined) console.warn(`systemd.test.ts: SKIPPED in part: ${whyNot}`);

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function folder(): string {
  const made = makeFolder();
  cleanUps.push(made.remove);
  return made.path;
}

function tmpfsFolder(): string {
  const path = mkdtempSync('/dev/shm/rz-test-');
  cleanUps.push(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** The units in a folder, with a program that is there instead of the one that is not installed. */
function unitFiles(): string {
  const path = folder();
  const program = join(path, 'ramzswapd');
  writeFileSync(program, '#!/bin/sh\n');
  chmodSync(program, 0o755);
  for (const name of [...SERVICES, ...SOCKETS]) {
    const unit = unitOf(name).replace('ExecStart=ramzswapd ', `ExecStart=${program} `);
    writeFileSync(join(path, name), unit);
  }
  return path;
}

describe.skipIf(!hasSystemd)('systemd', () => {
  const verify = (path: string) =>
    spawnSync('systemd-analyze', ['verify', '--man=no', path], { encoding: 'utf8' });

  it.each([...SERVICES, ...SOCKETS])(
    'finds nothing wrong with %s, and does when it has a mistake',
    (name) => {
      const path = join(unitFiles(), name);
      const { status, stderr } = verify(path);
      expect([status, stderr]).toEqual([0, '']);
      writeFileSync(path, readFileSync(path, 'utf8').replace(/^(User|SocketUser)=/m, 'Usher='));
      expect(verify(path).stderr).toContain('Usher');
    },
  );

  it.each(SERVICES)(`counts an exposure of ${EXPOSURE_MAX} of 10 at most for %s`, (name) => {
    const threshold = `--threshold=${EXPOSURE_MAX * 10}`;
    const args = ['security', '--offline=true', '--no-pager', threshold, join(unitFiles(), name)];
    const { status, stdout } = spawnSync('systemd-analyze', args, { encoding: 'utf8' });
    expect(stdout.trim().split('\n').at(-1)).toMatch(/exposure level for .*: \d\.\d/);
    expect(status).toBe(0);
  });
});

it.skipIf(!isBuilt)('the unit and the example give options that the daemon has', () => {
  const { stdout } = spawnSync(process.execPath, [RAMZSWAPD, '--help'], { encoding: 'utf8' });
  const command = /^ExecStart=ramzswapd (.*)$/m.exec(UNIT)![1]!;
  const example = readFileSync(join(FOLDER, '../examples/ramzswap0.conf'), 'utf8');
  const more = /^RAMZSWAPD_OPTIONS=(.*)$/m.exec(example)![1]!;
  const options = `${command} ${more}`.match(/--[\w-]+/g)!;
  expect(options).toEqual(expect.arrayContaining(['--socket-path', '--disksize']));
  for (const option of options) expect(stdout).toMatch(new RegExp(`^ +${option} `, 'm'));
});

it('both services have the same privileges and limits', () => {
  /** What each has of its own: how it is told what to do, and where its sockets and stores are. */
  const own = /^(Exec\w+|EnvironmentFile|RuntimeDirectory\w*|ReadWritePaths)=/;
  const shared = SERVICES.map((name) =>
    unitOf(name)
      .split('[Service]')[1]!
      .split('\n')
      .filter((line) => /^\w+=/.test(line) && !own.test(line)),
  );
  expect(shared[0]!.length).toBeGreaterThan(40);
  expect(shared[0]).toEqual(shared[1]);
});

it('users of units, sockets and folder are the one that the sysusers file makes', () => {
  const users = [...SERVICES, ...SOCKETS].map(
    (name) => /^(?:Socket)?User=(\w+)$/m.exec(unitOf(name))![1],
  );
  expect(new Set(users).size).toBe(1);
  expect(unitOf('ramzswap.sysusers.conf')).toMatch(new RegExp(`^u ${users[0]} `, 'm'));
  const place = new RegExp(`^d /run/ramzswap 0711 ${users[0]} ${users[0]} `, 'm');
  expect(unitOf('ramzswap.tmpfiles.conf')).toMatch(place);
});

it('sockets of disks are for the group that may have the service’s, the control socket for nobody', () => {
  const group = /--socket-group (\w+)/.exec(UNIT)![1];
  for (const name of SOCKETS) {
    const [socketGroup, mode] = ['SocketGroup', 'SocketMode'].map(
      (key) => new RegExp(`^${key}=(\\w+)$`, 'm').exec(unitOf(name))?.[1],
    );
    const expected = name === 'ramzswapd.socket' ? [undefined, '0600'] : [group, '0660'];
    expect([socketGroup, mode], name).toEqual(expected);
  }
  expect(SERVICES.map((name) => /^SupplementaryGroups=(\w+)$/m.exec(unitOf(name))![1])).toEqual([
    group,
    group,
  ]);
});

/** All that guests and people make a daemon do: pages of every kind, discards, idle time, orders. */
async function useAll(daemon: Daemon): Promise<void> {
  const attached = AttachedDriver.connect(daemon);
  const { driver } = attached;
  const random = new Random(5);
  for (let page = 1; page < 2000; page++) {
    const data = random.bytes(4096).fill(0, page % 2 === 0 ? 900 : 4096);
    driver.submit(write(page, data));
    driver.submit(read(page - 1, 1));
    if (page % 16 !== 0) continue;
    driver.flush();
    for (const { status } of attached.completeAll(10_000)) expect(status).toBe(0);
  }
  driver.submit(clear(VIRTIO_BLK_T_DISCARD, [{ sector: 0, sectors: 8000 }]));
  driver.flush();
  for (const { status } of attached.completeAll(10_000)) expect(status).toBe(0);
  const control = await ControlClient.connect(daemon.controlPath);
  expect(await control.call('devices', {})).toMatchObject([{ connected: true }]);
  control.close();
  await sleep(1200);
  attached.close();
  await sleep(50);
}

/** Stands for a folder of the test's on a tmpfs. */
const TMPFS = '<tmpfs>';

const KINDS: [string, string[]][] = [
  [
    'memory',
    [
      '--queue-threads',
      '2',
      '--mlock',
      '--wipe-on-free',
      '--disksize',
      '16M',
      '--store-dir',
      TMPFS,
    ],
  ],
  ['a backing swap by io_uring', ['--backing-io', 'io_uring', '--memlimit', '1M']],
  ['a backing swap by Linux AIO', ['--backing-io', 'aio', '--memlimit', '1M']],
];

describe.skipIf(!hasSystemd || !has('strace') || !isBuilt)('the system call filter', () => {
  const start = async (args: readonly string[], allowed: Set<string>) => {
    const log = join(folder(), 'calls');
    const notify = new DatagramPlace(join(folder(), 'notify'));
    cleanUps.push(() => notify.close());
    const backing = args.includes('--backing-io') ? makeSwapFile(32 * MIB) : undefined;
    if (backing !== undefined) cleanUps.push(backing.remove);
    const known = args.map((arg) => (arg === TMPFS ? tmpfsFolder() : arg));
    const all = [...known, ...(backing === undefined ? [] : ['--backing-swap', backing.path])];
    const group = `${process.getgid!()}`;
    const env = { NOTIFY_SOCKET: notify.path };
    const wrapper = filteredBy(allowed, log);
    const daemon = await Daemon.start(
      [...all, '--socket-group', group],
      env,
      makeFolder(),
      [],
      wrapper,
    );
    cleanUps.push(() => daemon.stop());
    expect(notify.receive(5000)?.text).toContain('READY=1');
    return { daemon, log };
  };

  it.each(KINDS)('is never met by a daemon with %s', async (_, args) => {
    const { daemon, log } = await start(args, allowedCalls(UNIT));
    await useAll(daemon);
    expect(statusOf(daemon, 'Seccomp')).not.toBe('0');
    await daemon.stop();
    expect(readFileSync(log, 'utf8')).toBe('');
    if (args.includes('io_uring')) expect(daemon.stderr).toContain('io_uring');
    expect(daemon.stderr).not.toMatch(/"level":[4-6]0/);
  });

  it('without asynchronous I/O is met by a backing swap, which is refused', async () => {
    const without = UNIT.replace('@privileged @resources', '@privileged @resources @aio');
    const args = ['--backing-io', 'auto', '--memlimit', '1M'];
    await expect(start(args, allowedCalls(without))).rejects.toThrow('io_setup: EPERM');
  });
});

const statusOf = ({ pid }: Daemon, name: string) =>
  new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1];

const SANDBOX = ['unshare', '--mount', '--net', '--ipc'];
const canUnshare = spawnSync(SANDBOX[0]!, [...SANDBOX.slice(1), 'true']).status === 0;
if (!canUnshare) console.warn('systemd.test.ts: SKIPPED: name spaces need privilege');

describe.skipIf(whyNot !== undefined || !canUnshare)('the sandbox', () => {
  it('has all that the daemon needs: no network, no capability, one folder to write to', async () => {
    const place = nobodysFolder();
    // ProtectSystem=strict with a RuntimeDirectory.
    const script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"';
    const wrapper = [...SANDBOX, 'sh', '-c', script, place.path, ...AS_NOBODY];
    const daemon = await Daemon.start(['--queue-threads', '2'], {}, place, [], wrapper);
    cleanUps.push(() => daemon.stop());
    expect(lstatSync(daemon.socketPath).uid).toBe(NOBODY);
    expect(statusOf(daemon, 'NoNewPrivs')).toBe('1');
    const root = readFileSync(`/proc/${daemon.pid}/mountinfo`, 'utf8').match(/^.* \/ \/ .*$/m)![0];
    expect(root.split(' ')[5]).toMatch(/^ro\b/);
    expect(readFileSync(`/proc/${daemon.pid}/net/dev`, 'utf8').trim().split('\n')).toHaveLength(3);
    await useAll(daemon);
    expect(existsSync(daemon.socketPath)).toBe(true);
    expect(daemon.stderr).not.toMatch(/"level":[4-6]0/);
  });
});
