/**
 * Figures that a block queue counts in, by themselves: in life they lie in the store's memory. The
 * clock stands still until a test moves it, and counts how often it was read.
 */

import { REQUESTS } from '../../src/virtio-blk/page-device.ts';
import { REQUEST_LATENCIES, type RequestFigures } from '../../src/virtio-blk/request-times.ts';

export class FakeClock {
  /** What it shows when it is read, and what was read last. */
  now = 0;
  micros = 0;
  reads = 0;

  read(): number {
    this.reads++;
    this.micros = this.now | 0;
    return this.micros;
  }
}

export function makeFigures(): RequestFigures & { readonly clock: FakeClock } {
  return {
    counts: new Float64Array(REQUESTS.COUNT),
    latencies: new Float64Array(REQUEST_LATENCIES),
    clock: new FakeClock(),
  };
}
