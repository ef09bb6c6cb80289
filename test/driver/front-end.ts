/**
 * A minimal vhost-user front end over a real socket. It waits by looking again and again, with
 * `pump` between two looks: a short sleep when the back end is another process, a call of the back
 * end's poll() when it lives in this one.
 */

import { closeFd } from '../../src/native/fd.ts';
import { connectUnix, receiveWithFds, sendWithFds } from '../../src/native/socket.ts';
import {
  decodeConfig,
  decodeInflight,
  decodeU64,
  decodeVringState,
  encodeConfig,
  encodeInflight,
  encodeLog,
  encodeMemTable,
  encodeMessage,
  encodeSingleRegion,
  encodeU64,
  encodeVringAddress,
  encodeVringState,
  FLAG_NEED_REPLY,
  FLAG_REPLY,
  HEADER,
  type Inflight,
  type LogDescription,
  type MemoryRegion,
  type Message,
  requestName,
  VHOST_USER,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F,
  VHOST_VRING_F_LOG,
  VRING_NOFD_MASK,
} from '../../src/vhost-user-ts/index.ts';
import type { DriverRing } from './driver-ring.ts';
import type { GuestRam } from './guest-ram.ts';

const EAGAIN = 11;
const ANSWER_MILLIS_MAX = 5000;
const sleepWord = new Int32Array(new SharedArrayBuffer(4));

/** Blocks this thread for a moment. */
export function sleepMillis(millis: number): void {
  Atomics.wait(sleepWord, 0, 0, millis);
}

/** The back end has closed the connection. */
export class ConnectionClosed extends Error {
  override readonly name = 'ConnectionClosed';
}

/** A request was answered with non-zero. */
export class RequestRefused extends Error {
  override readonly name = 'RequestRefused';
}

export interface RingFds {
  /** Undefined: the no-descriptor flag is sent. */
  readonly kick?: number | undefined;
  readonly call?: number | undefined;
  readonly err?: number | undefined;
}

export class FrontEnd {
  readonly fd: number;
  /** Bits that SET_PROTOCOL_FEATURES acknowledged. */
  protocolFeatures = 0n;
  /** After so many messages more it is as if the connection had ended. */
  messagesLeft = Number.POSITIVE_INFINITY;
  readonly #pump: () => void;

  /** Takes ownership of a connected, non-blocking socket. */
  constructor(fd: number, pump: () => void = () => sleepMillis(0.1)) {
    this.fd = fd;
    this.#pump = pump;
  }

  static connect(path: string): FrontEnd {
    return new FrontEnd(connectUnix(path));
  }

  // ── Messages ────────────────────────────────────────────────────────────────────────────────

