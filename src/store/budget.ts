/**
 * The budget: how much host memory the stored pages of all devices may take together, and what each
 * device is guaranteed of it. The control thread keeps it, and gives a share to each device that
 * comes; what the devices' threads do with their shares is in xvmalloc/budget-share.ts.
 *
 * Life of a share: added → its terms go to the device's threads → guarantee changed, any number →
 * removed, when no thread uses the device's store any more.
 */

import { assert } from '../base/assert.ts';
import { RefusedError } from '../base/errors.ts';
import { bytesToPages, formatBytes, PAGE_BYTES } from '../base/units.ts';
import { PAGES_PER_BLOCK } from '../xvmalloc/arena.ts';
import {
  BUDGET,
  BUDGET_BYTES,
  BUDGET_DEVICES_MAX,
  BUDGET_PAGES_MAX,
  BudgetShare,
  type BudgetTerms,
} from '../xvmalloc/budget-share.ts';

/**
 * Of what is guaranteed to nobody, this much is for devices under their share: whoever comes late
 * finds something, and whoever is early has seven eighths all the same. At least four blocks: each is
 * some 50 pages.
 */
const RESERVE_SHARE = 1 / 8;
const RESERVE_PAGES_MIN = 4 * PAGES_PER_BLOCK;

export type { BudgetTerms };

export interface BudgetFigures {
  readonly budgetBytes: number;
  /** What devices use or are guaranteed, whichever is more. */
  readonly committedBytes: number;
  readonly guaranteedBytes: number;
  readonly usedBytes: number;
  /** The reserve is being used: devices over their share are asked to give some back. */
  readonly isShort: boolean;
  readonly devices: readonly ShareFigures[];
}

export interface ShareFigures {
  readonly name: string;
  readonly usedBytes: number;
  readonly guaranteeBytes: number;
  /** The guarantee, and an equal part of what is guaranteed to nobody. */
  readonly shareBytes: number;
  /** How often a page, or a block for some, was refused. */
  readonly refusals: number;
  readonly isOverShare: boolean;
}

/** A device's share, as the control thread has it. */
export interface DeviceShare {
  readonly name: string;
  /** For the device's threads: plain data. */
  readonly terms: BudgetTerms;
  readonly figures: ShareFigures;
  /**
   * Set: throws RefusedError where the guarantees would be more than the budget, or where what it does
   * not use yet of this one is not there: others hold it, and could not be made to give it back.
   */
  guaranteeBytes: number;
  /** The device's memory is no longer in use, by any thread. */
  remove(): void;
}

export class Budget {
  readonly #buffer = new SharedArrayBuffer(BUDGET_BYTES);
  readonly #words = new Int32Array(this.#buffer, 0, BUDGET.COUNT);
  /** By place. */
  readonly #shares: (Share | undefined)[] = new Array(BUDGET_DEVICES_MAX).fill(undefined);

  private constructor() {}

  /** Throws RefusedError. */
  static make(bytes: number): Budget {
    const budget = new Budget();
    budget.resize(bytes);
    return budget;
  }

  /**
   * May be less than devices use: then those under their guarantee alone get more, until it is not.
   * Throws RefusedError where it would be less than what is guaranteed.
   */
  resize(bytes: number): void {
    const pages = bytesToPages(bytes);
    const guaranteed = this.#guaranteedPages();
    if (!(pages >= 1 && pages <= BUDGET_PAGES_MAX)) {
      const most = formatBytes(BUDGET_PAGES_MAX * PAGE_BYTES);
      throw new RefusedError(`budget: expected a page up to ${most}, got ${formatBytes(bytes)}`);
    }
    if (pages < guaranteed) {
      const least = formatBytes(guaranteed * PAGE_BYTES);
      const got = formatBytes(bytes);
      throw new RefusedError(`budget: expected at least the ${least} guaranteed, got ${got}`);
    }
    this.#words[BUDGET.budgetPages] = pages;
    this.#divide();
  }

  /**
   * A share for a device. Throws RefusedError. One that `isBack` has its guarantee whatever others
   * hold: devices whose stores were kept come one after the other, and none is to be left out.
   */
  add(name: string, guaranteeBytes = 0, isBack = false): DeviceShare {
    const slot = this.#shares.indexOf(undefined);
    if (slot < 0) {
      const got = 'got one more';
      throw new RefusedError(`${name}: expected up to ${BUDGET_DEVICES_MAX} devices, ${got}`);
    }
    const pages = this.#checked(name, guaranteeBytes, undefined);
    const share = new Share(name, BudgetShare.termsOf(this.#buffer, slot), {
      guarantee: (bytes) => {
        this.#guarantee(share, this.#checked(name, bytes, share));
        this.#divide();
      },
      remove: () => this.#remove(share),
    });
    if (isBack) share.share.guaranteePages = pages;
    else this.#guarantee(share, pages);
    this.#shares[slot] = share;
    this.#divide();
    return share;
  }

