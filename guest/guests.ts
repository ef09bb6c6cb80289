/**
 * The table of guests: which kernel of which Debian release each one boots, and on what machine.
 * A new guest is a row here. Read by image.ts (what goes in), qemu.ts (what it runs on),
 * scripts/fetch.ts (where it comes from) and the tests (all of them).
 */

import type { ToolName } from '../scripts/setup.ts';

/** How the disk is attached: a PCI function, or a register window of its own (virtio-mmio). */
export type Transport = 'pci' | 'mmio';

/** What is the same for all guests of one of Debian's architectures. */
interface Hardware {
  readonly qemu: ToolName;
  readonly machine: string;
  readonly cpu: string;
  /** The kernel's name of the first serial port. */
  readonly console: string;
  readonly compiler: ToolName;
  /** COMMAND_LINE_SIZE less the NUL: the kernel cuts the rest off silently. */
  readonly commandLineBytesMax: number;
  readonly transports: readonly Transport[];
}

const HARDWARE = {
  amd64: {
    qemu: 'qemu-system-x86_64',
    machine: 'q35',
    cpu: 'max',
    console: 'ttyS0',
    compiler: 'x86_64-linux-gnu-gcc',
    commandLineBytesMax: 2047,
    transports: ['pci'],
  },
  i386: {
    qemu: 'qemu-system-i386',
    machine: 'q35',
    cpu: 'max',
    console: 'ttyS0',
    compiler: 'i686-linux-gnu-gcc',
    commandLineBytesMax: 2047,
    transports: ['pci'],
  },
  armhf: {
    qemu: 'qemu-system-arm',
    // With highmem the PCI windows lie above 4 GiB, where a kernel without LPAE cannot reach.
    machine: 'virt,highmem=off',
    // An ARMv7 with the instructions of the BeagleBoard's Cortex-A8, which this machine refuses.
    cpu: 'cortex-a7',
    console: 'ttyAMA0',
    compiler: 'arm-linux-gnueabihf-gcc',
    commandLineBytesMax: 1023,
    transports: ['pci', 'mmio'],
  },
  arm64: {
    qemu: 'qemu-system-aarch64',
    machine: 'virt',
    // The oldest of QEMU's that knows pages of 16 KiB too.
    cpu: 'cortex-a76',
    console: 'ttyAMA0',
    compiler: 'aarch64-linux-gnu-gcc',
    commandLineBytesMax: 2047,
    transports: ['pci', 'mmio'],
  },
} as const satisfies Record<string, Hardware>;

/** Debian's name of an architecture. */
export type Architecture = keyof typeof HARDWARE;

export interface Guest extends Hardware {
  readonly architecture: Architecture;
  /** Debian's release that kernel and busybox come from, whatever the host runs. */
  readonly suite: string;
  /** The metapackage: kernels themselves disappear from the archive when the next one comes. */
  readonly kernelPackage: string;
  readonly pageBytes: number;
}

function guest(
  architecture: Architecture,
  suite: string,
  kernelPackage: string,
  pageBytes = 4096,
): Guest {
  return { ...HARDWARE[architecture], architecture, suite, kernelPackage, pageBytes };
}

export const GUESTS = {
  amd64: guest('amd64', 'bookworm', 'linux-image-cloud-amd64'),
  'amd64-trixie': guest('amd64', 'trixie', 'linux-image-cloud-amd64'),
  'amd64-forky': guest('amd64', 'forky', 'linux-image-cloud-amd64'),
  i386: guest('i386', 'bookworm', 'linux-image-686'),
  armhf: guest('armhf', 'bookworm', 'linux-image-armmp'),
  arm64: guest('arm64', 'bookworm', 'linux-image-arm64'),
  'arm64-16k': guest('arm64', 'trixie', 'linux-image-arm64-16k', 16384),
} as const satisfies Record<string, Guest>;

export type GuestName = keyof typeof GUESTS;

export const GUEST_NAMES = Object.keys(GUESTS) as GuestName[];

/** The one that every host can run and that boots fastest. */
export const DEFAULT_GUEST: GuestName = 'amd64';

export function isGuestName(text: string): text is GuestName {
  return Object.hasOwn(GUESTS, text);
}
