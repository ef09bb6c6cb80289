/**
 * A guest that is migrated live in the middle of swapping, to a file, and goes on from there in
 * another QEMU with the same disk. What we had written to its memory and not logged would be missing.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { GuestDaemon } from '../../guest/daemon.ts';
import { findMarker, type GuestOptions, runGuest } from '../../guest/qemu.ts';
import type { Qmp } from '../../guest/qmp.ts';
import { sleep } from '../driver/daemon.ts';
import { checkNothingFailed } from './checks.ts';
import { DISK_512M } from './scenario.ts';

const TIMEOUT_MILLIS = 240_000;
/** How long the guest swaps before it is migrated. */
const STORM_MILLIS = 1_000;
/** More than it has left of its memory, in a round that goes on through the migration and after it. */
const WORKLOAD = 'fillverify 104 1 1';
/** Two seconds of copying while the guest swaps; half of its memory may be left for the end. */
const LEISURELY = { 'max-bandwidth': 2 ** 26, 'downtime-limit': 1_000 };
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Migration {
  readonly status: string;
  readonly ram?: { readonly 'dirty-sync-count': number };
  readonly 'error-desc'?: string;
}

/** Migrates the running guest; how QEMU said it ended. It waits no longer than its test may. */
async function migrate(monitor: Qmp, file: string): Promise<Migration> {
  await monitor.execute('migrate-set-parameters', LEISURELY);
  await monitor.execute('migrate', { uri: `exec:cat > ${file}` });
  for (;;) {
    const migration = (await monitor.execute('query-migrate')) as Migration;
    if (['completed', 'failed', 'cancelled'].includes(migration.status)) return migration;
    await sleep(100);
  }
}

it(
  'a guest migrated while it swaps goes on elsewhere, and every byte is right',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ramzswap-migration-'));
    cleanUps.push(() => rmSync(folder, { recursive: true }));
    const file = join(folder, 'guest');
    // The other QEMU is another process, and the pages are its guest's.
    const daemon = await GuestDaemon.start(...DISK_512M, '--on-new-guest', 'keep');
    cleanUps.push(() => daemon.stop());
    const guest: GuestOptions = {
      memoryMiB: 128,
      disks: [{ socketPath: daemon.socketPath }],
      timeoutMs: TIMEOUT_MILLIS,
    };

    const leaving = new AbortController();
    let migration: Migration | undefined;
    const source = await runGuest({
      ...guest,
      commands: [WORKLOAD],
      signal: leaving.signal,
      onMarker: async ({ name, words }, running) => {
        if (name !== 'fillverify' || words[0] !== 'filled') return;
        await sleep(STORM_MILLIS);
        const monitor = await running.monitor();
        migration = await migrate(monitor, file);
        // Not to be reset by a QEMU that is killed.
        monitor.close();
        leaving.abort();
      },
    });
    expect(migration, source.console.join('\n')).toMatchObject({ status: 'completed' });
    expect(migration!.ram!['dirty-sync-count'], 'memory was copied while it ran').toBeGreaterThan(
      1,
    );
    expect(findMarker(source, 'fillverify')!.words[0]).not.toBe('verified');
    while ((await daemon.status()).connected) await sleep(20);
    const atMigration = await daemon.statistics();

    const target = await runGuest({ ...guest, extraArgs: ['-incoming', `exec:cat ${file}`] });
    const seen = target.console.join('\n');
    const said = target.markers.filter(({ name }) => name === 'fillverify');
    expect(said.at(-1)?.words[0], seen).toBe('verified');
    expect(findMarker(target, 'cmd')?.values.exit, seen).toBe('0');
    expect(target.poweredOff, seen).toBe(true);
    const end = await daemon.statistics();
    checkNothingFailed([end]);
    expect(end.num_reads).toBeGreaterThan(atMigration.num_reads + 100);
    expect(daemon.log.filter((line) => /"level":(40|50|60)/.test(line))).toEqual([]);
  },
  2 * TIMEOUT_MILLIS,
);
