/**
 * What a further empty device costs in memory, in bytes: printed, for daemon-figures.ts. A process
 * of its own: the first device brings code and codec, only those after it are counted. Blocks of
 * its files are counted beside resident memory, whether or not they are mapped in by now.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { BlockDevice } from '../../src/device/block-device.ts';

const DEVICES = 32;
const DISK_BYTES = 64 * 2 ** 20;
const PAGE = 4096;
const FDS = '/proc/self/fd';

function residentBytes(): number {
  global.gc?.();
  const status = readFileSync('/proc/self/status', 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
}

/** Of all open files without a name: in here, those are the devices' memory files. */
function fileBytes(): number {
  const files = readdirSync(FDS).map((fd) => statSync(`${FDS}/${fd}`, { throwIfNoEntry: false }));
  const blocks = files.map((file) => (file?.isFile() && file.nlink === 0 ? file.blocks : 0));
  return blocks.reduce((sum, count) => sum + count, 0) * 512;
}

const nobody = {
  watchKick() {},
  unwatchKick() {},
  watchCompletions() {},
  unwatchCompletions() {},
};
function makeDevice(index: number): BlockDevice {
  const name = `ramzswap${index}`;
  const device = new BlockDevice({ name, numQueues: 64 }, nobody, { report() {} });
  device.init({ name, diskBytes: DISK_BYTES, guestPageBytes: PAGE });
  return device;
}

// Held to the end: a device that is collected costs nothing.
const devices = [makeDevice(0)];
const before = residentBytes() + fileBytes();
for (let index = 1; index <= DEVICES; index++) devices.push(makeDevice(index));
const after = residentBytes() + fileBytes();
console.log((after - before) / (devices.length - 1));
