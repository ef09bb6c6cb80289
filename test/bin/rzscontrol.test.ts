/** The built rzscontrol: arguments, output, exit codes. Its daemon is a stand-in. */

import { chmodSync } from 'node:fs';
import { dirname } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import { ControlStandIn, daemonStatus, deviceStatus, figures } from '../driver/control-stand-in.ts';
import { isBuilt, RZSCONTROL } from '../driver/daemon.ts';
import { AS_NOBODY, whyNotNobody } from '../driver/nobody.ts';

const whyNot = isBuilt ? whyNotNobody() : 'dist/ is missing: run "npm run build"';
if (whyNot !== undefined) console.warn(`rzscontrol.test.ts: SKIPPED in part: ${whyNot}`);

let daemon: ControlStandIn;
beforeEach(() => {
  daemon = new ControlStandIn(deviceStatus('ramzswap0'), deviceStatus('ramzswap1'));
});
afterEach(() => daemon.close());

const OPTIONS = { reject: false, stdin: 'ignore', timeout: 20_000 } as const;

function rzscontrol(...args: string[]) {
  const all = [RZSCONTROL, '--control-path', daemon.path, ...args];
  return execa(process.execPath, all, OPTIONS);
}

async function status(...args: string[]) {
  const { exitCode, stdout, stderr } = await rzscontrol(...args);
  return [exitCode, stdout, stderr];
}

const orders = () => daemon.calls.map(({ method, params }) => [method, params]);

