/** The control protocol's framing. */

import { describe, expect, it } from 'vitest';
import { LINE_BYTES_MAX, lineSplitter } from '../../src/control/protocol.ts';

describe('lineSplitter', () => {
  it('hands on each line whole, however the stream is cut', () => {
    const text = '{"a":1}\n\n  {"b":2}\r\n{"c":3}\n';
    for (let cut = 1; cut < text.length; cut++) {
      const lines: string[] = [];
      const take = lineSplitter((line) => lines.push(line));
      for (let at = 0; at < text.length; at += cut) take(text.slice(at, at + cut));
      expect(lines, `pieces of ${cut}`).toEqual(['{"a":1}', '{"b":2}', '{"c":3}']);
    }
  });

  it('gives up on a line beyond the limit', () => {
    const take = lineSplitter(() => {});
    expect(take('x'.repeat(LINE_BYTES_MAX))).toBe(true);
    expect(take('x')).toBe(false);
  });
});
