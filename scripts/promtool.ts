/**
 * Prometheus' promtool, the judge of our alert rules and of the names of metrics. Where the host has
 * none, Debian's package is fetched and unpacked like a guest's, not installed: it would start a
 * server. `tsx scripts/promtool.ts` fetches it ahead of the tests, which use no network.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { arch, argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { GUESTS } from '../guest/guests.ts';
import { CACHE_DIR, fetchPackages } from './fetch.ts';
import { findProgram } from './setup.ts';

const PACKAGE = 'prometheus';
const PROGRAM = 'usr/bin/promtool';
/** Of Node's names of architectures: a guest whose packages run on this host. */
const OWN_KIND = { x64: GUESTS.amd64, arm64: GUESTS.arm64, arm: GUESTS.armhf, ia32: GUESTS.i386 };

function ownKind() {
  return (OWN_KIND as Partial<Record<string, (typeof OWN_KIND)[keyof typeof OWN_KIND]>>)[arch];
}

/** The host's, or the one that was fetched; undefined: neither. */
export function findPromtool(): string | undefined {
  if (findProgram('promtool')) return 'promtool';
  const kind = ownKind();
  if (kind === undefined) return undefined;
  const folder = join(CACHE_DIR, 'packages', `${kind.suite}-${kind.architecture}`);
  if (!existsSync(folder)) return undefined;
  return readdirSync(folder)
    .filter((name) => name.startsWith(`${PACKAGE}_`))
    .map((name) => join(folder, name, PROGRAM))
    .find((path) => existsSync(path));
}

async function main(): Promise<void> {
  const kind = ownKind();
  if (findPromtool() !== undefined || kind === undefined) return;
  try {
    await fetchPackages(kind, [PACKAGE]);
  } catch (error) {
    console.warn(`promtool: not fetched, alert rules go untested: ${(error as Error).message}`);
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) await main();
