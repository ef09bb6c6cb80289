/** A built daemon of many devices, in a folder of its own: NAME.sock for each, and `control`. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { execa, type ResultPromise } from 'execa';
import { ControlClient } from '../../src/control/client.ts';
import { AttachedDriver, type AttachOptions, RAMZSWAPD, RZSCONTROL, until } from './daemon.ts';
import { FrontEnd } from './front-end.ts';
import { makeFolder } from './sockets.ts';

const START_MILLIS_MAX = 30_000;

export class ManyDaemon {
  readonly folder: { path: string; remove: () => void };
  readonly child: ResultPromise<{ reject: false; stdin: 'ignore' }>;
  stderr = '';
  /** The process started last, whether or not it is ready. */
  static last: ManyDaemon['child'] | undefined;

  private constructor(folder: { path: string; remove: () => void }, args: readonly string[]) {
    this.folder = folder;
    const all = [RAMZSWAPD, '--control-path', this.controlPath, ...args];
    const options = { reject: false, stdin: 'ignore' } as const;
    this.child = execa(process.execPath, all, options) as typeof this.child;
    ManyDaemon.last = this.child;
    this.child.stderr?.on('data', (chunk: Buffer) => {
      this.stderr += chunk.toString();
    });
  }

  /** Resolves when it is ready. `makeArgs`: with its folder known; default: --socket-dir there. */
  static async start(
    args: readonly string[] = [],
    makeArgs = (folder: string) => ['--socket-dir', folder],
    folder = makeFolder(),
  ): Promise<ManyDaemon> {
    const daemon = new ManyDaemon(folder, [...makeArgs(folder.path), ...args]);
    const hasEnded = () => (daemon.child.exitCode ?? daemon.child.signalCode) !== null;
    const isOver = () => / ready"/.test(daemon.stderr) || hasEnded();
    await until(isOver, 'the daemon', START_MILLIS_MAX);
    if (hasEnded()) throw new Error(`it did not start: ${daemon.stderr}`);
    return daemon;
  }

  get controlPath(): string {
    return join(this.folder.path, 'control');
  }

  socketPath(name: string): string {
    return join(this.folder.path, `${name}.sock`);
  }

  has(name: string): boolean {
    return existsSync(this.socketPath(name));
  }

  client(): Promise<ControlClient> {
    return ControlClient.connect(this.controlPath);
  }

  connect(name: string): FrontEnd {
    return FrontEnd.connect(this.socketPath(name));
  }

  attach(name: string, options: AttachOptions = {}): AttachedDriver {
    return new AttachedDriver(this.connect(name), options);
  }

  rzscontrol(...args: readonly string[]) {
    const all = [RZSCONTROL, '--control-path', this.controlPath, ...args];
    return execa(process.execPath, all, { reject: false, timeout: 30_000 });
  }

  async stop(): Promise<void> {
    this.child.kill('SIGTERM');
    await this.child;
    this.folder.remove();
  }
}
