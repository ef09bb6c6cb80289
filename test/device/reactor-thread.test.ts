/** What the control thread asks of a reactor thread, and what becomes of it when it fails here. */

import { readSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { ReactorThread } from '../../src/device/reactor-thread.ts';
import { REPORTS_AT_ONCE } from '../../src/device/reports.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { listenUnix } from '../../src/native/socket.ts';
import { PROTOCOL_FEATURES } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { isBuilt, until } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { write } from '../driver/requests.ts';
import { makeFolder, socketPair } from '../driver/sockets.ts';

const DISK = { name: 'ramzswap0', diskBytes: 1 << 20, guestPageBytes: 4096 };
/** What malloc takes from the system for itself: it never begins where a page does. */
const OWN_MAPPING_BYTES = 1 << 20;

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function startThread(numQueues = 1) {
  // What was built: that is where threads begin.
  const url = new URL('../../dist/device/reactor-thread.js', import.meta.url);
  const built = (await import(url.href)) as { ReactorThread: typeof ReactorThread };
  const said: string[] = [];
  const running: boolean[] = [];
  const thread = new built.ReactorThread(0, {
    log: ({ level, message }) => void said.push(`${level}: ${message}`),
    connection: () => {},
    running: (_, isRunning) => void running.push(isRunning),
  });
  cleanUps.push(() => thread.stop(1000));
  thread.open({ name: DISK.name, numQueues });
  return { thread, said, running };
}

/** A front end with memory, and `rings` rings running: one and the same driver's. */
function attach(thread: ReactorThread, rings = 1) {
  const [client, server] = socketPair();
  thread.order({ kind: 'adopt', device: DISK.name, fd: server });
  const ram = new GuestRam(1 << 20);
  const frontEnd = new FrontEnd(client);
  cleanUps.push(() => ram.close());
  cleanUps.push(() => frontEnd.close());
  const driver = new GuestDriver(ram, 16);
  frontEnd.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1, PROTOCOL_FEATURES);
  frontEnd.setMemoryTable(ram);
  for (let i = 0; i < rings; i++) {
    frontEnd.startRing(i, driver.ring, {});
    frontEnd.setEnabled(i, true);
  }
  return { frontEnd, driver, ram };
}

/** Where front ends can connect from now on. */
function listen(thread: ReactorThread): string {
  const folder = makeFolder();
  const path = join(folder.path, 'socket');
  const fd = listenUnix(path);
  cleanUps.push(folder.remove, () => closeFd(fd));
  thread.order({ kind: 'listen', device: DISK.name, fd });
  return path;
}

function isSignalled(eventFd: number): boolean {
  try {
    return readSync(eventFd, new Uint8Array(8)) > 0;
  } catch {
    return false;
  }
}

/** While `during` goes on, memory that this thread makes for windows is what `make` makes. */
async function withMemory(make: () => ArrayBuffer, during: () => Promise<unknown>): Promise<void> {
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class {
    readonly buffer = make();
  } as unknown as typeof Memory;
  try {
    await during();
  } finally {
    WebAssembly.Memory = Memory;
  }
}

const noMemory = () => {
  throw new RangeError('could not allocate memory');
};
/** Files cannot be mapped there. */
const unaligned = () => new ArrayBuffer(OWN_MAPPING_BYTES);

describe.skipIf(!isBuilt)('a disk whose figures cannot be had', () => {
  it.each([
    ['has no room for them', noMemory, 'no address space for'],
    ['cannot be mapped', unaligned, 'mmap'],
  ])('for this thread %s: is in no thread', async (_, make, reason) => {
    const { thread } = await startThread();
    await withMemory(make, async () => {
      await expect(thread.init(DISK.name, DISK)).rejects.toThrow(reason);
    });
    expect(thread.statistics(DISK.name)).toBeUndefined();
    await expect(thread.reset(DISK.name)).rejects.toThrow('ramzswap0: not initialised');
    await thread.init(DISK.name, DISK);
    expect(thread.statistics(DISK.name)).toMatchObject({ disksize: DISK.diskBytes });
  });

  it('stays, without them, when a guest is using it already', async () => {
    const { thread, said, running } = await startThread();
    const { frontEnd, driver } = attach(thread);
    await until(() => running.length > 0, 'a ring', 2000);
    await withMemory(unaligned, () => thread.init(DISK.name, DISK));
    expect(said.join()).toMatch(/warn: it has no statistics: .*mmap/);
    expect(thread.statistics(DISK.name)).toBeUndefined();
    driver.submit(write(5, new Uint8Array(4096).fill(1)));
    driver.ring.publish();
    await until(() => driver.complete()[0]?.status === 0, 'the write', 2000);
    frontEnd.getBase(0);
    await thread.reset(DISK.name);
    await thread.init(DISK.name, DISK);
    expect(thread.statistics(DISK.name)).toBeDefined();
  });
});

