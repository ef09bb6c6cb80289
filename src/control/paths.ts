/** Where the control socket is when nobody says. */

import { join } from 'node:path';

export const DEFAULT_CONTROL_DIRECTORY = '/run/ramzswap';

/** Beside a single device's socket, else in the service's runtime directory. */
export function defaultControlPath(socketPath?: string): string {
  if (socketPath !== undefined) return `${socketPath}.control`;
  // systemd may give several directories, colon separated: the first is the service's own. Empty is not
  // the working directory.
  const runtime = process.env.RUNTIME_DIRECTORY?.split(':')[0];
  return join(runtime || DEFAULT_CONTROL_DIRECTORY, 'control.sock');
}
