/** A disk that cannot be made: nothing of it stays, and the device is as it was. */

import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { afterEach, expect, it } from 'vitest';
import { openBackingFile } from '../../src/backing/backing-file.ts';
import { SystemError } from '../../src/base/errors.ts';
import { backingOptions } from '../../src/device/backing.ts';
import { makeInflightArea } from '../../src/device/inflight-area.ts';
import { createMemoryFile } from '../../src/memory/memory-file.ts';
import { createEventFd } from '../../src/native/eventfd.ts';
import { closeFd } from '../../src/native/fd.ts';
import { libcFunction } from '../../src/native/libc.ts';
import { encodeInflight, VHOST_USER } from '../../src/vhost-user-ts/index.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_S_IOERR } from '../../src/virtio-blk/protocol.ts';
import { openFds } from '../driver/descriptors.ts';
import { LocalDevice } from '../driver/local-device.ts';
import { read } from '../driver/requests.ts';
import { makeSwapFile } from '../driver/swap-file.ts';

const F_ADD_SEALS = 1033;
const F_SEAL_FUTURE_WRITE = 16;
const fcntl = libcFunction('int fcntl(int fd, int cmd, long arg)');

const cleanUps: (() => unknown)[] = [];
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

const mappedFiles = (name: string) =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(name)).length;
const held = () => [mappedFiles('ramzswap-table'), mappedFiles('ramzswap-arena'), openFds()];

function uninitialised(): LocalDevice {
  const local = new LocalDevice({ isUninitialised: true });
  cleanUps.push(() => local.close());
  return local;
}

it('for want of a store: files that cannot be mapped', () => {
  const local = uninitialised();
  const files = { fd: createMemoryFile('ramzswap-table', 1 << 22), arenaFd: createEventFd() };
  cleanUps.push(() => {
    for (const fd of Object.values(files)) closeFd(fd);
  });
  const before = held();
  for (let i = 0; i < 3; i++) {
    expect(() => local.init({ files: { ...files, isKept: false } })).toThrow('mmap');
  }
  expect(held()).toEqual(before);
});

it("because the front end's in-flight area cannot be written; the guest goes on with errors", () => {
  const local = uninitialised();
  const { inflight, fd } = makeInflightArea(1, 16);
  cleanUps.push(() => closeFd(fd));
  local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
  local.frontEnd.order(VHOST_USER.SET_INFLIGHT_FD, encodeInflight(inflight), [fd]);
  local.frontEnd.setMemoryTable(local.ram);
  const driver = local.makeRing();
  local.frontEnd.startRing(0, driver.ring, { kick: local.eventFd(), call: local.eventFd() });
  local.frontEnd.setEnabled(0, true);
  expect(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)).toBe(0);
  const before = held();
  for (let i = 0; i < 3; i++) expect(() => local.init()).toThrow('in-flight area: write');
  expect(held()).toEqual(before);
  expect(local.device.isInitialised).toBe(false);
  driver.submit(read(0, 1));
  driver.ring.publish();
  local.serve();
  expect(driver.complete()).toMatchObject([{ status: VIRTIO_BLK_S_IOERR }]);
});

it('because the kernel has no watch left for the end of I/O', () => {
  const local = uninitialised();
  const swap = makeSwapFile(1 << 20);
  cleanUps.push(swap.remove);
  const file = openBackingFile(swap.path, 4096);
  cleanUps.push(() => closeFd(file.fd));
  const backing = backingOptions(file, { memlimitBytes: 1 << 19, io: 'auto', hasFaults: false });
  const diskBytes = file.map.pages * 4096;
  local.watchCompletions = () => {
    throw new SystemError('epoll_ctl', constants.errno.ENOSPC);
  };
  const heldNow = () => [...held(), mappedFiles('io_uring')];
  const before = heldNow();
  for (let i = 0; i < 3; i++) {
    expect(() => local.init({ backing, diskBytes })).toThrow('epoll_ctl: ENOSPC');
  }
  expect(heldNow()).toEqual(before);
  expect(local.device.isInitialised).toBe(false);
});
