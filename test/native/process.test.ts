/** Ending the process: at once, with the status, also while threads run. And whether others have ended. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { hasProcessEnded, processStart, threadId } from '../../src/native/process.ts';
import { startThread } from '../driver/threads.ts';

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

it('a process has ended when it is gone, or its number is another one’s', async () => {
  const child = spawn('sleep', ['100']);
  const pid = child.pid!;
  const start = processStart(pid)!;
  expect(hasProcessEnded(pid, start)).toBe(false);
  expect(hasProcessEnded(pid, start - 1)).toBe(true);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(processStart(pid)).toBeUndefined();
  expect(hasProcessEnded(pid, start)).toBe(true);
});

it('a process has ended when it was killed and its parent has not asked for its status', () => {
  // A shell that never waits: what it becomes knows nothing of the child.
  const parent = spawn('sh', ['-c', 'sleep 100 & echo $!; exec sleep 100'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const children = `/proc/${parent.pid}/task/${parent.pid}/children`;
  const deadline = Date.now() + 5000;
  const childOf = () => Number(readFileSync(children, 'utf8'));
  const isSleeping = () => readFileSync(`/proc/${parent.pid}/comm`, 'utf8') === 'sleep\n';
  while ((childOf() === 0 || !isSleeping()) && Date.now() < deadline);
  const pid = childOf();
  const start = processStart(pid)!;
  expect(hasProcessEnded(pid, start)).toBe(false);
  process.kill(pid, 'SIGKILL');
  while (!hasProcessEnded(pid, start) && Date.now() < deadline);
  expect(readFileSync(`/proc/${pid}/stat`, 'latin1')).toContain(') Z ');
  expect(hasProcessEnded(pid, start)).toBe(true);
  parent.kill('SIGKILL');
});

it('a thread is known by the name that the kernel has for it, each by its own', async () => {
  expect(threadId()).toBe(process.pid);
  const source = `
    import { parentPort } from 'node:worker_threads';
    import { threadId } from '${PROCESS_MODULE}';
    parentPort.postMessage(threadId());
    parentPort.on('message', () => process.exit());`;
  const worker = startThread(new URL(`data:text/javascript,${encodeURIComponent(source)}`), {});
  const [id] = (await once(worker, 'message')) as [number];
  expect(readdirSync('/proc/self/task').map(Number)).toContain(id);
  expect(id).not.toBe(process.pid);
  worker.postMessage('end');
  await once(worker, 'exit');
});
