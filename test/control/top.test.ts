/** top: what was asked for, plain text, and the built program on a terminal of its own (`script`). */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { topWishes } from '../../src/control/top.ts';
import { ControlStandIn, daemonStatus, deviceStatus, figures } from '../driver/control-stand-in.ts';
import { isBuilt, RZSCONTROL, until } from '../driver/daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const WAIT_MILLIS = 20_000;

describe('topWishes', () => {
  const pipe = { json: false, isTerminal: false };
  const terminal = { json: false, isTerminal: true };

  it.each([
    [{}, terminal, { intervalMillis: 1000, sort: 'name', frames: undefined }],
    [{}, pipe, { frames: 1 }],
    [{ once: true }, terminal, { frames: 1 }],
    [{ batch: true }, terminal, { frames: Number.POSITIVE_INFINITY }],
    [{ batch: true, frames: '3' }, pipe, { frames: 3 }],
    [{ frames: '2' }, terminal, { frames: 2 }],
    [{}, { json: true, isTerminal: true }, { frames: Number.POSITIVE_INFINITY, json: true }],
    [{}, { json: true, isTerminal: false }, { frames: 1, json: true }],
    [{ batch: true }, { json: true, isTerminal: false }, { frames: Number.POSITIVE_INFINITY }],
    [{ once: true }, { json: true, isTerminal: false }, { frames: 1, json: true }],
    [{ interval: '.25', sort: 'reads' }, pipe, { intervalMillis: 250, sort: 'reads' }],
  ] as const)('%j on %j are %j', (said, output, wishes) => {
    expect(topWishes(said, output)).toMatchObject(wishes);
  });

  it.each([
    [{ interval: '0' }, /^--interval: expected seconds from 0.1 to 3600, got '0'$/],
    [{ interval: '1s' }, /^--interval: /],
    [{ interval: 'Infinity' }, /^--interval: /],
    [{ frames: '0' }, /^--frames: expected a number from 1 to 1000000000, got '0'$/],
    [{ once: true, frames: '1' }, /^--once, --frames: expected one of them$/],
  ])('%j is refused', (said, message) => {
    expect(() => topWishes(said, pipe)).toThrow(message);
  });
});

let daemon: ControlStandIn;
let folder: ReturnType<typeof makeFolder>;
let counting: NodeJS.Timeout;

/** Two devices, the first of which reads 1000 pages a second by the figures. */
function devicesOf(reads: number) {
  const statistics = figures({ num_reads: reads, disksize: 2 ** 26, mem_used_total: 2 ** 20 });
  return [
    deviceStatus('ramzswap0', { state: 'active', connected: true, statistics }),
    deviceStatus('ramzswap1'),
  ];
}

beforeEach(() => {
  daemon = new ControlStandIn(...devicesOf(0));
  folder = makeFolder();
  const begun = performance.now();
  counting = setInterval(() => {
    daemon.devices = devicesOf(performance.now() - begun);
  }, 5);
});
afterEach(() => {
  clearInterval(counting);
  daemon.close();
  folder.remove();
});

const topOf = (...args: string[]) => [RZSCONTROL, '--control-path', daemon.path, 'top', ...args];

describe.skipIf(!isBuilt)('top without a terminal', () => {
  const run = (...args: string[]) =>
    execa(process.execPath, topOf(...args), {
      reject: false,
      stdin: 'ignore',
      timeout: WAIT_MILLIS,
    });

  it('prints one frame about one interval, and ends', async () => {
    const { exitCode, stdout, stderr } = await run('--interval', '0.5');
    expect([exitCode, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^ramzswapd 0\.1\.0 {3}up 1 h 2 min {3}2 devices, 1 active/);
    expect(stdout).toMatch(/^[\n -~]+$/);
    const [titles, row] = stdout.split('\n').slice(4);
    const column = titles!.split(/ +/).indexOf('READ/s');
    const reads = Number(row!.split(/ +/)[column]);
    expect(reads).toBeGreaterThan(700);
    expect(reads).toBeLessThan(1300);
  });

  it('prints as many frames as wanted, or objects a line', async () => {
    const frames = await run('--batch', '-n', '3', '--interval', '0.1');
    expect(frames.stdout.match(/^ramzswapd /gm)).toHaveLength(3);
    const { stdout } = await run('--json', '-n', '2', '--interval', '0.1', '--sort', 'reads');
    const objects = stdout.split('\n').map((line) => JSON.parse(line));
    expect(objects).toHaveLength(2);
    expect(objects[1]).toMatchObject({
      daemon: { process: 4711 },
      devices: [
        { device: 'ramzswap0', state: 'active' },
        { device: 'ramzswap1', disksize: null },
      ],
    });
  });

  it('ends with status 1 when there is no daemon, at the start and later', async () => {
    const running = run('--batch', '--interval', '0.1');
    await until(() => daemon.calls.length > 4, 'calls', WAIT_MILLIS);
    daemon.stop();
    expect(await running).toMatchObject({ exitCode: 1 });
    expect((await running).stderr).toMatch(/^rzscontrol: control socket /);
    expect(await run()).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/no such socket/),
    });
  });
});

