/**
 * The memory regions of a session as the front end has described them, with descriptors of their
 * files: for another process, should one take the device over.
 */

import { isSameRegion } from '../memory/guest-memory.ts';
import { discardFds, duplicateFd } from '../native/fd.ts';
import type { MemoryRegion } from '../vhost-user-ts/index.ts';

export interface KeptRegion {
  readonly region: MemoryRegion;
  readonly fd: number;
}

export class KeptRegions {
  #regions: KeptRegion[] = [];

  get all(): readonly KeptRegion[] {
    return this.#regions;
  }

  /**
   * Keeps regions with descriptors of their own, from before anybody maps them: where there are no
   * descriptors left, nobody does. Not kept where `map` fails.
   */
  addWhile(regions: readonly MemoryRegion[], fds: readonly number[], map: () => void): void {
    const added: KeptRegion[] = [];
    try {
      regions.forEach((region, i) => {
        added.push({ region, fd: duplicateFd(fds[i]!) });
      });
      map();
    } catch (error) {
      this.#discard(added);
      throw error;
    }
    this.#regions.push(...added);
  }

  /** From another process; the descriptors are this one's now. */
  restore(regions: readonly KeptRegion[]): void {
    this.#regions = [...regions];
  }

  /** The region is mapped nowhere any more. */
  remove(region: MemoryRegion): void {
    const at = this.#regions.findIndex((each) => isSameRegion(each.region, region));
    this.#discard(this.#regions.splice(at, 1));
  }

  /** None of them is mapped any more. */
  clear(): void {
    this.#discard(this.#regions.splice(0));
  }

  #discard(regions: readonly KeptRegion[]): void {
    discardFds(...regions.map(({ fd }) => fd));
  }
}
