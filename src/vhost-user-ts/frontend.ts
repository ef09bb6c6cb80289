/**
 * The front end's side of vhost-user: connects to a back end, negotiates, shares memory, sets up
 * rings, reads configuration space, listens on the back-end channel. It knows no device type and
 * lays out no ring: addresses and descriptors come from the caller.
 *
 * Calls are synchronous: each sends a message and waits, a bounded time, for the answer if there is
 * one. With REPLY_ACK every request is acknowledged, so a refusal is an error of the call that
 * caused it; without, the connection just ends.
 *
 * Life: connect → negotiate → share memory → set up and enable rings → (I/O, not here) → stop rings
 * → close. To log what the back end writes: setLogBase → setFeatures with VHOST_F_LOG_ALL →
 * setVringAddress with `log`, for each ring, which may be running.
 */

import { closeFd } from '../native/fd.ts';
import { connectUnix, socketPair, waitReadable } from '../native/socket.ts';
import { Connection } from './connection.ts';
import { ProtocolError, RequestError } from './errors.ts';
import {
  decodeConfig,
  decodeInflight,
  decodeU64,
  decodeVringState,
  encodeConfig,
  encodeInflight,
  encodeLog,
  encodeMemTable,
  encodeSingleRegion,
  encodeU64,
  encodeVringAddress,
  encodeVringState,
  type Inflight,
  type LogDescription,
  type MemoryRegion,
  type Message,
} from './messages.ts';
import {
  FLAG_NEED_REPLY,
  FLAG_REPLY,
  requestName,
  VHOST_USER,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F,
  VHOST_VRING_F_LOG,
  VRING_NOFD_MASK,
} from './protocol.ts';

const ANSWER_MILLIS = 5_000;
const NOTHING = new Uint8Array(0);

export interface FrontendOptions {
  /** How long to wait for an answer, in milliseconds. Default 5000. */
  readonly answerMillis?: number;
  /**
   * Waits until `fd` is readable, or for a while; called again until the answer is there or time is
   * up. Default: poll(2). For a back end in the same thread: let it work.
   */
  readonly wait?: (fd: number, millis: number) => void;
}

/** A ring as the back end is told of it. Addresses are user addresses of shared memory. */
export interface VringSetup {
  /** Ring size: a power of two. */
  readonly num: number;
  /** Available index to begin at. Default 0. */
  readonly base?: number;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  /** Guest address by which writes to the used ring are logged. Default: they are not. */
  readonly log?: bigint;
  /** eventfds, kept by the caller. Undefined: no descriptor is sent, the other side polls. */
  readonly kickFd?: number | undefined;
  readonly callFd?: number | undefined;
  readonly errFd?: number | undefined;
}

export class Frontend {
  readonly #connection: Connection;
  readonly #answerMillis: number;
  readonly #wait: (fd: number, millis: number) => void;
  #protocolFeatures = 0n;
  #backendChannel: Connection | undefined;

  /** Takes ownership of a connected, non-blocking socket. */
  constructor(fd: number, options: FrontendOptions = {}) {
    this.#connection = new Connection(fd);
    this.#answerMillis = options.answerMillis ?? ANSWER_MILLIS;
    this.#wait = options.wait ?? waitReadable;
  }

  /** Connects to a back end that listens at `path`; throws SystemError with the path. */
  static connect(path: string, options: FrontendOptions = {}): Frontend {
    return new Frontend(connectUnix(path), options);
  }

  get fd(): number {
    return this.#connection.fd;
  }

  /** Protocol features in force. */
  get protocolFeatures(): bigint {
    return this.#protocolFeatures;
  }

  /**
   * Takes ownership of the session with those of the wanted features that the back end offers;
   * returns them. `protocolFeatures` 0: none are negotiated, as by front ends of old.
   */
  negotiate(features: bigint, protocolFeatures: bigint): { features: bigint; offered: bigint } {
    const offered = decodeU64(this.query(VHOST_USER.GET_FEATURES));
    const hasProtocol =
      (offered & VHOST_USER_F_PROTOCOL_FEATURES) !== 0n && protocolFeatures !== 0n;
    if (hasProtocol) {
      const known = decodeU64(this.query(VHOST_USER.GET_PROTOCOL_FEATURES)) & protocolFeatures;
      this.#connection.send(VHOST_USER.SET_PROTOCOL_FEATURES, 0, encodeU64(known));
      this.#protocolFeatures = known;
    }
    this.order(VHOST_USER.SET_OWNER, NOTHING);
    const accepted = offered & features & ~VHOST_USER_F_PROTOCOL_FEATURES;
    this.setFeatures(accepted | (hasProtocol ? VHOST_USER_F_PROTOCOL_FEATURES : 0n));
    return { features: accepted, offered };
  }

