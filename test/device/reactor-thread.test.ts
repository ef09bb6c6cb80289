/** What the control thread asks of a reactor thread, and what becomes of it when it fails here. */

import { afterEach, describe, expect, it } from 'vitest';
import type { ReactorThread } from '../../src/device/reactor-thread.ts';
import { PROTOCOL_FEATURES } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { isBuilt, until } from '../driver/daemon.ts';
import { FrontEnd } from '../driver/front-end.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { write } from '../driver/requests.ts';
import { socketPair } from '../driver/sockets.ts';

const DISK = { name: 'ramzswap0', diskBytes: 1 << 20, guestPageBytes: 4096 };
/** What malloc takes from the system for itself: it never begins where a page does. */
const OWN_MAPPING_BYTES = 1 << 20;

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function startThread() {
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
  thread.open({ name: DISK.name, numQueues: 1 });
  return { thread, said, running };
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
    const [client, server] = socketPair();
    thread.order({ kind: 'adopt', device: DISK.name, fd: server });
    const ram = new GuestRam(1 << 20);
    const frontEnd = new FrontEnd(client);
    cleanUps.push(() => ram.close());
    cleanUps.push(() => frontEnd.close());
    const driver = new GuestDriver(ram, 16);
    frontEnd.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1, PROTOCOL_FEATURES);
    frontEnd.setMemoryTable(ram);
    frontEnd.startRing(0, driver.ring, {});
    frontEnd.setEnabled(0, true);
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
