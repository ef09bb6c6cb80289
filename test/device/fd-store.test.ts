/**
 * What a device's store says to the service manager, and gives it. That the next process has it again
 * is in keeping.test.ts.
 */

import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { FdStore } from '../../src/device/fd-store.ts';
import { ServiceManager } from '../../src/device/service-manager.ts';
import { openAgain } from '../../src/memory/kept-file.ts';
import { closeFd } from '../../src/native/fd.ts';
import { lockFile } from '../../src/native/file-extents.ts';
import { makeFolder } from '../driver/sockets.ts';
import { countOpenFds, identityOf } from '../models/descriptors.ts';
import { DatagramPlace } from '../native/datagram-place.ts';

const IDENTITY = { name: 'disk', slots: 1024, backing: undefined };
const cleanUps: (() => unknown)[] = [];
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
});

function setUp() {
  const folder = makeFolder();
  const place = new DatagramPlace(join(folder.path, 'notify'));
  cleanUps.push(folder.remove, () => place.close());
  const manager = new ServiceManager({ NOTIFY_SOCKET: place.path });
  const warnings: string[] = [];
  return { place, warnings, store: new FdStore(manager, 'disk', (text) => warnings.push(text)) };
}

/** Whether nobody has the file locked. */
function isUnlocked(fd: number): boolean {
  const own = openAgain(fd);
  const isOurs = lockFile(own);
  closeFd(own);
  return isOurs;
}

it('gives the arena first, then the table, and keeps what it has itself', () => {
  const before = countOpenFds();
  const { place, store, warnings } = setUp();
  const files = store.open(IDENTITY);
  expect(files).toMatchObject({ isKept: false, isInFdStore: true });
  expect(place.receive()).toBeUndefined();
  store.keep(files);
  const [arena, table] = [place.receive()!, place.receive()!];
  expect([arena.text, table.text]).toEqual([
    'FDSTORE=1\nFDPOLL=0\nFDNAME=disk.arena',
    'FDSTORE=1\nFDPOLL=0\nFDNAME=disk.table',
  ]);
  const given = [arena.fds[0]!, table.fds[0]!];
  expect(given.map(identityOf)).toEqual([files.arenaFd, files.fd].map(identityOf));
  [...given, files.fd, files.arenaFd].forEach(closeFd);
  expect(warnings).toEqual([]);
  for (const cleanUp of cleanUps.splice(0).reverse()) cleanUp();
  expect(countOpenFds()).toBe(before);
});

it('has a lock that ends with this process, whoever else has the files', () => {
  const { place, store } = setUp();
  const files = store.open(IDENTITY);
  expect(isUnlocked(files.fd)).toBe(false);
  store.keep(files);
  const given = [place.receive()!, place.receive()!].flatMap(({ fds }) => fds);
  expect(isUnlocked(given[1]!)).toBe(false);
  closeFd(files.fd);
  expect(isUnlocked(given[1]!)).toBe(true);
  [...given, files.arenaFd].forEach(closeFd);
});

it('asks for both to be closed', () => {
  const { place, store } = setUp();
  store.remove();
  expect([place.receive()!.text, place.receive()!.text, place.receive()]).toEqual([
    'FDSTOREREMOVE=1\nFDNAME=disk.table',
    'FDSTOREREMOVE=1\nFDNAME=disk.arena',
    undefined,
  ]);
});

it('is refused where the manager would drop what it is given: two for each device', () => {
  const folder = makeFolder();
  const place = new DatagramPlace(join(folder.path, 'notify'));
  cleanUps.push(folder.remove, () => place.close());
  const manager = new ServiceManager({ NOTIFY_SOCKET: place.path, FDSTORE: '3' });
  const [first, second] = ['one', 'two'].map((name) => new FdStore(manager, name, () => {}));
  const files = first!.open(IDENTITY);
  first!.keep(files);
  expect(() => second!.open({ ...IDENTITY, name: 'two' })).toThrow(
    '--fdstore: expected FileDescriptorStoreMax=4 at least, got 3',
  );
  first!.remove();
  const next = second!.open({ ...IDENTITY, name: 'two' });
  const given = [place.receive()!, place.receive()!].flatMap(({ fds }) => fds);
  [files, next].flatMap(({ fd, arenaFd }) => [fd, arenaFd]).forEach(closeFd);
  given.forEach(closeFd);
});