describe.skipIf(!isBuilt)('rzscontrol', () => {
  it("goes the ancestor's way: set, init, statistics, reset; orders say nothing", async () => {
    expect(await status('/dev/ramzswap0', '--disksize_kb=65536')).toEqual([0, '', '']);
    expect(await status('ramzswap0', '-i')).toEqual([0, '', '']);
    expect((await status('ramzswap0', '-s'))[1]).toMatch(/^DiskSize: 0 kB\nNumReads: 0\n/);
    expect(await status('ramzswap0', '-r')).toEqual([0, '', '']);
    const device = 'ramzswap0';
    expect(orders()).toEqual([
      ['set', { device, settings: { disksize: 65_536 * 1024 } }],
      ['init', { device }],
      ['statistics', { device }],
      // For its part of a budget.
      ['devices', {}],
      ['reset', { device }],
    ]);
  });

  it('takes short letters, with values behind them or in them', async () => {
    expect((await status('ramzswap1', '-rid4096', '-s', '--json'))[0]).toBe(0);
    expect(await status('ramzswap0', '-b', '/swap', '-m', '64')).toEqual([0, '', '']);
    expect(orders()).toEqual([
      ['reset', { device: 'ramzswap1' }],
      ['init', { device: 'ramzswap1', settings: { disksize: 4 << 20 } }],
      ['statistics', { device: 'ramzswap1' }],
      ['set', { device: 'ramzswap0', settings: { 'backing-swap': '/swap', memlimit: 65_536 } }],
    ]);
  });

  it('says of orders what becomes of them when asked to, on standard error', async () => {
    expect(await status('ramzswap0', '-iv', '-d4')).toEqual([
      ...[0, ''],
      `rzscontrol: connected to ${daemon.path}\n` +
        'rzscontrol: ramzswap0: init disksize=4096: initialised',
    ]);
    const [code, , stderr] = await status('ramzswap0', '-iv');
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(
        /ramzswap0: init: refused\nrzscontrol: ramzswap0: initialised already$/,
      ),
    ]);
  });

  it('gives no further order after one that is refused', async () => {
    await status('ramzswap0', '-i');
    daemon.calls.length = 0;
    expect(await status('ramzswap0', '-i', '-g', '64', '-s')).toMatchObject([
      ...[1, ''],
      'rzscontrol: ramzswap0: initialised already',
    ]);
    expect(orders().map(([method]) => method)).toEqual(['init', 'devices']);
  });

  it('adds and removes devices', async () => {
    expect(await status('--add', 'more', '-d', '8')).toEqual([0, '', '']);
    expect(daemon.devices.map(({ device }) => device)).toEqual(['ramzswap0', 'ramzswap1', 'more']);
    expect(await status('--remove=/dev/more')).toEqual([0, '', '']);
    expect(daemon.devices).toHaveLength(2);
    expect(orders()[0]).toEqual(['add', { device: 'more', settings: { disksize: 8192 } }]);
  });

  it('tells programs what has become of a device', async () => {
    const told = async (...args: string[]) => {
      const [code, json, stderr] = await status(...args, '--json');
      expect([code, stderr]).toEqual([0, '']);
      return JSON.parse(json as string) as DeviceStatus | null;
    };
    expect(await told('ramzswap1')).toEqual(deviceStatus('ramzswap1'));
    expect(await told('--add', 'more')).toEqual(deviceStatus('more'));
    expect(await told('more', '-i')).toMatchObject({ device: 'more', state: 'initialised' });
    expect(await told('more', '-g', '64')).toMatchObject({ statistics: { disksize: 65_536 } });
    expect(await told('--remove', 'more')).toBeNull();
    expect(await status('ramzwap1', '--json')).toEqual([
      ...[1, ''],
      "rzscontrol: no device 'ramzwap1'; did you mean ramzswap1?",
    ]);
  });

  it('shows all devices, and the budget beneath, as text and as JSON', async () => {
    daemon.daemon = daemonStatus({ budget: { limit: 2 ** 30, committed: 2 ** 20 } });
    const [code, table] = await status();
    expect(code).toBe(0);
    expect(table).toMatch(
      /^device .*\nramzswap0 .*\nramzswap1 .*\n\nbudget: 1 MiB of 1 GiB committed$/,
    );
    const [, json] = await status('--json');
    expect(JSON.parse(json as string) as DeviceStatus[]).toEqual(daemon.devices);
  });

  it("shows the daemon's own figures, and the protocol", async () => {
    expect((await status('--daemon'))[1]).toMatch(/^Version: 0\.1\.0\nProcess: 4711\n/);
    expect(JSON.parse((await status('--daemon', '--json'))[1] as string)).toEqual(daemon.daemon);
    expect(JSON.parse((await status('--schema'))[1] as string)).toMatchObject({ openrpc: '1.3.2' });
  });

  it('tells of a reload what was done, and what was not with status 1', async () => {
    daemon.reload = { done: ['ramzswap2: added'], refused: [] };
    expect(await status('--reload')).toEqual([0, 'ramzswap2: added', '']);
    daemon.reload = {
      done: ['ramzswap2: added'],
      refused: ['ramzswap0: in use', 'threads: fixed'],
    };
    expect(await status('--reload')).toEqual([
      ...[1, 'ramzswap2: added'],
      'rzscontrol: ramzswap0: in use\nrzscontrol: threads: fixed',
    ]);
    const [code, json] = await status('--reload', '--json');
    expect([code, JSON.parse(json as string)]).toEqual([1, daemon.reload]);
  });

  it.each([
    [
      ['ramzwap1', '-s'],
      "no device 'ramzwap1': this daemon has ramzswap0, ramzswap1; did you mean ramzswap1?",
    ],
    [['other', '-r'], "no device 'other': this daemon has ramzswap0, ramzswap1"],
    [['ramzswap0', '-s'], 'ramzswap0: not initialised'],
  ])('%j is refused with status 1', async (args, message) => {
    expect(await status(...args)).toEqual([1, '', `rzscontrol: ${message}`]);
  });

  it('says of a device that is missed where there is none', async () => {
    daemon.devices = [];
    expect(await status('x', '-s')).toEqual([
      1,
      '',
      "rzscontrol: no device 'x': this daemon has none",
    ]);
  });

  it.each([
    [['ramzswap0', '--stat'], /unknown option '--stat'\n\(Did you mean --stats\?\)/],
    [['ramzswap0', '--disksize=4'], /unknown option '--disksize=4'/],
    [['ramzswap0', '-d'], /option '-d, --disksize_kb <n>' argument missing/],
    [['ramzswap0', 'ramzswap1', '-s'], /too many arguments/],
    [['ramzswap0'], /what about ramzswap0\?/],
    [
      ['ramzswap0', '-d', '4', '-b', '/swap'],
      /--disksize_kb, --backing_swap: expected one of them/,
    ],
    [['top', '-s'], /top: expected no --stats with it/],
    [['top', '--sort', 'age'], /argument 'age' is invalid. Allowed choices are name, memory/],
    [['top', '--interval', '0'], /--interval: expected seconds from 0.1 to 3600, got '0'/],
    [['--control-path', ''], /^rzscontrol: --control-path: expected a path, got ''$/],
    [['--completion', 'fish'], /Allowed choices are bash, devices/],
  ])('%j is no usage: status 2', async (args, message) => {
    const [code, stdout, stderr] = await status(...args);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(message);
    expect(daemon.calls).toEqual([]);
  });

  it('names devices to a shell, and is silent without a daemon', async () => {
    expect(await status('--completion', 'devices')).toEqual([0, 'ramzswap0\nramzswap1', '']);
    daemon.stop();
    expect(await status('--completion', 'devices')).toEqual([0, '', '']);
  });

  it('says that its output could not be written', async () => {
    const command = `"$0" "$1" --json --control-path "$2" > /dev/full`;
    const args = ['-c', command, process.execPath, RZSCONTROL, daemon.path];
    expect(await execa('bash', args, OPTIONS)).toMatchObject({
      exitCode: 1,
      stderr: 'rzscontrol: standard output: ENOSPC (no space left on device)',
    });
  });

  it('ends in peace when nobody reads on', async () => {
    daemon.devices = Array.from({ length: 500 }, (_, i) =>
      deviceStatus(`swap${i}`, { state: 'active', statistics: figures() }),
    );
    const command = `"$0" "$1" --json --control-path "$2" | head -n 1; echo "\${PIPESTATUS[0]}"`;
    const args = ['-c', command, process.execPath, RZSCONTROL, daemon.path];
    expect(await execa('bash', args, OPTIONS)).toMatchObject({ stdout: '[\n0', stderr: '' });
  });

  it.skipIf(whyNot !== undefined)('says to another user whose the socket is', async () => {
    chmodSync(dirname(daemon.path), 0o755);
    chmodSync(daemon.path, 0o600);
    const args = [...AS_NOBODY.slice(1), process.execPath, RZSCONTROL, '--control-path'];
    const refused = await execa(AS_NOBODY[0]!, [...args, daemon.path], { ...OPTIONS, cwd: '/' });
    expect([refused.exitCode, refused.stderr]).toEqual([
      1,
      `rzscontrol: control socket ${daemon.path}: it belongs to root alone; run as root`,
    ]);
    chmodSync(dirname(daemon.path), 0o700);
    const hidden = await execa(AS_NOBODY[0]!, [...args, daemon.path], { ...OPTIONS, cwd: '/' });
    expect(hidden.stderr).toMatch(
      /it belongs to ramzswapd's user alone; run as ramzswapd's user, or as root$/,
    );
  });
});
