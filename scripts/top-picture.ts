/**
 * A picture of `rzscontrol top` as SVG, of a daemon that runs: two looks, an interval apart, on a
 * terminal of the size that is said.
 *
 *   node --import tsx scripts/top-picture.ts --control-path PATH > scripts/top.svg
 */

import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { takeSample, viewOf } from '../src/control/top.ts';
import { type FrameLine, type Size, topFrame } from '../src/control/top-frame.ts';

/** Of a letter in a monospaced font of 14 pixels, and of a line. */
const LETTER = { width: 8.43, height: 18, size: 14 } as const;
const MARGIN = 12;
const COLOURS = { ground: '#1c1c1c', text: '#d0d0d0' } as const;

/** A frame as a terminal shows it. Words that a reader sees are text in the picture, too. */
export function frameSvg(lines: readonly FrameLine[], { columns, rows }: Size): string {
  const width = Math.ceil(columns * LETTER.width) + 2 * MARGIN;
  const height = rows * LETTER.height + 2 * MARGIN;
  const { ground, text: ink } = COLOURS;
  const body = lines.flatMap(({ text, isReversed }, i) => {
    const top = MARGIN + i * LETTER.height;
    if (text === '') return [];
    const bar = `<rect x="${MARGIN}" y="${top}" width="${width - 2 * MARGIN}" height="${LETTER.height}" fill="${ink}"/>`;
    // Fonts differ: every line is made as wide as its letters are on a terminal.
    const shown = text.trimEnd();
    const place = `x="${MARGIN}" y="${top + LETTER.size}" textLength="${(shown.length * LETTER.width).toFixed(1)}"`;
    const fill = isReversed === true ? ground : ink;
    const line = `<text ${place} xml:space="preserve" fill="${fill}">${escaped(shown)}</text>`;
    return isReversed === true ? [bar, line] : [line];
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
      `font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="${LETTER.size}">`,
    `<rect width="${width}" height="${height}" rx="6" fill="${ground}"/>`,
    ...body,
    '</svg>',
    '',
  ].join('\n');
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      'control-path': { type: 'string' },
      interval: { type: 'string', default: '1' },
      columns: { type: 'string', default: '100' },
      rows: { type: 'string', default: '12' },
    },
  });
  const path = values['control-path'];
  if (path === undefined) throw new Error('expected --control-path PATH');
  const size = { columns: Number(values.columns), rows: Number(values.rows) };
  const before = await takeSample(path);
  await new Promise((resolve) => setTimeout(resolve, Number(values.interval) * 1000));
  const view = viewOf(before, await takeSample(path), 'name');
  process.stdout.write(frameSvg(topFrame(view, size), size));
}

if (argv[1] === fileURLToPath(import.meta.url)) await main();
