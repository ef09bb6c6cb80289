/**
 * The terminal as `rzscontrol top` uses it: another screen while it shows, keys one by one, each frame
 * written at once over the last. Whatever ends it, the terminal is as it was.
 *
 * 1. enter: the alternate screen, no cursor, no line wrap, keys unbuffered and without echo.
 * 2. draw: from the upper left corner, each line cleared behind its text; nothing is blanked first, so
 *    nothing flickers. Terminals that know how show it when it is whole ("synchronized update").
 * 3. suspend (Ctrl-Z): leave, stop as the shell expects, enter again when continued.
 * 4. leave: everything of 1 undone.
 */

import { emitKeypressEvents } from 'node:readline';
import type { ReadStream, WriteStream } from 'node:tty';
import type { FrameLine, Size } from './top-frame.ts';

/** Control sequences of xterm and all that are like it (ECMA-48, DEC private modes). */
const CSI = '\x1b[';
const ENTER = `${CSI}?1049h${CSI}?25l${CSI}?7l`;
const LEAVE = `${CSI}0m${CSI}?7h${CSI}?25h${CSI}?1049l`;
const BEGIN_UPDATE = `${CSI}?2026h`;
const END_UPDATE = `${CSI}?2026l`;
const HOME = `${CSI}H`;
const CLEAR_LINE_REST = `${CSI}K`;
const CLEAR_SCREEN_REST = `${CSI}J`;
const REVERSED = `${CSI}7m`;
const PLAIN = `${CSI}0m`;

/** Terminals that do not say how large they are. */
const USUAL: Size = { columns: 80, rows: 24 };

export interface Key {
  /** `q`, `up`, `pagedown`. */
  readonly name: string;
  readonly ctrl: boolean;
}

interface TerminalEvents {
  key(key: Key): void;
  /** Another size, or shown again after it was stopped. */
  redraw(): void;
  /** The terminal has gone. */
  gone(): void;
}

/** The bytes that bring a frame to the screen. */
export function frameBytes(lines: readonly FrameLine[]): string {
  const text = lines.map(({ text, isReversed }) =>
    isReversed === true ? `${REVERSED}${text}${PLAIN}` : text,
  );
  const body = text.join(`${CLEAR_LINE_REST}\r\n`);
  return `${BEGIN_UPDATE}${HOME}${body}${CLEAR_LINE_REST}${CLEAR_SCREEN_REST}${END_UPDATE}`;
}

export class Terminal {
  readonly #input: ReadStream;
  readonly #output: WriteStream;
  readonly #events: TerminalEvents;
  #isEntered = false;

  constructor(input: ReadStream, output: WriteStream, events: TerminalEvents) {
    this.#input = input;
    this.#output = output;
    this.#events = events;
  }

  get size(): Size {
    const { columns, rows } = this.#output;
    return { columns: columns || USUAL.columns, rows: rows || USUAL.rows };
  }

  /** Begins; `close` must follow. */
  open(): void {
    emitKeypressEvents(this.#input);
    this.#input.on('keypress', this.#onKey);
    this.#input.on('end', this.#events.gone);
    this.#input.on('error', this.#events.gone);
    this.#output.on('error', this.#events.gone);
    this.#output.on('resize', this.#events.redraw);
    process.on('SIGTSTP', this.#onStop);
    process.on('SIGCONT', this.#onContinue);
    process.on('exit', this.#leave);
    this.#enter();
  }

  draw(lines: readonly FrameLine[]): void {
    if (this.#isEntered) this.#output.write(frameBytes(lines));
  }

  close(): void {
    this.#leave();
    this.#input.off('keypress', this.#onKey);
    this.#output.off('resize', this.#events.redraw);
    process.off('SIGTSTP', this.#onStop);
    process.off('SIGCONT', this.#onContinue);
    process.off('exit', this.#leave);
  }

  #enter(): void {
    // Without a terminal to type at it shows all the same; signals end it.
    if (this.#input.isTTY) this.#input.setRawMode(true);
    this.#input.resume();
    this.#isEntered = true;
    this.#output.write(ENTER);
  }

  #leave = (): void => {
    if (!this.#isEntered) return;
    this.#isEntered = false;
    this.#output.write(LEAVE);
    this.#input.pause();
    try {
      if (this.#input.isTTY) this.#input.setRawMode(false);
    } catch {
      // The terminal has gone; nobody misses its modes.
    }
  };

  #onKey = (_: string | undefined, { name = '', ctrl = false }: Partial<Key>): void => {
    // The terminal does not make signals of keys now. Ctrl-Z stops all that the shell has started with us.
    if (ctrl && name === 'z') process.kill(0, 'SIGTSTP');
    else this.#events.key({ name, ctrl });
  };

  /**
   * Stops by the signal's own effect, which the kernel leaves out where no shell could continue us:
   * then it goes on at once.
   */
  #onStop = (): void => {
    this.#leave();
    process.off('SIGTSTP', this.#onStop);
    process.kill(process.pid, 'SIGTSTP');
    process.on('SIGTSTP', this.#onStop);
    this.#onContinue();
  };

  #onContinue = (): void => {
    if (!this.#isEntered) this.#enter();
    else if (this.#input.isTTY) {
      // Whoever stopped us from outside may have changed the terminal's modes: said anew.
      this.#input.setRawMode(false);
      this.#input.setRawMode(true);
    }
    this.#events.redraw();
  };
}
