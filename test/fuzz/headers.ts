/**
 * Fuzzes what a request says: any type, sector, length and discard segments, in any valid layout,
 * several in flight. A model in 64-bit integers says each time which status is due, what is read,
 * and which pages may change; everything else must be as it was.
 */

import {
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../src/virtio-blk/protocol.ts';
import { type BlockRequest, type Completion, GuestDriver } from '../driver/guest-driver.ts';
import { joined, randomLayout } from '../driver/layouts.ts';
import { LocalQueue } from '../driver/local-queue.ts';
import type { Random } from '../driver/random.ts';
import { clear, type Range } from '../driver/requests.ts';
import { type Budget, check, runCases } from './budget.ts';
import { CheckedStore } from './hostile-guest.ts';

const SLOTS = 64;
const SECTORS = BigInt(SLOTS * 8);
const SERIAL = 'fuzzed';
const DISCARD_SEGMENTS_MAX = 16;
const DISCARD_SECTORS_MAX = 8192;
const HEADER_BYTES = 16;
/** test/driver/guest-driver.ts fills with it what the device may write. */
const UNTOUCHED = 0xa5;

interface Case {
  readonly request: BlockRequest;
  /** Bytes of the layout's readable part: less than a header now and then. */
  readonly readable: number;
}

let store: CheckedStore | undefined;
let local: LocalQueue | undefined;
/** What the disk must hold, by this file's own reckoning. */
let disk = new Uint8Array(SLOTS * 4096);

export function fuzzHeaders(seed: number, budget: Budget): number {
  // After a failure requests are left in flight: each run has a queue of its own.
  local?.close();
  store ??= new CheckedStore(SLOTS);
  disk = new Uint8Array(SLOTS * 4096);
  for (let slot = 0; slot < SLOTS; slot++) {
    disk.set(store.page(slot), slot * 4096);
  }
  local = new LocalQueue(store, { serial: SERIAL, size: 128 });
  return runCases('headers', seed, budget, runCase);
}

function runCase(random: Random): void {
  const { driver } = local!;
  const cases = new Map<number, Case>();
  for (let i = random.between(1, 6); i > 0; i--) {
    const made = randomCase(random);
    const sizes = { ...GuestDriver.sizes(made.request), readable: made.readable };
    const isShort = made.readable < HEADER_BYTES;
    const layout = isShort ? joined(sizes) : randomLayout(random, sizes, 24, true);
    if (!driver.hasRoom(layout)) break;
    cases.set(driver.submit(made.request, layout).number, made);
  }
  driver.flush();
  local!.serveAll(random.pick([1, 3, 64]));
  const { brokenReason } = local!.queue.ring;
  check(brokenReason === undefined, () => `ring broken: ${brokenReason}`);
  const done = driver.complete();
  check(done.length === cases.size, `${cases.size} requests, ${done.length} completions`);
  for (const completion of done) judge(cases.get(completion.ticket.number)!, completion);
  for (let slot = 0; slot < SLOTS; slot++) {
    const expected = disk.subarray(slot * 4096, (slot + 1) * 4096);
    check(Buffer.compare(store!.page(slot), expected) === 0, `slot ${slot} changed unasked`);
  }
  store!.compareSlots(random.below(SLOTS), 8);
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────

function randomCase(random: Random): Case {
  const request = randomRequest(random);
  const whole = HEADER_BYTES + (request.data?.length ?? 0);
  return { request, readable: random.oneIn(30) ? random.below(HEADER_BYTES) : whole };
}

function randomRequest(random: Random): BlockRequest {
  const kind = random.below(20);
  const pages = random.below(5);
  const bytes = random.oneIn(10) ? random.below(9000) : pages * 4096;
  const sector = randomSector(random, BigInt(bytes >> 9));
  if (kind < 6) return { type: VIRTIO_BLK_T_IN, sector, inBytes: bytes };
  if (kind < 12) {
    const data = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += 4096) data.set(random.page().subarray(0, bytes - at), at);
    return { type: VIRTIO_BLK_T_OUT, sector, data, inBytes: random.oneIn(8) ? 7 : 0 };
  }
  if (kind < 17) return randomClear(random);
  if (kind === 17) return { type: VIRTIO_BLK_T_GET_ID, sector, inBytes: random.below(40) };
  if (kind === 18) return { type: VIRTIO_BLK_T_FLUSH, sector, inBytes: random.below(3) };
  const type = random.pick([2, 3, 5, 14, 16, 0x80000000, 0xffffffff, random.u32(), 1 << 24]);
  return { type, sector, data: random.bytes(random.below(40)), inBytes: random.below(40) };
}

function randomClear(random: Random): BlockRequest {
  const type = random.oneIn(2) ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;
  const count = random.oneIn(12) ? random.between(15, 18) : random.between(1, 4);
  const ranges: Range[] = Array.from({ length: count }, () => {
    const sectors = random.oneIn(12)
      ? random.pick([0, 8192, 8193, 0x7fffffff, 0x80000000, 0xffffffff, random.u32()])
      : random.below(80);
    const flags = random.oneIn(16) ? random.pick([1, 2, 3, 0x80000000, 0xffffffff]) : 0;
    const unmap = type === VIRTIO_BLK_T_WRITE_ZEROES && random.oneIn(2) ? 1 : 0;
    return { sector: randomSector(random, BigInt(sectors)), sectors, flags: flags | unmap };
  }).map((range) => ({ ...range, flags: range.flags >>> 0 }));
  const request = clear(type, ranges);
  if (!random.oneIn(16)) return request;
  return { ...request, data: request.data!.subarray(0, random.below(request.data!.length)) };
}

/** Mostly on the disk and on a page's boundary; else at every border there is. */
function randomSector(random: Random, sectors: bigint): bigint {
  if (!random.oneIn(8)) return BigInt(8 * random.below(SLOTS - 4));
  const end = random.pick([SECTORS, 1n << 31n, 1n << 32n, 1n << 53n, 1n << 62n, 1n << 64n]);
  const before = random.pick([sectors, sectors + 1n, sectors + 8n, sectors - 1n, sectors - 8n]);
  const borders = [BigInt(random.below(600)), end, end - 1n, end + 8n, end - before, end - before];
  return BigInt.asUintN(64, random.pick(borders));
}

// ── The model ───────────────────────────────────────────────────────────────────────────────────

function judge({ request, readable }: Case, { status, data }: Completion): void {
  const expected = expectedStatus(request, readable);
  const what = () => `type ${request.type} sector ${request.sector} of ${readable} bytes`;
  check(status === expected, () => `${what()}: expected status ${expected}, got ${status}`);
  const written = status === VIRTIO_BLK_S_OK ? carryOut(request) : new Uint8Array(0);
  check(
    Buffer.compare(data.subarray(0, written.length), written) === 0,
    () => `${what()}: other data than expected`,
  );
  check(
    data.subarray(written.length).every((byte) => byte === UNTOUCHED),
    () => `${what()}: wrote behind its data`,
  );
}

function expectedStatus(request: BlockRequest, readable: number): number {
  if (readable < HEADER_BYTES) return VIRTIO_BLK_S_IOERR;
  const out = request.data?.length ?? 0;
  switch (request.type) {
    case VIRTIO_BLK_T_IN:
      return transferStatus(request, request.inBytes ?? 0);
    case VIRTIO_BLK_T_OUT:
      return transferStatus(request, out);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return clearStatus(request, out);
    case VIRTIO_BLK_T_FLUSH:
    case VIRTIO_BLK_T_GET_ID:
      return VIRTIO_BLK_S_OK;
    default:
      return VIRTIO_BLK_S_UNSUPP;
  }
}

function transferStatus(request: BlockRequest, bytes: number): number {
  const sector = BigInt(request.sector);
  const isWhole = sector % 8n === 0n && bytes % 4096 === 0;
  return isWhole && sector + BigInt(bytes >> 9) <= SECTORS ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

function clearStatus(request: BlockRequest, bytes: number): number {
  if (bytes === 0 || bytes % 16 !== 0 || bytes / 16 > DISCARD_SEGMENTS_MAX) {
    return VIRTIO_BLK_S_IOERR;
  }
  const known = request.type === VIRTIO_BLK_T_DISCARD ? 0 : 1;
  for (const { sector, sectors, flags } of rangesOf(request)) {
    if (flags !== 0 && flags !== known) return VIRTIO_BLK_S_UNSUPP;
    const isInside = sector + BigInt(sectors) <= SECTORS;
    if (sectors > DISCARD_SECTORS_MAX || !isInside) return VIRTIO_BLK_S_IOERR;
  }
  return VIRTIO_BLK_S_OK;
}

function rangesOf(request: BlockRequest): { sector: bigint; sectors: number; flags: number }[] {
  const data = request.data!;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return Array.from({ length: data.length / 16 }, (_, i) => ({
    sector: view.getBigUint64(16 * i, true),
    sectors: view.getUint32(16 * i + 8, true),
    flags: view.getUint32(16 * i + 12, true),
  }));
}

/** What a request that is in order does to the disk; what it gives the driver. */
function carryOut(request: BlockRequest): Uint8Array {
  const at = Number(BigInt.asUintN(53, BigInt(request.sector))) * 512;
  switch (request.type) {
    case VIRTIO_BLK_T_IN:
      return disk.slice(at, at + (request.inBytes ?? 0));
    case VIRTIO_BLK_T_OUT:
      disk.set(request.data!, at);
      break;
    case VIRTIO_BLK_T_GET_ID: {
      const serial = new Uint8Array(20);
      serial.set(Buffer.from(SERIAL));
      return serial.subarray(0, request.inBytes ?? 0);
    }
    case VIRTIO_BLK_T_DISCARD:
      for (const { sector, sectors } of rangesOf(request)) {
        // Only pages that are covered whole are let go.
        const first = Math.ceil(Number(sector) / 8);
        const end = Math.floor((Number(sector) + sectors) / 8);
        if (end > first) disk.fill(0, first * 4096, end * 4096);
      }
      break;
    case VIRTIO_BLK_T_WRITE_ZEROES:
      for (const { sector, sectors } of rangesOf(request)) {
        disk.fill(0, Number(sector) * 512, (Number(sector) + sectors) * 512);
      }
      break;
    default:
  }
  return new Uint8Array(0);
}