  send(request: number, payload: Uint8Array, fds: readonly number[] = [], flags = 0): void {
    this.sendRaw(encodeMessage(request, flags, payload), fds);
  }

  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): void {
    if (this.messagesLeft-- <= 0) throw new ConnectionClosed('the front end has no more to say');
    const result = sendWithFds(this.fd, Uint8Array.from(bytes), fds);
    if (result < 0) throw new ConnectionClosed(`send: errno ${-result}`);
  }

  /** The next message, waited for. Throws ConnectionClosed at the end of the stream. */
  receive(): Message {
    const fds: number[] = [];
    const header = this.#receiveBytes(HEADER.BYTES, fds);
    const view = new DataView(header.buffer);
    const size = view.getUint32(HEADER.size, true);
    return {
      request: view.getUint32(HEADER.request, true),
      flags: view.getUint32(HEADER.flags, true),
      payload: size === 0 ? new Uint8Array(0) : this.#receiveBytes(size, fds),
      fds,
    };
  }

  /** A request that has a reply of its own. */
  query(request: number, payload: Uint8Array = new Uint8Array(0)): Message {
    this.send(request, payload);
    return this.#receiveReply(request);
  }

  /** A request without a reply: with REPLY_ACK it is acknowledged or refused, else just sent. */
  order(request: number, payload: Uint8Array, fds: readonly number[] = []): void {
    if ((this.protocolFeatures & VHOST_USER_PROTOCOL_F.REPLY_ACK) === 0n) {
      this.send(request, payload, fds);
      return;
    }
    this.send(request, payload, fds, FLAG_NEED_REPLY);
    const answer = decodeU64(this.#receiveReply(request));
    if (answer !== 0n) throw new RequestRefused(`${requestName(request)}: answered ${answer}`);
  }

  // ── Requests ────────────────────────────────────────────────────────────────────────────────

  /** Features and owner, as QEMU begins. Returns the device features offered. */
  negotiate(features: bigint, protocolFeatures: bigint): bigint {
    const offered = decodeU64(this.query(VHOST_USER.GET_FEATURES));
    if ((offered & VHOST_USER_F_PROTOCOL_FEATURES) !== 0n && protocolFeatures !== 0n) {
      this.query(VHOST_USER.GET_PROTOCOL_FEATURES);
      this.send(VHOST_USER.SET_PROTOCOL_FEATURES, encodeU64(protocolFeatures));
      this.protocolFeatures = protocolFeatures;
    }
    this.order(VHOST_USER.SET_OWNER, new Uint8Array(0));
    this.setFeatures(features);
    return offered;
  }

  setMemoryTable(ram: GuestRam): void {
    const fds = ram.regions.map(() => ram.fd);
    this.order(VHOST_USER.SET_MEM_TABLE, encodeMemTable(ram.regions), fds);
  }

  addRegion(region: MemoryRegion, fd: number): void {
    this.order(VHOST_USER.ADD_MEM_REG, encodeSingleRegion(region), [fd]);
  }

  removeRegion(region: MemoryRegion): void {
    this.order(VHOST_USER.REM_MEM_REG, encodeSingleRegion(region));
  }

  /** While rings run: to begin to log, or to end it. */
  setFeatures(features: bigint): void {
    const own = this.protocolFeatures === 0n ? 0n : VHOST_USER_F_PROTOCOL_FEATURES;
    this.order(VHOST_USER.SET_FEATURES, encodeU64(features | own));
  }

  setLogBase(log: LogDescription, fd: number): void {
    this.order(VHOST_USER.SET_LOG_BASE, encodeLog(log), [fd]);
  }

  /** `bytes`: of the payload; QEMU pads it to 24. The descriptor is the caller's. */
  getInflight(queues: number, queueSize: number, bytes = 20): { inflight: Inflight; fd: number } {
    const wanted = { mmapBytes: 0, mmapOffset: 0, queues, queueSize };
    const reply = this.query(VHOST_USER.GET_INFLIGHT_FD, encodeInflight(wanted, bytes));
    if (reply.fds.length !== 1) throw new Error(`expected a descriptor, got ${reply.fds.length}`);
    return { inflight: decodeInflight(reply), fd: reply.fds[0]! };
  }

  setInflight(inflight: Inflight, fd: number, bytes = 20): void {
    this.order(VHOST_USER.SET_INFLIGHT_FD, encodeInflight(inflight, bytes), [fd]);
  }

  setNum(index: number, num: number): void {
    this.order(VHOST_USER.SET_VRING_NUM, encodeVringState({ index, num }));
  }

  setBase(index: number, num: number): void {
    this.order(VHOST_USER.SET_VRING_BASE, encodeVringState({ index, num }));
  }

  /** `isLogged`: writes to the used ring are logged where it lies. */
  setAddress(index: number, ring: DriverRing, isLogged = false): void {
    const flags = isLogged ? VHOST_VRING_F_LOG : 0;
    const log = isLogged ? BigInt(ring.used) : 0n;
    const address = { index, flags, log, ...ring.userAddresses };
    this.order(VHOST_USER.SET_VRING_ADDR, encodeVringAddress(address));
  }

  setRingFd(request: number, index: number, fd: number | undefined): void {
    const value = BigInt(index) | (fd === undefined ? VRING_NOFD_MASK : 0n);
    this.order(request, encodeU64(value), fd === undefined ? [] : [fd]);
  }

  setEnabled(index: number, isEnabled: boolean): void {
    this.order(VHOST_USER.SET_VRING_ENABLE, encodeVringState({ index, num: isEnabled ? 1 : 0 }));
  }

  /** Stops a ring; the index to resume from. */
  getBase(index: number): number {
    const payload = encodeVringState({ index, num: 0 });
    return decodeVringState(this.query(VHOST_USER.GET_VRING_BASE, payload)).num;
  }

  /** Configuration space; undefined when the back end says that it is not there. */
  getConfig(offset: number, size: number): Uint8Array | undefined {
    const payload = encodeConfig({ offset, flags: 0, payload: new Uint8Array(size) });
    const reply = this.query(VHOST_USER.GET_CONFIG, payload);
    return reply.payload.length === 0 ? undefined : decodeConfig(reply).payload.slice();
  }

  setConfig(offset: number, bytes: Uint8Array): void {
    this.order(VHOST_USER.SET_CONFIG, encodeConfig({ offset, flags: 0, payload: bytes }));
  }

  /** Ring set-up in QEMU's order: call, err, then num, base, addresses, kick. Not enabled yet. */
  startRing(index: number, ring: DriverRing, fds: RingFds, base = ring.startIndex): void {
    this.setRingFd(VHOST_USER.SET_VRING_CALL, index, fds.call);
    this.setRingFd(VHOST_USER.SET_VRING_ERR, index, fds.err);
    this.setNum(index, ring.size);
    this.setBase(index, base);
    this.setAddress(index, ring);
    this.setRingFd(VHOST_USER.SET_VRING_KICK, index, fds.kick);
  }

  /** Whether the back end has closed the connection: waits for it up to `millis`. */
  isDropped(millis = 2000): boolean {
    const end = Date.now() + millis;
    const scratch = new Uint8Array(new ArrayBuffer(64));
    for (;;) {
      const count = receiveWithFds(this.fd, scratch, 0, scratch.length, []);
      if (count === 0 || (count < 0 && count !== -EAGAIN)) return true;
      if (Date.now() > end) return false;
      this.#pump();
    }
  }

  close(): void {
    closeFd(this.fd);
  }

  #receiveReply(request: number): Message {
    const reply = this.receive();
    if (reply.request !== request || (reply.flags & FLAG_REPLY) === 0) {
      throw new Error(`expected a reply to ${requestName(request)}, got ${reply.request}`);
    }
    return reply;
  }

  #receiveBytes(count: number, fds: number[]): Uint8Array {
    const bytes = new Uint8Array(new ArrayBuffer(count));
    const end = Date.now() + ANSWER_MILLIS_MAX;
    let done = 0;
    while (done < count) {
      const received = receiveWithFds(this.fd, bytes, done, count - done, fds);
      if (received === 0) throw new ConnectionClosed('the back end has closed the connection');
      if (received > 0) done += received;
      else if (received !== -EAGAIN) throw new ConnectionClosed(`receive: errno ${-received}`);
      else if (Date.now() > end) throw new Error('the back end does not answer');
      else this.#pump();
    }
    return bytes;
  }
}
