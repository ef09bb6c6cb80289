/**
 * A short run of each fuzz target, over seeds that are always the same and some that never were
 * tried; and what fuzzing has found, as tests of its own. Long runs: scripts/fuzz.ts.
 */

import { once } from 'node:events';
import { openSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { ControlClient } from '../../src/control/client.ts';
import { serveControl } from '../../src/control/server.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd, createMemfd } from '../../src/native/fd.ts';
import { listenUnix, sendWithFds, socketPair } from '../../src/native/socket.ts';
import { Connection } from '../../src/vhost-user-ts/connection.ts';
import { encodeMessage, ProtocolError, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { encodeInflight } from '../../src/vhost-user-ts/messages.ts';
import { isBuilt } from '../driver/daemon.ts';
import { openFds } from '../driver/descriptors.ts';
import { RequestRefused } from '../driver/front-end.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { makeFolder } from '../driver/sockets.ts';
import { CORPUS } from './corpus.ts';
import { SESSION_FIGURES } from './hostile-front-end.ts';
import { FEATURES } from './messages.ts';
import { closeSessions } from './sessions.ts';
import { FUZZ_TARGETS } from './targets.ts';

const FIXED_SEED = 20090917;
const FRESH_SEED = Math.floor(Math.random() * 2 ** 31);
const RUN_MILLIS_MAX = 1000;
const CASES: Record<string, number> = {
  codec: 5000,
  rings: 1500,
  headers: 1500,
  'vhost-user': 40,
  sessions: 40,
  control: 60,
};
/** Of the built daemon's threads. */
const isMissing = (name: string) => name === 'sessions' && !isBuilt;

if (!isBuilt) console.warn('fuzz.test.ts: sessions SKIPPED, dist/ is missing: "npm run build"');

afterAll(closeSessions);

describe('fuzzing', () => {
  for (const [name, seeds] of Object.entries(CORPUS)) {
    it.skipIf(isMissing(name))(`${name} finds nothing with the seeds of its corpus`, async () => {
      for (const seed of seeds) expect(await FUZZ_TARGETS[name]!(seed, { cases: 1 })).toBe(1);
    });
  }

  it.skipIf(!isBuilt)('sessions of the corpus come to everything that is to be shown', () => {
    // Nearly every storm breaks its ring; whether one is weathered depends on the moment.
    const { stormsServed, stormsBroken, ...figures } = SESSION_FIGURES;
    const all = { ...figures, storms: stormsServed + stormsBroken };
    for (const [name, count] of Object.entries(all)) expect(count, name).toBeGreaterThan(0);
  });

  for (const [name, target] of Object.entries(FUZZ_TARGETS)) {
    for (const [what, seed] of [
      ['the same seeds as ever', FIXED_SEED],
      [`fresh seeds from ${FRESH_SEED}`, FRESH_SEED],
    ] as const) {
      it.skipIf(isMissing(name))(`${name} finds nothing with ${what}`, async () => {
        const until = Date.now() + RUN_MILLIS_MAX;
        expect(await target(seed, { cases: CASES[name]!, until })).toBeGreaterThan(0);
      });
    }
  }

  it('says which seed failed', async () => {
    const { runCases } = await import('./budget.ts');
    const failing = () =>
      runCases('example', 7, { cases: 9 }, (random) => {
        if (random.seed === 9) throw new Error('the property');
      });
    expect(failing).toThrow('example: seed 9: the property');
  });
});

describe('regression:', () => {
  /** What a client may send without taking the control thread, and so the daemon, with it. */
  async function survives(line: string): Promise<void> {
    const folder = makeFolder();
    const path = join(folder.path, 'control');
    const server = serveControl(listenUnix(path), { devices: () => ['one'] as never });
    const uncaught: unknown[] = [];
    const note = (error: unknown) => void uncaught.push(error);
    const others = process.listeners('unhandledRejection');
    process.removeAllListeners('unhandledRejection');
    process.on('unhandledRejection', note);
    const hostile = connect(path);
    try {
      hostile.on('error', () => {});
      await once(hostile, 'connect');
      hostile.resume();
      hostile.write(`${line}\n`);
      const good = await ControlClient.connect(path);
      // Twice: what the line caused has come up when the second is answered.
      await good.call('devices');
      expect(await good.call('devices')).toEqual(['one']);
      good.close();
      expect(uncaught).toEqual([]);
    } finally {
      process.off('unhandledRejection', note);
      for (const listener of others) process.on('unhandledRejection', listener);
      hostile.destroy();
      server.close();
      folder.remove();
    }
  }

  it('control: a batch with an entry that is no object is survived', () => survives('[null]'));

  it('control: an id nested too deep to be written back is survived', () => {
    const nest = 200_000;
    const id = '['.repeat(nest) + ']'.repeat(nest);
    return survives(`{"jsonrpc":"2.0","method":"devices","id":${id}}`);
  });

  it('vhost-user: a message sent byte by byte brings no more descriptors than one at once', () => {
    const before = openFds();
    const [client, server] = socketPair();
    const connection = new Connection(server);
    const fd = createEventFd();
    const bytes = encodeMessage(VHOST_USER.SET_CONFIG, 0, new Uint8Array(60));
    const dribble = () => {
      for (const byte of bytes) {
        sendWithFds(client, Uint8Array.of(byte), new Array(32).fill(fd));
        connection.receive();
      }
    };
    try {
      expect(dribble).toThrow(ProtocolError);
      expect(openFds() - before).toBeLessThan(3 + 3 * 32);
    } finally {
      connection.close();
      closeFd(client);
      closeFd(fd);
    }
    expect(openFds()).toBe(before);
  });

  it('vhost-user: a kick for a queue that the in-flight area has no place for leaves nothing', () => {
    const local = new LocalDevice();
    try {
      local.negotiate(FEATURES);
      const { frontEnd } = local;
      const areaFd = createMemfd('area', 65536);
      const inflight = { mmapBytes: 65536, mmapOffset: 0, queues: 1, queueSize: 16 };
      frontEnd.order(VHOST_USER.SET_INFLIGHT_FD, encodeInflight(inflight, 24), [areaFd]);
      closeFd(areaFd);
      const kickFd = local.eventFd();
      const before = openFds();
      const kick = () => frontEnd.setRingFd(VHOST_USER.SET_VRING_KICK, 1, kickFd);
      expect(kick).toThrow(RequestRefused);
      expect(openFds()).toBe(before);
    } finally {
      local.close();
    }
  });

  it('memory: a device is no guest memory: nothing says where it ends, and there is SIGBUS', () => {
    // Shared, /dev/zero is a file as long as the mapping, whatever offset is mapped of it.
    const fd = openSync('/dev/zero', 'r+');
    const memory = new GuestMemory((bytes) => new Window(bytes));
    const region = { guestAddress: 0, userAddress: 0, bytes: 65536, mmapOffset: 65536 };
    try {
      expect(() => memory.addRegion(region, fd)).toThrow(RefusedError);
    } finally {
      memory.release();
      closeFd(fd);
    }
  });
});
