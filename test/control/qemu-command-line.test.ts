/** Which words are added to a QEMU command line for a disk, and to which none can be. */

import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/base/errors.ts';
import { type Transport, withDisk } from '../../src/control/qemu-command-line.ts';

const MIB = 2 ** 20;
const QEMU = 'qemu-system-x86_64';
const SOCKET = '/run/x/vhost.sock';

const DISK = [
  ...['-chardev', `socket,id=ramzswap-socket,path=${SOCKET}`],
  ...['-device', 'vhost-user-blk-pci,chardev=ramzswap-socket,id=ramzswap-disk'],
];
const memory = (bytes: number) => [
  ...['-object', `memory-backend-memfd,id=ramzswap-memory,size=${bytes},share=on`],
  ...['-machine', 'memory-backend=ramzswap-memory'],
];

const words = (line: string) => line.split(' ').filter((word) => word !== '');

/** What is added to a command line, and the RAM that is found. */
function added(line: string, transport?: Transport): { words: readonly string[]; ram: number } {
  const given = [QEMU, ...words(line)];
  const { words: all, guestRamBytes } = withDisk(given, { socketPath: SOCKET, transport });
  // The user's own options as they were, and first.
  expect(all.slice(0, given.length)).toEqual(given);
  return { words: all.slice(given.length), ram: guestRamBytes };
}

function refusal(line: string): string {
  try {
    added(line);
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    return (error as Error).message;
  }
  throw new Error(`not refused: ${line}`);
}

describe('a command line without memory of its own', () => {
  it.each([
    ['', 128],
    ['-m 512', 512],
    ['-m 512M', 512],
    ['--m 2G', 2048],
    ['-m size=1G,slots=2,maxmem=4G', 1024],
    ['-m 1G,slots=2,maxmem=4G', 1024],
    ['-m 256 -m 512', 512],
    ['-m size=256,slots=2 -m maxmem=4G', 256],
    ['-m slots=2,maxmem=4G', 128],
    ['-M q35,memory.size=256M', 256],
    ['-M q35,memory.size=256M -m 512', 512],
    ['-append -m -m 64', 64],
  ])('gets shared memory of the size of -m: %s', (line, mib) => {
    expect(added(line)).toEqual({ words: [...memory(mib * MIB), ...DISK], ram: mib * MIB });
  });

  it('gets what QEMU rounds a size up to: the two must be equal', () => {
    expect(added(`-m ${128 * MIB + 1}B`).ram).toBe(128 * MIB + 8192);
  });

  it('keeps the machine, under either name and in however many pieces', () => {
    const line = '-machine q35,usb=off -M hpet=off -m 64';
    expect(added(line).words).toEqual([...memory(64 * MIB), ...DISK]);
  });

  it('may have objects that are no memory', () => {
    const line = '-object rng-random,id=r -object iothread,id=t -m 64';
    expect(added(line).words).toEqual([...memory(64 * MIB), ...DISK]);
  });

  it('may have memory that is a device of its own, shared or not', () => {
    const line =
      '-m 64,slots=1,maxmem=1G -object memory-backend-file,id=nv,size=64M,mem-path=/x ' +
      '-device nvdimm,memdev=nv';
    expect(added(line)).toEqual({ words: [...memory(64 * MIB), ...DISK], ram: 64 * MIB });
  });

  it('is refused a size that cannot be read', () => {
    expect(refusal('-m lots')).toBe("-m: expected a size such as 512M or 2G, got 'lots'");
    expect(refusal('-M memory.size=lots')).toMatch(/^-machine memory\.size: expected a size/);
  });

  it('is refused a path for its memory, which QEMU does not share', () => {
    expect(refusal('-m 64 -mem-path /dev/hugepages')).toMatch(
      /^-mem-path: expected shared .*mem-path=\/dev\/hugepages,share=on, got -mem-path \/dev\/huge/,
    );
  });
});

