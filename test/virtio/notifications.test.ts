/** When each side wakes the other: the flags, the event indices, and the look that follows. */

import { afterEach, describe, expect, it } from 'vitest';
import { POP_CHAIN } from '../../src/virtio/virtqueue.ts';
import { LocalRing, type LocalRingOptions } from '../driver/local-ring.ts';
import { Random } from '../driver/random.ts';

const rings: LocalRing[] = [];

afterEach(() => {
  for (const ring of rings.splice(0)) ring.close();
});

function setUp(size: number, options: LocalRingOptions = {}): LocalRing {
  const local = new LocalRing(size, options);
  rings.push(local);
  return local;
}

describe('notifications', () => {
  it('without EVENT_IDX the flag alone decides', () => {
    const { driver, ring, chain } = setUp(8, { eventIdx: false });
    const complete = () => {
      driver.offer(0);
      driver.publish();
      ring.pop(chain);
      ring.push(chain.head, 0);
      return ring.publish();
    };
    expect(complete()).toBe(true);
    driver.disableInterrupts();
    expect(complete()).toBe(false);
    driver.enableInterrupts();
    expect(complete()).toBe(true);
  });

  it('publishing nothing new notifies nobody', () => {
    const { ring } = setUp(8, { eventIdx: false });
    expect(ring.publish()).toBe(false);
  });

  /**
   * §2.7.7.2: with EVENT_IDX, "if the idx field in the used ring … was equal to used_event, the
   * device MUST send a notification" for the element that made it so: some step from the index at
   * the last publication to the new one must have started at used_event.
   */
  function mustNotify(from: number, to: number, usedEvent: number): boolean {
    for (let index = from; index !== to; index = (index + 1) & 0xffff) {
      if (index === usedEvent) return true;
    }
    return false;
  }

  it('with EVENT_IDX it notifies exactly when used_event was passed, for any indices', () => {
    for (let seed = 1; seed <= 60; seed++) {
      const random = new Random(seed);
      const size = 2 ** random.between(0, 8);
      const startIndex = random.below(65536);
      const { driver, ring, chain } = setUp(size, { startIndex });
      let published = startIndex;
      let isFirst = true;
      for (let step = 0; step < 400; step++) {
        const count = random.between(1, size);
        const near = published + random.between(-3, size + 3);
        const usedEvent = (random.oneIn(4) ? random.below(65536) : near) & 0xffff;
        driver.setUsedEvent(usedEvent);
        for (let i = 0; i < count; i++) driver.offer(0);
        driver.publish();
        for (let i = 0; i < count; i++) {
          if (ring.pop(chain) !== POP_CHAIN) expect.fail(`seed ${seed}: ${ring.brokenReason}`);
          ring.push(chain.head, 0);
        }
        const from = published;
        published = (published + count) & 0xffff;
        const expected = mustNotify(from, published, usedEvent);
        const got = ring.publish();
        // The first publication may notify without need: what went before is not known.
        if (!isFirst || expected) {
          if (got !== expected) {
            expect.fail(
              `seed ${seed} step ${step}: ${from}→${published}, event ${usedEvent}: ${got}`,
            );
          }
        }
        isFirst = false;
      }
    }
  });

  it('the driver kicks for the first chain after enableKicks and for no other', () => {
    for (const eventIdx of [true, false]) {
      const { driver, ring, chain } = setUp(8, { eventIdx, startIndex: 65534 });
      ring.enableKicks();
      ring.disableKicks();
      for (let i = 0; i < 20; i++) {
        ring.enableKicks();
        driver.offer(0);
        expect(driver.publish(), `chain ${i}`).toBe(true);
        ring.disableKicks();
        driver.offer(1);
        expect(driver.publish(), `chain ${i}, not asked for`).toBe(false);
        ring.pop(chain);
        ring.pop(chain);
        ring.push(0, 0);
        ring.push(1, 0);
        ring.publish();
      }
    }
  });

  it('chains made available before enableKicks are seen by the look that follows', () => {
    const { driver, ring } = setUp(8);
    driver.offer(0);
    ring.enableKicks();
    driver.publish();
    expect(ring.hasAvailable()).toBe(true);
  });
});
