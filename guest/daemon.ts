/**
 * Runs the built daemon beside a guest: starts it on a socket of its own in a temporary folder,
 * asks it for its statistics, ends it. Used by the demo and the guest scenarios.
 */

import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { ControlClient } from '../src/control/client.ts';
import type { DeviceStatus } from '../src/control/protocol.ts';
import type { Statistics } from '../src/store/statistics.ts';

const RAMZSWAPD = fileURLToPath(new URL('../dist/bin/ramzswapd.js', import.meta.url));
const START_MILLIS_MAX = 10_000;
const STOP_MILLIS_MAX = 2_000;

/** Its log arrives on stderr; whoever starts it ends it. */
function startProcess(args: readonly string[]) {
  // Memory is not left behind by a job that is killed: setpriv becomes the daemon.
  return execa('setpriv', ['--pdeathsig', 'KILL', 'node', RAMZSWAPD, ...args], {
    stdin: 'ignore',
    stdout: 'ignore',
    stderr: 'pipe',
    reject: false,
    buffer: false,
  });
}

/** Waits for a back end's socket. False: the process has ended, or takes too long. */
export async function socketAppears(
  path: string,
  process: { readonly exitCode: number | null },
): Promise<boolean> {
  const deadline = Date.now() + START_MILLIS_MAX;
  while (!existsSync(path)) {
    if (process.exitCode !== null || Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
}

export class GuestDaemon {
  readonly socketPath: string;
  /** What it has logged: JSON, a line each. */
  readonly log: string[] = [];

  readonly #folder: string;
  readonly #args: readonly string[];
  #process: ReturnType<typeof startProcess>;

  private constructor(args: readonly string[]) {
    if (!existsSync(RAMZSWAPD)) throw new Error(`${RAMZSWAPD} is missing: run \`npm run build\``);
    this.#folder = mkdtempSync(join(tmpdir(), 'ramzswap-'));
    this.socketPath = join(this.#folder, 'ramzswap0.sock');
    this.#args = ['--socket-path', this.socketPath, ...args];
    this.#process = this.#begin(this.#args);
  }

  #begin(args: readonly string[]): ReturnType<typeof startProcess> {
    const begun = startProcess(args);
    begun.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.log.push(...text.split('\n').filter((line) => line !== ''));
    });
    return begun;
  }

  /** Has another process take over, as a new version would; resolves when the first one has ended. */
  async upgrade(): Promise<void> {
    const first = this.#process;
    const ended = once(first, 'exit');
    this.#process = this.#begin([...this.#args, '--take-over']);
    const failed = once(this.#process, 'exit').then(() => {
      throw new Error(`not taken over:\n${this.log.join('\n')}`);
    });
    // Its own end comes later.
    failed.catch(() => {});
    await Promise.race([ended, failed]);
  }

  /** Starts the daemon with these further arguments; resolves when the guest may connect. */
  static async start(...args: string[]): Promise<GuestDaemon> {
    const daemon = new GuestDaemon(args);
    if (await socketAppears(daemon.socketPath, daemon.#process)) return daemon;
    const said = daemon.log.join('\n');
    await daemon.stop();
    throw new Error(`ramzswapd did not start:\n${said}`);
  }

  /** Ends it as a crash does, at this moment, and starts another in its place, which has its log. */
  async killAndRestart(): Promise<void> {
    const exited = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await exited;
    // For the next one's is to be waited for.
    rmSync(this.socketPath, { force: true });
    this.#process = this.#begin(this.#args);
    if (await socketAppears(this.socketPath, this.#process)) return;
    throw new Error(`ramzswapd did not start again:\n${this.log.slice(-20).join('\n')}`);
  }

  get pid(): number {
    return this.#process.pid!;
  }

  /** Of its one device, whatever its name. */
  async status(): Promise<DeviceStatus> {
    const [device] = await this.#call<DeviceStatus[]>('devices');
    return device!;
  }

  /** Makes its disk larger. */
  async grow(bytes: number): Promise<void> {
    const { device } = await this.status();
    await this.#call('grow', { device, bytes });
  }

  async statistics(): Promise<Statistics> {
    return (await this.status()).statistics!;
  }

  /** Resident set size in bytes. */
  residentBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
  }

  /** Processor time that all its threads have had, in milliseconds. */
  cpuMillis(): number {
    const tasks = `/proc/${this.pid}/task`;
    let nanos = 0;
    for (const task of readdirSync(tasks)) {
      nanos += Number(readFileSync(join(tasks, task, 'schedstat'), 'utf8').split(' ')[0]);
    }
    return nanos / 1e6;
  }

  async #call<Result>(method: string, params: object = {}): Promise<Result> {
    const client = await ControlClient.connect(`${this.socketPath}.control`);
    try {
      return await client.call<Result>(method, params);
    } finally {
      client.close();
    }
  }

  /** Ends it with SIGTERM (SIGKILL if that fails) and removes its folder; the exit status. */
  async stop(): Promise<number | null> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill('SIGTERM');
      const killer = setTimeout(() => this.#process.kill('SIGKILL'), STOP_MILLIS_MAX);
      await once(this.#process, 'exit');
      clearTimeout(killer);
    }
    rmSync(this.#folder, { recursive: true, force: true });
    return this.#process.exitCode;
  }
}
