/**
 * The front end: against this library's own back end in the same thread, and against
 * qemu-storage-daemon, which nobody here wrote.
 */

import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { closeFd, duplicateFd } from '../../src/native/fd.ts';
import { socketPair } from '../../src/native/socket.ts';
import {
  type BackendHandler,
  BackendSession,
  Connection,
  connectUnix,
  createEventFd,
  createMemfd,
  FLAG_REPLY,
  Frontend,
  type MemoryRegion,
  PROTOCOL_FEATURES,
  ProtocolError,
  RequestError,
  VHOST_F_LOG_ALL,
  VHOST_USER,
  VHOST_USER_BACKEND,
  VHOST_USER_F_PROTOCOL_FEATURES,
} from '../../src/vhost-user-ts/index.ts';

const READ_PAGE = fileURLToPath(new URL('../../scripts/read-page.ts', import.meta.url));
const DEVICE_FEATURES = (1n << 32n) | (1n << 9n);
const REGION: MemoryRegion = {
  guestAddress: 0x1_4000_0000,
  userAddress: 0x7f00_0000_0000,
  bytes: 0x2000,
  mmapOffset: 0,
};
const cleanUp: (() => unknown)[] = [];

afterEach(async () => {
  for (const undo of cleanUp.splice(0).reverse()) await undo();
});

function openFds(): number {
  return readdirSync('/proc/self/fd').length;
}

/** Notes every call; closes the descriptors it is given. */
function recorder() {
  const calls: unknown[][] = [];
  const answers: Record<string, unknown> = {
    features: DEVICE_FEATURES,
    queueCount: 3,
    memorySlots: 7,
  };
  const handler = new Proxy(answers, {
    get(target, name: string) {
      if (name in target) return target[name];
      if (name === 'isAtRest' || name === 'mayStart') return () => true;
      return (...args: unknown[]) => {
        calls.push([name, ...args]);
        if (/^setVring(Kick|Call|Err)$/.test(name) && args[1] !== undefined) {
          closeFd(args[1] as number);
        }
        if (name === 'setLogFd') closeFd(args[0] as number);
        if (name === 'setVringNum' && args[1] === 300) throw new RequestError('no power of two');
        if (name === 'getVringBase') return 4711;
        if (name !== 'getConfig') return undefined;
        return (args[0] as number) > 60 ? undefined : new Uint8Array(args[1] as number).fill(9);
      };
    },
  }) as unknown as BackendHandler;
  return { handler, calls, answers };
}

/** `isMute`: the back end never answers by itself. */
function connected({ isMute = false } = {}) {
  const [ours, theirs] = socketPair();
  const { handler, calls, answers } = recorder();
  const backend = new BackendSession(theirs, handler);
  const frontend = new Frontend(ours, {
    answerMillis: 300,
    wait: () => void (isMute || backend.poll()),
  });
  cleanUp.push(
    () => frontend.close(),
    () => backend.close(),
  );
  return { frontend, backend, calls, answers, theirs };
}

