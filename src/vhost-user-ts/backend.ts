/**
 * The back end's side of a vhost-user session: receives the front end's requests, checks their
 * form, hands their meaning to a BackendHandler, replies. It knows no ring and no guest memory.
 *
 * Life: constructor (a connected socket) → poll() whenever it is readable → 'closed' or
 * ProtocolError → close().
 */

import { assert } from '../base/assert.ts';
import { RefusedError, SystemError } from '../base/errors.ts';
import { monotonicMicros } from '../native/clock.ts';
import { discardFds } from '../native/fd.ts';
import { isPeerGone } from '../native/socket.ts';
import { Connection, type ConnectionState } from './connection.ts';
import { ProtocolError, RequestError } from './errors.ts';
import {
  type ConfigMessage,
  decodeConfig,
  decodeEmpty,
  decodeInflight,
  decodeLog,
  decodeMemTable,
  decodeSingleRegion,
  decodeU64,
  decodeVringAddress,
  decodeVringState,
  encodeConfig,
  encodeInflight,
  encodeU64,
  encodeVringState,
  type Inflight,
  type LogDescription,
  type MemoryRegion,
  type Message,
  type VringAddress,
} from './messages.ts';
import {
  FLAG_NEED_REPLY,
  FLAG_REPLY,
  requestName,
  VHOST_USER,
  VHOST_USER_BACKEND,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F,
  VRING_INDEX_MASK,
  VRING_NOFD_MASK,
} from './protocol.ts';

/** What this session can do; offered whole. */
export const PROTOCOL_FEATURES =
  VHOST_USER_PROTOCOL_F.MQ |
  VHOST_USER_PROTOCOL_F.LOG_SHMFD |
  VHOST_USER_PROTOCOL_F.REPLY_ACK |
  VHOST_USER_PROTOCOL_F.BACKEND_REQ |
  VHOST_USER_PROTOCOL_F.CONFIG |
  VHOST_USER_PROTOCOL_F.INFLIGHT_SHMFD |
  VHOST_USER_PROTOCOL_F.RESET_DEVICE |
  VHOST_USER_PROTOCOL_F.CONFIGURE_MEM_SLOTS;

/** The request waits: it is dispatched again. */
const NOT_YET = Symbol('not yet');

/** What answers a request. The descriptors stay whose they are. */
interface Reply {
  readonly payload: Uint8Array;
  readonly fds?: readonly number[];
}

/** A front end that never stops talking shares the thread with the others. */
const MESSAGES_PER_POLL = 64;
/** A message may have to wait for another thread, or map memory: none is begun after so long. */
const POLL_MICROS = 500;

/**
 * The device behind a session. Methods throw RequestError (or RefusedError, SystemError: anything
 * but a ProtocolError is treated alike) for what they cannot do. Ring indices are below queueCount.
 * File descriptors passed in belong to the device; those of memory regions and of the dirty log stay
 * the session's and are closed after the call.
 */
