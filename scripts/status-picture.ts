/**
 * The README's picture of the status page, of a daemon that runs: `tsx scripts/status-picture.ts
 * http://127.0.0.1:9178 [FILE] [SECONDS]`. It watches that long first, so that the charts have
 * something to show: give it a guest at work.
 */
import { writeFile } from 'node:fs/promises';
import { argv } from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Chromium } from './chromium.ts';
import { ensureTools } from './setup.ts';

const DEFAULT_FILE = fileURLToPath(new URL('monitoring/status-page.png', import.meta.url));
const DEFAULT_SECONDS = '90';
const VIEW = { width: 1000, height: 400 } as const;
/** It is in the repository for good. */
const PICTURE_BYTES_MAX = 250_000;

async function main([address, file = DEFAULT_FILE, seconds = DEFAULT_SECONDS]: readonly (
  | string
  | undefined
)[]): Promise<number> {
  if (address === undefined || !(Number(seconds) >= 0)) {
    console.error('usage: status-picture.ts http://127.0.0.1:PORT [FILE] [SECONDS]');
    return 2;
  }
  await ensureTools(['chromium']);
  const chromium = await Chromium.start();
  try {
    await chromium.show(VIEW);
    await chromium.open(address);
    await sleep(Number(seconds) * 1000);
    const link = await chromium.evaluate(`document.querySelector('#link')?.textContent`);
    if (link !== 'live') throw new Error(`${address}: expected a live status page, got '${link}'`);
    const picture = await chromium.picture();
    if (picture.length > PICTURE_BYTES_MAX) {
      throw new Error(`expected ${PICTURE_BYTES_MAX} bytes at most, got ${picture.length}`);
    }
    await writeFile(file, picture);
    console.log(`${file}: ${picture.length} bytes`);
    return 0;
  } finally {
    await chromium.close();
  }
}

process.exitCode = await main(argv.slice(2));
