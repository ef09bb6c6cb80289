/**
 * `rzscontrol top`: asks the daemon again and again, and shows what has happened in between, on a
 * terminal (until a key or a signal ends it, whatever becomes of the daemon) or as plain text.
 */

import { UsageError } from '../base/errors.ts';
import { ControlClient, NoDaemonError } from './client.ts';
import type { Said, SortKey, TopOption } from './control-options.ts';
import { endByHangUp } from './hang-up.ts';
import { type Key, Terminal } from './terminal.ts';
import { rowsShown, type TopView, topFrame, topText, waitingFrame } from './top-frame.ts';
import { type Sample, sortRows, topObject, topRows } from './top-sample.ts';

const INTERVAL_SECONDS_MIN = 0.1;
const INTERVAL_SECONDS_MAX = 3600;
const FRAMES_MAX = 1e9;
/** How often it is said for how long an answer is waited for. */
const SILENCE_MILLIS = 1000;

export interface TopWishes {
  readonly intervalMillis: number;
  readonly sort: SortKey;
  /** Undefined: live, on a terminal. */
  readonly frames: number | undefined;
  /** One object a frame instead of text. */
  readonly json: boolean;
}

interface Output {
  readonly json: boolean;
  readonly isTerminal: boolean;
}

/** From the command line; throws UsageError. */
export function topWishes(said: Said<TopOption>, { json, isTerminal }: Output): TopWishes {
  const interval = said.interval === undefined ? 1 : secondsIn(String(said.interval));
  if (said.once === true && said.frames !== undefined) {
    throw new UsageError('--once, --frames: expected one of them');
  }
  return {
    intervalMillis: interval * 1000,
    sort: (said.sort ?? 'name') as SortKey,
    frames: framesIn(said, { json, isTerminal }),
    json,
  };
}

function framesIn(
  { once, batch, frames }: Said<TopOption>,
  { json, isTerminal }: Output,
): number | undefined {
  if (once === true) return 1;
  if (frames === undefined) {
    if (batch === true) return Number.POSITIVE_INFINITY;
    if (!isTerminal) return 1;
    return json ? Number.POSITIVE_INFINITY : undefined;
  }
  const count = /^\d+$/.test(String(frames)) ? Number(frames) : 0;
  if (count < 1 || count > FRAMES_MAX) {
    throw new UsageError(`--frames: expected a number from 1 to ${FRAMES_MAX}, got '${frames}'`);
  }
  return count;
}

function secondsIn(text: string): number {
  const seconds = /^\d+(\.\d+)?$|^\.\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds >= INTERVAL_SECONDS_MIN && seconds <= INTERVAL_SECONDS_MAX)) {
    throw new UsageError(
      `--interval: expected seconds from ${INTERVAL_SECONDS_MIN} to ${INTERVAL_SECONDS_MAX}, ` +
        `got '${text}'`,
    );
  }
  return seconds;
}

/** Ends when it was told to; rejects with RefusedError when the daemon is not there at the start. */
export async function runTop(controlPath: string, wishes: TopWishes): Promise<void> {
  const first = await takeSample(controlPath);
  if (wishes.frames !== undefined) return printFrames(controlPath, first, wishes.frames, wishes);
  await new LiveTop(controlPath, first, wishes).run();
}

/**
 * All figures of now, by a connection of its own: one that is silent for long is cut off, and another
 * daemon may be there the next time. `onClient` may close it before the answer.
 */
export async function takeSample(
  controlPath: string,
  onClient = (_: ControlClient) => {},
): Promise<Sample> {
  const client = await ControlClient.connect(controlPath);
  try {
    onClient(client);
    const [daemon, devices] = await Promise.all([client.call('daemon'), client.call('devices')]);
    return { millis: performance.now(), daemon, devices };
  } finally {
    client.close();
  }
}

export function viewOf(
  before: Sample | undefined,
  sample: Sample,
  sort: SortKey,
  offset = 0,
): TopView {
  const rows = sortRows(topRows(before, sample), sort);
  return { sample, rows, sort, offset, clock: new Date().toLocaleTimeString('en-GB') };
}

/** Each frame is about the interval before it. */
async function printFrames(
  controlPath: string,
  first: Sample,
  frames: number,
  { intervalMillis, sort, json }: TopWishes,
): Promise<void> {
  let before = first;
  for (let frame = 0; frame < frames; frame++) {
    await new Promise((resolve) => setTimeout(resolve, intervalMillis));
    const sample = await takeSample(controlPath);
    const view = viewOf(before, sample, sort);
    const text = json ? JSON.stringify(topObject(sample, view.rows)) : topText(view);
    process.stdout.write(`${frame > 0 && !json ? '\n' : ''}${text}\n`);
    before = sample;
  }
}

