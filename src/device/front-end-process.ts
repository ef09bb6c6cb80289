/** Which process is the front end, and what another one than the last may find in the store. */

import { hasProcessEnded, processStart } from '../native/process.ts';
import { peerProcessId } from '../native/socket.ts';
import { type ProcessIdentity, UNKNOWN_PROCESS } from '../store/store-header.ts';

export const NEW_GUEST_POLICIES = ['empty', 'keep'] as const;
export type NewGuestPolicy = (typeof NEW_GUEST_POLICIES)[number];

/** Who is at the other end; undefined where that cannot be seen. */
export function frontEndOf(fd: number): ProcessIdentity | undefined {
  const process = peerProcessId(fd);
  const start = process === 0 ? undefined : processStart(process);
  return start === undefined ? undefined : { process, start };
}

/** Unknown ones are never the same. */
export function isSameProcess(last: ProcessIdentity, now: ProcessIdentity | undefined): boolean {
  return last.process === now?.process && last.start === now.start;
}

/** Whether it can never come back. Of unknown ones that is not known. */
export function hasEnded({ process, start }: ProcessIdentity): boolean {
  return process !== UNKNOWN_PROCESS.process && hasProcessEnded(process, start);
}
