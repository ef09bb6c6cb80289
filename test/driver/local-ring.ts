/** Both sides of a split ring in one thread: attached, started, and a chain to pop into. */

import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Window } from '../../src/memory/window.ts';
import { DescriptorChain } from '../../src/virtio/chain.ts';
import { Virtqueue } from '../../src/virtio/virtqueue.ts';
import { DriverRing, type DriverRingOptions } from './driver-ring.ts';
import { GuestRam, type RamRegion } from './guest-ram.ts';

const RAM_BYTES = 2 << 20;

export interface LocalRingOptions extends DriverRingOptions {
  readonly indirect?: boolean;
  readonly regions?: readonly RamRegion[];
}

export class LocalRing {
  readonly ram: GuestRam;
  readonly memory = new GuestMemory((bytes) => new Window(bytes));
  readonly driver: DriverRing;
  readonly ring: Virtqueue;
  readonly chain: DescriptorChain;
  readonly features: { eventIdx: boolean; indirect: boolean };

  constructor(size: number, options: LocalRingOptions = {}) {
    this.ram = new GuestRam(RAM_BYTES, options.regions);
    for (const region of this.ram.regions) this.memory.addRegion(region, this.ram.fd);
    this.driver = new DriverRing(this.ram, size, options);
    this.ring = new Virtqueue(this.memory);
    const wrong = this.ring.attach(size, this.driver.userAddresses);
    if (wrong !== undefined) throw new Error(wrong);
    this.features = { eventIdx: this.driver.eventIdx, indirect: options.indirect ?? true };
    this.ring.start(this.driver.startIndex, this.features);
    this.chain = new DescriptorChain(Math.max(1024, size));
  }

  close(): void {
    this.memory.clear();
    this.ram.close();
  }
}
