/** The store's header page: what it says of the store, and which stores are not the one that is wanted. */

import { describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { HEADER, HEADER_MAGIC, STORE_VERSION } from '../../src/store/layout.ts';
import { StoreHeader, type StoreIdentity } from '../../src/store/store-header.ts';

const UUID = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
const BACKING = Uint8Array.from({ length: 32 }, (_, i) => 200 - i);
const PLAIN: StoreIdentity = { name: 'swap7', slots: 1000, backing: undefined };
const BACKED: StoreIdentity = { ...PLAIN, backing: BACKING };

function headerOf(identity: StoreIdentity, page = new Uint8Array(4096)): StoreHeader {
  const header = new StoreHeader(page);
  header.begin(identity, UUID);
  header.complete();
  return header;
}

function refusal(header: StoreHeader, wanted: StoreIdentity): string {
  try {
    header.check(wanted, 'store X');
  } catch (error) {
    expect(error).toBeInstanceOf(RefusedError);
    return (error as Error).message;
  }
  return 'none';
}

describe('a header', () => {
  it('is of what it was begun with, and a page that was something else', () => {
    const page = new Uint8Array(4096).fill(0xee, 0, HEADER.gauges);
    const header = new StoreHeader(page);
    header.begin(BACKED, UUID);
    expect(header.isComplete).toBe(false);
    expect(page.subarray(HEADER.backing + 32, HEADER.gauges).every((byte) => byte === 0)).toBe(
      true,
    );
    header.complete();
    expect(header.isComplete).toBe(true);
    expect([header.name, header.uuid]).toEqual(['swap7', UUID]);
    expect([header.generation, header.threads, header.isClean]).toEqual([0, 0, false]);
    expect(header.frontEnd).toBeUndefined();
    expect(refusal(header, BACKED)).toBe('none');
  });

  it('is read the same from a copy', () => {
    const page = new Uint8Array(4096);
    headerOf(PLAIN, page);
    expect(refusal(new StoreHeader(page.slice()), PLAIN)).toBe('none');
    const whole = new Uint8Array(8192);
    whole.set(page, 4096);
    expect(refusal(new StoreHeader(whole.subarray(4096)), PLAIN)).toBe('none');
  });

  it('says how often it was opened, by how many threads, and how it was left', () => {
    const header = headerOf(PLAIN);
    header.open(3);
    expect([header.generation, header.threads, header.isClean]).toEqual([1, 3, false]);
    header.close();
    expect(header.isClean).toBe(true);
    header.open(1);
    expect([header.generation, header.threads, header.isClean]).toEqual([2, 1, false]);
  });

  it('knows the front end that it served last', () => {
    const header = headerOf(PLAIN);
    const frontEnd = { process: 4_000_000_000, start: 2 ** 52 + 1 };
    header.frontEnd = frontEnd;
    expect(header.frontEnd).toEqual(frontEnd);
    header.frontEnd = undefined;
    expect(header.frontEnd).toBeUndefined();
  });

  it('gets another identity with other content', () => {
    const header = headerOf(PLAIN);
    const other = UUID.map((byte) => byte ^ 0xff);
    header.uuid = other;
    expect(header.uuid).toEqual(other);
    expect(header.name).toBe('swap7');
  });

  it("may have a name of 20 characters, with no end but the field's at 32", () => {
    for (const length of [1, 20, 32]) {
      const name = 'n'.repeat(length);
      expect(headerOf({ ...PLAIN, name }).name).toBe(name);
    }
  });
});

describe('refused is a store', () => {
  const set = (field: number, value: number) => {
    const page = new Uint8Array(4096);
    const header = headerOf(PLAIN, page);
    new DataView(page.buffer).setUint32(field, value, true);
    return header;
  };

  it('of another format, whatever else it says', () => {
    expect(STORE_VERSION).toBeGreaterThan(1);
    for (const version of [0, STORE_VERSION - 1, STORE_VERSION + 1, 0xffffffff]) {
      expect(refusal(set(HEADER.version, version), { ...PLAIN, name: 'x', slots: 5 })).toBe(
        `store X: format of the store: expected ${STORE_VERSION}, got ${version}`,
      );
    }
  });

  it('of another device', () => {
    expect(refusal(headerOf(PLAIN), { ...PLAIN, name: 'swap70' })).toBe(
      'store X: device: expected swap70, got swap7',
    );
  });

  it('of another size', () => {
    expect(refusal(headerOf(PLAIN), { ...PLAIN, slots: 1024 })).toBe(
      'store X: disk size (max-disksize where given): ' +
        'expected 4 MiB (1024 pages), got 3.9 MiB (1000 pages)',
    );
  });

  it('of another arena', () => {
    expect(refusal(set(HEADER.arenaPages, 64), PLAIN)).toBe(
      'store X: arena pages: expected 2064, got 64',
    );
  });

  it.each([
    [PLAIN, BACKED, 'expected the one given, got none'],
    [BACKED, PLAIN, 'expected none, got one'],
    [
      BACKED,
      { ...BACKED, backing: BACKING.map((byte, i) => (i === 31 ? byte + 1 : byte)) },
      'expected the one given, got another, or this one before its file was changed',
    ],
  ])('of another backing swap (%#)', (made, wanted, words) => {
    expect(refusal(headerOf(made), wanted)).toBe(`store X: backing swap: ${words}`);
  });
});

it('the magic is four letters, for people who look at the file', () => {
  const page = new Uint8Array(4096);
  headerOf(PLAIN, page);
  expect(Buffer.from(page).toString('latin1', 0, 4)).toBe('rzsw');
  expect(new DataView(page.buffer).getUint32(0, true)).toBe(HEADER_MAGIC);
});
