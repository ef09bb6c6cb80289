/** ramzswap-run with a real QEMU: a command line that knows nothing of shared memory or our disk. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterEach, expect, it } from 'vitest';
import { buildInitramfs } from '../../guest/image.ts';
import { ControlClient } from '../../src/control/client.ts';
import type { DeviceStatus } from '../../src/control/protocol.ts';
import { checkNothingFailed } from './checks.ts';
import { GuestConsole } from './console.ts';

const RUN = fileURLToPath(new URL('../../dist/bin/ramzswap-run.js', import.meta.url));
const TIMEOUT_MILLIS = 200_000;
/** More than the guest has left of its memory. */
const WORKLOAD = 'fillverify 104 1 0';
/** Twice the guest's memory: more is warned of. */
const DISK_BYTES = 256 * 2 ** 20;
const KERNEL_WORDS = 'console=ttyS0 quiet panic=-1 rootfstype=ramfs';
/** It stays for a while when all is done, to be looked at. */
const ORDERS = 'rzs.swap=doctor rzs.talk=commands rzs.hold=3';
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function statusAt(controlPath: string): Promise<DeviceStatus> {
  const client = await ControlClient.connect(controlPath);
  try {
    return (await client.call<DeviceStatus[]>('devices'))[0]!;
  } finally {
    client.close();
  }
}

it('lets a guest do what needs more memory than it has, on a disk of its own', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ramzswap-run-test-'));
  cleanUps.push(() => rmSync(folder, { recursive: true }));
  const { kernel, initrd } = await buildInitramfs('amd64');
  const control = join(folder, 'control.sock');
  const size = String(DISK_BYTES);
  const daemonWords = ['--disksize', size, '--name', 'ramzswap3', '--control-path', control];
  const qemu = [
    ...['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-accel', 'tcg', '-cpu', 'max', '-M', 'q35,usb=off', '-m', '128', '-serial', 'stdio'],
    ...['-kernel', kernel, '-initrd', initrd, '-append', `${KERNEL_WORDS} ${ORDERS}`],
  ];
  const run = execa('node', [RUN, ...daemonWords, '--', ...qemu], {
    env: { XDG_RUNTIME_DIR: folder },
    stdin: 'pipe',
    reject: false,
    timeout: TIMEOUT_MILLIS,
  });
  cleanUps.push(() => run.kill());
  const guest = new GuestConsole(run.stdout, run.stdin, WORKLOAD);

  await guest.waitFor('fillverify', 'verified', TIMEOUT_MILLIS);
  const { connected, device, statistics } = await statusAt(control);
  expect({ connected, device }).toEqual({ connected: true, device: 'ramzswap3' });
  expect(statistics!.num_writes).toBeGreaterThan(1000);
  expect(statistics!.num_reads).toBeGreaterThan(1000);
  checkNothingFailed([statistics!]);

  const { exitCode, stderr } = await run;
  expect(exitCode, `${stderr}\n${guest.tail()}`).toBe(0);
  // Neither the daemon nor QEMU had anything to say.
  expect(stderr).toBe('');
  expect(guest.value('cmd', 'exit')).toBe(0);
  expect(guest.value('disk', 'sectors')).toBe(DISK_BYTES / 512);
});