describe('memory of the user', () => {
  const MEMFD = '-object memory-backend-memfd,id=m,size=256M';
  it.each([
    ['of the machine', `-M q35,memory-backend=m ${MEMFD} -m 256`],
    ['that says that it is shared', `-M memory-backend=m ${MEMFD},share=on`],
    ['named before it is there', `${MEMFD},share=yes -M q35 -M memory-backend=m`],
    [
      'in a file',
      '-M memory-backend=m -object memory-backend-file,id=m,size=256M,mem-path=/dev/shm/x,share=on',
    ],
    [
      'as JSON',
      `-M memory-backend=m -object {"qom-type":"memory-backend-memfd","id":"m","size":268435456}`,
    ],
    [
      'of NUMA nodes',
      '-object memory-backend-memfd,id=a,size=128M -object memory-backend-memfd,id=b,size=128M ' +
        '-numa node,memdev=a -numa node,memdev=b -numa dist,src=0,dst=1,val=20 -m 256',
    ],
  ])('is used: %s', (_, line) => {
    expect(added(line)).toEqual({ words: DISK, ram: 256 * MIB });
  });

  it('that nothing refers to is made the machine’s', () => {
    expect(added(`${MEMFD} -m 256`)).toEqual({
      words: ['-machine', 'memory-backend=m', ...DISK],
      ram: 256 * MIB,
    });
    expect(added('-object memory-backend-memfd,id=a,,b,size=64M').words).toEqual([
      '-machine',
      'memory-backend=a,,b',
      ...DISK,
    ]);
  });

  it('without -m says how much RAM there is: all nodes together', () => {
    const node = (id: string) => `-object memory-backend-memfd,id=${id},size=64M`;
    const line = `${node('a')} ${node('b')} -numa node,memdev=a -numa node,memdev=b`;
    expect(added(line).ram).toBe(128 * MIB);
  });

  it.each([
    ['a memfd that is private', 'memory-backend-memfd', ',share=off', 'off'],
    ['a file that does not say', 'memory-backend-file', ',mem-path=/x', 'off'],
    ['a file that is private', 'memory-backend-file', ',mem-path=/x,share=no', 'off'],
    ['memory without a file', 'memory-backend-ram', '', 'off'],
    ['memory without a file, shared', 'memory-backend-ram', ',share=on', 'on'],
  ])('is refused: %s', (_, kind, rest, share) => {
    const object = `-object ${kind},id=m,size=64M${rest}`;
    const expected = new RegExp(
      `^-object ${kind},id=m: expected memory that .*share=on.*, got ${kind} with share=${share}$`,
    );
    expect(refusal(`-M memory-backend=m ${object} -m 64`)).toMatch(expected);
    expect(refusal(`-numa node,memdev=m ${object} -m 64`)).toMatch(expected);
    expect(refusal(`${object} -m 64`)).toMatch(expected);
  });

  it('that is plugged beside the machine’s must be shared too', () => {
    const dimm = (share: string) =>
      `-m 64,slots=1,maxmem=1G -object memory-backend-ram,id=d,size=64M ` +
      `-object memory-backend-memfd,id=e,size=64M,share=${share} ` +
      `-device virtio-balloon-pci -device pc-dimm,memdev=e -device nvdimm,memdev=d`;
    expect(added(dimm('on')).ram).toBe(64 * MIB);
    expect(refusal(dimm('off'))).toMatch(/^-object memory-backend-memfd,id=e: expected memory/);
    const json = '-device {"driver":"virtio-mem-pci","memdev":"e"}';
    expect(refusal(`${json} -object memory-backend-ram,id=e,size=64M`)).toMatch(/id=e: expected/);
  });

  it('that is not there is refused, with what there is', () => {
    expect(refusal('-M memory-backend=m')).toBe(
      '-machine memory-backend=m: expected an -object with that id, got none',
    );
    expect(refusal(`-numa node,memdev=x ${MEMFD}`)).toBe(
      '-numa node,memdev=x: expected an -object with that id, got m',
    );
  });

  it('of which any could be meant is refused', () => {
    const two = `${MEMFD} -object memory-backend-memfd,id=n,size=256M`;
    expect(refusal(two)).toMatch(/memory-backend=ID to say which it is, got m, n$/);
  });

  it('without a size is refused where the size is needed', () => {
    const object = '-object memory-backend-memfd,id=m -M memory-backend=m';
    expect(refusal(object)).toMatch(/^-object memory-backend-memfd,id=m: size: expected a size/);
    expect(added(`${object} -m 64`).ram).toBe(64 * MIB);
  });
});

describe('the disk', () => {
  it.each([
    ['-M q35', 'pci'],
    ['-M virt,highmem=off', 'pci'],
    ['-M microvm', 'mmio'],
    ['-machine type=microvm', 'mmio'],
    ['-M microvm,pcie=on', 'pci'],
    ['-M microvm -M pcie=on', 'pci'],
    ['-M vexpress-a9', 'mmio'],
    ['-M microvm -M q35', 'pci'],
  ])('is on what the machine has: %s, %s', (line, transport) => {
    const model = transport === 'pci' ? 'vhost-user-blk-pci' : 'vhost-user-blk';
    expect(added(line).words.at(-1)).toBe(`${model},chardev=ramzswap-socket,id=ramzswap-disk`);
  });

  it('is on what the user says', () => {
    expect(added('-M virt', 'mmio').words.at(-1)).toMatch(/^vhost-user-blk,/);
    expect(added('-M microvm', 'pci').words.at(-1)).toMatch(/^vhost-user-blk-pci,/);
  });

  it('has its path escaped', () => {
    const { words: all } = withDisk([QEMU], { socketPath: '/run/a,b' });
    expect(all).toContain('socket,id=ramzswap-socket,path=/run/a,,b');
  });

  it('is for a QEMU that stays', () => {
    expect(refusal('-daemonize')).toMatch(/^-daemonize: expected QEMU in the foreground/);
    expect(() => added('-append -daemonize')).not.toThrow();
  });
});
