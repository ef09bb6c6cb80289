/**
 * What an arena is, told simply: a set of reserved pages and a set of used ones, searched from
 * their ends. Page 0 belongs to nobody.
 */

const BLOCK_PAGES = 16;
const SPARE_PAGES_MAX = 1024;
const TRIM_BLOCKS = 16;

export class ArenaModel {
  readonly kinds = new Map<number, number>();
  readonly #isReserved: boolean[];
  /** Least count of spare pages since the last trim. */
  #low = 0;

  constructor(pages: number) {
    this.#isReserved = new Array<boolean>(pages).fill(false);
  }

  get used(): number {
    return this.kinds.size;
  }

  get reserved(): number {
    return this.#isReserved.filter(Boolean).length;
  }

  count(kind: number): number {
    return [...this.kinds.values()].filter((value) => value === kind).length;
  }

  /** Reserved pages that nobody uses, lowest first. */
  spare(): number[] {
    return [...this.#isReserved.keys()].filter(
      (page) => page > 0 && this.#isReserved[page] && !this.kinds.has(page),
    );
  }

  /** The page that an allocation takes, or 0. */
  allocate(kind: number, limit: number): number {
    if (this.used >= limit) return 0;
    if (this.spare().length === 0) {
      const unreserved = this.#isReserved.indexOf(false);
      if (unreserved < 0) return 0;
      const first = unreserved - (unreserved % BLOCK_PAGES);
      this.#isReserved.fill(true, first, first + BLOCK_PAGES);
    }
    const page = this.spare()[0]!;
    this.kinds.set(page, kind);
    this.#low = Math.min(this.#low, this.spare().length);
    return page;
  }

  free(page: number): void {
    this.kinds.delete(page);
  }

  /** One step of giving back: whole blocks' spare pages from the highest; whether more is due. */
  trim(): boolean {
    const due = Math.max(this.#low, this.spare().length - SPARE_PAGES_MAX);
    let given = 0;
    for (let i = 0; i < TRIM_BLOCKS && given < due; i++) {
      const highest = Math.floor(this.spare().at(-1)! / BLOCK_PAGES);
      for (const page of this.spare().filter((p) => Math.floor(p / BLOCK_PAGES) === highest)) {
        this.#isReserved[page] = false;
        given++;
      }
    }
    this.#low = Math.max(0, this.#low - given);
    return given < due;
  }

  markTrimInterval(): void {
    this.#low = this.spare().length;
  }
}
