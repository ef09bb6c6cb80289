/**
 * The built ramzswap-run, with shell scripts that play QEMU: whose words they get, what becomes of
 * their ends and of signals, and that nothing is left behind.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isBuilt, until } from '../driver/daemon.ts';
import { makeFolder } from '../driver/sockets.ts';

const RUN = fileURLToPath(new URL('../../dist/bin/ramzswap-run.js', import.meta.url));
const WAIT_MILLIS = 20_000;
const DISK = ['--disksize', '16M'];

if (!isBuilt) console.warn('qemu-run.test.ts: SKIPPED: dist/ is missing: run "npm run build"');

describe.skipIf(!isBuilt)('ramzswap-run', () => {
  let folder: ReturnType<typeof makeFolder>;
  const started: Run[] = [];

  beforeEach(() => {
    folder = makeFolder();
  });
  afterEach(async () => {
    for (const run of started.splice(0)) await run.kill();
    folder.remove();
  });

  function start(...words: string[]): Run {
    const run = new Run(words, folder.path);
    started.push(run);
    return run;
  }

  /** A shell that is given `-m 64` and what is added. */
  function play(script: string, ...options: string[]): Run {
    return start(...DISK, ...options, '--', 'sh', '-c', script, 'qemu', '-m', '64');
  }

  /** Folders that were made for disks. */
  const left = () => readdirSync(folder.path).filter((name) => name.startsWith('ramzswap-run-'));

  it('gives QEMU a disk that is ready, and takes it away when QEMU has ended', async () => {
    const run = play('echo "$@"; echo said >&2; ls "$XDG_RUNTIME_DIR"/*; exit 7');
    expect(await run.ended()).toEqual({ code: 7, signal: null });
    const [words, ...sockets] = run.stdout.trim().split('\n');
    const path = /path=(\S+)/.exec(words!)?.[1];
    expect(words).toContain(
      `-m 64 -object memory-backend-memfd,id=ramzswap-memory,size=${2 ** 26}`,
    );
    expect(path?.startsWith(join(folder.path, 'ramzswap-run-'))).toBe(true);
    expect(sockets).toEqual(['vhost.sock', 'vhost.sock.control']);
    // Not a word of the daemon's.
    expect(run.stderr).toBe('said\n');
    expect(left()).toEqual([]);
    await run.expectNoDaemon();
  });

  it('gives the daemon its own options and the RAM of QEMU', async () => {
    const run = start('--log-level', 'info', '--', 'sh', '-c', 'exit', 'qemu', '-m', '64');
    expect(await run.ended()).toEqual({ code: 0, signal: null });
    // 25% of the guest's.
    expect(run.stderr).toContain('"msg":"ramzswap0: 16 MiB ready"');
  });

  it('says by its status which signal ended QEMU', async () => {
    expect(await play('kill -SEGV $$').ended()).toEqual({ code: 128 + 11, signal: null });
  });

  it.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)('passes %s on to QEMU', async (signal) => {
    const run = play(
      `trap 'echo heard; exit 9' ${signal.slice(3)}; echo ready; while :; do sleep 0.02; done`,
    );
    await run.says('ready');
    run.child.kill(signal);
    expect(await run.ended()).toEqual({ code: 9, signal: null });
    expect(run.stdout).toBe('ready\nheard\n');
    expect(left()).toEqual([]);
    await run.expectNoDaemon();
  });

  it('ends with the signal’s status if it comes before there is a QEMU', async () => {
    const run = play('echo started');
    await until(() => left().length > 0, 'the folder', WAIT_MILLIS);
    run.child.kill('SIGTERM');
    expect(await run.ended()).toEqual({ code: 128 + 15, signal: null });
    expect(run.stdout).toBe('');
    expect(left()).toEqual([]);
    await run.expectNoDaemon();
  });

  it('ends QEMU when the daemon is gone, for the guest would wait for ever', async () => {
    const run = play('echo ready; exec sleep 1000');
    await run.says('ready');
    process.kill(run.daemon()!, 'SIGKILL');
    expect(await run.ended()).toEqual({ code: 1, signal: null });
    expect(run.stderr).toBe(
      'ramzswap-run: ramzswapd was ended by SIGKILL under the guest: QEMU stopped\n',
    );
    expect(left()).toEqual([]);
  });

  it('leaves neither daemon nor QEMU behind when it is killed', async () => {
    const run = play('echo ready $$; exec sleep 1000');
    await run.says('ready');
    const qemu = Number(/\d+/.exec(run.stdout)?.[0]);
    run.child.kill('SIGKILL');
    await run.expectNoDaemon();
    await until(() => !isAlive(qemu), 'the end of QEMU', WAIT_MILLIS);
  });

  it('ends with 1 when there is no disk, and the daemon says why', async () => {
    const run = start('--backing-swap', '/nonexistent', '--', 'sh', '-c', 'echo started');
    expect(await run.ended()).toEqual({ code: 1, signal: null });
    expect(run.stderr).toBe(
      'ramzswapd: ramzswap0: backing swap /nonexistent: ENOENT (no such file or directory)\n' +
        'ramzswap-run: no disk: ramzswapd ended with status 1\n',
    );
    expect(run.stdout).toBe('');
    expect(left()).toEqual([]);
  });

  it('has the status of a shell when there is no QEMU', async () => {
    const run = start(...DISK, '--', join(folder.path, 'qemu'));
    expect(await run.ended()).toEqual({ code: 127, signal: null });
    expect(run.stderr).toContain(`${folder.path}/qemu: No such file`);
  });

  it.each([
    [[], /expected -- and a QEMU command line/],
    [['--disksize', '16M', 'sh'], /expected -- and a QEMU command line/],
    [['--'], /expected -- and a QEMU command line/],
    [['--socket-path', '/x', '--', 'sh'], /--socket-path: expected not to be given: /],
    [['--guest-ram=1G', '--', 'sh'], /--guest-ram=1G: expected not to be given: .*-m$/m],
    [['--transport', 'usb', '--', 'sh'], /--transport.*pci, mmio/],
    [['--disksize', 'x', '--', 'sh'], /ramzswapd: --disksize: expected a size.*\n.*see above/],
    [['--disk', '1G', '--', 'sh'], /ramzswapd: unknown option '--disk'/],
    [['--', 'sh', '-m', 'x'], /^ramzswap-run: -m: expected a size/],
    [['--', 'sh', '-daemonize'], /^ramzswap-run: -daemonize: expected/],
  ])('refuses %j with status 2', async (words, message) => {
    const run = start(...words);
    expect(await run.ended()).toEqual({ code: 2, signal: null });
    expect(run.stderr).toMatch(message);
    expect(left()).toEqual([]);
  });

  it('takes --transport wherever it stands among the options', async () => {
    const run = play('echo "$@"', '--transport', 'mmio', '--name', 'ramzswap7');
    expect((await run.ended()).code).toBe(0);
    expect(run.stdout).toContain('-device vhost-user-blk,chardev=');
  });
});

