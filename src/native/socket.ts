/**
 * Unix stream sockets with file descriptor passing (SCM_RIGHTS), which Node's own sockets lack.
 * All sockets made or adopted here are non-blocking and close-on-exec.
 */

import {
  chmodSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdtempSync,
  openSync,
  rmSync,
  unlinkSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { assert } from '../base/assert.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { closeFd } from './fd.ts';
import { addressOf, checked, lastErrno, libcFunction } from './libc.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_PEERCRED = 17;
const SO_ACCEPTCONN = 30;
const SO_DOMAIN = 39;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x08;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const EINTR = 4;
const ENOENT = 2;
const ENOTSOCK = 88;
const ECONNREFUSED = 111;

/** struct sockaddr_un: u16 family, then a NUL-terminated path of at most 108 bytes. */
const SUN_PATH_MAX = 107;
const SOCKADDR_UN_BYTES = 110;
const BACKLOG = 8;

/** struct msghdr, LP64. */
const MSGHDR = { iov: 16, iovlen: 24, control: 32, controllen: 40, flags: 48, SIZE: 56 } as const;
/** struct cmsghdr, LP64: u64 length, int level, int type; then the fds. */
const CMSGHDR = { len: 0, level: 8, type: 12, SIZE: 16 } as const;

/** More than any message carries; what a hostile peer sends beyond is MSG_CTRUNC. */
export const FDS_PER_MESSAGE_MAX = 32;
const CONTROL_BYTES = CMSGHDR.SIZE + FDS_PER_MESSAGE_MAX * 4;

const c = {
  socket: libcFunction('int socket(int domain, int type, int protocol)'),
  bind: libcFunction('int bind(int fd, const void *address, unsigned int length)'),
  listen: libcFunction('int listen(int fd, int backlog)'),
  connect: libcFunction('int connect(int fd, const void *address, unsigned int length)'),
  accept4: libcFunction('int accept4(int fd, void *address, void *length, int flags)'),
  getsockopt: libcFunction(
    'int getsockopt(int fd, int level, int name, void *value, void *length)',
  ),
  getpeername: libcFunction('int getpeername(int fd, void *address, void *length)'),
  recvmsg: libcFunction('long recvmsg(int fd, void *message, int flags)'),
  sendmsg: libcFunction('long sendmsg(int fd, const void *message, int flags)'),
  socketpair: libcFunction('int socketpair(int domain, int type, int protocol, void *fds)'),
  poll: libcFunction('int poll(void *fds, unsigned long count, int timeout)'),
};

// One message header, vector and control buffer a thread: calls do not nest. They hold addresses
// of one another, so they are whole ArrayBuffers, which the collector never moves.
const message = new Uint8Array(new ArrayBuffer(MSGHDR.SIZE));
const vector = new Uint8Array(new ArrayBuffer(16));
const control = new Uint8Array(new ArrayBuffer(CONTROL_BYTES));
const messageView = new DataView(message.buffer);
const vectorView = new DataView(vector.buffer);
const controlView = new DataView(control.buffer);
messageView.setBigUint64(MSGHDR.iov, addressOf(vector), true);
messageView.setBigUint64(MSGHDR.iovlen, 1n, true);
messageView.setBigUint64(MSGHDR.control, addressOf(control), true);

function socketAddress(path: string): Uint8Array {
  const name = Buffer.from(path);
  if (name.length === 0 || name.length > SUN_PATH_MAX || name.includes(0)) {
    throw new RefusedError(
      `socket path ${JSON.stringify(path)}: expected 1 to ${SUN_PATH_MAX} bytes, got ${name.length}`,
    );
  }
  const address = new Uint8Array(new ArrayBuffer(2 + name.length + 1));
  address[0] = AF_UNIX;
  address.set(name, 2);
  return address;
}

function unixSocket(kind = SOCK_STREAM): number {
  const type = kind | SOCK_NONBLOCK | SOCK_CLOEXEC;
  return checked('socket', () => c.socket(AF_UNIX, type, 0));
}

/** Connects to a listening Unix socket; throws SystemError with the path. */
export function connectUnix(path: string): number {
  return connectTo(socketAddress(path), path, unixSocket());
}

/**
 * A socket that sends datagrams to the one at `path`; `@name` is one of the abstract name space,
 * without a file. Throws SystemError with the path.
 */
export function connectDatagram(path: string): number {
  const address = socketAddress(path);
  const isAbstract = path.startsWith('@');
  if (isAbstract) address[2] = 0;
  // An abstract name ends where the address does, a path with its NUL.
  const used = isAbstract ? address.slice(0, -1) : address;
  return connectTo(used, path, unixSocket(SOCK_DGRAM));
}

function connectTo(address: Uint8Array, path: string, fd: number): number {
  if (c.connect(fd, address, address.length) === 0) return fd;
  const errno = lastErrno();
  closeFd(fd);
  throw new SystemError('connect', errno, path);
}

/** Who may connect: what the file's permissions let write to it. */
export interface SocketAccess {
  readonly mode: number;
  /** Its group; default: the process's own. */
  readonly groupId?: number;
}

const OWNER_ONLY: SocketAccess = { mode: 0o600 };

/**
 * Listens at `path`. A socket file that nobody listens on is replaced; a live one is refused.
 * The file appears only once connections are accepted and its permissions are what they will be,
 * whatever the umask: it is bound in a folder that nobody else may enter, then linked, which also
 * fails when somebody else was faster.
 */
export function listenUnix(path: string, { mode, groupId }: SocketAccess = OWNER_ONLY): number {
  socketAddress(path);
  removeStaleSocket(path);
  const fd = unixSocket();
  let privateFolder: string | undefined;
  let folderFd: number | undefined;
  try {
    privateFolder = mkdtempSync(join(dirname(path), '.rz'));
    folderFd = openSync(privateFolder, 'r');
    // Through /proc, because the folder's own name may make the path longer than an address holds.
    const address = socketAddress(`/proc/self/fd/${folderFd}/socket`);
    checked('bind', () => c.bind(fd, address, address.length), path);
    checked('listen', () => c.listen(fd, BACKLOG), path);
    const bound = join(privateFolder, 'socket');
    if (groupId !== undefined) lchownSync(bound, -1, groupId);
    chmodSync(bound, mode);
    linkSync(bound, path);
  } catch (error) {
    closeFd(fd);
    throw systemErrorOf(error, path);
  } finally {
    if (folderFd !== undefined) closeFd(folderFd);
    if (privateFolder !== undefined) rmSync(privateFolder, { recursive: true, force: true });
  }
  return fd;
}

function systemErrorOf(error: unknown, path: string): unknown {
  const { errno, syscall } = error as NodeJS.ErrnoException;
  if (error instanceof SystemError || errno === undefined) return error;
  return new SystemError(syscall ?? 'listen', -errno, path);
}

function removeStaleSocket(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new RefusedError(`${path}: exists and is not a socket; not replaced`);
  }
  try {
    closeFd(connectUnix(path));
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.errno !== ECONNREFUSED && error.errno !== ENOENT) throw error;
    unlinkSync(path);
    return;
  }
  throw new RefusedError(
    `${path}: in use by a live process (${basename(path)} accepts connections)`,
  );
}

