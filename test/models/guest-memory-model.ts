/** Guest memory, told simply: a list of regions, searched from the beginning. */

import type { GuestRegion } from '../../src/memory/guest-memory.ts';

function overlaps(a: number, b: number, aBytes: number, bBytes: number): boolean {
  return a < b + bBytes && b < a + aBytes;
}

export class GuestMemoryModel {
  regions: GuestRegion[] = [];

  constructor(readonly fileBytes: number) {}

  /** Whether the region can be added; it is then. */
  add(region: GuestRegion): boolean {
    const { guestAddress, userAddress, bytes, mmapOffset } = region;
    const isFree = this.regions.every(
      (other) =>
        !overlaps(guestAddress, other.guestAddress, bytes, other.bytes) &&
        !overlaps(userAddress, other.userAddress, bytes, other.bytes),
    );
    const isAdded = isFree && bytes > 0 && mmapOffset + bytes <= this.fileBytes;
    if (isAdded) this.regions.push(region);
    return isAdded;
  }

  /** Whether there was such a region; it is gone then. */
  remove(wanted: GuestRegion): boolean {
    const before = this.regions.length;
    this.regions = this.regions.filter(
      (region) =>
        region.guestAddress !== wanted.guestAddress ||
        region.userAddress !== wanted.userAddress ||
        region.bytes !== wanted.bytes,
    );
    return this.regions.length < before;
  }

  /** Where in the file a guest address lies, and the bytes to the end of its region. */
  find(address: number): { fileOffset: number; rest: number } | undefined {
    return this.#find(address, (region) => region.guestAddress);
  }

  findUser(address: number): { fileOffset: number; rest: number } | undefined {
    return this.#find(address, (region) => region.userAddress);
  }

  #find(address: number, startOf: (region: GuestRegion) => number) {
    const region = this.regions.find(
      (one) => address >= startOf(one) && address < startOf(one) + one.bytes,
    );
    if (region === undefined) return undefined;
    const inRegion = address - startOf(region);
    return { fileOffset: region.mmapOffset + inRegion, rest: region.bytes - inRegion };
  }
}
