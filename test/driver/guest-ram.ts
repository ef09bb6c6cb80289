/**
 * A guest's memory on the guest's side: one memory file, mapped here, described as the regions that
 * a front end would send for it, and a first-fit allocator of guest addresses. By default one region
 * from address 0; tests of boundaries give regions of their own, in any order of the file.
 */

import { createMemoryFile, mapFileWindow } from '../../src/memory/memory-file.ts';
import type { Window } from '../../src/memory/window.ts';
import { closeFd } from '../../src/native/fd.ts';

export interface RamRegion {
  readonly guestAddress: number;
  readonly userAddress: number;
  readonly bytes: number;
  readonly mmapOffset: number;
}

/** Far from any guest address, so that mixing up the two kinds of address cannot pass. */
export const USER_BASE = 0x7f00_0000_0000;

interface Extent {
  address: number;
  bytes: number;
}

export class GuestRam {
  readonly fd: number;
  readonly window: Window;
  readonly regions: readonly RamRegion[];
  /** Free guest addresses, sorted; neighbours are merged. */
  #free: Extent[];

  constructor(bytes: number, regions?: readonly RamRegion[]) {
    this.fd = createMemoryFile('guest-ram', bytes);
    this.window = mapFileWindow(this.fd, 0, bytes);
    this.regions = regions ?? [{ guestAddress: 0, userAddress: USER_BASE, bytes, mmapOffset: 0 }];
    this.#free = this.regions
      .map((region) => ({ address: region.guestAddress, bytes: region.bytes }))
      .sort((a, b) => a.address - b.address);
  }

  /** Where the byte at a guest address lies in `window`. */
  offsetOf(address: number): number {
    for (const region of this.regions) {
      const inRegion = address - region.guestAddress;
      if (inRegion >= 0 && inRegion < region.bytes) return region.mmapOffset + inRegion;
    }
    throw new Error(`guest address 0x${address.toString(16)} is in no region`);
  }

  userAddressOf(address: number): number {
    for (const region of this.regions) {
      const inRegion = address - region.guestAddress;
      if (inRegion >= 0 && inRegion < region.bytes) return region.userAddress + inRegion;
    }
    throw new Error(`guest address 0x${address.toString(16)} is in no region`);
  }

  /** Guest addresses of `bytes` so that `address % align === skew`; throws when there are none. */
  allocate(bytes: number, align = 1, skew = 0): number {
    for (let i = 0; i < this.#free.length; i++) {
      const extent = this.#free[i]!;
      const start = extent.address + ((((skew - extent.address) % align) + align) % align);
      const lead = start - extent.address;
      const left = extent.bytes - lead - bytes;
      if (left < 0) continue;
      const pieces: Extent[] = [];
      if (lead > 0) pieces.push({ address: extent.address, bytes: lead });
      if (left > 0) pieces.push({ address: start + bytes, bytes: left });
      this.#free.splice(i, 1, ...pieces);
      return start;
    }
    throw new Error(`guest RAM: no room for ${bytes} bytes`);
  }

  free(address: number, bytes: number): void {
    if (bytes === 0) return;
    let at = 0;
    while (at < this.#free.length && this.#free[at]!.address < address) at++;
    const before = this.#free[at - 1];
    const after = this.#free[at];
    const joinsBefore = before !== undefined && before.address + before.bytes === address;
    const joinsAfter = after !== undefined && address + bytes === after.address;
    if (joinsBefore && joinsAfter) {
      before.bytes += bytes + after.bytes;
      this.#free.splice(at, 1);
    } else if (joinsBefore) before.bytes += bytes;
    else if (joinsAfter) {
      after.address = address;
      after.bytes += bytes;
    } else this.#free.splice(at, 0, { address, bytes });
  }

  /** Writes bytes at a guest address, across regions if need be. */
  write(address: number, bytes: Uint8Array): void {
    this.#pieces(address, bytes.length, (offset, done, count) => {
      this.window.u8.set(bytes.subarray(done, done + count), offset);
    });
  }

  /** A copy of the bytes at a guest address. */
  read(address: number, count: number): Uint8Array {
    const result = new Uint8Array(count);
    this.#pieces(address, count, (offset, done, n) => {
      result.set(this.window.u8.subarray(offset, offset + n), done);
    });
    return result;
  }

  fill(address: number, count: number, byte: number): void {
    this.#pieces(address, count, (offset, _done, n) => {
      this.window.u8.fill(byte, offset, offset + n);
    });
  }

  close(): void {
    closeFd(this.fd);
  }

  #pieces(
    address: number,
    count: number,
    visit: (offset: number, done: number, count: number) => void,
  ): void {
    for (let done = 0; done < count; ) {
      const at = address + done;
      const region = this.regions.find(
        (each) => at >= each.guestAddress && at < each.guestAddress + each.bytes,
      );
      if (region === undefined) throw new Error(`guest address 0x${at.toString(16)}: no region`);
      const inRegion = at - region.guestAddress;
      const piece = Math.min(count - done, region.bytes - inRegion);
      visit(region.mmapOffset + inRegion, done, piece);
      done += piece;
    }
  }
}