describe.skipIf(!isBuilt)('an order', () => {
  it('that fails as nobody has thought of is refused, and the thread goes on', async () => {
    const { thread } = await startThread();
    // There is no such descriptor, no header to take over, and no array as short as that.
    const backing = {
      ...{ path: '/nowhere', fd: -1, extents: [], start: new Uint8Array(0) },
      ...{ identity: new Uint8Array(32), memlimitBytes: 4096, hasFaults: false },
      io: 'auto' as const,
    };
    await expect(thread.init(DISK.name, { ...DISK, backing })).rejects.toThrow();
    await thread.init(DISK.name, DISK);
    expect(thread.statistics(DISK.name)).toBeDefined();
  });
});

describe.skipIf(!isBuilt)('a flood of reports leaves some, and says how many were left out', () => {
  /** Of `count` reports that `pattern` matches: so many at once, some more each second, then the rest. */
  async function checkSaid(
    flood: Awaited<ReturnType<typeof startThread>>,
    what: RegExp,
    count: number,
  ) {
    await flood.thread.stop(1000);
    const all = flood.said.filter((text) => what.test(text));
    const numbers = all.map((text) => 1 + Number(/and (\d+) more like it/.exec(text)?.[1] ?? 0));
    expect(numbers.reduce((sum, number) => sum + number, 0)).toBe(count);
    // It took less than half a minute.
    expect(all.length).toBeLessThan(REPORTS_AT_ONCE + 30);
    // What is not caused by the flood is said all the same.
    expect(flood.said).toContain('info: reset: all memory was freed');
  }

  async function flooded(numQueues = 1) {
    const flood = await startThread(numQueues);
    await flood.thread.init(DISK.name, DISK);
    return flood;
  }

  it('of rings whose memory is gone, at each change of memory', async () => {
    const rings = 64;
    const changes = 20;
    const flood = await flooded(rings);
    const { frontEnd, ram } = attach(flood.thread, rings);
    for (const region of ram.regions) frontEnd.removeRegion(region);
    const elsewhere = { ...ram.regions[0]!, guestAddress: 2 ** 40, userAddress: 2 ** 46 };
    for (let i = 0; i < changes; i++) {
      frontEnd.addRegion(elsewhere, ram.fd);
      frontEnd.removeRegion(elsewhere);
    }
    for (let i = 0; i < rings; i++) frontEnd.getBase(i);
    await flood.thread.reset(DISK.name);
    await checkSaid(flood, /ring \d+ stopped/, rings * (ram.regions.length + 2 * changes));
  });

  it('of rings that the guest breaks, again after each reset', async () => {
    const flood = await flooded();
    const { frontEnd, driver } = attach(flood.thread, 0);
    const err = createEventFd();
    cleanUps.push(() => closeFd(err));
    driver.ring.setAvailIdx(1000);
    const broken = 100;
    for (let i = 0; i < broken; i++) {
      frontEnd.startRing(0, driver.ring, { err }, 0);
      frontEnd.setEnabled(0, true);
      await until(() => isSignalled(err), 'the ring to be broken', 2000);
      frontEnd.getBase(0);
    }
    await flood.thread.reset(DISK.name);
    await checkSaid(flood, /broken by the guest/, broken);
  });

  it('of sessions that begin, are refused something, and end', async () => {
    const flood = await flooded();
    const path = listen(flood.thread);
    for (let i = 0; i < 200; i++) {
      const frontEnd = FrontEnd.connect(path);
      frontEnd.negotiate(VIRTIO_F_VERSION_1, PROTOCOL_FEATURES);
      expect(() => frontEnd.setNum(0, 3)).toThrow();
      frontEnd.close();
    }
    await flood.thread.reset(DISK.name);
    await checkSaid(flood, /refused: SET_VRING_NUM/, 200);
    await checkSaid(flood, /front end (dis)?connected/, 400);
  });

  it('of front ends that find another there', async () => {
    const flood = await flooded();
    const path = listen(flood.thread);
    const first = FrontEnd.connect(path);
    first.negotiate(VIRTIO_F_VERSION_1, PROTOCOL_FEATURES);
    for (let i = 0; i < 200; i++) {
      const other = FrontEnd.connect(path);
      expect(other.isDropped()).toBe(true);
      other.close();
    }
    await flood.thread.reset(DISK.name);
    first.close();
    await checkSaid(flood, /in use by process/, 200);
  });
});
