/**
 * The ancestor's sequence with a real guest: four devices, one initialised with defaults while the guest
 * runs already, swapped on, its statistics, swapped off, reset; and what is refused in between.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { findMarker, runGuest } from '../../guest/qemu.ts';
import { ManyDaemon } from '../driver/many-daemon.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const COMMAND = [
  'echo "RZS: disk sectors=$(cat /sys/block/vda/size)"',
  'until [ $(cat /sys/block/vda/size) -gt 0 ]; do usleep 100000; done',
  'echo "RZS: grown sectors=$(cat /sys/block/vda/size)"',
  'echo 0 > /sys/block/vda/queue/rotational',
  '/bin/swapon -d /dev/vda && fillverify 160 1 0 && swapoff /dev/vda && echo "RZS: off"',
].join('; ');

describe('four devices, of which a guest has one', () => {
  it('are made, one gets its disk under a running guest, is used, and reset when it has ended', async () => {
    const daemon = await ManyDaemon.start(['--num-devices', '4']);
    cleanUps.push(() => daemon.stop());
    const said: string[] = [];
    const refused = async (...args: string[]) => {
      const { exitCode, stderr } = await daemon.rzscontrol(...args);
      said.push(`${exitCode} ${stderr}`);
    };
    const result = await runGuest({
      memoryMiB: 128,
      timeoutMs: 180_000,
      disks: [{ socketPath: daemon.socketPath('ramzswap0') }],
      orders: { swap: 'none', after: 'nothing' },
      commands: [COMMAND],
      onMarker: async ({ name, words }) => {
        if (name === 'disk') {
          await refused('ramzswap0', '--stats');
          expect((await daemon.rzscontrol('ramzswap0', '--init')).stderr).toBe('');
          await refused('ramzswap0', '--init');
        }
        if (name !== 'fillverify' || words[0] !== 'filled') return;
        const { stdout } = await daemon.rzscontrol('ramzswap0', '--stats');
        expect(Number(/^PagesStored: (\d+)$/m.exec(stdout)?.[1])).toBeGreaterThan(5_000);
        await refused('ramzswap0', '--reset');
        await refused('ramzswap1', '--stats');
      },
    });
    expect(result.poweredOff).toBe(true);
    expect(findMarker(result, 'disk')?.values.sectors).toBe('0');
    expect(Number(findMarker(result, 'grown')?.values.sectors)).toBeGreaterThan(0);
    expect(findMarker(result, 'off')).toBeDefined();
    expect((await daemon.rzscontrol('ramzswap0', '--reset')).exitCode).toBe(0);
    await refused('ramzswap0', '--stats');
    expect(said).toEqual([
      '1 rzscontrol: ramzswap0: not initialised',
      '1 rzscontrol: ramzswap0: already initialised',
      '1 rzscontrol: ramzswap0: in use: a front end has its queues running',
      '1 rzscontrol: ramzswap1: not initialised',
      '1 rzscontrol: ramzswap0: not initialised',
    ]);
  });
});
