/**
 * What a QEMU command line lacks for a disk of ours: guest memory that another process can map, and
 * the disk itself. Command line in, command line out; qemu-run.ts runs it.
 *
 * The user's own options stay as they are and come first. What is added stands behind them: QEMU
 * merges several -machine options, and we add none that the user has set.
 */

import { UsageError } from '../base/errors.ts';
import { roundUp } from '../base/units.ts';
import {
  escapeValue,
  isOn,
  type QemuOption,
  readOptions,
  readProperties,
  readSize,
} from './qemu-options.ts';

/** How the disk is attached: a PCI function, or a register window of its own (virtio-mmio). */
export const TRANSPORTS = ['pci', 'mmio'] as const;
export type Transport = (typeof TRANSPORTS)[number];

export interface Disk {
  readonly socketPath: string;
  /** Default: what the machine has. */
  readonly transport?: Transport | undefined;
}

export interface QemuCommand {
  /** The program and its arguments. */
  readonly words: readonly string[];
  readonly guestRamBytes: number;
}

/** To QEMU: no ids that anybody else would choose. */
const MEMORY_ID = 'ramzswap-memory';
const CHARDEV_ID = 'ramzswap-socket';
const DEVICE_ID = 'ramzswap-disk';

/** QEMU's for most machines; with a memory back end, its size says. */
const DEFAULT_RAM_BYTES = 128 * 2 ** 20;
/** QEMU rounds the size of -m up to this. */
const RAM_STEP_BYTES = 8192;

const MACHINES_WITHOUT_PCI: ReadonlySet<string> = new Set([
  'microvm',
  'vexpress-a9',
  'vexpress-a15',
]);
/** Devices that plug more memory into the guest, which may lie in a request as any may. */
const MEMORY_DEVICES = /^(pc-dimm|virtio-mem)/;

type Properties = ReadonlyMap<string, string>;

/** An -object of the user's that holds memory. */
interface MemoryObject {
  readonly id: string;
  readonly kind: string;
  readonly properties: Properties;
}

/** Throws UsageError for a command line to which no disk can be added, saying why. */
export function withDisk(words: readonly string[], disk: Disk): QemuCommand {
  const options = readOptions(words.slice(1));
  checkForeground(options);
  const machine = merged(options, ['machine', 'M'], 'type');
  const memory = guestMemory(options, machine);
  return {
    words: [...words, ...memory.words, ...diskWords(disk, machine)],
    guestRamBytes: memory.bytes,
  };
}

function checkForeground(options: readonly QemuOption[]): void {
  if (options.some(({ name }) => name === 'daemonize')) {
    throw new UsageError('-daemonize: expected QEMU in the foreground: its disk ends with it');
  }
}

/** The properties of an option that may be given several times: the last of each counts. */
function merged(
  options: readonly QemuOption[],
  names: readonly string[],
  impliedKey: string,
): Properties {
  const values = options.filter(({ name }) => names.includes(name)).map(({ value }) => value);
  return new Map(values.flatMap((value) => [...readProperties(value, impliedKey)]));
}

function each(options: readonly QemuOption[], name: string, impliedKey: string): Properties[] {
  return options
    .filter((option) => option.name === name)
    .map(({ value }) => readProperties(value, impliedKey));
}

/** What must be added for the guest's memory, and how much that is. */
function guestMemory(
  options: readonly QemuOption[],
  machine: Properties,
): { words: readonly string[]; bytes: number } {
  const objects = memoryObjects(options);
  checkPlugged(options, objects);
  const named = namedMemory(options, machine, objects);
  const unused = named.length > 0 ? undefined : onlyUnused(options, objects);
  const ram = unused === undefined ? named : [unused];
  for (const object of ram) checkShared(object);

  const bytes = ramBytes(options, machine, ram);
  if (unused !== undefined) return { words: machineWords(unused.id), bytes };
  if (ram.length > 0) return { words: [], bytes };
  checkNoPath(options);
  const memfd = `memory-backend-memfd,id=${MEMORY_ID},size=${bytes},share=on`;
  return { words: ['-object', memfd, ...machineWords(MEMORY_ID)], bytes };
}

/** The user's memory that is the guest's RAM: the machine's, or that of all NUMA nodes. */
function namedMemory(
  options: readonly QemuOption[],
  machine: Properties,
  objects: readonly MemoryObject[],
): MemoryObject[] {
  const id = machine.get('memory-backend');
  return [
    ...(id === undefined ? [] : [find(objects, id, '-machine memory-backend')]),
    ...memoryIds(each(options, 'numa', 'type')).map((node) =>
      find(objects, node, '-numa node,memdev'),
    ),
  ];
}

