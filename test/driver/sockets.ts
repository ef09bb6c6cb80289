/** Connected Unix sockets inside this process, and folders for socket files. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd } from '../../src/native/fd.ts';
import { acceptConnection, connectUnix, listenUnix } from '../../src/native/socket.ts';

/** A fresh folder and the function that removes it. */
export function makeFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'rz-test-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Both ends of a connection; each is the caller's to close. */
export function socketPair(): [number, number] {
  const folder = makeFolder();
  try {
    const path = join(folder.path, 's');
    const listening = listenUnix(path);
    const client = connectUnix(path);
    const server = acceptConnection(listening);
    closeFd(listening);
    if (server < 0) throw new Error(`accept: errno ${-server}`);
    return [client, server];
  } finally {
    folder.remove();
  }
}
