/**
 * Payloads of vhost-user messages: encoding and decoding, shared by both ends. Decoders check the
 * exact size and throw ProtocolError with what was expected and got; meaning is checked by the
 * session.
 */

import { ProtocolError } from './errors.ts';
import { FLAG_VERSION, HEADER, MEM_TABLE_REGIONS_MAX, requestName } from './protocol.ts';

/** A message as received; the fds belong to whoever handles it. */
export interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: number[];
}

/** A vring state description: u32 index, u32 num. */
export interface VringState {
  readonly index: number;
  readonly num: number;
}

/** A vring address description: u32 index, u32 flags, then 64-bit user addresses and log address. */
export interface VringAddress {
  readonly index: number;
  readonly flags: number;
  readonly desc: number;
  readonly used: number;
  readonly avail: number;
  readonly log: bigint;
}

/** A memory region description, 32 bytes; addresses and sizes below 2^53. */
export interface MemoryRegion {
  readonly guestAddress: number;
  readonly bytes: number;
  readonly userAddress: number;
  readonly mmapOffset: number;
}

/** A log description: u64 log size, u64 log offset in the file that comes with it. */
export interface LogDescription {
  readonly mmapSize: number;
  readonly mmapOffset: number;
}

/** A virtio device config space message: u32 offset, u32 size, u32 flags, payload. */
export interface ConfigMessage {
  readonly offset: number;
  readonly flags: number;
  readonly payload: Uint8Array;
}

/** An inflight description: u64 mmap size, u64 mmap offset, u16 number of queues, u16 queue size. */
export interface Inflight {
  readonly mmapBytes: number;
  readonly mmapOffset: number;
  readonly queues: number;
  readonly queueSize: number;
}

const U64_BYTES = 8;
const VRING_STATE_BYTES = 8;
const VRING_ADDRESS_BYTES = 40;
const REGION_BYTES = 32;
const LOG_BYTES = 16;
const MEM_TABLE_HEADER_BYTES = 8;
const SINGLE_REGION_PADDING_BYTES = 8;
const CONFIG_HEADER_BYTES = 12;
const INFLIGHT_BYTES = 20;
/** QEMU sends its struct as the compiler pads it. */
const INFLIGHT_PADDED_BYTES = 24;

/** A whole message: header and payload. */
export function encodeMessage(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(HEADER.BYTES + payload.length));
  const view = new DataView(bytes.buffer);
  view.setUint32(HEADER.request, request, true);
  view.setUint32(HEADER.flags, FLAG_VERSION | flags, true);
  view.setUint32(HEADER.size, payload.length, true);
  bytes.set(payload, HEADER.BYTES);
  return bytes;
}

export function encodeU64(value: bigint): Uint8Array {
  const payload = new Uint8Array(U64_BYTES);
  new DataView(payload.buffer).setBigUint64(0, value, true);
  return payload;
}

export function decodeU64(message: Message): bigint {
  return sized(message, U64_BYTES).getBigUint64(0, true);
}

export function encodeVringState(state: VringState): Uint8Array {
  const payload = new Uint8Array(VRING_STATE_BYTES);
  const view = new DataView(payload.buffer);
  view.setUint32(0, state.index, true);
  view.setUint32(4, state.num, true);
  return payload;
}

export function decodeVringState(message: Message): VringState {
  const view = sized(message, VRING_STATE_BYTES);
  return { index: view.getUint32(0, true), num: view.getUint32(4, true) };
}

export function encodeVringAddress(address: VringAddress): Uint8Array {
  const payload = new Uint8Array(VRING_ADDRESS_BYTES);
  const view = new DataView(payload.buffer);
  view.setUint32(0, address.index, true);
  view.setUint32(4, address.flags, true);
  view.setBigUint64(8, BigInt(address.desc), true);
  view.setBigUint64(16, BigInt(address.used), true);
  view.setBigUint64(24, BigInt(address.avail), true);
  view.setBigUint64(32, address.log, true);
  return payload;
}

export function decodeVringAddress(message: Message): VringAddress {
  const view = sized(message, VRING_ADDRESS_BYTES);
  return {
    index: view.getUint32(0, true),
    flags: view.getUint32(4, true),
    desc: safeU64(message, view, 8),
    used: safeU64(message, view, 16),
    avail: safeU64(message, view, 24),
    log: view.getBigUint64(32, true),
  };
}

export function encodeMemTable(regions: readonly MemoryRegion[]): Uint8Array {
  const payload = new Uint8Array(MEM_TABLE_HEADER_BYTES + regions.length * REGION_BYTES);
  const view = new DataView(payload.buffer);
  view.setUint32(0, regions.length, true);
  regions.forEach((region, i) => {
    putRegion(view, MEM_TABLE_HEADER_BYTES + i * REGION_BYTES, region);
  });
  return payload;
}

