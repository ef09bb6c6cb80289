/**
 * Devices that share a budget, and a pool limit that changes while a device is served: what the
 * guest sees of it, whichever thread serves it. Who is refused when: store/budget.stores.test.ts.
 */

import { afterEach, describe, expect, it } from 'vitest';
import { RefusedError } from '../../src/base/errors.ts';
import { signalEventFd } from '../../src/native/eventfd.ts';
import { Budget } from '../../src/store/budget.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/virtio/features.ts';
import { BLOCK_FEATURES } from '../../src/virtio-blk/config-space.ts';
import { VIRTIO_BLK_S_OK } from '../../src/virtio-blk/protocol.ts';
import { until } from '../driver/daemon.ts';
import { GuestDriver } from '../driver/guest-driver.ts';
import { LocalDevice, type LocalDeviceOptions } from '../driver/local-device.ts';
import { Random } from '../driver/random.ts';
import { write } from '../driver/requests.ts';
import { QueueThread } from '../driver/threads.ts';

const PAGE = 4096;
const BLOCK = 16 * PAGE;
const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

class Guest {
  readonly local: LocalDevice;
  readonly #driver: GuestDriver;
  readonly #random = new Random(20090917);

  /** With `thread` that one serves its ring, else this one. */
  constructor(options: LocalDeviceOptions, thread?: QueueThread) {
    this.local = new LocalDevice(options, undefined, thread ? [thread.caller] : []);
    cleanUps.push(() => this.local.close());
    const { frontEnd, ram } = this.local;
    this.local.negotiate(BLOCK_FEATURES | VIRTIO_F_VERSION_1);
    frontEnd.setMemoryTable(ram);
    const kick = this.local.eventFd();
    this.#driver = new GuestDriver(ram, 1024, {}, () => signalEventFd(kick));
    const index = thread ? 1 : 0;
    frontEnd.startRing(index, this.#driver.ring, { kick, call: this.local.eventFd() });
    frontEnd.setEnabled(index, true);
  }

  /** Writes pages that do not compress; how many were stored. */
  async write(...pages: number[]): Promise<number> {
    for (const page of pages) this.#driver.submit(write(page, this.#random.bytes(PAGE)));
    this.#driver.flush();
    this.local.serve();
    const isDone = () => this.#driver.ring.usedCount === pages.length;
    await until(isDone, 'the requests are completed', 5000);
    return this.#driver.complete().filter(({ status }) => status === VIRTIO_BLK_S_OK).length;
  }

  /** Writes all pages but the header's. */
  fill(): Promise<number> {
    return this.write(...Array.from({ length: 255 }, (_, i) => 1 + i));
  }
}

function threadOf(): QueueThread {
  const thread = new QueueThread();
  cleanUps.push(() => thread.stop());
  return thread;
}

describe.each([1, 2])('devices that share a budget, %i threads', (threads) => {
  const threadIf = () => (threads > 1 ? threadOf() : undefined);

  it('have all of it together, and each its guarantee', async () => {
    const budget = Budget.make(16 * BLOCK);
    const [first, second] = [budget.add('first'), budget.add('second', 4 * BLOCK)];
    const greedy = new Guest({ name: 'first', budget: first.terms }, threadIf());
    const late = new Guest({ name: 'second', budget: second.terms }, threadIf());
    // A page each is the header's. The reserve is a third of what is guaranteed to nobody.
    expect(await greedy.fill()).toBe(8 * 16 - 1);
    expect(await late.fill()).toBe((4 + 4) * 16 - 1);
    expect(budget.figures()).toMatchObject({
      ...{ budgetBytes: 16 * BLOCK, usedBytes: 16 * BLOCK, committedBytes: 16 * BLOCK },
      devices: [{ refusals: expect.any(Number) }, { guaranteeBytes: 4 * BLOCK }],
    });
    expect(first.figures.refusals).toBeGreaterThan(0);
    expect(await greedy.write(255)).toBe(0);
  });
});

describe('a device', () => {
  it('that finds no room for its header says that it is the budget', () => {
    const budget = Budget.make(PAGE);
    new Guest({ budget: budget.add('first').terms });
    const { terms } = budget.add('second');
    const local = new LocalDevice({ name: 'second', isUninitialised: true });
    cleanUps.push(() => local.close());
    const make = () => local.init({ budget: terms });
    expect(make).toThrow(RefusedError);
    expect(make).toThrow('second: no room for the swap header (budget of all devices)');
  });

  it('that is reset and initialised again has but its header of the budget', async () => {
    const share = Budget.make(16 * BLOCK).add('first');
    const guest = new Guest({ budget: share.terms });
    await guest.fill();
    guest.local.frontEnd.getBase(0);
    guest.local.device.reset();
    guest.local.init();
    expect(share.figures.usedBytes).toBe(PAGE);
  });
});

describe.each([1, 2])('a pool limit that changes, %i threads', (threads) => {
  it('is that of all threads from then on', async () => {
    const guest = new Guest({}, threads > 1 ? threadOf() : undefined);
    const { device } = guest.local;
    expect(await guest.write(1, 2, 3, 4, 5, 6, 7, 8, 9)).toBe(9);
    device.setPoolLimit(5 * PAGE);
    expect(await guest.write(10)).toBe(0);
    device.setPoolLimit(12 * PAGE);
    expect(await guest.write(10, 11, 12)).toBe(2);
    device.setPoolLimit(undefined);
    expect(await guest.fill()).toBe(255);
  });
});
