/** The device's side of a split ring against the raw driver's side: chains, refusals, events. */

import { afterEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import type { DescriptorChain } from '../../src/virtio/chain.ts';
import {
  VIRTQ_DESC_F_INDIRECT as INDIRECT,
  VIRTQ_DESC_F_NEXT as NEXT,
  VIRTQ_DESC_F_WRITE as WRITE,
} from '../../src/virtio/split-ring.ts';
import { POP_BROKEN, POP_CHAIN, POP_EMPTY, Virtqueue } from '../../src/virtio/virtqueue.ts';
import { type Descriptor, encodeDescriptor } from '../driver/driver-ring.ts';
import { GuestRam, USER_BASE } from '../driver/guest-ram.ts';
import { LocalRing, type LocalRingOptions } from '../driver/local-ring.ts';

const MIB = 1 << 20;
const rams: GuestRam[] = [];
const rings: LocalRing[] = [];

afterEach(() => {
  for (const ring of rings.splice(0)) ring.close();
  for (const ram of rams.splice(0)) ram.close();
});

function setUp(size: number, options: LocalRingOptions = {}): LocalRing {
  const local = new LocalRing(size, options);
  rings.push(local);
  return local;
}

const desc = (address: number | bigint, bytes: number, flags = 0, next = 0): Descriptor => ({
  address,
  bytes,
  flags,
  next,
});

/** The chain's segments as [address, bytes], and how many are readable. */
function contents(chain: DescriptorChain) {
  const segments = Array.from({ length: chain.count }, (_, i) => [
    (chain.addressHi[i]! >>> 0) * 2 ** 32 + (chain.addressLo[i]! >>> 0),
    chain.length[i],
  ]);
  return { segments, readable: chain.readableCount };
}

function table(ram: GuestRam, entries: readonly Descriptor[], skew = 0): number {
  const address = ram.allocate(16 * entries.length, 4096, skew);
  entries.forEach((entry, i) => {
    ram.write(address + 16 * i, encodeDescriptor(entry));
  });
  return address;
}

describe('pop', () => {
  it('says that nothing is there until the driver publishes, then gives each chain once', () => {
    const { driver, ring, chain } = setUp(8);
    driver.setDescriptor(3, desc(0x1000, 16, NEXT, 5));
    driver.setDescriptor(5, desc(0x2001, 7, NEXT | WRITE, 1));
    driver.setDescriptor(1, desc(0x3000, 1, WRITE));
    driver.offer(3);
    expect(ring.hasAvailable()).toBe(false);
    expect(ring.pop(chain)).toBe(POP_EMPTY);
    driver.publish();
    expect(ring.hasAvailable()).toBe(true);
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(chain.head).toBe(3);
    expect([chain.readableBytes, chain.writableBytes]).toEqual([16, 8]);
    expect(contents(chain)).toEqual({
      segments: [
        [0x1000, 16],
        [0x2001, 7],
        [0x3000, 1],
      ],
      readable: 1,
    });
    expect(ring.hasAvailable()).toBe(false);
    expect(ring.pop(chain)).toBe(POP_EMPTY);
  });

  it.each([0, 1, 3, 17, 4095])('follows an indirect table at address %i modulo 4096', (skew) => {
    const { ram, driver, ring, chain } = setUp(8);
    const entries = [
      desc(0x5000, 16, NEXT, 3),
      desc(0x7000, 1, WRITE),
      desc(0, 0),
      desc(2n ** 40n + 5n, 4096, NEXT | WRITE, 1),
    ];
    driver.setDescriptor(2, desc(table(ram, entries, skew), 64, INDIRECT));
    driver.offer(2);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(chain.head).toBe(2);
    expect(contents(chain).segments).toEqual([
      [0x5000, 16],
      [2 ** 40 + 5, 4096],
      [0x7000, 1],
    ]);
    expect(chain.readableCount).toBe(1);
  });

  it('goes on from direct descriptors into an indirect table, whose write flag means nothing', () => {
    const { ram, driver, ring, chain } = setUp(8);
    const address = table(ram, [desc(0x5000, 4), desc(0, 0)], 5);
    driver.setDescriptor(0, desc(0x1000, 16, NEXT, 7));
    driver.setDescriptor(7, desc(address, 32, INDIRECT | WRITE));
    driver.offer(0);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(contents(chain)).toEqual({
      segments: [
        [0x1000, 16],
        [0x5000, 4],
      ],
      readable: 2,
    });
  });

  it('takes an indirect table of 1024 entries on a smaller ring', () => {
    const { ram, driver, ring, chain } = setUp(2);
    const entries = Array.from({ length: 1024 }, (_, i) =>
      desc(i, 1, i === 1023 ? 0 : NEXT, i + 1),
    );
    driver.setDescriptor(0, desc(table(ram, entries), 16384, INDIRECT));
    driver.offer(0);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(chain.readableBytes).toBe(1024);
  });

  it('an indirect table may cross from one region of guest memory into the next', () => {
    const regions = [
      { guestAddress: 0, userAddress: USER_BASE, bytes: MIB, mmapOffset: MIB },
      { guestAddress: MIB, userAddress: USER_BASE + 4 * MIB, bytes: MIB, mmapOffset: 0 },
    ];
    const { ram, driver, ring, chain } = setUp(4, { regions });
    const address = MIB - 16;
    ram.write(address, encodeDescriptor(desc(0x1000, 3, NEXT, 1)));
    ram.write(MIB, encodeDescriptor(desc(0x2000, 4)));
    driver.setDescriptor(0, desc(address, 32, INDIRECT));
    driver.offer(0);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(chain.readableBytes).toBe(7);
  });

  it('an indirect table may lie across the 4 GiB border', () => {
    const start = 2 ** 32 - MIB;
    const regions = [
      { guestAddress: start, userAddress: USER_BASE, bytes: 2 * MIB, mmapOffset: 0 },
    ];
    const { ram, driver, ring, chain } = setUp(4, { regions });
    const address = 2 ** 32 - 24;
    [3, 4, 5].forEach((bytes, i) => {
      const next = i === 2 ? 0 : NEXT;
      ram.write(address + 16 * i, encodeDescriptor(desc(0x1000, bytes, next, i + 1)));
    });
    driver.setDescriptor(0, desc(address, 48, INDIRECT));
    driver.offer(0);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(chain.readableBytes).toBe(12);
  });

  it.each([1, 2, 128, 1024, 32768])(
    'a ring of %i serves three times round, full each time, from index 65530',
    (size) => {
      const { driver, ring, chain } = setUp(size, { startIndex: 65530 });
      for (let i = 0; i < size; i++) driver.setDescriptor(i, desc(0x1000 + i, 1));
      for (let round = 0; round < 3; round++) {
        for (let i = 0; i < size; i++) driver.offer((i + round) % size);
        driver.publish();
        for (let i = 0; i < size; i++) {
          expect(ring.pop(chain)).toBe(POP_CHAIN);
          if (chain.head !== (i + round) % size) expect.fail(`round ${round}, chain ${i}`);
          ring.push(chain.head, i);
        }
        expect(ring.pop(chain)).toBe(POP_EMPTY);
        expect(driver.usedCount).toBe(0);
        ring.publish();
        expect(driver.usedCount).toBe(size);
        for (let i = 0; i < size; i++) {
          const used = driver.takeUsed()!;
          if (used.id !== (i + round) % size || used.len !== i) expect.fail(`used ${i}`);
        }
      }
      expect(ring.lastAvail).toBe((65530 + 3 * size) & 0xffff);
    },
  );

  it('unpop gives the same chain again', () => {
    const { driver, ring, chain } = setUp(4, { startIndex: 0 });
    for (const head of [2, 1]) {
      driver.setDescriptor(head, desc(head, 1));
      driver.offer(head);
    }
    driver.publish();
    ring.pop(chain);
    ring.unpop();
    expect(ring.lastAvail).toBe(0);
    ring.pop(chain);
    expect(chain.head).toBe(2);
    ring.pop(chain);
    expect(chain.head).toBe(1);
    ring.unpop();
    expect(ring.lastAvail).toBe(1);
  });

  it('unpop across index 0 resumes at 65535', () => {
    const { driver, ring, chain } = setUp(4, { startIndex: 65535 });
    driver.offer(0);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(ring.lastAvail).toBe(0);
    ring.unpop();
    expect(ring.lastAvail).toBe(65535);
  });

  it('start goes on from the used index that the ring says', () => {
    const { driver, ring, chain, features } = setUp(4, { startIndex: 7 });
    driver.offer(1);
    driver.publish();
    ring.pop(chain);
    ring.push(chain.head, 9);
    ring.publish();
    ring.start(8, features);
    driver.offer(2);
    driver.publish();
    ring.pop(chain);
    ring.push(chain.head, 10);
    ring.publish();
    expect(driver.usedIdx).toBe(9);
    expect(driver.takeUsed()).toEqual({ id: 1, len: 9 });
    expect(driver.takeUsed()).toEqual({ id: 2, len: 10 });
  });
});

describe('what no driver may do breaks the ring', () => {
  const page = 0x1000;
  const cases: [string, RegExp, (local: LocalRing) => void, LocalRingOptions?][] = [
    ['a head beyond the table', /descriptor index: expected below 8, got 8/, () => 8],
    [
      'a next beyond the table',
      /descriptor index: expected below 8, got 65535/,
      ({ driver }) => driver.setDescriptor(0, desc(page, 1, NEXT, 65535)),
    ],
    [
      'a descriptor that is its own successor',
      /at most 8 descriptors, got a loop or more/,
      ({ driver }) => driver.setDescriptor(0, desc(page, 1, NEXT, 0)),
    ],
    [
      'a loop over several descriptors',
      /loop or more/,
      ({ driver }) => {
        driver.setDescriptor(0, desc(page, 1, NEXT, 4));
        driver.setDescriptor(4, desc(page, 1, NEXT, 0));
      },
    ],
    [
      'a loop of segments without bytes',
      /loop or more/,
      ({ driver }) => driver.setDescriptor(0, desc(page, 0, NEXT | WRITE, 0)),
    ],
    [
      'an available index that jumps',
      /avail.idx: expected at most 8 new chains, got 9/,
      ({ driver }) => driver.setAvailIdx(9),
    ],
    ['an available index that goes back', /got 65535/, ({ driver }) => driver.setAvailIdx(65535)],
    [
      'a readable descriptor behind a writable one',
      /device-readable descriptor after a device-writable one/,
      ({ driver }) => {
        driver.setDescriptor(0, desc(page, 1, NEXT | WRITE, 1));
        driver.setDescriptor(1, desc(page, 1));
      },
    ],
    [
      'an indirect table inside an indirect table',
      /refers to another indirect table/,
      ({ ram, driver }) => {
        const inner = table(ram, [desc(page, 1)]);
        driver.setDescriptor(0, desc(table(ram, [desc(inner, 16, INDIRECT)]), 16, INDIRECT));
      },
    ],
    [
      'an indirect table that contains itself',
      /refers to another indirect table/,
      ({ ram, driver }) => {
        const address = ram.allocate(16, 16);
        ram.write(address, encodeDescriptor(desc(address, 16, INDIRECT)));
        driver.setDescriptor(0, desc(address, 16, INDIRECT));
      },
    ],
    [
      'an indirect descriptor with a successor',
      /not negotiated, or followed by another/,
      ({ ram, driver }) => {
        driver.setDescriptor(0, desc(table(ram, [desc(page, 1)]), 16, INDIRECT | NEXT, 1));
      },
    ],
    [
      'an indirect descriptor that was not negotiated',
      /not negotiated/,
      ({ ram, driver }) => {
        driver.setDescriptor(0, desc(table(ram, [desc(page, 1)]), 16, INDIRECT));
      },
      { indirect: false },
    ],
    [
      'an indirect table of no entries',
      /indirect table: expected 1 to 1024 entries, got 0 bytes/,
      ({ driver }) => driver.setDescriptor(0, desc(page, 0, INDIRECT)),
    ],
    [
      'an indirect table of one and a half entries',
      /got 24 bytes/,
      ({ ram, driver }) => {
        driver.setDescriptor(0, desc(table(ram, [desc(page, 1), desc(0, 0)]), 24, INDIRECT));
      },
    ],
    [
      'an indirect table of 1025 entries',
      /got 16400 bytes/,
      ({ driver }) => driver.setDescriptor(0, desc(page, 16400, INDIRECT)),
    ],
    [
      'an indirect table of almost 4 GiB',
      /got 4294967280 bytes/,
      ({ driver }) => driver.setDescriptor(0, desc(page, 0xfffffff0, INDIRECT)),
    ],
    [
      'an indirect table outside guest memory',
      /indirect table: outside guest memory/,
      ({ driver }) => driver.setDescriptor(0, desc(2n ** 63n, 16, INDIRECT)),
    ],
    [
      'an indirect table whose last entry lies beyond guest memory',
      /indirect table: outside guest memory/,
      ({ ram, driver }) => {
        const address = 2 * MIB - 24;
        ram.write(address, encodeDescriptor(desc(page, 1, NEXT, 1)));
        driver.setDescriptor(0, desc(address, 32, INDIRECT));
      },
    ],
    [
      'an entry that leads out of its table',
      /indirect descriptor index: expected below 1, got 1/,
      ({ ram, driver }) => {
        driver.setDescriptor(
          0,
          desc(table(ram, [desc(page, 1, NEXT, 1), desc(0, 0)]), 16, INDIRECT),
        );
      },
    ],
    [
      'a loop inside an indirect table',
      /at most 1024 descriptors, got a loop or more/,
      ({ ram, driver }) => {
        driver.setDescriptor(0, desc(table(ram, [desc(page, 0, NEXT, 0)]), 16, INDIRECT));
      },
    ],
    [
      'a full indirect table behind a direct descriptor',
      /at most 1024 descriptors, got a loop or more/,
      ({ ram, driver }) => {
        const entries = Array.from({ length: 1024 }, (_, i) =>
          desc(page, 1, i === 1023 ? 0 : NEXT, i + 1),
        );
        driver.setDescriptor(0, desc(page, 1, NEXT, 1));
        driver.setDescriptor(1, desc(table(ram, entries), 16384, INDIRECT));
      },
    ],
    [
      'a segment of 2 GiB',
      /expected less than 2 GiB, got a segment of 2147483648/,
      ({ driver }) => driver.setDescriptor(0, desc(page, 2 ** 31)),
    ],
    [
      'segments of 2 GiB together',
      /expected less than 2 GiB/,
      ({ driver }) => {
        driver.setDescriptor(0, desc(page, 2 ** 30, NEXT | WRITE, 1));
        driver.setDescriptor(1, desc(page, 2 ** 30, WRITE));
      },
    ],
  ];

  it.each(cases)('%s', (_title, reason, spoil, options) => {
    const local = setUp(8, options);
    local.driver.setDescriptor(0, desc(page, 1));
    const head = spoil(local) as unknown;
    local.driver.offer(typeof head === 'number' ? head : 0);
    if (local.driver.availIdx === 0) local.driver.publish();
    expect(local.ring.pop(local.chain)).toBe(POP_BROKEN);
    expect(local.ring.brokenReason).toMatch(reason);
  });

  it('but segments of 2^31 − 1 bytes in each direction are taken', () => {
    const { driver, ring, chain } = setUp(8);
    driver.setDescriptor(0, desc(page, 2 ** 31 - 1, NEXT, 1));
    driver.setDescriptor(1, desc(page, 2 ** 31 - 1, WRITE));
    driver.offer(0);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
  });

  it('a chain of exactly as many descriptors as the ring has is taken', () => {
    const { driver, ring, chain } = setUp(8);
    for (let i = 0; i < 8; i++) driver.setDescriptor(i, desc(page, 1, i === 7 ? 0 : NEXT, i + 1));
    driver.offer(0);
    driver.publish();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
    expect(chain.count).toBe(8);
  });

  it('a broken ring does not move on, and start mends it', () => {
    const { driver, ring, chain, features } = setUp(8);
    driver.setDescriptor(0, desc(page, 1, NEXT, 0));
    driver.offer(0);
    driver.publish();
    ring.pop(chain);
    expect(ring.lastAvail).toBe(0);
    driver.setDescriptor(0, desc(page, 1));
    ring.start(0, features);
    expect(ring.brokenReason).toBeUndefined();
    expect(ring.pop(chain)).toBe(POP_CHAIN);
  });
});

describe('attach', () => {
  it.each([
    ['desc', 8],
    ['avail', 1],
    ['used', 2],
  ] as const)('refuses a %s ring that is misaligned by %i', (part, by) => {
    const { driver, ring } = setUp(8);
    const addresses = { ...driver.userAddresses };
    addresses[part] += by;
    expect(ring.attach(8, addresses)).toMatch(new RegExp(`^${part} ring.*expected alignment`));
    expect(ring.isAttached).toBe(false);
  });

  it.each([
    ['desc', 16 * 8],
    ['avail', 4 + 2 * 8 + 2],
    ['used', 4 + 8 * 8 + 2],
  ] as const)('a %s ring may end with guest memory but not beyond it', (part, bytes) => {
    const { driver, ring } = setUp(8);
    const align = { desc: 16, avail: 2, used: 4 }[part];
    const last = USER_BASE + Math.floor((2 * MIB - bytes) / align) * align;
    expect(ring.attach(8, { ...driver.userAddresses, [part]: last })).toBeUndefined();
    const wrong = ring.attach(8, { ...driver.userAddresses, [part]: last + align });
    expect(wrong).toMatch(new RegExp(`^${part} ring.*expected ${bytes} bytes of guest memory`));
    expect(ring.isAttached).toBe(false);
    const nowhere = ring.attach(8, { ...driver.userAddresses, [part]: 0x1000 });
    expect(nowhere).toMatch(/expected \d+ bytes of guest memory, got 0/);
  });

  it('refuses a ring at an aligned address of a region that is mapped misaligned', () => {
    const ram = new GuestRam(2 * MIB, [
      { guestAddress: 0, userAddress: USER_BASE, bytes: MIB, mmapOffset: 8 },
    ]);
    rams.push(ram);
    const memory = new GuestMemory((bytes) => new Window(bytes));
    memory.addRegion(ram.regions[0]!, ram.fd);
    const ring = new Virtqueue(memory);
    const at = { desc: USER_BASE, avail: USER_BASE + 4096, used: USER_BASE + 8192 };
    expect(ring.attach(8, at)).toMatch(/expected alignment to 16/);
  });
});
