/**
 * Descriptors of guest memory and of stores: discarded when nothing is mapped of them any more, closed by
 * the control thread of a daemon, and none is left.
 */

import { fstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { DISCARDED_MAX, DiscardedFds, reportDiscarded } from '../../src/device/discarding.ts';
import type { ReactorReport } from '../../src/device/orders.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import {
  closeFd,
  createMemfd,
  discardFds,
  discardTo,
  duplicateFd,
  reserveRange,
} from '../../src/native/fd.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { isBuilt, until } from '../driver/daemon.ts';
import { openFds } from '../driver/descriptors.ts';
import { RequestRefused } from '../driver/front-end.ts';
import { GuestRam } from '../driver/guest-ram.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';
import { write } from '../driver/requests.ts';
import { QueueThread } from '../driver/threads.ts';

const FEATURES = BLOCK_FEATURES | VIRTIO_F_VERSION_1;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** How often this process has a file mapped. */
function mappingsOf(fd: number): number {
  const inode = String(fstatSync(fd).ino);
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return lines.filter((line) => line.split(/\s+/)[4] === inode).length;
}

const MANY_BYTES = 1 << 20;

/** Each of which holds so much memory. */
function memfds(count: number, bytes = MANY_BYTES): number[] {
  return Array.from({ length: count }, () => {
    const fd = createMemfd('test', bytes);
    expect(reserveRange(fd, 0, bytes)).toBe(0);
    return fd;
  });
}

describe('what a thread discards', () => {
  function setUp(discarded: Int32Array = new Int32Array(1)) {
    cleanUps.push(() => discardTo());
    const reports: ReactorReport[] = [];
    const clock = { millis: 1000 };
    reportDiscarded(
      discarded,
      (report) => reports.push(report),
      () => clock.millis,
    );
    return { reports, clock };
  }

  it('the control thread closes, and says when it is all closed', async () => {
    const control = new DiscardedFds();
    const { reports } = setUp(control.discarded);
    const open = openFds();
    const fds = memfds(3);
    discardFds(...fds);
    expect(reports).toEqual([{ kind: 'discarded', fds }]);
    expect([openFds(), control.discarded[0]]).toEqual([open + 3, 3]);
    control.take(fds);
    await control.settled();
    expect([openFds(), control.discarded[0]]).toEqual([open, 0]);
    // And with nothing to wait for.
    await control.settled();
  });

  it('it closes itself where that is little', () => {
    const { reports } = setUp();
    const open = openFds();
    const [large] = memfds(1);
    const [little] = memfds(1, MANY_BYTES - 4096);
    discardFds(little!, large!, createEventFd());
    expect([reports, openFds()]).toEqual([[{ kind: 'discarded', fds: [large] }], open + 1]);
    closeFd(large!);
  });

  it('it closes itself when the control thread has as much as it may', () => {
    const discarded = new Int32Array([DISCARDED_MAX - 2]);
    const { reports } = setUp(discarded);
    const open = openFds();
    discardFds(...memfds(3));
    expect([reports, openFds(), discarded[0]]).toEqual([[], open, DISCARDED_MAX - 2]);
    const last = memfds(2);
    discardFds(...last);
    expect([reports.length, discarded[0]]).toEqual([1, DISCARDED_MAX]);
    for (const fd of last) closeFd(fd);
  });

  it('it closes itself when there is too much of it, however fast the control thread is', () => {
    const discarded = new Int32Array(1);
    const { reports, clock } = setUp(discarded);
    const [fd] = memfds(1);
    const discardOne = () => {
      const open = openFds();
      discardFds(duplicateFd(fd!));
      for (const report of reports.splice(0)) {
        if (report.kind === 'discarded') for (const one of report.fds) closeFd(one);
        discarded[0] = 0;
        return true;
      }
      expect(openFds()).toBe(open);
      return false;
    };
    for (let i = 0; i < DISCARDED_MAX; i++) expect(discardOne()).toBe(true);
    expect(discardOne()).toBe(false);
    clock.millis += 2;
    expect([discardOne(), discardOne()]).toEqual([true, false]);
    closeFd(fd!);
  });
});