  /** At one moment; of devices that are busy they may be some pages apart. */
  figures(): BudgetFigures {
    const committed = Atomics.load(this.#words, BUDGET.committedPages);
    const devices = this.#present().map(({ figures }) => figures);
    return {
      budgetBytes: this.#words[BUDGET.budgetPages]! * PAGE_BYTES,
      committedBytes: committed * PAGE_BYTES,
      guaranteedBytes: this.#guaranteedPages() * PAGE_BYTES,
      usedBytes: devices.reduce((sum, { usedBytes }) => sum + usedBytes, 0),
      isShort: committed > this.#words[BUDGET.openPages]!,
      devices,
    };
  }

  #present(): Share[] {
    return this.#shares.filter((share) => share !== undefined);
  }

  #guaranteedPages(): number {
    return this.#present().reduce((sum, { share }) => sum + share.guaranteePages, 0);
  }

  /** Pages of a guarantee for `share`, or a new one. Throws RefusedError. */
  #checked(name: string, bytes: number, share: Share | undefined): number {
    const others = this.#guaranteedPages() - (share?.share.guaranteePages ?? 0);
    const most = this.#words[BUDGET.budgetPages]! - others;
    // Rounded up: it is a promise.
    const pages = Math.ceil(bytes / PAGE_BYTES);
    if (bytes >= 0 && pages <= most) return pages;
    const left = formatBytes(most * PAGE_BYTES);
    const got = formatBytes(bytes);
    throw new RefusedError(`${name}: guarantee: expected up to ${left} of the budget, got ${got}`);
  }

  /** Throws RefusedError where others hold what it would take. */
  #guarantee({ name, share }: Share, pages: number): void {
    const budget = this.#words[BUDGET.budgetPages]!;
    // Where less than a block above a guarantee is held, that is rounding: no reason for a refusal.
    const guaranteed = this.#present().filter((other) => other.share.guaranteePages > 0).length;
    if (!share.guarantee(pages, budget + guaranteed * (PAGES_PER_BLOCK - 1))) {
      const committed = Atomics.load(this.#words, BUDGET.committedPages);
      const others = committed - Math.max(share.usedPages, share.guaranteePages);
      const [left, whole, got] = [Math.max(budget - others, 0), budget, pages].map((count) =>
        formatBytes(count * PAGE_BYTES),
      );
      throw new RefusedError(
        `${name}: guarantee: expected up to ${left}, what other devices have left of the budget's ` +
          `${whole}, got ${got}`,
      );
    }
  }

  #remove(share: Share): void {
    const slot = this.#shares.indexOf(share);
    assert(slot >= 0, 'a share is removed once');
    share.share.end();
    this.#shares[slot] = undefined;
    this.#divide();
  }

  /** Divides anew what is guaranteed to nobody. */
  #divide(): void {
    const words = this.#words;
    const budget = words[BUDGET.budgetPages]!;
    const free = budget - this.#guaranteedPages();
    const count = this.#present().length;
    // One alone has it all. Of very little, half is enough.
    const wanted = Math.max(Math.floor(free * RESERVE_SHARE), RESERVE_PAGES_MIN);
    const reserve = count < 2 ? 0 : Math.min(wanted, Math.floor(free / 2));
    words[BUDGET.fairPages] = Math.floor(free / Math.max(count, 1));
    words[BUDGET.openPages] = budget - reserve;
  }
}

interface ShareActions {
  readonly guarantee: (bytes: number) => void;
  readonly remove: () => void;
}

class Share implements DeviceShare {
  readonly name: string;
  readonly terms: BudgetTerms;
  readonly share: BudgetShare;
  readonly #actions: ShareActions;

  constructor(name: string, terms: BudgetTerms, actions: ShareActions) {
    this.name = name;
    this.terms = terms;
    this.share = new BudgetShare(terms);
    this.#actions = actions;
  }

  get figures(): ShareFigures {
    const { usedPages, guaranteePages, sharePages, refusals, isOver } = this.share;
    return {
      name: this.name,
      usedBytes: usedPages * PAGE_BYTES,
      guaranteeBytes: guaranteePages * PAGE_BYTES,
      shareBytes: sharePages * PAGE_BYTES,
      refusals,
      isOverShare: isOver,
    };
  }

  get guaranteeBytes(): number {
    return this.share.guaranteePages * PAGE_BYTES;
  }

  set guaranteeBytes(bytes: number) {
    this.#actions.guarantee(bytes);
  }

  remove(): void {
    this.#actions.remove();
  }
}
