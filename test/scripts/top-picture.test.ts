/** The picture of top. */

import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { frameSvg } from '../../scripts/top-picture.ts';
import { ControlStandIn, deviceStatus } from '../driver/control-stand-in.ts';

describe('the picture of top', () => {
  it('has every line that is not empty, as text, none wider than the terminal', () => {
    const svg = frameSvg(
      [{ text: 'a <b> & c' }, { text: '' }, { text: 'TITLE   ', isReversed: true }],
      { columns: 10, rows: 3 },
    );
    expect([...svg.matchAll(/>([^<\n]+)<\/text>/g)].map(([, text]) => text)).toEqual([
      'a &lt;b&gt; &amp; c',
      'TITLE',
    ]);
    expect(svg.match(/<rect/g)).toHaveLength(2);
    const [, width] = /viewBox="0 0 (\d+) /.exec(svg)!;
    for (const [, length] of svg.matchAll(/textLength="([\d.]+)"/g)) {
      expect(Number(length)).toBeLessThan(Number(width));
    }
  });

  it('is of the daemon that is asked', async () => {
    const daemon = new ControlStandIn(deviceStatus('swap7'));
    try {
      const script = fileURLToPath(new URL('../../scripts/top-picture.ts', import.meta.url));
      const args = ['--import', 'tsx', script, '--control-path', daemon.path, '--interval', '0.1'];
      const { stdout } = await execa(process.execPath, args);
      expect(stdout).toMatch(/^<svg .*<\/svg>$/s);
      expect(stdout).toMatch(/>swap7 +uninit /);
    } finally {
      daemon.close();
    }
  });
});