describe.each([0, 1])('a device with %i queue threads', (helpers) => {
  function setUp(): LocalDevice {
    const threads = Array.from({ length: helpers }, () => new QueueThread());
    cleanUps.push(...threads.map((thread) => () => thread.stop()));
    const callers = threads.map(({ caller }) => caller);
    const local = new LocalDevice({}, new GuestRam(4 << 20), callers);
    cleanUps.push(() => local.close());
    local.negotiate(FEATURES);
    local.frontEnd.setMemoryTable(local.ram);
    return local;
  }

  /** What is discarded from now on: of each file, by its inode, how often it was mapped then. */
  function watchDiscarded(): Map<number, number> {
    const seen = new Map<number, number>();
    discardTo((fds) => {
      for (const fd of fds) {
        seen.set(fstatSync(fd).ino, mappingsOf(fd));
        closeFd(fd);
      }
    });
    cleanUps.push(() => discardTo());
    return seen;
  }

  it.each<[string, (local: LocalDevice, next: GuestRam) => void]>([
    ['its front end leaves', ({ device }) => device.detach()],
    ['another memory table comes', ({ frontEnd }, next) => frontEnd.setMemoryTable(next)],
    [
      'a table is refused',
      ({ frontEnd }, next) => {
        const [region] = next.regions;
        const tooLarge = new GuestRam(1 << 20, [{ ...region!, bytes: 2 << 20 }]);
        cleanUps.push(() => tooLarge.close());
        expect(() => frontEnd.setMemoryTable(tooLarge)).toThrow(RequestRefused);
      },
    ],
    ['the region is removed', ({ frontEnd, ram }) => frontEnd.removeRegion(ram.regions[0]!)],
  ])('discards guest memory that it has mapped nowhere, when %s', (_, act) => {
    const local = setUp();
    const next = new GuestRam(1 << 20);
    cleanUps.push(() => next.close());
    // The guest has it mapped, too.
    expect(mappingsOf(local.ram.fd)).toBe(2 + helpers);
    const seen = watchDiscarded();
    act(local, next);
    expect(seen.get(fstatSync(local.ram.fd).ino)).toBe(1);
  });

  it('discards what comes with a message that it refuses', () => {
    const local = setUp();
    const [region] = local.ram.regions;
    const tooLarge = new GuestRam(1 << 20, [{ ...region!, bytes: 2 << 20 }]);
    cleanUps.push(() => tooLarge.close());
    const seen = watchDiscarded();
    expect(() => local.frontEnd.setMemoryTable(tooLarge)).toThrow(RequestRefused);
    expect(seen.has(fstatSync(tooLarge.fd).ino)).toBe(true);
  });

  it('discards a store that it has mapped nowhere, when it is reset', () => {
    const local = setUp();
    const { fd, arenaFd } = local.device.store.mapped.shared;
    const inodes = [fd, arenaFd].map((file) => fstatSync(file).ino);
    const seen = watchDiscarded();
    local.device.reset();
    expect(inodes.map((inode) => seen.get(inode))).toEqual([0, 0]);
  });
});

describe.skipIf(!isBuilt)('a daemon', () => {
  const START_MILLIS = 30_000;

  /** Memory files that it has open, of guests and of stores. */
  const filesOf = (daemon: ManyDaemon): string[] => {
    const folder = `/proc/${daemon.child.pid}/fd`;
    const targets = readdirSync(folder).map((fd) => {
      try {
        return readlinkSync(`${folder}/${fd}`);
      } catch {
        return '';
      }
    });
    return targets.filter((target) => /memfd:(guest-ram|ramzswap-)/.test(target)).sort();
  };

  it(
    'has nothing of a guest that has left, and of a disk that was reset',
    async () => {
      const daemon = await ManyDaemon.start(['--disksize', '64M']);
      cleanUps.push(() => daemon.stop());
      expect((await daemon.rzscontrol('ramzswap0', '--init')).exitCode).toBe(0);
      const without = filesOf(daemon);
      expect(without).toHaveLength(2);
      const guest = daemon.attach('ramzswap0');
      guest.driver.submit(write(1, new Uint8Array(4096).fill(7)));
      guest.driver.flush();
      guest.completeAll();
      expect(filesOf(daemon).filter((file) => /guest-ram/.test(file))).toHaveLength(1);
      guest.close();
      await until(() => filesOf(daemon).length === without.length, 'its memory', 5000);
      const { exitCode, stderr } = await daemon.rzscontrol('ramzswap0', '--reset');
      expect([exitCode, stderr]).toEqual([0, '']);
      expect(filesOf(daemon)).toEqual([]);
    },
    START_MILLIS,
  );
});
