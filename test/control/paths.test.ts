/** Where the control socket is when nobody says. */

import { afterEach, expect, it, vi } from 'vitest';
import { defaultControlPath } from '../../src/control/paths.ts';

afterEach(() => vi.unstubAllEnvs());

it.each([
  ['/run/a', '/run/a/control.sock'],
  ['/run/a:/run/b', '/run/a/control.sock'],
  ['', '/run/ramzswap/control.sock'],
  [undefined, '/run/ramzswap/control.sock'],
])('with RUNTIME_DIRECTORY %j it is %s', (directory, path) => {
  vi.stubEnv('RUNTIME_DIRECTORY', directory);
  expect(defaultControlPath()).toBe(path);
  expect(defaultControlPath('/tmp/guest.sock')).toBe('/tmp/guest.sock.control');
});
