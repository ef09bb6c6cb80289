/** The README's commands for one's own guest, run word for word. */

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterEach, describe, expect, it } from 'vitest';
import { ControlClient } from '../../src/control/client.ts';
import type { DeviceStatus } from '../../src/control/protocol.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CONTROL = '/tmp/ramzswap0.sock.control';
const WAIT_MILLIS = 15_000;

function readme(): string {
  return readFileSync(join(ROOT, 'README.md'), 'utf8');
}

/** The README's shell block that contains `text`. */
function commandWith(text: string): string {
  const blocks = [...readme().matchAll(/^```sh\n(.*?)^```/gms)].map((match) => match[1]!);
  const found = blocks.filter((block) => block.includes(text));
  expect(found).toHaveLength(1);
  return found[0]!;
}

async function until<T>(look: () => Promise<T | undefined> | T | undefined): Promise<T> {
  const deadline = Date.now() + WAIT_MILLIS;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (Date.now() > deadline) throw new Error('waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function device(): Promise<DeviceStatus> {
  const client = await ControlClient.connect(CONTROL);
  try {
    return (await client.call<DeviceStatus[]>('devices'))[0]!;
  } finally {
    client.close();
  }
}

describe('the README', () => {
  const cleanUp: (() => Promise<void> | void)[] = [];
  afterEach(async () => {
    for (const undo of cleanUp.splice(0).reverse()) await undo();
  });

  /** Runs a command of the README; `exec` makes the shell the program itself, ended by its pid. */
  function run(command: string, cwd: string) {
    const child = execa('sh', ['-c', `exec ${command}`], { cwd, reject: false, all: true });
    cleanUp.push(async () => {
      child.kill('SIGTERM');
      await child;
    });
    return child;
  }

  it("attaches Debian's QEMU with the exact commands that it gives", async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ramzswap-readme-'));
    cleanUp.push(() => rmSync(folder, { recursive: true, force: true }));
    await execa('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, 'guest.qcow2'), '64M']);
    run(commandWith('--disksize 1G\n'), ROOT);
    await until(() => existsSync('/tmp/ramzswap0.sock') || undefined);
    const qemu = run(commandWith('qemu-system-x86_64'), folder);
    const status = await until(async () => {
      if (qemu.exitCode !== null) throw new Error(`QEMU ended: ${(await qemu).all}`);
      const now = await device();
      return now.connected ? now : undefined;
    });
    expect(status.device).toBe('ramzswap0');
    expect(status.statistics!.disksize).toBe(2 ** 30);
    // Still there when the firmware has looked at its disks.
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    expect(qemu.exitCode).toBeNull();
    expect((await device()).connected).toBe(true);
  });

  it('makes a backing swap with the exact commands that it gives, but for the folder', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ramzswap-readme-'));
    cleanUp.push(() => rmSync(folder, { recursive: true, force: true }));
    const commands = commandWith('--backing-swap').replaceAll('/var/lib', folder);
    const [make, start] = commands.trim().split('\n') as [string, string];
    const env = { PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
    await execa('sh', ['-c', make], { env });
    run(start, ROOT);
    await until(() => existsSync('/tmp/ramzswap0.sock') || undefined);
    const { statistics } = await device();
    expect(statistics).toMatchObject({ disksize: 2 ** 32, memlimit: 2 ** 29 });
    const [, change] = /^\$ (node .*--memlimit_kb=\d+)$/m.exec(readme()) ?? [];
    await execa('sh', ['-c', change!], { cwd: ROOT });
    expect((await device()).statistics!.memlimit).toBe(2 ** 28);
  });
});