const ENTER = '\x1b[?1049h';
const LEAVE = '\x1b[?1049l';
const HOME = '\x1b[H';

interface Around {
  readonly args?: readonly string[];
  /** Lines of the shell, before top and behind it. */
  readonly before?: readonly string[];
  readonly after?: readonly string[];
}

describe.skipIf(!isBuilt)('top on a terminal', () => {
  const note = (name: string) => `stty -a > ${join(folder.path, name)}`;
  const modes = (name: string) => readFileSync(join(folder.path, name), 'utf8');

  /** A shell on a terminal of 80 columns and 12 rows, which notes the terminal's modes around top. */
  function onTerminal({ args = [], before = [], after = [] }: Around = {}) {
    const program = [process.execPath, ...topOf('--interval', '0.2', ...args)].join(' ');
    const command = `sh -c 'echo $$ > ${join(folder.path, 'pid')}; exec ${program}'`;
    const lines = [
      ...['stty rows 12 cols 80', note('before'), ...before],
      ...[command, ...after, 'echo status=$?', note('after')],
    ];
    const child = execa('script', ['-qec', lines.join('; '), '/dev/null'], {
      ...{ reject: false, timeout: WAIT_MILLIS, env: { TERM: 'xterm', SHELL: '/bin/sh' } },
    });
    let screen = '';
    child.stdout.on('data', (chunk: Buffer) => {
      screen += chunk.toString();
    });
    return {
      child,
      press: (keys: string) => child.stdin.write(keys),
      output: () => screen,
      /** Only what was written from here on. */
      shows: async (text: string | RegExp, from = 0) =>
        until(
          () => screen.slice(from).search(text instanceof RegExp ? text : RegExp(text)) >= 0,
          `${text} in ${JSON.stringify(screen.slice(from))}`,
          WAIT_MILLIS,
        ),
      pid: () => Number(readFileSync(join(folder.path, 'pid'), 'utf8')),
    };
  }

  it('shows rates, without flicker, until q; then the terminal is as it was', async () => {
    const terminal = onTerminal();
    await terminal.shows(/ramzswap0 active +0 +1\.00M +0\.00 +[1-9]\d\d/);
    terminal.press('q');
    await terminal.child;
    const output = terminal.output();
    expect(output).toMatch(/status=0/);
    expect(modes('after')).toBe(modes('before'));
    expect(modes('before')).toMatch(/ icanon/);
    // Another screen, left once; the cursor and line wrap are back.
    expect(output.split(ENTER)).toHaveLength(2);
    expect(output.split(LEAVE)).toHaveLength(2);
    expect(output.indexOf('\x1b[?25l')).toBeLessThan(output.lastIndexOf('\x1b[?25h'));
    expect(output.lastIndexOf('\x1b[?7h')).toBeGreaterThan(output.indexOf('\x1b[?7l'));
    // Every frame is laid over the last: none begins with an empty screen.
    expect(output).not.toMatch(/\[[23]J/);
    const frames = output.slice(output.indexOf(ENTER), output.indexOf(LEAVE)).split(HOME).slice(1);
    expect(frames.length).toBeGreaterThan(1);
    for (const frame of frames) expect(frame.split('\r\n')).toHaveLength(12);
  });

  it.each([
    ['Ctrl-C', '\x03', 0],
    ['SIGTERM', 'SIGTERM', 0],
    ['SIGINT', 'SIGINT', 0],
    ['SIGHUP', 'SIGHUP', 129],
  ])('%s ends it, and the terminal is as it was', async (_, how, status) => {
    const terminal = onTerminal();
    await terminal.shows('ramzswap0');
    if (how.startsWith('SIG')) process.kill(terminal.pid(), how);
    else terminal.press(how);
    await terminal.child;
    expect(terminal.output()).toContain(`status=${status}`);
    expect(terminal.output().split(LEAVE)).toHaveLength(2);
    expect(modes('after')).toBe(modes('before'));
  });

  it('ends by the signal of it when its terminal goes away', async () => {
    const status = join(folder.path, 'status');
    // The shell outlives its terminal, and says how top has ended.
    const terminal = onTerminal({ before: ['trap : HUP'], after: [`echo $? > ${status}`] });
    await terminal.shows('ramzswap0');
    terminal.child.kill('SIGKILL');
    await until(
      () => existsSync(status) && readFileSync(status, 'utf8') !== '',
      'the end',
      WAIT_MILLIS,
    );
    expect(readFileSync(status, 'utf8').trim()).toBe('129');
  });

  it.each([
    ['ends', ''],
    ['goes on', '0<>fifo'],
  ])('ends by it where the terminal sends none, and input %s', async (_, input) => {
    const status = join(folder.path, 'status');
    // In another session it only hears that it cannot write.
    const top = [process.execPath, ...topOf('--interval', '0.1')].join(' ');
    const command = `setsid --wait sh -c 'mkfifo fifo; ${top} ${input}; echo $? > ${status}'`;
    const child = execa('script', ['-qec', command, '/dev/null'], {
      ...{ reject: false, timeout: WAIT_MILLIS, env: { TERM: 'xterm', SHELL: '/bin/sh' } },
      cwd: folder.path,
    });
    let screen = '';
    child.stdout.on('data', (chunk: Buffer) => {
      screen += chunk.toString();
    });
    await until(() => screen.includes('ramzswap0'), 'a frame', WAIT_MILLIS);
    child.kill('SIGKILL');
    const said = () => (existsSync(status) ? readFileSync(status, 'utf8').trim() : '');
    await until(() => said() !== '', 'the end', WAIT_MILLIS);
    expect(said()).toBe('129');
  });

  it('gives the terminal back while Ctrl-Z has it stopped, and goes on', async () => {
    // The shell makes jobs: what is stopped comes back to it.
    const terminal = onTerminal({ after: [note('stopped'), 'fg'], before: ['set -m'] });
    await terminal.shows('ramzswap0');
    terminal.press('\x1a');
    await until(() => existsSync(join(folder.path, 'stopped')), 'stopping', WAIT_MILLIS);
    await until(() => terminal.output().split(ENTER).length === 3, 'entering again', WAIT_MILLIS);
    await terminal.shows('ramzswap0', terminal.output().lastIndexOf(ENTER));
    terminal.press('q');
    await terminal.child;
    expect(terminal.output()).toMatch(/status=0/);
    expect(terminal.output().split(LEAVE)).toHaveLength(3);
    for (const name of ['stopped', 'after']) expect(modes(name)).toBe(modes('before'));
  });

  it('goes on at once where nobody could continue it', async () => {
    const terminal = onTerminal();
    await terminal.shows('ramzswap0');
    terminal.press('\x1a');
    await until(() => terminal.output().split(ENTER).length === 3, 'entering again', WAIT_MILLIS);
    await terminal.shows('ramzswap0', terminal.output().lastIndexOf(ENTER));
    terminal.press('q');
    await terminal.child;
    expect(terminal.output()).toMatch(/status=0/);
    expect(modes('after')).toBe(modes('before'));
  });

  it('sorts and scrolls by keys, at once', async () => {
    clearInterval(counting);
    daemon.devices = Array.from({ length: 20 }, (_, i) => deviceStatus(`ramzswap${i}`));
    const terminal = onTerminal();
    await terminal.shows('… 0 above, 15 more below');
    terminal.press('\x1b[B');
    await terminal.shows('… 1 above, 14 more below');
    terminal.press('\x1b[6~');
    await terminal.shows('… 6 above, 9 more below');
    terminal.press('m');
    await terminal.shows('DEVICE .* memory ');
    terminal.press('q');
    await terminal.child;
  });

  it('follows the terminal to another size', async () => {
    const terminal = onTerminal();
    await terminal.shows('ramzswap0');
    const [from, pid] = [terminal.output().length, terminal.pid()];
    await execa('stty', ['-F', `/proc/${pid}/fd/1`, 'rows', '8', 'cols', '120']);
    await terminal.shows(/ GUEST .* FAILED/, from);
    const frame = terminal
      .output()
      .split(HOME)
      .findLast((text) => text.includes(' GUEST '));
    expect(frame!.split('\r\n')).toHaveLength(8);
    terminal.press('q');
    await terminal.child;
  });

  it('waits for a daemon that has ended, and goes on with the next', async () => {
    const terminal = onTerminal();
    await terminal.shows(/ramzswap0/);
    daemon.stop();
    await terminal.shows(/waiting for the daemon/);
    await terminal.shows(/no such socket; is ramzswapd running/);
    daemon.daemon = daemonStatus({ process: 4712, version: '0.2.0' });
    const from = terminal.output().length;
    daemon.start();
    await terminal.shows(/ramzswapd 0\.2\.0/, from);
    terminal.press('q');
    await terminal.child;
    expect(terminal.output()).toMatch(/status=0/);
  });

  it('says that the daemon does not answer while it shows what was last', async () => {
    const terminal = onTerminal();
    await terminal.shows(/ramzswap0/);
    daemon.isHanging = true;
    await terminal.shows(/no answer from the daemon for [1-9] s {3}q quit/);
    const from = terminal.output().length;
    daemon.isHanging = false;
    daemon.stop();
    daemon.start();
    await terminal.shows(/q quit {3}sort by/, from);
    terminal.press('q');
    await terminal.child;
    expect(terminal.output()).toMatch(/status=0/);
  });

  it('does not begin where there is no daemon: the reason stays readable', async () => {
    daemon.stop();
    const terminal = onTerminal();
    await terminal.child;
    expect(terminal.output()).toMatch(/no such socket.*\r\nstatus=1/);
    expect(terminal.output()).not.toContain(ENTER);
    expect(existsSync(join(folder.path, 'after'))).toBe(true);
  });

  it('prints plain text on a terminal that obeys nothing', async () => {
    const terminal = onTerminal({ args: ['--once'] });
    await terminal.child;
    expect(terminal.output()).not.toContain('\x1b');
  });
});
