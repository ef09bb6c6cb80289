/**
 * Runs one test guest under QEMU: follows its console, gives it its commands, collects the markers
 * and sees to it that QEMU is gone afterwards. Knows no daemon: whatever vhost-user-blk back ends
 * listen at the sockets will do. Called by the guest scenarios in test/, the demo and run.ts.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { type GuestHardware, qemuArguments } from './command-line.ts';
import { DEFAULT_GUEST, GUESTS, type GuestName } from './guests.ts';
import { buildInitramfs } from './image.ts';
import { type Marker, parseMarker } from './markers.ts';
import { Qmp } from './qmp.ts';

export interface GuestOptions extends GuestHardware {
  /** Shell commands, one for each boot: a guest with more than one may reboot. Default: none. */
  readonly commands?: readonly string[];
  readonly timeoutMs: number;
  /** What it throws, or rejects with, ends the guest and fails the run. */
  readonly onMarker?: (marker: Marker, guest: RunningGuest) => void | Promise<void>;
  readonly onLine?: (line: string) => void;
  /** Ends QEMU at once, as a crash would; the result is then an ordinary one. */
  readonly signal?: AbortSignal;
}

export interface RunningGuest {
  /** QEMU's monitor, connected at the first use. */
  monitor(): Promise<Qmp>;
}

export interface GuestResult {
  /** QEMU's; undefined when a signal ended it. */
  readonly exitCode: number | undefined;
  /** Init ran to its end. Not so after a kernel panic, which ends QEMU with status 0 as well. */
  readonly poweredOff: boolean;
  readonly markers: readonly Marker[];
  readonly console: readonly string[];
  readonly elapsedMs: number;
}

/** The guest did not finish in time, and was killed. Policy: fails the scenario. */
export class GuestTimeoutError extends Error {
  override readonly name = 'GuestTimeoutError';
}

/** Enough to see what a stuck guest was doing. */
const CONSOLE_TAIL_LINES = 30;

/** A terminal in canonical mode takes lines of 4096 bytes, the newline included (termios(3)). */
const COMMAND_BYTES_MAX = 4095;

/** execa ends QEMU when this process exits; this also covers being killed. setpriv becomes QEMU. */
const DIES_WITH_US = ['--pdeathsig', 'KILL'] as const;

/** Throws for commands that the guest's console would not take whole. */
function checkCommands(commands: readonly string[]): void {
  for (const command of commands) {
    if (command.includes('\n') || Buffer.byteLength(command) > COMMAND_BYTES_MAX) {
      throw new Error(`expected a command of one line and ${COMMAND_BYTES_MAX} bytes at most`);
    }
  }
}

/** Boots the guest and resolves when QEMU has ended; rejects with GuestTimeoutError if it does not. */
export async function runGuest(options: GuestOptions): Promise<GuestResult> {
  checkCommands(options.commands ?? []);
  const run = new GuestRun(options);
  try {
    return await run.toItsEnd();
  } finally {
    run.close();
  }
}

/** A shell in a guest: this terminal is its console, Ctrl-A X ends QEMU. QEMU's exit status. */
export async function runGuestShell(options: GuestHardware): Promise<number> {
  const guest = options.guest ?? DEFAULT_GUEST;
  const args = qemuArguments(
    { ...options, guest },
    await buildInitramfs(guest, options.hasFileSystemTools),
    'shell',
  );
  const terminal = ['-no-reboot', '-serial', 'mon:stdio'];
  const command = [...DIES_WITH_US, GUESTS[guest].qemu, ...args, ...terminal];
  const { exitCode } = await execa('setpriv', command, { stdio: 'inherit', reject: false });
  return exitCode ?? 1;
}

/** The last marker of that name, for the ones that come once. */
export function findMarker(result: GuestResult, name: string): Marker | undefined {
  return result.markers.findLast((marker) => marker.name === name);
}

