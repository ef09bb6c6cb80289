/**
 * QEMU's command line as QEMU reads it: which words are options, the properties in an option's
 * value, sizes. Reads only; qemu-command-line.ts decides what a disk adds. What cannot be read is
 * left for QEMU to complain about, unless a figure in it is needed here.
 */

import { UsageError } from '../base/errors.ts';

export interface QemuOption {
  /** Without its dashes. */
  readonly name: string;
  readonly value: string;
}

/**
 * Options that take no value: all others do, and their value may look like an option
 * (`-append -m`). Of QEMU 7.2 by trying each, and what later releases have added.
 */
const WITHOUT_VALUE: ReadonlySet<string> = new Set([
  ...['S', 'async-teardown', 'audio-help', 'daemonize', 'enable-kvm', 'enable-sync-profile'],
  ...['full-screen', 'h', 'help', 'jitdump', 'mem-prealloc', 'no-acpi', 'no-fd-bootchk', 'no-hpet'],
  ...['no-reboot', 'no-shutdown', 'no-user-config', 'nodefaults', 'nographic', 'old-param'],
  ...['one-insn-per-tb', 'only-migratable', 'perfmap', 'portrait', 'preconfig', 's', 'semihosting'],
  ...['singlestep', 'snapshot', 'usb', 'version', 'win2k-hack', 'xen-attach'],
  'xen-domid-restrict',
]);

/** The options among `words`, in their order; disk images that stand alone are left out. */
export function readOptions(words: readonly string[]): QemuOption[] {
  const options: QemuOption[] = [];
  for (let i = 0; i < words.length; i++) {
    // With one dash or two, as QEMU takes it.
    const name = /^--?(.+)$/.exec(words[i]!)?.[1];
    if (name === undefined) continue;
    const hasValue = !WITHOUT_VALUE.has(name);
    options.push({ name, value: (hasValue && words[i + 1]) || '' });
    if (hasValue) i++;
  }
  return options;
}

/**
 * The properties of an option's value: `pc,usb=off` with the implied key `type` is type=pc, usb=off.
 * A comma in a value is written twice. Some options take JSON as well.
 */
export function readProperties(value: string, impliedKey: string): Map<string, string> {
  if (value.startsWith('{')) return readJson(value);
  const properties = new Map<string, string>();
  for (const [index, part] of (value.match(/(?:[^,]|,,)+/g) ?? []).entries()) {
    const [, key, text] = /^([^=]*)=(.*)$/s.exec(part) ?? [];
    if (key !== undefined) properties.set(key, text!.replaceAll(',,', ','));
    else if (index === 0) properties.set(impliedKey, part.replaceAll(',,', ','));
    else properties.set(part, 'on');
  }
  return properties;
}

function readJson(value: string): Map<string, string> {
  let object: unknown;
  try {
    object = JSON.parse(value);
  } catch {
    return new Map();
  }
  return new Map(
    Object.entries(object as object).map(([key, member]) => [
      key,
      typeof member === 'boolean' ? (member ? 'on' : 'off') : String(member),
    ]),
  );
}

/** Whether a property says yes, in any of the words that QEMU knows for it. */
export function isOn(text: string | undefined): boolean {
  return text !== undefined && ['on', 'yes', 'true', 'y'].includes(text);
}

/** As it stands in a list of properties. */
export function escapeValue(text: string): string {
  return text.replaceAll(',', ',,');
}

const SUFFIXES = 'BKMGTPE';

/** A size as QEMU writes it, `512M`, `1.5G`, `0x200`, in bytes; `unit` is meant when none is given. */
export function readSize(text: string, where: string, unit: 'B' | 'M'): number {
  const [, number, suffix] = /^(\d+(?:\.\d+)?|0x[\da-f]+)([BKMGTPE]?)$/i.exec(text) ?? [];
  const power = SUFFIXES.indexOf((suffix || unit).toUpperCase());
  const bytes = Math.floor(Number(number) * 1024 ** power);
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new UsageError(`${where}: expected a size such as 512M or 2G, got '${text}'`);
  }
  return bytes;
}
