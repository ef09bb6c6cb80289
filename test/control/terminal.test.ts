/** What top writes to a terminal. What it does on a real one is top.test.ts's. */

import { describe, expect, it } from 'vitest';
import { frameBytes } from '../../src/control/terminal.ts';

/** As far as a frame needs one: a screen of cells, a cursor, and what was written so far. */
class Screen {
  readonly rows: string[];
  #row = 0;
  #column = 0;

  constructor(rows: string[]) {
    this.rows = rows;
  }

  write(bytes: string): void {
    const sequence = new RegExp(`${String.fromCharCode(27)}\\[([?0-9;]*)([A-Za-z])|[^]`, 'g');
    for (const [text, argument = '', final] of bytes.matchAll(sequence)) {
      if (final === undefined) this.#put(text);
      else this.#obey(`${argument}${final}`);
    }
  }

  #put(character: string): void {
    if (character === '\r') this.#column = 0;
    else if (character === '\n') this.#row++;
    else {
      const row = (this.rows[this.#row] ?? '').padEnd(this.#column);
      this.rows[this.#row] = row.slice(0, this.#column) + character + row.slice(this.#column + 1);
      this.#column++;
    }
  }

  #obey(order: string): void {
    if (order === 'H') [this.#row, this.#column] = [0, 0];
    if (order === 'K') this.rows[this.#row] = this.rows[this.#row]!.slice(0, this.#column);
    if (order === 'J') this.rows.length = this.#row + 1;
  }
}

describe('frameBytes', () => {
  it('lays a frame over the last one, and leaves nothing of that', () => {
    const screen = new Screen(['a longer line than the next frame has', 'b', 'c', 'd', 'e']);
    screen.write(frameBytes([{ text: 'one' }, { text: '' }, { text: 'three', isReversed: true }]));
    expect(screen.rows).toEqual(['one', '', 'three']);
    screen.write(frameBytes([{ text: 'a' }, { text: 'b' }, { text: 'c' }, { text: 'd' }]));
    expect(screen.rows).toEqual(['a', 'b', 'c', 'd']);
  });

  it('is one update, which blanks nothing that is written anew', () => {
    const bytes = frameBytes([{ text: 'one' }, { text: 'two' }]);
    expect(bytes.startsWith('\x1b[?2026h\x1b[H')).toBe(true);
    expect(bytes.endsWith('\x1b[?2026l')).toBe(true);
    expect(bytes).not.toContain('\x1b[2J');
    // A line feed behind the last line would scroll the screen.
    expect(bytes.split('\n')).toHaveLength(2);
  });
});
