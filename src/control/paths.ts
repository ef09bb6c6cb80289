/** Where the control socket is when nobody says. */

import { join } from 'node:path';

/** Beside a single device's socket, else in the service's runtime directory. */
export function defaultControlPath(socketPath?: string): string {
  if (socketPath !== undefined) return `${socketPath}.control`;
  // systemd may give several directories, colon separated: the first is the service's own.
  const runtime = process.env.RUNTIME_DIRECTORY?.split(':')[0];
  return join(runtime ?? '/run/ramzswap', 'control.sock');
}
