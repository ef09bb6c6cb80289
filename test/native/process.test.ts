/** Ending the process: at once, with the status, also while threads run. */

import { spawnSync } from 'node:child_process';
import { expect, it } from 'vitest';

const PROCESS_MODULE = new URL('../../src/native/process.ts', import.meta.url).href;

function runScript(script: string) {
  const source = `import { exitNow, abortWith } from '${PROCESS_MODULE}';\n${script}`;
  const args = ['--import', 'tsx', '--input-type=module', '--eval', source];
  return spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 20_000 });
}

it('exits at once with the status, running no handlers', () => {
  const result = runScript(`process.on('exit', () => console.log('handler')); exitNow(3);`);
  expect(result.status).toBe(3);
  expect(result.stdout).toBe('');
});

it('aborts with one line that names the thread and the error', () => {
  const result = runScript(`abortWith('reactor', new Error('first\\nsecond'));`);
  expect(result.signal).toBe('SIGABRT');
  const lines = result.stderr.trimEnd().split('\n');
  expect(lines[0]).toMatch(/^ramzswapd: fatal error in reactor: Error: first \| second/);
});