describe('Frontend', () => {
  it('negotiates the part of what it wants that is offered', () => {
    const { frontend, calls } = connected();
    const { features } = frontend.negotiate((1n << 32n) | (1n << 5n), ~0n & 0xffffffffn);
    expect(features).toBe(1n << 32n);
    expect(frontend.protocolFeatures).toBe(PROTOCOL_FEATURES);
    expect(calls).toContainEqual(['setFeatures', 1n << 32n, false]);
    expect(frontend.queueCount()).toBe(3);
    expect(frontend.memorySlots()).toBe(7);
  });

  it('has an in-flight area made, and brings it; descriptors stay whose they are', () => {
    const { frontend, calls, answers } = connected();
    const memory = createMemfd('test', 8192);
    cleanUp.push(() => closeFd(memory));
    frontend.negotiate(DEVICE_FEATURES, PROTOCOL_FEATURES);
    const inflight = { mmapBytes: 8192, mmapOffset: 4096, queues: 2, queueSize: 128 };
    answers.getInflight = () => ({ inflight, fd: memory });
    const before = openFds();
    const found = frontend.getInflight(2, 128);
    expect(found.inflight).toEqual(inflight);
    expect(found.fd).not.toBe(memory);
    expect(openFds()).toBe(before + 1);
    frontend.setInflight(found.inflight, found.fd);
    expect(calls.at(-1)!.slice(0, 2)).toEqual(['setInflight', inflight]);
    closeFd(found.fd);
    expect(openFds()).toBe(before);
  });

  it('closes the descriptor of an in-flight area that makes no sense', () => {
    const { frontend, theirs } = connected({ isMute: true });
    const memory = createMemfd('test', 8192);
    cleanUp.push(() => closeFd(memory));
    const backend = new Connection(duplicateFd(theirs));
    cleanUp.push(() => backend.close());
    const before = openFds();
    for (const [payload, fds] of [
      [new Uint8Array(19), [memory]],
      [new Uint8Array(24).fill(255), [memory]],
      [new Uint8Array(20), []],
      [new Uint8Array(20), [memory, memory]],
    ] as const) {
      backend.send(VHOST_USER.GET_INFLIGHT_FD, FLAG_REPLY, payload, fds);
      expect(() => frontend.getInflight(2, 128)).toThrow(ProtocolError);
      expect(openFds()).toBe(before);
    }
  });

  it('without protocol features is a front end of old', () => {
    const { frontend, backend, calls } = connected();
    frontend.negotiate(DEVICE_FEATURES, 0n);
    for (let i = 0; i < 16; i++) backend.poll();
    expect(calls).toContainEqual(['setFeatures', DEVICE_FEATURES, true]);
  });

  it('hands over memory and rings, and keeps its descriptors', () => {
    const { frontend, calls } = connected();
    const memory = createMemfd('test', REGION.bytes);
    const [kickFd, callFd, errFd] = [createEventFd(), createEventFd(), createEventFd()];
    cleanUp.push(() => [memory, kickFd, callFd, errFd].forEach(closeFd));
    frontend.negotiate(DEVICE_FEATURES, PROTOCOL_FEATURES);
    const before = openFds();
    frontend.addMemoryRegion(REGION, memory);
    frontend.removeMemoryRegion(REGION);
    frontend.setMemoryTable([REGION], [memory]);
    const at = { desc: 0x7f00_0000_0000, avail: 0x7f00_0000_0400, used: 0x7f00_0000_0800 };
    frontend.startVring(2, { num: 128, base: 17, ...at, kickFd, callFd, errFd });
    frontend.enableVring(2, true);
    expect(frontend.stopVring(2)).toBe(4711);
    expect(openFds()).toBe(before);
    expect(calls.map(([name]) => name)).toEqual([
      'setFeatures',
      'addMemoryRegion',
      'removeMemoryRegion',
      'setMemoryTable',
      'setVringCall',
      'setVringErr',
      'setVringNum',
      'setVringBase',
      'setVringAddress',
      'setVringKick',
      'setVringEnable',
      'getVringBase',
    ]);
    expect(calls).toContainEqual(['addMemoryRegion', REGION, expect.any(Number)]);
    expect(calls).toContainEqual(['setVringBase', 2, 17]);
    expect(calls).toContainEqual(['setVringAddress', { index: 2, flags: 0, log: 0n, ...at }]);
  });

  it('shares a dirty log, and keeps its descriptors', () => {
    const { frontend, calls } = connected();
    const [file, eventFd] = [createMemfd('log', 8192), createEventFd()];
    cleanUp.push(() => [file, eventFd].forEach(closeFd));
    const { features } = frontend.negotiate(DEVICE_FEATURES, PROTOCOL_FEATURES);
    const before = openFds();
    const log = { mmapSize: 4000, mmapOffset: 4096 };
    frontend.setLogBase(log, file);
    frontend.setLogFd(eventFd);
    frontend.setFeatures(features | VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES);
    const at = { desc: 16, avail: 32, used: 64 };
    frontend.setVringAddress(1, { ...at, log: 0x1_4000_0000n });
    frontend.setVringAddress(1, at);
    expect(openFds()).toBe(before);
    expect(calls.slice(1)).toEqual([
      ['setLogBase', log, expect.any(Number)],
      ['setLogFd', expect.any(Number)],
      ['setFeatures', features | VHOST_F_LOG_ALL, false],
      ['setVringAddress', { index: 1, flags: 1, log: 0x1_4000_0000n, ...at }],
      ['setVringAddress', { index: 1, flags: 0, log: 0n, ...at }],
    ]);
  });

  it('says which request was refused, and the session goes on', () => {
    const { frontend } = connected();
    frontend.negotiate(DEVICE_FEATURES, PROTOCOL_FEATURES);
    expect(() => frontend.setVringNum(0, 300)).toThrow(/SET_VRING_NUM: refused/);
    frontend.setVringNum(0, 256);
    expect(() => frontend.setVringNum(3, 256)).toThrow(RequestError);
  });

  it('reads exactly what it asks for of configuration space, or learns that it is not there', () => {
    const { frontend } = connected();
    frontend.negotiate(DEVICE_FEATURES, PROTOCOL_FEATURES);
    expect(frontend.getConfig(3, 57)).toEqual(new Uint8Array(57).fill(9));
    expect(() => frontend.getConfig(61, 1)).toThrow(RequestError);
  });

  it('hears of a configuration change on the back-end channel', () => {
    const { frontend, backend } = connected();
    frontend.negotiate(DEVICE_FEATURES, PROTOCOL_FEATURES);
    expect(backend.sendConfigChange()).toBe(false);
    frontend.openBackendChannel();
    expect(frontend.takeBackendRequest()).toBeUndefined();
    expect(backend.sendConfigChange()).toBe(true);
    expect(frontend.takeBackendRequest()?.request).toBe(VHOST_USER_BACKEND.CONFIG_CHANGE_MSG);
  });

  it('gives up on a back end that does not answer, or has gone', () => {
    const [ours, theirs] = socketPair();
    const frontend = new Frontend(ours, { answerMillis: 50 });
    cleanUp.push(() => frontend.close());
    expect(() => frontend.queueCount()).toThrow(/GET_QUEUE_NUM: no reply in 50 ms/);
    closeFd(theirs);
    expect(() => frontend.queueCount()).toThrow(ProtocolError);
  });
});

