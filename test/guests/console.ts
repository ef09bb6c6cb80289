/**
 * A test guest's serial console, for tests that start QEMU in other ways than guest/qemu.ts: follows
 * the markers, answers "command wanted", and waits for what is to come.
 */

import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { type Marker, parseMarker } from '../../guest/markers.ts';
import { until } from '../driver/daemon.ts';

const TAIL_LINES = 30;

export class GuestConsole {
  readonly lines: string[] = [];
  readonly markers: Marker[] = [];
  #hasEnded = false;

  /** Gives `command` to the guest when it asks for one. */
  constructor(from: Readable, to: Writable, command: string) {
    const startedAt = performance.now();
    // A terminal whose other end has gone ends with EIO.
    from.on('error', () => {});
    from.on('close', () => {
      this.#hasEnded = true;
    });
    createInterface({ input: from }).on('line', (line) => {
      this.lines.push(line);
      const marker = parseMarker(line, performance.now() - startedAt);
      if (marker === undefined) return;
      this.markers.push(marker);
      if (marker.name === 'command' && marker.words[0] === 'wanted') to.write(`${command}\n`);
    });
  }

  /** The last of that name, and with that first word if there is one to be. */
  find(name: string, word?: string): Marker | undefined {
    return this.markers.findLast(
      (marker) => marker.name === name && (word === undefined || marker.words[0] === word),
    );
  }

  /** A figure of the last marker of that name. */
  value(name: string, key: string): number {
    return Number(this.find(name)?.values[key]);
  }

  /** Waits for a marker; throws with the console's last lines when it does not come. */
  async waitFor(name: string, word: string | undefined, millis: number): Promise<void> {
    const what = `${name} ${word ?? ''}`;
    const isThere = () => this.find(name, word) !== undefined;
    try {
      await until(() => isThere() || this.#hasEnded, what, millis);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.tail()}`, { cause: error });
    }
    if (!isThere()) throw new Error(`the console ended before ${what}\n${this.tail()}`);
  }

  tail(): string {
    return `guest console:\n${this.lines.slice(-TAIL_LINES).join('\n')}`;
  }
}
