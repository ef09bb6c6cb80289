/** Daemons as a user without any privilege: who, how, and whether this machine lets us. */

import { spawnSync } from 'node:child_process';
import { chownSync } from 'node:fs';
import { RAMZSWAPD } from './daemon.ts';
import { makeFolder } from './sockets.ts';

/** Debian's nobody and nogroup. */
export const NOBODY = 65534;

/** What becomes a program of nobody's: no group but its own, no capability, none to be had. */
export const AS_NOBODY: readonly string[] = [
  'setpriv',
  ...[`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'],
  ...['--no-new-privs', '--bounding-set=-all', '--inh-caps=-all', '--ambient-caps=-all'],
];

/** Why no daemon can be started as nobody; undefined: it can. */
export function whyNotNobody(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can become nobody';
  const [program, ...args] = [...AS_NOBODY, process.execPath, RAMZSWAPD, '--version'];
  const { error, status, stderr } = spawnSync(program!, args, { encoding: 'utf8', cwd: '/' });
  if (error !== undefined) return error.message;
  return status === 0 ? undefined : `the built daemon cannot be run by nobody: ${stderr}`;
}

/** A folder that is nobody's. */
export function nobodysFolder(): ReturnType<typeof makeFolder> {
  const folder = makeFolder();
  chownSync(folder.path, NOBODY, NOBODY);
  return folder;
}
