/**
 * Groups of the system by name, as every other program finds them (files, LDAP, systemd).
 *
 * JUSTIFICATION: Node knows no group's number; /etc/group is only one of the places where they are.
 * SAFETY: struct group and the text it points into are buffers of the call; only the number leaves.
 */

import { SystemError } from '../base/errors.ts';
import { addressOf, libcFunction } from './libc.ts';

const EINTR = 4;
const ERANGE = 34;

/** struct group, LP64: name, password, gid, members. */
const GROUP = { gid: 16, SIZE: 32 } as const;
const TEXT_BYTES = 4096;
/** A group of a million members has some 16 MiB of text. */
const TEXT_BYTES_MAX = 2 ** 24;

const c = {
  // Returns an errno, and does not set the variable.
  getgrnam_r: libcFunction(
    'int getgrnam_r(const char *name, void *group, void *text, size_t length, void *result)',
  ),
};

/** The number of a group; undefined: there is none of that name. */
export function groupId(name: string): number | undefined {
  const group = new Uint8Array(new ArrayBuffer(GROUP.SIZE));
  const result = new Uint8Array(new ArrayBuffer(8));
  for (let bytes = TEXT_BYTES; ; ) {
    const text = new Uint8Array(new ArrayBuffer(bytes));
    const errno = c.getgrnam_r(name, group, text, bytes, result);
    if (errno === ERANGE && bytes < TEXT_BYTES_MAX) bytes *= 4;
    else if (errno !== EINTR && errno !== 0) throw new SystemError('getgrnam_r', errno, name);
    else if (errno === 0) break;
  }
  const found = new DataView(result.buffer).getBigUint64(0, true);
  if (found !== addressOf(group)) return undefined;
  return new DataView(group.buffer).getUint32(GROUP.gid, true);
}
