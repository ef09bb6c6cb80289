/** Payloads: what is encoded is decoded, at the document's offsets; wrong sizes say what was wrong. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
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
  encodeLog,
  encodeMemTable,
  encodeMessage,
  encodeSingleRegion,
  encodeU64,
  encodeVringAddress,
  encodeVringState,
  type Message,
  ProtocolError,
  requestName,
  VHOST_USER,
} from '../../src/vhost-user-ts/index.ts';

const u32 = fc.nat(0xffffffff);
const safe = fc.nat(Number.MAX_SAFE_INTEGER);
const u64 = fc.bigInt(0n, 2n ** 64n - 1n);
const region = fc.record({ guestAddress: safe, bytes: safe, userAddress: safe, mmapOffset: safe });

/** A payload as it arrives: at an odd place of a larger buffer. */
function message(request: number, payload: Uint8Array): Message {
  const buffer = new Uint8Array(payload.length + 10).fill(0xcc);
  buffer.set(payload, 5);
  return { request, flags: 1, payload: buffer.subarray(5, 5 + payload.length), fds: [] };
}

const any = (payload: Uint8Array) => message(VHOST_USER.SET_VRING_NUM, payload);

describe('round trips', () => {
  it('u64', () => {
    fc.assert(fc.property(u64, (value) => decodeU64(any(encodeU64(value))) === value));
  });

  it('vring state', () => {
    const state = fc.record({ index: u32, num: u32 });
    fc.assert(
      fc.property(state, (value) => {
        expect(decodeVringState(any(encodeVringState(value)))).toEqual(value);
      }),
    );
  });

  it('vring address', () => {
    const address = fc.record({
      index: u32,
      flags: u32,
      desc: safe,
      used: safe,
      avail: safe,
      log: u64,
    });
    fc.assert(
      fc.property(address, (value) => {
        expect(decodeVringAddress(any(encodeVringAddress(value)))).toEqual(value);
      }),
    );
  });

  it('memory table, also in a payload of the full eight regions', () => {
    fc.assert(
      fc.property(fc.array(region, { maxLength: 8 }), fc.boolean(), (regions, isFull) => {
        const encoded = encodeMemTable(regions);
        const payload = new Uint8Array(isFull ? 8 + 8 * 32 : encoded.length).fill(0xee);
        payload.set(encoded);
        expect(decodeMemTable(message(VHOST_USER.SET_MEM_TABLE, payload))).toEqual(regions);
      }),
    );
  });

  it('single region', () => {
    fc.assert(
      fc.property(region, (value) => {
        expect(decodeSingleRegion(any(encodeSingleRegion(value)))).toEqual(value);
      }),
    );
  });

  it('log', () => {
    const log = fc.record({ mmapSize: safe, mmapOffset: safe });
    fc.assert(
      fc.property(log, (value) => {
        expect(decodeLog(any(encodeLog(value)))).toEqual(value);
      }),
    );
  });

  it('config', () => {
    const config = fc.record({
      offset: u32,
      flags: u32,
      payload: fc.uint8Array({ maxLength: 4096 }),
    });
    fc.assert(
      fc.property(config, (value) => {
        const got = decodeConfig(any(encodeConfig(value)));
        expect([got.offset, got.flags, Buffer.compare(got.payload, value.payload)]).toEqual([
          value.offset,
          value.flags,
          0,
        ]);
      }),
    );
  });
});

describe('an in-flight description', () => {
  const description = fc.record({
    mmapBytes: safe,
    mmapOffset: safe,
    queues: fc.nat(0xffff),
    queueSize: fc.nat(0xffff),
  });

  it.each([20, 24])('comes back from %i bytes, as the document or QEMU has it', (bytes) => {
    fc.assert(
      fc.property(description, (value) => {
        const encoded = encodeInflight(value, bytes);
        expect(encoded).toHaveLength(bytes);
        expect(decodeInflight(any(encoded))).toEqual(value);
      }),
    );
  });

  it('has its fields where the document has them', () => {
    const value = { mmapBytes: 0x1122334455, mmapOffset: 0x1000, queues: 0x0102, queueSize: 0x80 };
    expect(Buffer.from(encodeInflight(value)).toString('hex')).toBe(
      '5544332211000000' + '0010000000000000' + '0201' + '8000',
    );
  });

  it.each([0, 16, 19, 21, 23, 25])('of %i bytes is none', (bytes) => {
    expect(() =>
      decodeInflight(message(VHOST_USER.SET_INFLIGHT_FD, new Uint8Array(bytes))),
    ).toThrow(new ProtocolError(`SET_INFLIGHT_FD: expected a payload of 20 bytes, got ${bytes}`));
  });

  it.each([0, 8])('beyond 2^53 in byte %i is none', (at) => {
    const payload = new Uint8Array(24);
    payload[at + 7] = 1;
    expect(() => decodeInflight(message(VHOST_USER.SET_INFLIGHT_FD, payload))).toThrow(
      `SET_INFLIGHT_FD: byte ${at}: expected less than 2^53, got 0x100000000000000`,
    );
  });
});