function startQemu(guest: GuestName, args: readonly string[], options: GuestOptions) {
  return execa('setpriv', [...DIES_WITH_US, GUESTS[guest].qemu, ...args], {
    stdin: 'pipe',
    all: true,
    buffer: false,
    reject: false,
    timeout: options.timeoutMs,
    killSignal: 'SIGKILL',
    ...(options.signal && { cancelSignal: options.signal }),
  });
}

class GuestRun implements RunningGuest {
  readonly #options: GuestOptions;
  readonly #commands: readonly string[];
  readonly #folder = mkdtempSync(join(tmpdir(), 'ramzswap-guest-'));
  readonly #markers: Marker[] = [];
  readonly #console: string[] = [];
  /** What the caller does about markers. */
  readonly #reactions: Promise<void>[] = [];
  #failure: Error | undefined;
  #process: ReturnType<typeof startQemu> | undefined;
  #monitor: Promise<Qmp> | undefined;
  #boots = 0;
  #startedAt = 0;

  constructor(options: GuestOptions) {
    this.#options = options;
    this.#commands = options.commands ?? [];
  }

  async toItsEnd(): Promise<GuestResult> {
    const guest = this.#options.guest ?? DEFAULT_GUEST;
    const image = await buildInitramfs(guest, this.#options.hasFileSystemTools);
    const conversation = this.#commands.length > 0 ? 'commands' : 'none';
    const args = [
      ...qemuArguments({ ...this.#options, guest }, image, conversation),
      ...['-serial', 'stdio', '-qmp', `unix:${this.#monitorPath},server=on,wait=off`],
      ...(this.#commands.length > 1 ? [] : ['-no-reboot']),
    ];
    this.#startedAt = performance.now();
    this.#process = startQemu(guest, args, this.#options);
    for await (const line of createInterface({ input: this.#process.all })) {
      this.#follow(line.replaceAll('\r', ''));
    }
    const ended = await this.#process;
    const elapsedMs = performance.now() - this.#startedAt;
    this.close();
    if (ended.timedOut) {
      const { timeoutMs } = this.#options;
      throw new GuestTimeoutError(`guest not done after ${timeoutMs} ms:\n${this.#consoleTail()}`);
    }
    await Promise.all(this.#reactions);
    if (this.#failure !== undefined) throw this.#withConsole(this.#failure);
    return {
      exitCode: ended.exitCode,
      poweredOff: this.#markers.at(-1)?.name === 'poweroff',
      markers: this.#markers,
      console: this.#console,
      elapsedMs,
    };
  }

  async monitor(): Promise<Qmp> {
    this.#monitor ??= Qmp.connect(this.#monitorPath);
    return this.#monitor;
  }

  /** Idempotent. */
  close(): void {
    this.#process?.kill('SIGKILL');
    this.#monitor?.then(
      (monitor) => monitor.close(),
      () => undefined,
    );
    if (existsSync(this.#folder)) rmSync(this.#folder, { recursive: true });
  }

  get #monitorPath(): string {
    return join(this.#folder, 'qmp.sock');
  }

  #follow(line: string): void {
    this.#console.push(line);
    this.#options.onLine?.(line);
    const marker = parseMarker(line, performance.now() - this.#startedAt);
    if (marker === undefined) return;
    this.#markers.push(marker);
    this.#reactions.push(
      this.#react(marker).catch((error) => {
        this.#failure ??= error;
        this.#process!.kill('SIGKILL');
      }),
    );
  }

  async #react(marker: Marker): Promise<void> {
    if (marker.name === 'command' && marker.words[0] === 'wanted') this.#giveCommand();
    await this.#options.onMarker?.(marker, this);
  }

  #giveCommand(): void {
    const command = this.#commands[this.#boots];
    this.#boots += 1;
    if (command === undefined) throw new Error(`boot ${this.#boots}: there is no command for it`);
    this.#process!.stdin.write(`${command}\n`);
  }

  #withConsole(error: Error): Error {
    return new Error(`${error.message}\nguest console:\n${this.#consoleTail()}`, { cause: error });
  }

  #consoleTail(): string {
    return this.#console.slice(-CONSOLE_TAIL_LINES).join('\n');
  }
}