export interface BackendHandler {
  /** Device features offered, without VHOST_USER_F_PROTOCOL_FEATURES. */
  readonly features: bigint;
  readonly queueCount: number;
  readonly memorySlots: number;
  /** Acknowledged device features; `isLegacy` when protocol features were not acknowledged. */
  setFeatures(features: bigint, isLegacy: boolean): void;
  setMemoryTable(regions: readonly MemoryRegion[], fds: readonly number[]): void;
  addMemoryRegion(region: MemoryRegion, fd: number): void;
  removeMemoryRegion(region: MemoryRegion): void;
  /**
   * Makes memory in which `queues` queues of `queueSize` descriptors are tracked: what the front end
   * is told of it, and a descriptor that stays the handler's.
   */
  getInflight(queues: number, queueSize: number): { inflight: Inflight; fd: number };
  /** Memory to track in from the next start of a ring on; `fd` as those of memory regions. */
  setInflight(inflight: Inflight, fd: number): void;
  /** The dirty log from now on; when it returns, nobody writes to the one before. */
  setLogBase(log: LogDescription, fd: number): void;
  /** An eventfd to signal when the log has been written to. */
  setLogFd(fd: number): void;
  setVringNum(index: number, num: number): void;
  setVringAddress(address: VringAddress): void;
  setVringBase(index: number, base: number): void;
  /**
   * Nothing new is begun on the ring, which is about to stop. Whether all that was has come to its end,
   * or takes too long; asked again until it is so.
   */
  isAtRest(index: number): boolean;
  /** Whether a ring may start, or I/O for the last guest takes too long; asked again until it is so. */
  mayStart(): boolean;
  /** Stops the ring; the available index to resume from. */
  getVringBase(index: number): number;
  /** `fd` undefined: the ring must be polled. */
  setVringKick(index: number, fd: number | undefined): void;
  setVringCall(index: number, fd: number | undefined): void;
  setVringErr(index: number, fd: number | undefined): void;
  setVringEnable(index: number, isEnabled: boolean): void;
  /** `size` bytes of configuration space; undefined when the range is not there. */
  getConfig(offset: number, size: number): Uint8Array | undefined;
  setConfig(config: ConfigMessage): void;
  /** RESET_OWNER: disable all rings. */
  disableRings(): void;
  /** RESET_DEVICE: rings and negotiated state to their beginning. */
  resetDevice(): void;
}

/** A session on its way to another process: what was negotiated, and its sockets. */
export interface SessionState {
  readonly connection: ConnectionState;
  readonly protocolFeatures: bigint | undefined;
  readonly backendChannel: ConnectionState | undefined;
}

export class BackendSession {
  readonly #connection: Connection;
  readonly #handler: BackendHandler;
  /**
   * Undefined until SET_PROTOCOL_FEATURES: QEMU 7.2 may resume a session with a restarted back end
   * without any handshake, and means what it negotiated with the one before.
   */
  #protocolFeatures: bigint | undefined;
  #backendChannel: Connection | undefined;
  readonly #refusedRequests = new Set<number>();
  /** Received, and not carried out yet. */
  #waiting: Message | undefined;

  /** Takes ownership of a connected, non-blocking socket, or goes on with what another has begun. */
  constructor(begun: number | SessionState, handler: BackendHandler) {
    this.#handler = handler;
    if (typeof begun === 'number') {
      this.#connection = new Connection(begun);
      return;
    }
    this.#connection = Connection.resume(begun.connection);
    this.#protocolFeatures = begun.protocolFeatures;
    if (begun.backendChannel !== undefined) {
      this.#backendChannel = Connection.resume(begun.backendChannel);
    }
  }

  /** For another process to go on with; this session may go on as well, if that does not. */
  get state(): SessionState {
    assert(!this.isWaiting, 'what is received is carried out by who received it');
    return {
      connection: this.#connection.state,
      protocolFeatures: this.#protocolFeatures,
      backendChannel: this.#backendChannel?.state,
    };
  }

  get fd(): number {
    return this.#connection.fd;
  }

  /**
   * Handles messages that are there, a bounded number, for a bounded time; none behind one that has to
   * wait. What is left stays in the socket, which goes on being readable. Returns false when the front
   * end has closed the connection. Throws ProtocolError when it must be dropped; its message says why.
   */
  poll(): boolean {
    const start = monotonicMicros();
    for (let i = 0; i < MESSAGES_PER_POLL; i++) {
      const message = this.#waiting ?? this.#connection.receive();
      if (message === undefined) return true;
      if (message === 'closed') return false;
      this.#handle(message);
      if (this.isWaiting) return !isPeerGone(this.fd);
      if (((monotonicMicros() - start) | 0) >= POLL_MICROS) return true;
    }
    return true;
  }

  /** A message waits for I/O, while others are served: poll() again, whatever else there is. */
  get isWaiting(): boolean {
    return this.#waiting !== undefined;
  }

