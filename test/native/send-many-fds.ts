/**
 * A hostile sender: one message with any number of descriptors, or with credentials nobody asked
 * for. What src/native refuses to send must still be survived when a peer sends it.
 */

import koffi from 'koffi';

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const libc = koffi.load('libc.so.6');
const sendmsg = libc.func('long sendmsg(int fd, const void *message, int flags)');

/** Sends `bytes` with `fds` as one SCM_RIGHTS message; the count of bytes sent. */
export function sendManyFds(socket: number, bytes: Uint8Array, fds: readonly number[]): number {
  const body = new Uint8Array(new ArrayBuffer(bytes.length));
  body.set(bytes);
  const control = new Uint8Array(new ArrayBuffer((16 + fds.length * 4 + 7) & ~7));
  const controlView = new DataView(control.buffer);
  controlView.setBigUint64(0, BigInt(16 + fds.length * 4), true);
  controlView.setInt32(8, SOL_SOCKET, true);
  controlView.setInt32(12, SCM_RIGHTS, true);
  for (const [i, fd] of fds.entries()) controlView.setInt32(16 + i * 4, fd, true);
  const vector = new BigUint64Array(2);
  vector[0] = koffi.address(body) as bigint;
  vector[1] = BigInt(body.length);
  const message = new BigUint64Array(7);
  message[2] = koffi.address(vector) as bigint;
  message[3] = 1n;
  message[4] = koffi.address(control) as bigint;
  message[5] = BigInt(control.length);
  return Number(sendmsg(socket, message, 0));
}