describe('bytes as the document lays them out', () => {
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

  it('a message is request, flags with version 1, size, payload', () => {
    expect(hex(encodeMessage(8, 0x8, Uint8Array.of(0xaa, 0xbb)))).toBe(
      '080000000900000002000000aabb',
    );
  });

  it('a vring state is index, num', () => {
    expect(hex(encodeVringState({ index: 2, num: 0x100 }))).toBe('0200000000010000');
  });

  it('a vring address is index, flags, descriptor, used, available, log', () => {
    const address = { index: 1, flags: 2, desc: 3, used: 4, avail: 5, log: 6n };
    const words = [3, 4, 5, 6].map((n) => `0${n}00000000000000`).join('');
    expect(hex(encodeVringAddress(address))).toBe(`0100000002000000${words}`);
  });

  it('a region is guest address, size, user address, mmap offset, behind 8 bytes of padding', () => {
    const one = { guestAddress: 1, bytes: 2, userAddress: 3, mmapOffset: 4 };
    const words = [0, 1, 2, 3, 4].map((n) => `0${n}00000000000000`).join('');
    expect(hex(encodeSingleRegion(one))).toBe(words);
    expect(hex(encodeMemTable([one]))).toBe(`0100000000000000${words.slice(16)}`);
  });

  it('a log is size, offset', () => {
    const words = '01000000000000000200000000000000';
    expect(hex(encodeLog({ mmapSize: 1, mmapOffset: 2 }))).toBe(words);
  });

  it('a config is offset, size, flags, bytes', () => {
    expect(hex(encodeConfig({ offset: 1, flags: 2, payload: Uint8Array.of(9, 8, 7) }))).toBe(
      '010000000300000002000000090807',
    );
  });
});

describe('wrong payloads are refused with where, expected and got', () => {
  const request = VHOST_USER.SET_VRING_ADDR;
  const sized: [string, (m: Message) => unknown, number][] = [
    ['empty', decodeEmpty, 0],
    ['u64', decodeU64, 8],
    ['vring state', decodeVringState, 8],
    ['vring address', decodeVringAddress, 40],
    ['single region', decodeSingleRegion, 40],
    ['log', decodeLog, 16],
  ];

  it.each(sized)('%s: any other size', (_name, decode, bytes) => {
    for (const got of [0, 1, bytes - 1, bytes + 1, bytes * 2, 4108]) {
      if (got === bytes || got < 0) continue;
      const error = `SET_VRING_ADDR: expected a payload of ${bytes} bytes, got ${got}`;
      expect(() => decode(message(request, new Uint8Array(got)))).toThrow(new ProtocolError(error));
    }
  });

  it('a memory table shorter than its count of regions', () => {
    const table = encodeMemTable(
      new Array(3).fill({ guestAddress: 0, bytes: 1, userAddress: 0, mmapOffset: 0 }),
    );
    for (const [length, expected] of [
      [table.length - 1, 104],
      [8, 104],
      [7, 8],
      [0, 8],
    ]) {
      const got = message(VHOST_USER.SET_MEM_TABLE, table.subarray(0, length));
      const error = `SET_MEM_TABLE: expected a payload of ${expected} bytes, got ${length}`;
      expect(() => decodeMemTable(got)).toThrow(new ProtocolError(error));
    }
  });

  it('a memory table of more than eight regions', () => {
    const payload = new Uint8Array(4000);
    for (const [count, got] of [
      [9, '9'],
      [0xffffffff, '4294967295'],
    ] as const) {
      new DataView(payload.buffer).setUint32(0, count, true);
      expect(() => decodeMemTable(any(payload))).toThrow(`expected at most 8 regions, got ${got}`);
    }
  });

  it('a config whose size field and payload differ', () => {
    const config = encodeConfig({ offset: 0, flags: 0, payload: new Uint8Array(10) });
    const longer = Uint8Array.from([...config, 0]);
    for (const payload of [config.subarray(0, 21), longer]) {
      const error = `expected a payload of 22 bytes, got ${payload.length}`;
      expect(() => decodeConfig(any(payload))).toThrow(error);
    }
    expect(() => decodeConfig(any(new Uint8Array(11)))).toThrow('expected a payload of 12 bytes');
  });

  it('an address of 2^53 or more', () => {
    for (const at of [8, 16, 24]) {
      const payload = new Uint8Array(40);
      const view = new DataView(payload.buffer);
      view.setBigUint64(at, 2n ** 53n - 1n, true);
      expect(() => decodeVringAddress(message(request, payload))).not.toThrow();
      view.setBigUint64(at, 2n ** 53n, true);
      const error = `SET_VRING_ADDR: byte ${at}: expected less than 2^53, got 0x20000000000000`;
      expect(() => decodeVringAddress(message(request, payload))).toThrow(new ProtocolError(error));
    }
  });
});

it('requests are called by their names', () => {
  expect(requestName(37)).toBe('ADD_MEM_REG');
  expect(requestName(77)).toBe('request 77');
});
