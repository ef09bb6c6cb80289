/**
 * Fuzzes the control socket: several clients at once send JSON-RPC that is mostly right, halves of
 * lines, lines without end, deep nests, floods, binary, and vanish. Meanwhile a client that behaves
 * asks too, and is answered; nothing is thrown where nobody would catch it.
 */

import { once } from 'node:events';
import { connect, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { RefusedError } from '../../src/base/errors.ts';
import { ControlClient } from '../../src/control/client.ts';
import { type DeviceStatus, LINE_BYTES_MAX } from '../../src/control/protocol.ts';
import { type MethodTable, serveControl } from '../../src/control/server.ts';
import { listenUnix } from '../../src/native/socket.ts';
import type { Statistics } from '../../src/store/statistics.ts';
import type { Random } from '../driver/random.ts';
import { makeFolder } from '../driver/sockets.ts';
import { type Budget, check, runAsyncCases } from './budget.ts';

const CUT_OFF_MILLIS_MAX = 5000;
const ANSWER = { device: 'fuzz', connected: false, statistics: { pages: 1 } };

/** As the daemon has them, errors included. */
const METHODS: Partial<MethodTable> = {
  devices: () => [ANSWER] as unknown as DeviceStatus[],
  statistics: ({ device: wanted }) => {
    if (wanted !== 'fuzz') throw new RefusedError(`no device '${wanted}': this daemon has fuzz`);
    return ANSWER.statistics as unknown as Statistics;
  },
};

export async function fuzzControl(seed: number, budget: Budget): Promise<number> {
  const folder = makeFolder();
  const path = join(folder.path, 'control');
  const server: Server = serveControl(listenUnix(path), METHODS);
  const uncaught: unknown[] = [];
  const note = (error: unknown) => void uncaught.push(error);
  // The daemon aborts on either.
  process.on('uncaughtException', note);
  process.on('unhandledRejection', note);
  try {
    return await runAsyncCases('control', seed, budget, (random) =>
      runCase(random, path, uncaught),
    );
  } finally {
    process.off('uncaughtException', note);
    process.off('unhandledRejection', note);
    server.close();
    folder.remove();
  }
}

async function runCase(random: Random, path: string, uncaught: unknown[]): Promise<void> {
  const good = await ControlClient.connect(path);
  const hostile: Socket[] = [];
  try {
    for (let i = random.between(1, 4); i > 0; i--) hostile.push(await connectTo(path));
    for (let i = random.between(1, 6); i > 0; i--) {
      await attack(random, random.pick(hostile));
      if (!random.oneIn(3)) continue;
      const answer = await good.call('devices');
      check(JSON.stringify(answer) === JSON.stringify([ANSWER]), 'another answer than expected');
    }
    if (random.oneIn(20)) await endless(path);
    const answer = await good.call('statistics', { device: 'fuzz' });
    check(JSON.stringify(answer) === JSON.stringify(ANSWER.statistics), 'other statistics');
    // What was sent last has had its turn too: its lines were read before this answer was.
    await new Promise((resolve) => setImmediate(resolve));
    const [error] = uncaught.splice(0);
    check(
      error === undefined,
      () => `nobody caught: ${error instanceof Error ? error.stack : error}`,
    );
  } finally {
    good.close();
    for (const socket of hostile) socket.destroy();
  }
}

/** A line that never ends is cut off before it fills memory. */
async function endless(path: string): Promise<void> {
  const socket = await connectTo(path);
  const closed = new Promise<boolean>((resolve) => {
    socket.once('close', () => resolve(true));
    setTimeout(() => resolve(false), CUT_OFF_MILLIS_MAX).unref();
  });
  socket.write(Buffer.alloc(LINE_BYTES_MAX + 100, 'x'));
  const isCutOff = await closed;
  socket.destroy();
  check(isCutOff, 'a line without end was not cut off');
}

async function connectTo(path: string): Promise<Socket> {
  const socket = connect(path);
  socket.on('error', () => socket.destroy());
  await once(socket, 'connect');
  if (socket.listenerCount('data') === 0) socket.resume();
  return socket;
}

async function attack(random: Random, socket: Socket): Promise<void> {
  if (socket.destroyed) return;
  const bytes = Buffer.concat(Array.from({ length: random.between(1, 4) }, () => text(random)));
  const pieces = random.oneIn(3) ? random.between(2, 6) : 1;
  const step = Math.ceil(bytes.length / pieces);
  for (let at = 0; at < bytes.length; at += step) {
    socket.write(bytes.subarray(at, at + step));
    if (pieces > 1) await new Promise((resolve) => setImmediate(resolve));
  }
  if (random.oneIn(10)) socket.pause();
  const end = random.below(12);
  if (end === 0) socket.destroy();
  if (end === 1) socket.end();
}

/** What one client says at a time; mostly a line. */
function text(random: Random): Buffer {
  const kind = random.below(24);
  if (kind === 0) return Buffer.from(random.bytes(random.below(3000)));
  if (kind === 1) return Buffer.from('\n'.repeat(random.below(5000)));
  if (kind === 2) {
    const bytes = random.pick([1000, LINE_BYTES_MAX - 1, LINE_BYTES_MAX, LINE_BYTES_MAX + 1]);
    return Buffer.alloc(bytes, random.pick(['x', '"', '[', ' ', 'é']));
  }
  if (kind === 3) return Buffer.from(`${message(random, 0)}\n`.repeat(random.between(10, 400)));
  const line = Buffer.from(message(random, 0));
  if (kind < 8) return line.subarray(0, random.below(line.length + 1));
  if (kind < 10) {
    for (let i = random.between(1, 3); i > 0; i--) {
      line[random.below(line.length)] = random.oneIn(2) ? random.u32() : random.pick([34, 91, 123]);
    }
  }
  return Buffer.concat([line, Buffer.from(random.pick(['\n', '\n', '\r\n', ' \n\n']))]);
}

/** A request, a batch of them, or JSON that is neither. */
function message(random: Random, depth: number): string {
  if (random.oneIn(8) && depth < 2) {
    const batch = Array.from({ length: random.below(5) }, () => message(random, depth + 1));
    return `[${batch.join(',')}]`;
  }
  if (random.oneIn(10)) return value(random);
  const fields: string[] = [];
  const put = (name: string, usual: string) => {
    if (random.oneIn(12)) return;
    fields.push(`"${name}":${random.oneIn(10) ? value(random) : usual}`);
  };
  put('jsonrpc', '"2.0"');
  put('method', random.pick(['"devices"', '"statistics"', '"devices"', '"no such"']));
  put('params', random.pick(['{}', '{"device":"fuzz"}', '{"device":"other"}', '[1]']));
  put('id', String(random.below(100)));
  if (random.oneIn(16)) fields.push(`${random.pick(['"result"', '"error"'])}:${value(random)}`);
  return `{${fields.join(',')}}`;
}

function value(random: Random): string {
  const nest = random.pick([3, 100, 20_000, 200_000]);
  return random.pick([
    () => 'null',
    () => 'true',
    () => String(random.u32()),
    () => '-1e999',
    () => '""',
    () => '{}',
    () => '[]',
    () => '[null]',
    () => '{"toString":1}',
    () => '{"__proto__":null}',
    () => '"__proto__"',
    () => '"constructor"',
    () => '"\\ud800"',
    () => `"${'y'.repeat(random.below(10_000))}"`,
    () => `${'['.repeat(nest)}${']'.repeat(nest)}`,
    () => `${'{"a":'.repeat(nest)}1${'}'.repeat(nest)}`,
  ])();
}
