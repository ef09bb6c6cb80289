/** Which process is at the other end of a socket, told from all others, also of the same number. */

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { frontEndOf, isSameProcess } from '../../src/device/front-end-process.ts';
import { closeFd } from '../../src/native/fd.ts';
import { processStart } from '../../src/native/process.ts';
import { acceptConnection, listenUnix } from '../../src/native/socket.ts';
import { UNKNOWN_PROCESS } from '../../src/store/store-header.ts';
import { makeFolder, socketPair } from '../driver/sockets.ts';

it('is this process for a socket of its own, the same every time', () => {
  const [client, server] = socketPair();
  const found = frontEndOf(server);
  expect(found).toEqual({ process: process.pid, start: processStart(process.pid) });
  expect(isSameProcess(found!, frontEndOf(server))).toBe(true);
  closeFd(client);
  closeFd(server);
});

it('is another process for its child; once that has gone, nobody that can be told', async () => {
  const folder = makeFolder();
  const path = join(folder.path, 's');
  const script = join(folder.path, 'connect.cjs');
  writeFileSync(script, `require('net').connect(${JSON.stringify(path)});`);
  const listening = listenUnix(path);
  const child = fork(script);
  let server = -1;
  while (server < 0) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    server = acceptConnection(listening);
  }
  const found = frontEndOf(server);
  expect(found?.process).toBe(child.pid);
  expect(isSameProcess(found!, { process: process.pid, start: found!.start })).toBe(false);
  expect(isSameProcess(found!, { ...found!, start: found!.start + 1 })).toBe(false);
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
  expect(frontEndOf(server)).toBeUndefined();
  closeFd(server);
  closeFd(listening);
  folder.remove();
});

it('is never the same when it is unknown', () => {
  expect(isSameProcess(UNKNOWN_PROCESS, undefined)).toBe(false);
  expect(isSameProcess({ process: 1, start: 2 }, undefined)).toBe(false);
});