  /**
   * Tells the front end that configuration space has changed. It will ask for it on the main
   * socket, perhaps waiting for the answer: no acknowledgement is asked for, so nobody waits here.
   * False when there is no channel to say it on.
   */
  sendConfigChange(): boolean {
    if (this.#backendChannel === undefined) return false;
    try {
      this.#backendChannel.send(VHOST_USER_BACKEND.CONFIG_CHANGE_MSG, 0, new Uint8Array(0));
      return true;
    } catch (error) {
      // The main socket will tell when the front end is gone; a full channel only delays the news.
      if (error instanceof ProtocolError) return false;
      throw error;
    }
  }

  close(): void {
    discardFds(...(this.#waiting?.fds ?? []));
    this.#waiting = undefined;
    this.#backendChannel?.close();
    this.#backendChannel = undefined;
    this.#connection.close();
  }

  /** Runs one request and replies. Descriptors that nobody took are closed, whatever happens. */
  #handle(message: Message): void {
    const { request, fds } = message;
    const hasReplyAck =
      this.#protocolFeatures === undefined ||
      (this.#protocolFeatures & VHOST_USER_PROTOCOL_F.REPLY_ACK) !== 0n;
    const wantsReply = hasReplyAck && (message.flags & FLAG_NEED_REPLY) !== 0;
    this.#waiting = undefined;
    try {
      const reply = this.#dispatch(message);
      if (reply === NOT_YET) this.#waiting = message;
      else if (reply instanceof Uint8Array) this.#connection.send(request, FLAG_REPLY, reply);
      else if (reply !== undefined) {
        this.#connection.send(request, FLAG_REPLY, reply.payload, reply.fds);
      } else if (wantsReply) this.#connection.send(request, FLAG_REPLY, encodeU64(0n));
    } catch (error) {
      const reason = refusal(error, request);
      if (!wantsReply || REPLIES_WITH_PAYLOAD.has(request)) throw reason;
      this.#connection.send(request, FLAG_REPLY, encodeU64(1n));
      this.#refused(request, reason.message);
    } finally {
      // Of a refused message they may be the last that refer to much memory.
      if (!this.isWaiting) discardFds(...fds);
    }
  }

  /** Tells of the first refusal of each kind: a guest can cause any number of them. */
  #refused(request: number, reason: string): void {
    if (this.#refusedRequests.has(request)) return;
    this.#refusedRequests.add(request);
    this.onRefusal(reason);
  }

  /** Called once a session for each kind of request that was refused: for the log. */
  onRefusal: (reason: string) => void = () => {};

  /** Carries out a request: what to reply with, or undefined. */
  #dispatch(message: Message): Uint8Array | Reply | typeof NOT_YET | undefined {
    const handler = this.#handler;
    switch (message.request) {
      case VHOST_USER.GET_FEATURES:
        decodeEmpty(message);
        return encodeU64(handler.features | VHOST_USER_F_PROTOCOL_FEATURES);
      case VHOST_USER.SET_FEATURES:
        this.#setFeatures(decodeU64(message));
        return undefined;
      case VHOST_USER.GET_PROTOCOL_FEATURES:
        decodeEmpty(message);
        return encodeU64(PROTOCOL_FEATURES);
      case VHOST_USER.SET_PROTOCOL_FEATURES:
        this.#setProtocolFeatures(decodeU64(message));
        return undefined;
      case VHOST_USER.SET_OWNER:
        decodeEmpty(message);
        return undefined;
      case VHOST_USER.RESET_OWNER:
        decodeEmpty(message);
        handler.disableRings();
        return undefined;
      case VHOST_USER.RESET_DEVICE:
        decodeEmpty(message);
        handler.resetDevice();
        return undefined;
      case VHOST_USER.GET_QUEUE_NUM:
        decodeEmpty(message);
        return encodeU64(BigInt(handler.queueCount));
      case VHOST_USER.GET_MAX_MEM_SLOTS:
        decodeEmpty(message);
        return encodeU64(BigInt(handler.memorySlots));
      case VHOST_USER.SET_BACKEND_REQ_FD:
        this.#setBackendChannel(message);
        return undefined;
      case VHOST_USER.GET_CONFIG:
        return this.#getConfig(message);
      case VHOST_USER.SET_CONFIG:
        handler.setConfig(decodeConfig(message));
        return undefined;
      default:
        return this.#dispatchMemory(message);
    }
  }

  #dispatchMemory(message: Message): Uint8Array | Reply | typeof NOT_YET | undefined {
    const handler = this.#handler;
    switch (message.request) {
      case VHOST_USER.SET_MEM_TABLE: {
        const regions = decodeMemTable(message);
        expectFds(message, regions.length);
        handler.setMemoryTable(regions, message.fds);
        return undefined;
      }
      case VHOST_USER.ADD_MEM_REG: {
        const region = decodeSingleRegion(message);
        expectFds(message, 1);
        handler.addMemoryRegion(region, message.fds[0]!);
        return undefined;
      }
      case VHOST_USER.REM_MEM_REG:
        // "The back-end MAY accept messages with one file descriptor": closed like any other.
        handler.removeMemoryRegion(decodeSingleRegion(message));
        return undefined;
      case VHOST_USER.GET_INFLIGHT_FD:
        return this.#getInflight(message);
      case VHOST_USER.SET_INFLIGHT_FD: {
        const inflight = decodeInflight(message);
        expectFds(message, 1);
        handler.setInflight(inflight, message.fds[0]!);
        return undefined;
      }
      case VHOST_USER.SET_LOG_BASE: {
        this.#expectLogShmfd();
        const log = decodeLog(message);
        expectFds(message, 1);
        handler.setLogBase(log, message.fds[0]!);
        // Replied to whether or not that is asked for; nobody looks at the payload but who asked.
        return encodeU64(0n);
      }
      case VHOST_USER.SET_LOG_FD:
        decodeEmpty(message);
        expectFds(message, 1);
        handler.setLogFd(message.fds.shift()!);
        return undefined;
      default:
        return this.#dispatchVring(message);
    }
  }

  #getInflight(message: Message): Reply {
    const { queues, queueSize } = decodeInflight(message);
    const { inflight, fd } = this.#handler.getInflight(queues, queueSize);
    return { payload: encodeInflight(inflight, message.payload.length), fds: [fd] };
  }

