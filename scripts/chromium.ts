/**
 * A headless Chromium, driven by the DevTools protocol over a pair of pipes: messages are JSON that
 * ends in a zero byte. As much of it as the status page's test and its picture (status-picture.ts) need.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getuid } from 'node:process';
import type { Readable, Writable } from 'node:stream';
import { findProgram } from './setup.ts';

/** Debian's name first. */
const PROGRAMS = ['chromium', 'chromium-browser', 'google-chrome'] as const;
const COMMAND_MILLIS_MAX = 60_000;

export interface View {
  readonly width: number;
  readonly height?: number;
  readonly scheme?: 'light' | 'dark';
}

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Record<string, unknown>;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

export function findChromium(): string | undefined {
  return PROGRAMS.find(findProgram);
}

export class Chromium {
  readonly #child: ChildProcess;
  readonly #profile: string;
  readonly #commands: Writable;
  readonly #waiting = new Map<number, (message: Message) => void>();
  #session: string | undefined;
  #lastId = 0;
  /** What pages have complained about: errors of scripts, and what their policy has blocked. */
  readonly complaints: string[] = [];

  private constructor(child: ChildProcess, profile: string) {
    this.#child = child;
    this.#profile = profile;
    this.#commands = child.stdio[3] as Writable;
    const answers = child.stdio[4] as Readable;
    // It may end before it has read a command.
    this.#commands.on('error', () => {});
    let rest = '';
    answers.setEncoding('utf8').on('data', (chunk: string) => {
      const parts = (rest + chunk).split('\0');
      rest = parts.pop() ?? '';
      for (const part of parts) this.#take(JSON.parse(part) as Message);
    });
    child.once('exit', () => {
      for (const answer of this.#waiting.values()) answer({ error: { message: 'it has ended' } });
    });
  }

  /** Throws where there is none. */
  static async start(): Promise<Chromium> {
    const program = findChromium();
    if (program === undefined) throw new Error(`expected one of ${PROGRAMS.join(', ')}`);
    const profile = await mkdtemp(join(tmpdir(), 'rz-chromium-'));
    const flags = [
      '--headless=new',
      '--remote-debugging-pipe',
      `--user-data-dir=${profile}`,
      '--no-first-run',
      '--disable-gpu',
      '--disable-extensions',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      // A container's /dev/shm is often small.
      '--disable-dev-shm-usage',
      '--hide-scrollbars',
      // Its sandbox refuses root, whom containers run as; the pages are our own.
      ...(getuid?.() === 0 ? ['--no-sandbox'] : []),
    ];
    const child = spawn(program, [...flags, 'about:blank'], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    });
    const chromium = new Chromium(child, profile);
    try {
      await chromium.#attach();
      return chromium;
    } catch (error) {
      await chromium.close();
      throw error;
    }
  }

  async #attach(): Promise<void> {
    const { targetId } = await this.#call('Target.createTarget', { url: 'about:blank' });
    const attached = await this.#call('Target.attachToTarget', { targetId, flatten: true });
    this.#session = attached.sessionId as string;
    for (const domain of ['Page', 'Runtime', 'Log']) await this.#call(`${domain}.enable`);
  }

  /** Goes there; what is on the page is the caller's to wait for. */
  async open(url: string): Promise<void> {
    const { errorText } = await this.#call('Page.navigate', { url });
    if (errorText !== undefined) throw new Error(`${url}: ${errorText}`);
  }

  async show({ width, height = 800, scheme = 'light' }: View): Promise<void> {
    const size = { width, height, deviceScaleFactor: 1, mobile: false };
    await this.#call('Emulation.setDeviceMetricsOverride', size);
    const features = [{ name: 'prefers-color-scheme', value: scheme }];
    await this.#call('Emulation.setEmulatedMedia', { features });
  }

  /** The value of an expression in the page, as JSON has it. */
  async evaluate<T>(expression: string): Promise<T> {
    const options = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.#call('Runtime.evaluate', options);
    if (exceptionDetails !== undefined) {
      throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    }
    return (result as { value: T }).value;
  }

  /** A picture of the whole page, PNG. */
  async picture(): Promise<Buffer> {
    const options = { format: 'png', captureBeyondViewport: true };
    const { data } = await this.#call('Page.captureScreenshot', options);
    return Buffer.from(data as string, 'base64');
  }

  async close(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.kill('SIGKILL'))
      await once(this.#child, 'exit');
    // Its own children write there until they notice.
    await rm(this.#profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }

  #call(method: string, params: object = {}): Promise<Record<string, unknown>> {
    const id = ++this.#lastId;
    const session = this.#session === undefined ? {} : { sessionId: this.#session };
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`${method}: no answer`)), COMMAND_MILLIS_MAX);
      this.#waiting.set(id, ({ result = {}, error }) => {
        clearTimeout(limit);
        this.#waiting.delete(id);
        if (error === undefined) resolve(result);
        else reject(new Error(`${method}: ${error.message}`));
      });
      this.#commands.write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    });
  }

  #take({ id, method, params, ...answer }: Message): void {
    if (id !== undefined) this.#waiting.get(id)?.(answer);
    else if (method === 'Runtime.exceptionThrown') this.complaints.push(JSON.stringify(params));
    else if (method === 'Log.entryAdded') {
      const { source, text } = params!.entry as { source: string; text: string };
      // That a server is gone is the test's doing.
      if (source !== 'network') this.complaints.push(text);
    }
  }
}