  setFeatures(features: bigint): void {
    this.order(VHOST_USER.SET_FEATURES, encodeU64(features));
  }

  /** Queues that the back end supports (protocol feature MQ). */
  queueCount(): number {
    return Number(decodeU64(this.query(VHOST_USER.GET_QUEUE_NUM)));
  }

  /** Memory regions that it supports (protocol feature CONFIGURE_MEM_SLOTS). */
  memorySlots(): number {
    return Number(decodeU64(this.query(VHOST_USER.GET_MAX_MEM_SLOTS)));
  }

  /** Replaces all memory by these regions, at most eight; `fds` one each, kept by the caller. */
  setMemoryTable(regions: readonly MemoryRegion[], fds: readonly number[]): void {
    this.order(VHOST_USER.SET_MEM_TABLE, encodeMemTable(regions), fds);
  }

  addMemoryRegion(region: MemoryRegion, fd: number): void {
    this.order(VHOST_USER.ADD_MEM_REG, encodeSingleRegion(region), [fd]);
  }

  removeMemoryRegion(region: MemoryRegion): void {
    this.order(VHOST_USER.REM_MEM_REG, encodeSingleRegion(region));
  }

  /**
   * Has the back end make memory to track requests in, for `queues` queues of `queueSize`: what it
   * says of it, and its descriptor, the caller's (protocol feature INFLIGHT_SHMFD).
   */
  getInflight(queues: number, queueSize: number): { inflight: Inflight; fd: number } {
    const wanted = { mmapBytes: 0, mmapOffset: 0, queues, queueSize };
    this.#connection.send(VHOST_USER.GET_INFLIGHT_FD, 0, encodeInflight(wanted));
    const answer = this.#receiveReply(VHOST_USER.GET_INFLIGHT_FD, 1);
    const fd = answer.fds[0]!;
    try {
      return { inflight: decodeInflight(answer), fd };
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  /** Gives the back end that memory, or what it has had before it went; `fd` stays the caller's. */
  setInflight(inflight: Inflight, fd: number): void {
    this.order(VHOST_USER.SET_INFLIGHT_FD, encodeInflight(inflight), [fd]);
  }

  /** Shares a dirty log (protocol feature LOG_SHMFD); the file is kept by the caller. */
  setLogBase(log: LogDescription, fd: number): void {
    this.#connection.send(VHOST_USER.SET_LOG_BASE, 0, encodeLog(log), [fd]);
    this.#receiveReply(VHOST_USER.SET_LOG_BASE);
  }

  /** An eventfd that the back end signals when it has written to the log; kept by the caller. */
  setLogFd(fd: number): void {
    this.order(VHOST_USER.SET_LOG_FD, NOTHING, [fd]);
  }

  /** Describes a ring and starts it; it is served once enabled. In the order that QEMU uses. */
  startVring(index: number, setup: VringSetup): void {
    this.setVringCall(index, setup.callFd);
    if (setup.errFd !== undefined) this.setVringErr(index, setup.errFd);
    this.setVringNum(index, setup.num);
    this.setVringBase(index, setup.base ?? 0);
    this.setVringAddress(index, setup);
    this.setVringKick(index, setup.kickFd);
  }

  /** Protocol features must have been negotiated: without, a started ring is enabled. */
  enableVring(index: number, isEnabled: boolean): void {
    const num = isEnabled ? 1 : 0;
    this.order(VHOST_USER.SET_VRING_ENABLE, encodeVringState({ index, num }));
  }

  /** Stops a ring; the available index to resume from. */
  stopVring(index: number): number {
    const payload = encodeVringState({ index, num: 0 });
    const answer = decodeVringState(this.query(VHOST_USER.GET_VRING_BASE, payload));
    if (answer.index !== index) {
      throw new ProtocolError(`GET_VRING_BASE: expected ring ${index}, got ${answer.index}`);
    }
    return answer.num;
  }

  setVringNum(index: number, num: number): void {
    this.order(VHOST_USER.SET_VRING_NUM, encodeVringState({ index, num }));
  }

  setVringBase(index: number, num: number): void {
    this.order(VHOST_USER.SET_VRING_BASE, encodeVringState({ index, num }));
  }

  /** Also of a running ring: with `log` or without, as far as logging is concerned. */
  setVringAddress(index: number, at: Pick<VringSetup, 'desc' | 'avail' | 'used' | 'log'>): void {
    const { desc, avail, used, log = 0n } = at;
    const flags = at.log === undefined ? 0 : VHOST_VRING_F_LOG;
    const payload = encodeVringAddress({ index, flags, desc, avail, used, log });
    this.order(VHOST_USER.SET_VRING_ADDR, payload);
  }

  setVringKick(index: number, fd: number | undefined): void {
    this.#sendVringFd(VHOST_USER.SET_VRING_KICK, index, fd);
  }

  setVringCall(index: number, fd: number | undefined): void {
    this.#sendVringFd(VHOST_USER.SET_VRING_CALL, index, fd);
  }

  setVringErr(index: number, fd: number | undefined): void {
    this.#sendVringFd(VHOST_USER.SET_VRING_ERR, index, fd);
  }

  /** `size` bytes of the device's configuration space; RequestError when it has none there. */
  getConfig(offset: number, size: number): Uint8Array {
    const request = encodeConfig({ offset, flags: 0, payload: new Uint8Array(size) });
    const answer = this.query(VHOST_USER.GET_CONFIG, request);
    if (answer.payload.length === 0) {
      throw new RequestError(`GET_CONFIG: no ${size} bytes at ${offset}`);
    }
    const { payload } = decodeConfig(answer);
    if (payload.length !== size) {
      throw new ProtocolError(`GET_CONFIG: expected ${size} bytes, got ${payload.length}`);
    }
    return Uint8Array.from(payload);
  }

  setConfig(offset: number, payload: Uint8Array, flags = 0): void {
    this.order(VHOST_USER.SET_CONFIG, encodeConfig({ offset, flags, payload }));
  }

  resetDevice(): void {
    this.order(VHOST_USER.RESET_DEVICE, NOTHING);
  }

  /** Gives the back end a channel for requests of its own (protocol feature BACKEND_REQ). */
  openBackendChannel(): void {
    const [ours, theirs] = socketPair();
    this.#backendChannel?.close();
    this.#backendChannel = new Connection(ours);
    try {
      this.order(VHOST_USER.SET_BACKEND_REQ_FD, NOTHING, [theirs]);
    } finally {
      closeFd(theirs);
    }
  }

  /** The back end's next request, if there is one; acknowledge with answerBackend if it asks. */
  takeBackendRequest(): Message | undefined {
    const message = this.#backendChannel?.receive();
    return message === 'closed' ? undefined : message;
  }

  /** Answers a back-end request that wants a reply (FLAG_NEED_REPLY): 0 for done. */
  answerBackend(request: Message, result: bigint): void {
    this.#backendChannel?.send(request.request, FLAG_REPLY, encodeU64(result));
  }

  /** Sends a request that has a reply of its own, and returns the reply. */
  query(request: number, payload: Uint8Array = NOTHING): Message {
    this.#connection.send(request, 0, payload);
    return this.#receiveReply(request);
  }

  /**
   * Sends a request without a reply of its own. With REPLY_ACK it is acknowledged: RequestError
   * when the back end refuses it.
   */
  order(request: number, payload: Uint8Array, fds: readonly number[] = []): void {
    const isAcknowledged = (this.#protocolFeatures & VHOST_USER_PROTOCOL_F.REPLY_ACK) !== 0n;
    this.#connection.send(request, isAcknowledged ? FLAG_NEED_REPLY : 0, payload, fds);
    if (!isAcknowledged) return;
    const answer = decodeU64(this.#receiveReply(request));
    if (answer !== 0n) throw new RequestError(`${requestName(request)}: refused with ${answer}`);
  }

  close(): void {
    this.#backendChannel?.close();
    this.#backendChannel = undefined;
    this.#connection.close();
  }

  /** `fdCount`: descriptors that the reply brings, then the caller's. */
  #receiveReply(request: number, fdCount = 0): Message {
    const deadline = Date.now() + this.#answerMillis;
    for (;;) {
      const message = this.#connection.receive();
      if (message === 'closed') {
        throw new ProtocolError(`${requestName(request)}: the back end closed the connection`);
      }
      if (message !== undefined) {
        const isIt = message.request === request && (message.flags & FLAG_REPLY) !== 0;
        if (isIt && message.fds.length === fdCount) return message;
        for (const fd of message.fds) closeFd(fd);
        if (isIt) {
          const got = message.fds.length;
          const what = `${requestName(request)}: expected ${fdCount} file descriptors, got ${got}`;
          throw new ProtocolError(what);
        }
        throw new ProtocolError(
          `${requestName(request)}: expected its reply, got ${requestName(message.request)}`,
        );
      }
      const left = deadline - Date.now();
      if (left <= 0) {
        throw new ProtocolError(`${requestName(request)}: no reply in ${this.#answerMillis} ms`);
      }
      this.#wait(this.#connection.fd, left);
    }
  }

  #sendVringFd(request: number, index: number, fd: number | undefined): void {
    const flag = fd === undefined ? VRING_NOFD_MASK : 0n;
    this.order(request, encodeU64(BigInt(index) | flag), fd === undefined ? [] : [fd]);
  }
}
