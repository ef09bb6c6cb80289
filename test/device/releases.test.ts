/** What cannot be let go of is told; the device and whoever gave the order agree that it is gone. */

import { afterEach, describe, expect, it, vi } from 'vitest';
import { openBackingFile } from '../../src/backing/backing-file.ts';
import { AssertionError } from '../../src/base/assert.ts';
import { backingOptions } from '../../src/device/backing.ts';
import { releaseAll } from '../../src/device/releases.ts';
import { closeFd } from '../../src/native/fd.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { openFds } from '../driver/descriptors.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { read, write } from '../driver/requests.ts';
import { makeSwapFile } from '../driver/swap-file.ts';

/** It compresses, so it stays in memory. */
const PAGE = Uint8Array.from({ length: 4096 }, (_, i) => i & 0xff);

/** The kernel has no memory for the mapping that would take another's place. */
const kernel = vi.hoisted(() => ({ isFull: false }));
vi.mock('../../src/native/mapping.ts', async (importActual) => {
  const actual = await importActual<typeof import('../../src/native/mapping.ts')>();
  const { SystemError } = await import('../../src/base/errors.ts');
  const ifRoom = () => {
    if (kernel.isFull) throw new SystemError('mmap(MAP_ANONYMOUS)', 12);
  };
  return {
    ...actual,
    mapAnonymousOver: (...args: Parameters<typeof actual.mapAnonymousOver>) => {
      ifRoom();
      actual.mapAnonymousOver(...args);
    },
    unmapShared: (...args: Parameters<typeof actual.unmapShared>) => {
      ifRoom();
      actual.unmapShared(...args);
    },
  };
});

const cleanUps: (() => unknown)[] = [];
afterEach(() => {
  kernel.isFull = false;
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

describe('releasing', () => {
  it('does all of it, and tells of what failed', () => {
    const done: string[] = [];
    const said: string[] = [];
    const fail = () => {
      throw new Error('no');
    };
    releaseAll(
      (level, message) => said.push(`${level}: ${message}`),
      [() => done.push('first'), fail, () => done.push('last')],
    );
    expect(done).toEqual(['first', 'last']);
    expect(said).toEqual(['error: not all memory could be freed: no']);
  });

  it('hides no bug of ours', () => {
    const fail = () => {
      throw new AssertionError('this is so');
    };
    expect(() => releaseAll(() => {}, [fail])).toThrow('this is so');
  });
});

function backingOf(bytes: number) {
  const swap = makeSwapFile(bytes);
  cleanUps.push(swap.remove);
  const file = openBackingFile(swap.path, 4096);
  cleanUps.push(() => closeFd(file.fd));
  const backing = backingOptions(file, { memlimitBytes: bytes, io: 'auto', hasFaults: false });
  return { backing, diskBytes: file.map.pages * 4096 };
}

describe('what the kernel will not unmap', () => {
  function start(local: LocalDevice) {
    local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
    local.frontEnd.setMemoryTable(local.ram);
    const driver = local.makeRing();
    local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
    local.frontEnd.setEnabled(0, true);
    return (request: ReturnType<typeof read>) => {
      driver.submit(request);
      driver.ring.publish();
      local.serve();
      return driver.complete()[0]!;
    };
  }

  it.each(['in memory', 'on a backing swap'])(
    'is no disk: one %s is reset all the same',
    (where) => {
      const options = where === 'in memory' ? {} : backingOf(1 << 20);
      const local = new LocalDevice({ isUninitialised: true });
      cleanUps.push(() => local.close());
      const before = openFds();
      local.init(options);
      kernel.isFull = true;
      local.device.reset();
      kernel.isFull = false;
      expect(local.device.isInitialised).toBe(false);
      expect(openFds()).toBe(before);
      expect(local.reports.join()).toContain(
        'not all memory could be freed: mmap(MAP_ANONYMOUS): ENOMEM',
      );
      local.init(options);
      const run = start(local);
      expect(run(write(5, PAGE)).status).toBe(0);
      expect(run(read(5, 1))).toMatchObject({ status: 0, data: PAGE });
    },
  );

  it("is no session: the next front end's begins", () => {
    const local = new LocalDevice();
    cleanUps.push(() => local.close());
    start(local);
    kernel.isFull = true;
    local.device.detach();
    local.frontEnd.close();
    kernel.isFull = false;
    expect(local.device.isAttached).toBe(false);
    local.connect();
    expect(start(local)(read(5, 1)).status).toBe(0);
  });
});