/** More memory, that is plugged as a device. */
function checkPlugged(options: readonly QemuOption[], objects: readonly MemoryObject[]): void {
  const devices = each(options, 'device', 'driver');
  const plugged = devices.filter((device) => MEMORY_DEVICES.test(device.get('driver') ?? ''));
  for (const id of memoryIds(plugged)) checkShared(find(objects, id, '-device …,memdev'));
}

function memoryIds(users: readonly Properties[]): string[] {
  return users.flatMap((user) => user.get('memdev') ?? []);
}

function machineWords(id: string): string[] {
  return ['-machine', `memory-backend=${escapeValue(id)}`];
}

function memoryObjects(options: readonly QemuOption[]): MemoryObject[] {
  return each(options, 'object', 'qom-type')
    .map((properties) => ({
      id: properties.get('id') ?? '',
      kind: properties.get('qom-type') ?? '',
      properties,
    }))
    .filter(({ kind }) => kind.startsWith('memory-backend-'));
}

/** Of the user's memory objects the one that no device has: the guest's RAM, by intent. */
function onlyUnused(
  options: readonly QemuOption[],
  objects: readonly MemoryObject[],
): MemoryObject | undefined {
  const inUse = memoryIds(each(options, 'device', 'driver'));
  const unused = objects.filter(({ id }) => !inUse.includes(id));
  if (unused.length > 1) {
    const ids = unused.map(({ id }) => id).join(', ');
    throw new UsageError(
      `-object memory-backend-…: expected one for the guest's memory, or -machine ` +
        `memory-backend=ID to say which it is, got ${ids}`,
    );
  }
  return unused[0];
}

function find(objects: readonly MemoryObject[], id: string, where: string): MemoryObject {
  const found = objects.find((object) => object.id === id);
  if (found === undefined) {
    const ids = objects.map((object) => object.id).join(', ') || 'none';
    throw new UsageError(`${where}=${id}: expected an -object with that id, got ${ids}`);
  }
  return found;
}

/** A memfd is shared unless it says otherwise, a file if it says so; the others have no file. */
function checkShared({ id, kind, properties }: MemoryObject): void {
  const share = properties.get('share');
  const isMemfd = kind === 'memory-backend-memfd' || kind === 'memory-backend-shm';
  const isShared = share === undefined ? isMemfd : isOn(share);
  if (isShared && (isMemfd || kind === 'memory-backend-file')) return;
  const expected = 'memory-backend-memfd, or memory-backend-file with share=on';
  const got = `${kind} with share=${isShared ? 'on' : 'off'}`;
  throw new UsageError(
    `-object ${kind},id=${id}: expected memory that the disk's process can map (${expected}), ` +
      `got ${got}`,
  );
}

/** QEMU maps that file privately, and takes no memory back end beside it. */
function checkNoPath(options: readonly QemuOption[]): void {
  const path = options.find(({ name }) => name === 'mem-path')?.value;
  if (path === undefined) return;
  throw new UsageError(
    `-mem-path: expected shared memory, such as -object memory-backend-file,id=mem,size=1G,` +
      `mem-path=${path},share=on, got -mem-path ${path}, which is not shared`,
  );
}

function ramBytes(
  options: readonly QemuOption[],
  machine: Properties,
  ram: readonly MemoryObject[],
): number {
  const asked = merged(options, ['m'], 'size').get('size');
  if (asked !== undefined) return roundUp(readSize(asked, '-m', 'M'), RAM_STEP_BYTES);
  const size = machine.get('memory.size');
  if (size !== undefined)
    return roundUp(readSize(size, '-machine memory.size', 'B'), RAM_STEP_BYTES);
  if (ram.length === 0) return DEFAULT_RAM_BYTES;
  const sizes = ram.map(({ id, kind, properties }) =>
    readSize(properties.get('size') ?? '', `-object ${kind},id=${id}: size`, 'B'),
  );
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

function diskWords({ socketPath, transport }: Disk, machine: Properties): string[] {
  const model = {
    pci: 'vhost-user-blk-pci',
    mmio: 'vhost-user-blk',
  }[transport ?? transportOf(machine)];
  return [
    ...['-chardev', `socket,id=${CHARDEV_ID},path=${escapeValue(socketPath)}`],
    ...['-device', `${model},chardev=${CHARDEV_ID},id=${DEVICE_ID}`],
  ];
}

function transportOf(machine: Properties): Transport {
  const isPci = !MACHINES_WITHOUT_PCI.has(machine.get('type') ?? '') || isOn(machine.get('pcie'));
  return isPci ? 'pci' : 'mmio';
}
