/**
 * A front end in a process of its own, for tests in which that process ends: it connects to the socket
 * that its argument names, starts a ring, writes a page, says so, and stays until it is killed.
 */

import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { AttachedDriver } from './daemon.ts';
import { FrontEnd } from './front-end.ts';
import { write } from './requests.ts';

const SELF = fileURLToPath(import.meta.url);
export const CHILD_SLOT = 100;
export const CHILD_PAGE = new Uint8Array(4096).map((_, i) => (i * 7) % 251);

/** Resolves when the page is written. `close()`: the process is killed, and is no more. */
export async function frontEndChild(socketPath: string) {
  const child = execa(process.execPath, ['--import', 'tsx', SELF, socketPath], { reject: false });
  await new Promise<void>((resolve, reject) => {
    child.stdout.once('data', () => resolve());
    void child.then(({ stderr }) => reject(new Error(`the front end has ended: ${stderr}`)));
  });
  const close = async () => {
    child.kill('SIGKILL');
    await child;
  };
  return { child, close };
}

function main(socketPath: string): void {
  const attached = new AttachedDriver(FrontEnd.connect(socketPath));
  attached.driver.submit(write(CHILD_SLOT, CHILD_PAGE));
  attached.driver.flush();
  const [done] = attached.completeAll();
  if (done?.status !== 0) throw new Error(`status ${done?.status}`);
  process.stdout.write('written\n');
  setInterval(() => {}, 1000);
}

if (process.argv[1] === SELF) main(process.argv[2]!);
