/** A stray SIGUSR1 opens no debugger: the built daemon, and that no program forgets to see to it. */

import { readdirSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { isBuilt } from '../driver/daemon.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';

const BIN = new URL('../../src/bin/', import.meta.url);

it.skipIf(!isBuilt)('the daemon hears of SIGUSR1 and opens nothing', async () => {
  const daemon = await ManyDaemon.start();
  try {
    daemon.child.kill('SIGUSR1');
    const client = await daemon.client();
    expect(await client.call('devices')).toHaveLength(1);
    client.close();
  } finally {
    await daemon.stop();
  }
  expect(daemon.stderr).toContain('ending: SIGTERM');
  expect(daemon.stderr).not.toContain('Debugger');
});

it.each(readdirSync(BIN))('%s sees to it before it loads anything else', (name) => {
  const [first] = readFileSync(new URL(name, BIN), 'utf8').match(/^import .*$/m) ?? [];
  expect(first).toBe("import '../control/no-debugger.ts';");
});
