/**
 * A window: the linear memory of one WebAssembly instance, used as a range of address space over
 * which files are mapped (guest memory, arenas). Offsets stay below 2^31 so that every index on
 * the data path is a small integer. Views are made once, here, and never die.
 *
 *   0 ────────────── WINDOW_WORK_BYTES ───────────────────────────────────────── bytes
 *   │ work area        │ mapped ranges (anonymous, zero, until mapped)             │
 *   │ codec … │ bounce │                                                           │
 *
 * The work area is the only part that is always private memory: the codec's dictionary and
 * staging, and one bounce page for requests whose page is split over several segments.
 */

import { assert } from '../base/assert.ts';
import { PAGE_BYTES, roundUp } from '../base/units.ts';

const WASM_PAGE_BYTES = 65536;

export const WINDOW_WORK_BYTES = 65536;
/** Bounce page: the last page of the work area. */
export const WINDOW_BOUNCE_OFFSET = WINDOW_WORK_BYTES - PAGE_BYTES;
/** What the codec may use of the work area: [0, this). */
export const WINDOW_CODEC_BYTES = WINDOW_BOUNCE_OFFSET;
export const WINDOW_BYTES_MAX = 2 ** 31;

assert(WINDOW_WORK_BYTES % WASM_PAGE_BYTES === 0, 'the work area is whole WebAssembly pages');

export class Window {
  readonly memory: WebAssembly.Memory;
  readonly bytes: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;

  /** Reserves `bytes` (rounded up to 64 KiB); nothing is resident yet. */
  constructor(bytes: number) {
    const pages = roundUp(bytes, WASM_PAGE_BYTES) / WASM_PAGE_BYTES;
    assert(bytes > 0 && bytes <= WINDOW_BYTES_MAX, 'a window has at most 2 GiB');
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.bytes = pages * WASM_PAGE_BYTES;
    this.u8 = new Uint8Array(this.memory.buffer);
    this.u16 = new Uint16Array(this.memory.buffer);
    this.i32 = new Int32Array(this.memory.buffer);
  }
}
