/**
 * QEMU with a disk of its own: a daemon in a private folder for as long as QEMU runs.
 *
 *   folder → daemon → its socket (the device is ready) → QEMU → QEMU has ended
 *          → daemon told to stop → folder removed
 *
 * Both end when this process is killed. Called by bin/ramzswap-run.ts.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RefusedError, UsageError } from '../base/errors.ts';
import { type Transport, withDisk } from './qemu-command-line.ts';

export interface RunOptions {
  /** The built daemon. */
  readonly daemonPath: string;
  /** Further options for it. */
  readonly daemonArgs: readonly string[];
  /** QEMU and its arguments. */
  readonly command: readonly string[];
  readonly transport?: Transport | undefined;
}

/** Tables of large disks are reserved first; a daemon that hangs is ended after this. */
const START_MILLIS_MAX = 60_000;
const START_LOOK_MILLIS = 10;
/** The daemon stops within 200 ms, QEMU within some more. */
const STOP_MILLIS_MAX = 5_000;

/** What ends this process is QEMU's to hear: then it ends, and we do. */
const PASSED_ON = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** They become the program: then they are killed when this process ends, whatever ends it. */
const DIES_WITH_US = ['setpriv', '--pdeathsig', 'KILL', '--'];

interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Runs the command; the exit status of QEMU, as a shell has it. Throws when there is no disk. */
export async function runQemu(options: RunOptions): Promise<number> {
  // First, for it hears the signals that would leave a folder behind.
  const children = new Children();
  const folder = makeFolder();
  try {
    return await runIn(folder, children, options);
  } finally {
    await children.end();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function runIn(folder: string, children: Children, options: RunOptions): Promise<number> {
  const socketPath = join(folder, 'vhost.sock');
  const { words, guestRamBytes } = withDisk(options.command, {
    socketPath,
    transport: options.transport,
  });
  const daemon = children.startDaemon([
    ...[process.execPath, options.daemonPath, '--socket-path', socketPath],
    ...['--guest-ram', String(guestRamBytes), '--log-level', 'warn', ...options.daemonArgs],
  ]);
  await socketAppears(socketPath, daemon, children);
  // Told to end before there was a QEMU to tell.
  if (children.signal !== undefined) return exitStatus({ code: null, signal: children.signal });
  const qemu = children.startQemu(words);
  const first = await Promise.race([daemon.ended.then(() => daemon), qemu.ended.then(() => qemu)]);
  if (first === qemu) return exitStatus(await qemu.ended);
  // The guest would wait for its pages for ever.
  await qemu.stop();
  throw new RefusedError(`ramzswapd ${describe(await daemon.ended)} under the guest: QEMU stopped`);
}

/** Ours alone; where the user's sockets are, if there is such a place. */
function makeFolder(): string {
  const runtime = process.env.XDG_RUNTIME_DIR;
  const parent = runtime !== undefined && existsSync(runtime) ? runtime : tmpdir();
  return mkdtempSync(join(parent, 'ramzswap-run-'));
}

async function socketAppears(path: string, daemon: Child, children: Children): Promise<void> {
  const deadline = performance.now() + START_MILLIS_MAX;
  while (!existsSync(path) && children.signal === undefined) {
    const ending = await Promise.race([daemon.ended, sleep(START_LOOK_MILLIS, undefined)]);
    // It has said why, on the same stderr.
    if (ending?.code === 2) throw new UsageError('the options of ramzswapd are wrong: see above');
    if (ending !== undefined) throw new RefusedError(`no disk: ramzswapd ${describe(ending)}`);
    if (performance.now() > deadline) {
      throw new RefusedError(`no disk: expected ramzswapd's socket in ${START_MILLIS_MAX} ms`);
    }
  }
}

function describe({ code, signal }: Ending): string {
  return signal === null ? `ended with status ${code}` : `was ended by ${signal}`;
}

/** As a shell says it: 128 + n for signal n. */
function exitStatus({ code, signal }: Ending): number {
  return signal === null ? (code ?? 1) : 128 + constants.signals[signal];
}

class Child {
  readonly #process: ChildProcess;
  readonly ended: Promise<Ending>;

  constructor(process: ChildProcess) {
    this.#process = process;
    this.ended = new Promise((resolve, reject) => {
      process.once('error', (error) => reject(new RefusedError(error.message)));
      process.once('exit', (code, signal) => resolve({ code, signal }));
    });
    // Whoever waits for it hears of it.
    this.ended.catch(() => {});
  }

  /** Nothing happens to one that has ended. */
  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** SIGTERM, and SIGKILL if that takes too long. */
  async stop(): Promise<void> {
    this.kill('SIGTERM');
    const killer = setTimeout(() => this.kill('SIGKILL'), STOP_MILLIS_MAX);
    await this.ended.catch(() => {});
    clearTimeout(killer);
  }
}

/** The two processes, and the signals that are for QEMU. */
class Children {
  /** The first that came. */
  signal: NodeJS.Signals | undefined;
  #daemon: Child | undefined;
  #qemu: Child | undefined;
  readonly #passOn = (signal: NodeJS.Signals) => {
    this.signal ??= signal;
    this.#qemu?.kill(signal);
  };

  constructor() {
    for (const signal of PASSED_ON) process.on(signal, this.#passOn);
  }

  /** In a session of its own: Ctrl-C at the terminal is QEMU's, which needs its disk to the end. */
  startDaemon(words: readonly string[]): Child {
    this.#daemon = start(words, { stdio: ['ignore', 'ignore', 'inherit'], detached: true });
    return this.#daemon;
  }

  startQemu(words: readonly string[]): Child {
    this.#qemu = start(words, { stdio: 'inherit' });
    return this.#qemu;
  }

  /** Signals that come meanwhile change nothing. */
  async end(): Promise<void> {
    await this.#qemu?.stop();
    await this.#daemon?.stop();
    for (const signal of PASSED_ON) process.off(signal, this.#passOn);
  }
}

function start(
  words: readonly string[],
  options: { stdio: 'inherit' | ['ignore', 'ignore', 'inherit']; detached?: boolean },
): Child {
  const [program, ...args] = [...DIES_WITH_US, ...words];
  return new Child(spawn(program!, args, options));
}