function isAlive(pid: number): boolean {
  return existsSync(`/proc/${pid}`);
}

class Run {
  readonly child;
  readonly #folder: string;
  readonly #ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stdout = '';
  stderr = '';

  constructor(words: readonly string[], folder: string) {
    this.#folder = folder;
    this.child = spawn(process.execPath, [RUN, ...words], {
      env: { ...process.env, XDG_RUNTIME_DIR: folder },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stdout.on('data', (data: Buffer) => {
      this.stdout += data;
    });
    this.child.stderr.on('data', (data: Buffer) => {
      this.stderr += data;
    });
    this.#ended = once(this.child, 'close').then(([code, signal]) => ({ code, signal }));
  }

  ended() {
    return this.#ended;
  }

  says(text: string): Promise<void> {
    return until(() => this.stdout.includes(text), text, WAIT_MILLIS);
  }

  /** The daemon of this run: the process that has its socket's path among its words. */
  daemon(): number | undefined {
    const isOurs = (pid: string) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1');
        return words.includes('ramzswapd.js') && words.includes(this.#folder);
      } catch {
        return false;
      }
    };
    const pid = readdirSync('/proc').find((name) => /^\d+$/.test(name) && isOurs(name));
    return pid === undefined ? undefined : Number(pid);
  }

  expectNoDaemon(): Promise<void> {
    return until(() => this.daemon() === undefined, 'the end of the daemon', WAIT_MILLIS);
  }

  /** Its own end takes the other two with it; a daemon that stays is a failed test's. */
  async kill(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill('SIGKILL');
    await this.#ended;
    const daemon = this.daemon();
    if (daemon !== undefined) process.kill(daemon, 'SIGKILL');
  }
}