/** Of a socket that another process has listened on: those who connect see this one from now on. */
export function listenAgain(fd: number): void {
  checked('listen', () => c.listen(fd, BACKLOG), `fd ${fd}`);
}

/** Accepts one connection: its fd, or the negated errno (-EAGAIN when there is none). */
export function acceptConnection(listenFd: number): number {
  for (;;) {
    const fd = c.accept4(listenFd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd !== -1) return fd;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** Whether a socket listens, as opposed to being connected. Not a socket: SystemError. */
export function isListening(fd: number): boolean {
  return socketOption(fd, SO_ACCEPTCONN, 4).getInt32(0, true) !== 0;
}

/**
 * What a descriptor is instead of a Unix stream socket that listens or is connected, for people;
 * undefined: it is one.
 */
export function streamFault(fd: number): string | undefined {
  try {
    const domain = socketOption(fd, SO_DOMAIN, 4).getInt32(0, true);
    if (domain !== AF_UNIX) return `a socket of address family ${domain}`;
    const type = socketOption(fd, SO_TYPE, 4).getInt32(0, true);
    if (type !== SOCK_STREAM) return `a socket of type ${type}`;
  } catch (error) {
    if (error instanceof SystemError && error.errno === ENOTSOCK) return 'no socket';
    throw error;
  }
  return isListening(fd) || isConnected(fd) ? undefined : 'one that does neither';
}

/** Also one whose peer has gone. */
function isConnected(fd: number): boolean {
  const address = new Uint8Array(new ArrayBuffer(SOCKADDR_UN_BYTES));
  const length = new Uint8Array(new ArrayBuffer(4));
  new DataView(length.buffer).setUint32(0, address.length, true);
  return c.getpeername(fd, address, length) === 0;
}

/** The process id at the other end when it connected. */
export function peerProcessId(fd: number): number {
  return socketOption(fd, SO_PEERCRED, 12).getInt32(0, true);
}

/** Whether `fd` is a connected socket with that process at its other end. */
export function isPeerProcess(fd: number, pid: number): boolean {
  try {
    return peerProcessId(fd) === pid;
  } catch (error) {
    // Most descriptors are no sockets.
    if (error instanceof SystemError) return false;
    throw error;
  }
}

function socketOption(fd: number, name: number, bytes: number): DataView {
  const value = new Uint8Array(new ArrayBuffer(bytes));
  const length = new Uint8Array(new ArrayBuffer(4));
  new DataView(length.buffer).setUint32(0, bytes, true);
  checked('getsockopt', () => c.getsockopt(fd, SOL_SOCKET, name, value, length), `fd ${fd}`);
  return new DataView(value.buffer);
}

/** Two sockets connected to each other. */
export function socketPair(): [number, number] {
  const fds = new Int32Array(new ArrayBuffer(8));
  const type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  checked('socketpair', () => c.socketpair(AF_UNIX, type, 0, fds));
  return [fds[0]!, fds[1]!];
}

/** struct pollfd: int fd, short events, short revents. */
const POLLIN = 0x1;
const POLLOUT = 0x4;
const POLLERR = 0x8;
const POLLHUP = 0x10;
const POLLRDHUP = 0x2000;

/** Blocks this thread until `fd` is readable or has ended, at most `millis`. */
export function waitReadable(fd: number, millis: number): void {
  polled(fd, POLLIN, millis);
}

/** The same until it takes more. */
export function waitWritable(fd: number, millis: number): void {
  polled(fd, POLLOUT, millis);
}

/** Whether the peer has closed its end (reset counts), whatever it sent before. */
export function isPeerGone(fd: number): boolean {
  return (polled(fd, POLLRDHUP, 0) & (POLLRDHUP | POLLHUP | POLLERR)) !== 0;
}

/** What of `events` has come about after at most `millis`; of itself the kernel adds errors. */
function polled(fd: number, events: number, millis: number): number {
  const pollFd = new DataView(new ArrayBuffer(8));
  pollFd.setInt32(0, fd, true);
  pollFd.setInt16(4, events, true);
  c.poll(new Uint8Array(pollFd.buffer), 1, millis);
  return pollFd.getInt16(6, true);
}

/**
 * Receives at most `length` bytes into `buffer` at `offset`, and appends the file descriptors that
 * came with them to `fds`, whose owner is then the caller, also on error. Returns the count of
 * bytes (0: end of stream) or the negated errno (-EAGAIN: nothing there). Descriptors beyond
 * FDS_PER_MESSAGE_MAX are lost to MSG_CTRUNC, reported as -EMSGSIZE.
 */
export function receiveWithFds(
  fd: number,
  buffer: Uint8Array,
  offset: number,
  length: number,
  fds: number[],
): number {
  pointAt(buffer, offset, length);
  messageView.setBigUint64(MSGHDR.controllen, BigInt(CONTROL_BYTES), true);
  let received = c.recvmsg(fd, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (received === -1 && lastErrno() === EINTR) {
    received = c.recvmsg(fd, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  }
  if (received === -1) return -lastErrno();
  takeFds(Number(messageView.getBigUint64(MSGHDR.controllen, true)), fds);
  const EMSGSIZE = 90;
  return (messageView.getInt32(MSGHDR.flags, true) & MSG_CTRUNC) === 0 ? received : -EMSGSIZE;
}

function takeFds(controlBytes: number, fds: number[]): void {
  let at = 0;
  while (at + CMSGHDR.SIZE <= controlBytes) {
    const length = Number(controlView.getBigUint64(at + CMSGHDR.len, true));
    if (length < CMSGHDR.SIZE) return;
    const isRights =
      controlView.getInt32(at + CMSGHDR.level, true) === SOL_SOCKET &&
      controlView.getInt32(at + CMSGHDR.type, true) === SCM_RIGHTS;
    for (let i = at + CMSGHDR.SIZE; isRights && i + 4 <= at + length; i += 4) {
      fds.push(controlView.getInt32(i, true));
    }
    at += (length + 7) & ~7;
  }
}

/**
 * Sends `bytes` whole, with `fds` (kept by the caller). Returns 0 or the negated errno: a peer that
 * does not read its replies (-EAGAIN) is treated as an error, never waited for.
 */
export function sendWithFds(fd: number, bytes: Uint8Array, fds: readonly number[] = []): number {
  assert(fds.length <= FDS_PER_MESSAGE_MAX, 'a message carries few file descriptors');
  let sent = 0;
  while (sent < bytes.length) {
    pointAt(bytes, sent, bytes.length - sent);
    putFds(sent === 0 ? fds : []);
    const result = c.sendmsg(fd, message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (result === -1) {
      const errno = lastErrno();
      if (errno !== EINTR) return -errno;
    } else {
      sent += result;
    }
  }
  return 0;
}

function putFds(fds: readonly number[]): void {
  const length = fds.length === 0 ? 0 : CMSGHDR.SIZE + fds.length * 4;
  messageView.setBigUint64(MSGHDR.controllen, BigInt((length + 7) & ~7), true);
  if (length === 0) return;
  controlView.setBigUint64(CMSGHDR.len, BigInt(length), true);
  controlView.setInt32(CMSGHDR.level, SOL_SOCKET, true);
  controlView.setInt32(CMSGHDR.type, SCM_RIGHTS, true);
  fds.forEach((value, i) => {
    controlView.setInt32(CMSGHDR.SIZE + i * 4, value, true);
  });
}

function pointAt(buffer: Uint8Array, offset: number, length: number): void {
  assert(
    offset >= 0 && length > 0 && offset + length <= buffer.length,
    'a message is in its buffer',
  );
  vectorView.setBigUint64(0, addressOf(buffer) + BigInt(offset), true);
  vectorView.setBigUint64(8, BigInt(length), true);
  messageView.setInt32(MSGHDR.flags, 0, true);
}