/** Front ends may send the whole struct of eight regions, whatever the count says. */
export function decodeMemTable(message: Message): MemoryRegion[] {
  const { payload } = message;
  if (payload.length < MEM_TABLE_HEADER_BYTES) throw wrongSize(message, MEM_TABLE_HEADER_BYTES);
  const view = viewOf(payload);
  const count = view.getUint32(0, true);
  if (count > MEM_TABLE_REGIONS_MAX) {
    throw new ProtocolError(
      `SET_MEM_TABLE: expected at most ${MEM_TABLE_REGIONS_MAX} regions, got ${count}`,
    );
  }
  const needed = MEM_TABLE_HEADER_BYTES + count * REGION_BYTES;
  if (payload.length < needed) throw wrongSize(message, needed);
  return Array.from({ length: count }, (_, i) =>
    takeRegion(message, view, MEM_TABLE_HEADER_BYTES + i * REGION_BYTES),
  );
}

export function encodeSingleRegion(region: MemoryRegion): Uint8Array {
  const payload = new Uint8Array(SINGLE_REGION_PADDING_BYTES + REGION_BYTES);
  putRegion(new DataView(payload.buffer), SINGLE_REGION_PADDING_BYTES, region);
  return payload;
}

export function decodeSingleRegion(message: Message): MemoryRegion {
  const view = sized(message, SINGLE_REGION_PADDING_BYTES + REGION_BYTES);
  return takeRegion(message, view, SINGLE_REGION_PADDING_BYTES);
}

export function encodeLog(log: LogDescription): Uint8Array {
  const payload = new Uint8Array(LOG_BYTES);
  const view = new DataView(payload.buffer);
  view.setBigUint64(0, BigInt(log.mmapSize), true);
  view.setBigUint64(8, BigInt(log.mmapOffset), true);
  return payload;
}

export function decodeLog(message: Message): LogDescription {
  const view = sized(message, LOG_BYTES);
  return { mmapSize: safeU64(message, view, 0), mmapOffset: safeU64(message, view, 8) };
}

export function encodeConfig(config: ConfigMessage): Uint8Array {
  const payload = new Uint8Array(CONFIG_HEADER_BYTES + config.payload.length);
  const view = new DataView(payload.buffer);
  view.setUint32(0, config.offset, true);
  view.setUint32(4, config.payload.length, true);
  view.setUint32(8, config.flags, true);
  payload.set(config.payload, CONFIG_HEADER_BYTES);
  return payload;
}

export function decodeConfig(message: Message): ConfigMessage {
  const { payload } = message;
  if (payload.length < CONFIG_HEADER_BYTES) throw wrongSize(message, CONFIG_HEADER_BYTES);
  const view = viewOf(payload);
  const size = view.getUint32(4, true);
  if (payload.length !== CONFIG_HEADER_BYTES + size) {
    throw wrongSize(message, CONFIG_HEADER_BYTES + size);
  }
  return {
    offset: view.getUint32(0, true),
    flags: view.getUint32(8, true),
    payload: payload.subarray(CONFIG_HEADER_BYTES),
  };
}

/** `bytes`: of the payload; as many as in the request that is answered. */
export function encodeInflight(inflight: Inflight, bytes = INFLIGHT_BYTES): Uint8Array {
  const payload = new Uint8Array(bytes);
  const view = new DataView(payload.buffer);
  view.setBigUint64(0, BigInt(inflight.mmapBytes), true);
  view.setBigUint64(8, BigInt(inflight.mmapOffset), true);
  view.setUint16(16, inflight.queues, true);
  view.setUint16(18, inflight.queueSize, true);
  return payload;
}

export function decodeInflight(message: Message): Inflight {
  const { payload } = message;
  const isPadded = payload.length === INFLIGHT_PADDED_BYTES;
  const view = isPadded ? viewOf(payload) : sized(message, INFLIGHT_BYTES);
  return {
    mmapBytes: safeU64(message, view, 0),
    mmapOffset: safeU64(message, view, 8),
    queues: view.getUint16(16, true),
    queueSize: view.getUint16(18, true),
  };
}

export function decodeEmpty(message: Message): void {
  sized(message, 0);
}

function putRegion(view: DataView, at: number, region: MemoryRegion): void {
  view.setBigUint64(at, BigInt(region.guestAddress), true);
  view.setBigUint64(at + 8, BigInt(region.bytes), true);
  view.setBigUint64(at + 16, BigInt(region.userAddress), true);
  view.setBigUint64(at + 24, BigInt(region.mmapOffset), true);
}

function takeRegion(message: Message, view: DataView, at: number): MemoryRegion {
  return {
    guestAddress: safeU64(message, view, at),
    bytes: safeU64(message, view, at + 8),
    userAddress: safeU64(message, view, at + 16),
    mmapOffset: safeU64(message, view, at + 24),
  };
}

/** No address or size of a real machine reaches 2^53. */
function safeU64(message: Message, view: DataView, at: number): number {
  const value = view.getBigUint64(at, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    const got = `0x${value.toString(16)}`;
    throw new ProtocolError(
      `${requestName(message.request)}: byte ${at}: expected less than 2^53, got ${got}`,
    );
  }
  return Number(value);
}

function sized(message: Message, bytes: number): DataView {
  if (message.payload.length !== bytes) throw wrongSize(message, bytes);
  return viewOf(message.payload);
}

function viewOf(payload: Uint8Array): DataView {
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
}

function wrongSize(message: Message, expected: number): ProtocolError {
  const got = message.payload.length;
  return new ProtocolError(
    `${requestName(message.request)}: expected a payload of ${expected} bytes, got ${got}`,
  );
}