const SORT_KEYS: Readonly<Record<string, SortKey>> = {
  n: 'name',
  m: 'memory',
  r: 'reads',
  w: 'writes',
  f: 'failed',
};

const ENDING_SIGNALS = ['SIGINT', 'SIGTERM'] as const;

class LiveTop {
  readonly #path: string;
  readonly #intervalMillis: number;
  readonly #terminal: Terminal;
  /** Of the last look, which may still wait for its answer. */
  #client: ControlClient | undefined;
  #sort: SortKey;
  #offset = 0;
  #before: Sample | undefined;
  /** Undefined: there are no figures, for this reason. */
  #sample: Sample | undefined;
  #reason = '';
  /** For how long an answer is waited for; undefined: none is, or not for long. */
  #silentSeconds: number | undefined;
  #isEnded = false;
  /** The terminal has gone, or is about to. */
  #isHungUp = false;
  /** Ends the pause between two looks. */
  #wake = () => {};

  constructor(controlPath: string, first: Sample, { intervalMillis, sort }: TopWishes) {
    this.#path = controlPath;
    this.#sample = first;
    this.#intervalMillis = intervalMillis;
    this.#sort = sort;
    this.#terminal = new Terminal(process.stdin, process.stdout, {
      key: (key) => this.#onKey(key),
      redraw: () => this.#draw(),
      gone: this.#hangUp,
    });
  }

  async run(): Promise<void> {
    for (const signal of ENDING_SIGNALS) process.on(signal, this.#end);
    process.on('SIGHUP', this.#hangUp);
    this.#terminal.open();
    try {
      while (!this.#isEnded) {
        this.#draw();
        await this.#pause();
        if (!this.#isEnded) await this.#look();
      }
    } finally {
      this.#terminal.close();
      for (const signal of ENDING_SIGNALS) process.off(signal, this.#end);
      process.off('SIGHUP', this.#hangUp);
      if (this.#isHungUp) endByHangUp();
    }
  }

  #hangUp = (): void => {
    this.#isHungUp = true;
    this.#end();
  };

  #end = (): void => {
    this.#isEnded = true;
    // What is asked for is no longer wanted.
    this.#client?.close();
    this.#wake();
  };

  /** A daemon that is not there may come again; whatever else is refused ends it. */
  async #look(): Promise<void> {
    const asked = performance.now();
    const silence = setInterval(() => {
      this.#silentSeconds = Math.floor((performance.now() - asked) / 1000);
      this.#draw();
    }, SILENCE_MILLIS);
    try {
      const sample = await takeSample(this.#path, (client) => {
        this.#client = client;
      });
      [this.#before, this.#sample] = [this.#sample, sample];
    } catch (error) {
      if (this.#isEnded) return;
      if (!(error instanceof NoDaemonError)) throw error;
      [this.#before, this.#sample] = [undefined, undefined];
      this.#reason = error.message;
    } finally {
      clearInterval(silence);
      this.#silentSeconds = undefined;
    }
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.#intervalMillis);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #draw(): void {
    if (this.#isEnded) return;
    const { size } = this.#terminal;
    if (this.#sample === undefined) {
      this.#terminal.draw(waitingFrame(this.#reason, size));
      return;
    }
    const view = viewOf(this.#before, this.#sample, this.#sort, this.#offset);
    this.#terminal.draw(topFrame({ ...view, silentSeconds: this.#silentSeconds }, size));
  }

  #onKey({ name, ctrl }: Key): void {
    if (name === 'q' || (ctrl && name === 'c')) {
      this.#end();
      return;
    }
    const sort = ctrl ? undefined : SORT_KEYS[name];
    if (sort !== undefined) this.#sort = sort;
    this.#scroll(name);
    this.#draw();
  }

  #scroll(key: string): void {
    const count = this.#sample?.devices.length ?? 0;
    const shown = rowsShown(count, this.#terminal.size);
    const steps: Readonly<Record<string, number>> = {
      ...{ up: -1, down: 1, pageup: -shown, pagedown: shown },
      ...{ home: -count, end: count },
    };
    const wanted = this.#offset + (steps[key] ?? 0);
    this.#offset = Math.max(0, Math.min(wanted, count - shown));
  }
}
