/**
 * What a budget is, told simply: a list of devices with what they use and are guaranteed; all else is
 * summed up whenever it is asked for. In pages.
 */

export interface ModelDevice {
  used: number;
  guarantee: number;
  refusals: number;
}

export class BudgetModel {
  budget: number;
  readonly devices = new Set<ModelDevice>();

  constructor(budget: number) {
    this.budget = budget;
  }

  #sum(of: (device: ModelDevice) => number): number {
    return [...this.devices].reduce((sum, device) => sum + of(device), 0);
  }

  get guaranteed(): number {
    return this.#sum(({ guarantee }) => guarantee);
  }

  get committed(): number {
    return this.#sum(({ used, guarantee }) => Math.max(used, guarantee));
  }

  get #free(): number {
    return this.budget - this.guaranteed;
  }

  get reserve(): number {
    if (this.devices.size < 2) return 0;
    return Math.min(Math.max(Math.floor(this.#free / 8), 64), Math.floor(this.#free / 2));
  }

  shareOf({ guarantee }: ModelDevice): number {
    return guarantee + Math.floor(this.#free / this.devices.size);
  }

  /** Whether it may be guaranteed so many, by what others hold. */
  hasRoomFor(device: ModelDevice, guarantee: number): boolean {
    const { used } = device;
    const more = Math.max(used, guarantee) - Math.max(used, device.guarantee);
    const guaranteed = [...this.devices].filter((other) => other.guarantee > 0).length;
    return more <= 0 || this.committed + more <= this.budget + guaranteed * 15;
  }

  take(device: ModelDevice, pages: number): boolean {
    const { used, guarantee } = device;
    const limit = used < this.shareOf(device) ? this.budget : this.budget - this.reserve;
    const isTaken = used < guarantee || this.committed + pages <= limit;
    if (isTaken) device.used += pages;
    else device.refusals++;
    return isTaken;
  }

  excessOf(device: ModelDevice): number {
    const over = device.used - this.shareOf(device);
    const short = this.committed - (this.budget - this.reserve);
    return over < 16 || short <= 0 ? 0 : Math.min(over, short);
  }
}