  #dispatchVring(message: Message): Uint8Array | typeof NOT_YET | undefined {
    const handler = this.#handler;
    switch (message.request) {
      case VHOST_USER.SET_VRING_NUM: {
        const { index, num } = this.#vringState(message);
        handler.setVringNum(index, num);
        return undefined;
      }
      case VHOST_USER.SET_VRING_BASE: {
        const { index, num } = this.#vringState(message);
        handler.setVringBase(index, num);
        return undefined;
      }
      case VHOST_USER.GET_VRING_BASE: {
        const { index } = this.#vringState(message);
        if (!handler.isAtRest(index)) return NOT_YET;
        return encodeVringState({ index, num: handler.getVringBase(index) });
      }
      case VHOST_USER.SET_VRING_ENABLE: {
        const { index, num } = this.#vringState(message);
        if (num > 1) {
          throw new RequestError(`SET_VRING_ENABLE: ring ${index}: expected 0 or 1, got ${num}`);
        }
        if (num === 0 && !handler.isAtRest(index)) return NOT_YET;
        handler.setVringEnable(index, num === 1);
        return undefined;
      }
      case VHOST_USER.SET_VRING_ADDR: {
        const address = decodeVringAddress(message);
        this.#checkIndex(message, address.index);
        handler.setVringAddress(address);
        return undefined;
      }
      case VHOST_USER.SET_VRING_KICK:
        if (!handler.mayStart()) return NOT_YET;
        this.#takeVringFd(message, (index, fd) => handler.setVringKick(index, fd));
        return undefined;
      case VHOST_USER.SET_VRING_CALL:
        this.#takeVringFd(message, (index, fd) => handler.setVringCall(index, fd));
        return undefined;
      case VHOST_USER.SET_VRING_ERR:
        this.#takeVringFd(message, (index, fd) => handler.setVringErr(index, fd));
        return undefined;
      default:
        throw new ProtocolError(`${requestName(message.request)}: not a request this device knows`);
    }
  }

  #setFeatures(features: bigint): void {
    const isLegacy = (features & VHOST_USER_F_PROTOCOL_FEATURES) === 0n;
    this.#handler.setFeatures(features & ~VHOST_USER_F_PROTOCOL_FEATURES, isLegacy);
  }

  #setProtocolFeatures(features: bigint): void {
    const unknown = features & ~PROTOCOL_FEATURES;
    if (unknown !== 0n) {
      throw new ProtocolError(
        `SET_PROTOCOL_FEATURES: expected a part of 0x${PROTOCOL_FEATURES.toString(16)}, ` +
          `got 0x${features.toString(16)}`,
      );
    }
    this.#protocolFeatures = features;
  }

  /** Without it the log would be an address of the front end's own memory. */
  #expectLogShmfd(): void {
    const features = this.#protocolFeatures;
    if (features === undefined || (features & VHOST_USER_PROTOCOL_F.LOG_SHMFD) !== 0n) return;
    throw new RequestError('SET_LOG_BASE: expected LOG_SHMFD to be acknowledged');
  }

  #setBackendChannel(message: Message): void {
    decodeEmpty(message);
    expectFds(message, 1);
    this.#backendChannel?.close();
    this.#backendChannel = new Connection(message.fds.shift()!);
  }

  /** "Zero length of payload to indicate an error"; else exactly as many bytes as were asked for. */
  #getConfig(message: Message): Uint8Array {
    const { offset, flags, payload } = decodeConfig(message);
    const found = this.#handler.getConfig(offset, payload.length);
    return found === undefined
      ? new Uint8Array(0)
      : encodeConfig({ offset, flags, payload: found });
  }

  #vringState(message: Message): { index: number; num: number } {
    const state = decodeVringState(message);
    this.#checkIndex(message, state.index);
    return state;
  }

  #checkIndex(message: Message, index: number): void {
    const { queueCount } = this.#handler;
    if (index >= queueCount) {
      throw new RequestError(
        `${requestName(message.request)}: expected a ring below ${queueCount}, got ${index}`,
      );
    }
  }

  /** SET_VRING_KICK, CALL, ERR: hands over the descriptor, or undefined with the no-fd flag. */
  #takeVringFd(message: Message, give: (index: number, fd: number | undefined) => void): void {
    const value = decodeU64(message);
    const index = Number(value & VRING_INDEX_MASK);
    const hasFd = (value & VRING_NOFD_MASK) === 0n;
    expectFds(message, hasFd ? 1 : 0);
    this.#checkIndex(message, index);
    give(index, message.fds.shift());
  }
}

/** Requests with a reply of their own: an error cannot be said in it, so it drops the connection. */
const REPLIES_WITH_PAYLOAD: ReadonlySet<number> = new Set([
  VHOST_USER.GET_FEATURES,
  VHOST_USER.GET_PROTOCOL_FEATURES,
  VHOST_USER.GET_QUEUE_NUM,
  VHOST_USER.GET_MAX_MEM_SLOTS,
  VHOST_USER.GET_VRING_BASE,
  VHOST_USER.GET_CONFIG,
  VHOST_USER.GET_INFLIGHT_FD,
]);

function expectFds(message: Message, count: number): void {
  if (message.fds.length !== count) {
    const what = `${requestName(message.request)}: expected ${count} file descriptors`;
    throw new ProtocolError(`${what}, got ${message.fds.length}`);
  }
}

/** The error to drop the connection with, or to refuse the request for. Our own bugs pass. */
function refusal(error: unknown, request: number): ProtocolError {
  if (error instanceof ProtocolError) throw error;
  if (error instanceof RequestError) return new ProtocolError(error.message);
  if (error instanceof SystemError || error instanceof RefusedError) {
    return new ProtocolError(`${requestName(request)}: ${error.message}`);
  }
  throw error;
}