describe('qemu-storage-daemon', () => {
  it('is understood: capacity, and page 0 as it is in the file', async (context) => {
    const found = await execa('qemu-storage-daemon', ['--version'], { reject: false });
    if (found.exitCode !== 0) {
      console.warn('SKIPPED: apt-get install qemu-system-common for qemu-storage-daemon');
      expect(process.env.CI, 'CI skips nothing').toBeUndefined();
      context.skip();
    }
    const folder = mkdtempSync(join(tmpdir(), 'rz-qsd-'));
    cleanUp.push(() => rmSync(folder, { recursive: true, force: true }));
    const [image, socket] = [join(folder, 'image'), join(folder, 'socket')];
    writeFileSync(image, `${Buffer.alloc(4086).toString('latin1')}SWAPSPACE2`, 'latin1');
    truncateSync(image, 8 << 20);
    const daemon = execa(
      'qemu-storage-daemon',
      [
        ['--blockdev', `driver=file,node-name=f0,filename=${image}`],
        ['--export', `type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=${socket}`],
      ].flat(),
      { reject: false },
    );
    cleanUp.push(async () => {
      daemon.kill('SIGTERM');
      await daemon;
    });
    await expect.poll(() => tryConnect(socket), { timeout: 5_000 }).toBe(true);
    const { stdout } = await execa('node', ['--import', 'tsx', READ_PAGE, socket]);
    expect(stdout.split('\n')).toEqual(['16384 sectors', 'status 0, signature SWAPSPACE2']);
  });
});

function tryConnect(path: string): boolean {
  try {
    closeFd(connectUnix(path));
    return true;
  } catch {
    return false;
  }
}
