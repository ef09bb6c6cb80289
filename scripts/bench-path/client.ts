/** Compiles and drives the native front end, client.c: a job a line, an answer a line. */
import { type ChildProcessByStdio, spawn, spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { CACHE_DIR } from '../fetch.ts';

const SOURCE = fileURLToPath(new URL('./client.c', import.meta.url));
export const CLIENT = join(CACHE_DIR, 'bench-path-client');

/** What the client says of a job. A request is a block of pages. */
export interface JobFigures {
  readonly requests: number;
  readonly pages: number;
  readonly elapsedNs: number;
  readonly p50Ns: number;
  readonly p99Ns: number;
  readonly p999Ns: number;
  readonly maxNs: number;
  /** Of all threads of the back end, those included that ended meanwhile. */
  readonly backendCpuNs: number;
  readonly clientCpuNs: number;
  readonly waitedBy: 'interrupt' | 'spinning';
  readonly kicks: number;
  readonly sleeps: number;
}

export interface ClientOptions {
  readonly socketPath: string;
  readonly backendPid: number;
  /** A file of pages, and how many pages of the disk to use. */
  readonly corpusPath: string;
  readonly diskPages: number;
  /** Further arguments, as client.c has them: --spin, --queues, --no-indirect. */
  readonly extraArgs?: readonly string[];
}

/** What is wrong when the client cannot be built; undefined: it is there, of this source. */
export function buildClient(): string | undefined {
  mkdirSync(CACHE_DIR, { recursive: true });
  const args = ['-O2', '-Wall', '-Wextra', SOURCE, '-o', CLIENT];
  const gcc = spawnSync('gcc', args, { encoding: 'utf8' });
  if (gcc.status === 0) return undefined;
  return `cannot build client.c: apt-get install gcc libc6-dev\n${gcc.stderr ?? ''}`;
}

export class BenchClient {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  private constructor(options: ClientOptions) {
    const { socketPath, corpusPath, diskPages, backendPid, extraArgs = [] } = options;
    const args = [socketPath, corpusPath, String(diskPages), '--backend-pid', String(backendPid)];
    this.#child = spawn(CLIENT, [...args, ...extraArgs], { stdio: ['pipe', 'pipe', 'inherit'] });
    // It has said why it ended; a job written to it afterwards has no reader.
    this.#child.stdin.on('error', () => {});
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** Connects; resolves when the rings are running. Throws when the back end is refused. */
  static async connect(options: ClientOptions): Promise<BenchClient> {
    const client = new BenchClient(options);
    await client.#answer('the handshake');
    return client;
  }

  /** Runs a job of client.c's language. Throws when anything but the right pages came back. */
  async run(job: string): Promise<JobFigures> {
    this.#child.stdin.write(`${job}\n`);
    return JSON.parse(await this.#answer(job));
  }

  /** The back end sees the front end leave. */
  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.stdin.end();
    await ended;
  }

  async #answer(what: string): Promise<string> {
    const { done, value } = await this.#lines.next();
    if (done) throw new Error(`the client has given up: ${what}`);
    return value;
  }
}
