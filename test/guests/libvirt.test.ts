/**
 * A guest of libvirt's, from the domain that users copy: it swaps on our disk, its daemon is killed
 * in the middle and started again, and no byte is lost.
 */

import {
  chmodSync,
  constants,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { ReadStream } from 'node:tty';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { GuestDaemon } from '../../guest/daemon.ts';
import { buildInitramfs } from '../../guest/image.ts';
import { sleep } from '../driver/daemon.ts';
import { checkNothingFailed } from './checks.ts';
import { GuestConsole } from './console.ts';
import { Libvirt, QEMU_GROUP, whyNoLibvirt } from './libvirt.ts';

const DOMAIN = fileURLToPath(new URL('../../scripts/libvirt/domain.xml', import.meta.url));
const NAME = 'ramzswap-guest';
const TIMEOUT_MILLIS = 200_000;
/** More than the guest has left of its memory. */
const WORKLOAD = 'fillverify 104 1 0';
/** Into the last pass of the workload. */
const STORM_MILLIS = 500;

const whyNot = whyNoLibvirt();
if (whyNot !== undefined) console.warn(`libvirt.test.ts: SKIPPED: ${whyNot}`);

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** With a store that outlives it, and a socket where QEMU's user may connect. */
async function startDaemon(): Promise<GuestDaemon> {
  const store = mkdtempSync('/dev/shm/ramzswap-libvirt-');
  cleanUps.push(() => rmSync(store, { recursive: true }));
  const group = QEMU_GROUP === undefined ? [] : ['--socket-group', String(QEMU_GROUP)];
  const daemon = await GuestDaemon.start('--disksize', '256M', '--store-dir', store, ...group);
  cleanUps.push(() => daemon.stop());
  chmodSync(dirname(daemon.socketPath), 0o711);
  return daemon;
}

/** The example, with what the README says is to be filled in, and a guest that asks for commands. */
async function domain(libvirt: Libvirt, socketPath: string): Promise<string> {
  const image = await buildInitramfs('amd64');
  const copy = (path: string, name: string) => {
    const target = join(libvirt.folder, name);
    copyFileSync(path, target);
    chmodSync(target, 0o644);
    return target;
  };
  const xml = readFileSync(DOMAIN, 'utf8')
    .replace("'@SOCKET@'", `'${socketPath}'`)
    .replace('>@KERNEL@<', `>${copy(image.kernel, 'kernel')}<`)
    .replace('>@INITRD@<', `>${copy(image.initrd, 'initrd')}<`)
    // It stays up when all is done: ending it is virsh's.
    .replace('rzs.talk=shell', 'rzs.talk=commands rzs.hold=600');
  const path = join(libvirt.folder, 'domain.xml');
  writeFileSync(path, xml, { mode: 0o644 });
  return path;
}

/** Opened before the guest goes on: what is written to a terminal that nobody has open is lost. */
async function openConsole(libvirt: Libvirt): Promise<GuestConsole> {
  const path = await libvirt.virsh('ttyconsole', NAME);
  const terminal = new ReadStream(openSync(path, constants.O_RDWR | constants.O_NOCTTY));
  cleanUps.push(() => terminal.destroy());
  return new GuestConsole(terminal, terminal, WORKLOAD);
}

/** The guest swaps out and in, and its daemon is killed in between; the figures before that. */
async function playStorm(guest: GuestConsole, daemon: GuestDaemon) {
  await guest.waitFor('fillverify', 'filled', TIMEOUT_MILLIS);
  await sleep(STORM_MILLIS);
  const before = await daemon.statistics();
  await daemon.killAndRestart();
  await guest.waitFor('fillverify', 'verified', TIMEOUT_MILLIS);
  await guest.waitFor('swapoff', undefined, TIMEOUT_MILLIS);
  return before;
}

describe.skipIf(whyNot !== undefined)('libvirt', () => {
  it(
    'runs a guest on our disk, whose daemon may be killed and started again',
    async () => {
      const daemon = await startDaemon();
      const libvirt = await Libvirt.start();
      cleanUps.push(() => libvirt.stop());
      await libvirt.virsh('define', '--validate', await domain(libvirt, daemon.socketPath));
      await libvirt.virsh('start', '--paused', NAME);
      expect((await daemon.status()).connected).toBe(true);
      const guest = await openConsole(libvirt);
      await libvirt.virsh('resume', NAME);
      const before = await playStorm(guest, daemon);

      expect(guest.value('cmd', 'exit'), guest.tail()).toBe(0);
      expect(guest.find('disk')!.values).toMatchObject({ serial: 'ramzswap0', rotational: '0' });
      const { connected, statistics } = await daemon.status();
      expect(connected).toBe(true);
      checkNothingFailed([statistics!]);
      // Requests in flight when the daemon was killed are done again.
      expect(statistics!.num_writes).toBeGreaterThanOrEqual(guest.value('vmstat', 'pswpout'));
      expect(statistics!.num_reads).toBeGreaterThanOrEqual(guest.value('vmstat', 'pswpin'));
      expect(before.num_writes).toBeGreaterThan(1000);
      expect(statistics!.num_reads).toBeGreaterThan(before.num_reads + 1000);

      expect(await libvirt.virsh('domstate', NAME)).toBe('running');
      await libvirt.virsh('destroy', NAME);
      while ((await daemon.status()).connected) await sleep(20);
      await libvirt.virsh('undefine', NAME);
      expect(await libvirt.virsh('list', '--all', '--name')).toBe('');
      expect(daemon.log.filter((line) => /"level":(50|60)/.test(line))).toEqual([]);
      const found = daemon.log.filter((line) => line.includes('left by a process that was killed'));
      expect(found).toHaveLength(1);
    },
    2 * TIMEOUT_MILLIS,
  );
});
