/**
 * The eventfds of a front end: kick, call and error of a ring, and the dirty log's. The open file is
 * the front end's as well, so whatever is done with it must not wait: nothing but eventfds is taken
 * (of a file in user space, say, even looking whether it is readable may wait), and none is read.
 */

import { notAnEventFd } from '../native/eventfd.ts';
import { closeFd, setNonBlocking } from '../native/fd.ts';
import { RequestError } from '../vhost-user-ts/index.ts';

/** `fd` is this process's from now on. What is no eventfd is closed and refused: RequestError. */
export function takeEventFd(request: string, fd: number): void {
  const got = notAnEventFd(fd);
  if (got === undefined) {
    // A promise that the front end can break: see peer-eventfd.ts.
    setNonBlocking(fd);
    return;
  }
  closeFd(fd);
  throw new RequestError(`${request}: expected an eventfd, got ${got}`);
}
