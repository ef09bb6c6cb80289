/**
 * Example of `ramzswap/vhost-user-ts`: reads page 0 of any vhost-user-blk back end and prints what
 * is in it. `tsx scripts/read-page.ts SOCKET`. Shared memory is a memfd that is read and written
 * like a file, which is slow and simple.
 */

import { readSync, writeSync } from 'node:fs';
import {
  createEventFd,
  createMemfd,
  drainEventFd,
  Frontend,
  signalEventFd,
  VHOST_USER_PROTOCOL_F,
  waitReadable,
} from '../src/vhost-user-ts/index.ts';

const VIRTIO_F_VERSION_1 = 1n << 32n;
/** Where things lie in the shared memory; guest and user addresses are offsets from `BASE`. */
const AT = { desc: 0, avail: 0x400, used: 0x800, header: 0xc00, status: 0xc10, data: 0x1000 };
const BASE = 0x100000;
const BYTES = 0x2000;
const PAGE = 4096;
const [NEXT, WRITE] = [1, 2];

const memory = createMemfd('example', BYTES);
const put = (at: number, words: number[]) =>
  writeSync(memory, Uint32Array.from(words), 0, null, at);
const [kickFd, callFd] = [createEventFd(), createEventFd()];
const ring = { num: 4, desc: BASE + AT.desc, avail: BASE + AT.avail, used: BASE + AT.used };
const region = { guestAddress: BASE, userAddress: BASE, bytes: BYTES, mmapOffset: 0 };

const frontend = Frontend.connect(process.argv[2] ?? 'ramzswap0.sock');
const { MQ, CONFIG, REPLY_ACK } = VHOST_USER_PROTOCOL_F;
frontend.negotiate(VIRTIO_F_VERSION_1, MQ | CONFIG | REPLY_ACK);
const capacity = Buffer.from(frontend.getConfig(0, 8)).readBigUInt64LE();
console.log(`${capacity} sectors`);
frontend.setMemoryTable([region], [memory]);
frontend.startVring(0, { ...ring, kickFd, callFd });
frontend.enableVring(0, true);

// Three descriptors (address, length, flags and next), a read of sector 0, and one chain available.
put(AT.desc, [BASE + AT.header, 0, 16, NEXT | (1 << 16)]);
put(AT.desc + 16, [BASE + AT.data, 0, PAGE, NEXT | WRITE | (2 << 16)]);
put(AT.desc + 32, [BASE + AT.status, 0, 1, WRITE]);
put(AT.header, [0, 0, 0, 0, 0xff]);
put(AT.avail, [1 << 16, 0]);
signalEventFd(kickFd);

const answer = Buffer.alloc(PAGE + 1);
const look = () => readSync(memory, answer, PAGE, 1, AT.status) && answer[PAGE] !== 0xff;
for (let tries = 0; tries < 100 && !look(); tries++) {
  waitReadable(callFd, 50);
  drainEventFd(callFd);
}
readSync(memory, answer, 0, PAGE, AT.data);
console.log(`status ${answer[PAGE]}, signature ${answer.toString('latin1', PAGE - 10, PAGE)}`);
frontend.close();
