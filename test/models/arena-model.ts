/**
 * What an arena is, told simply: a set of reserved pages, a set of raw pages in use and a set of
 * blocks in use. Page 0 belongs to nobody, so its block is for raw pages for ever.
 */

const BLOCK_PAGES = 16;
const SPARE_PAGES_MAX = 1024;

export class ArenaModel {
  readonly raw = new Set<number>();
  /** Pool blocks, and whose they are. */
  readonly pool = new Map<number, number>();
  readonly #isReserved: boolean[];
  readonly #blocks: number;
  /** Least count of spare pages since the last trim. */
  #low = 0;

  constructor(pages: number) {
    this.#isReserved = new Array<boolean>(pages).fill(false);
    this.#blocks = pages / BLOCK_PAGES;
  }

  get used(): number {
    return this.raw.size + this.pool.size * BLOCK_PAGES;
  }

  get reserved(): number {
    return this.#isReserved.filter(Boolean).length;
  }

  #pagesOf(block: number): number[] {
    return Array.from({ length: BLOCK_PAGES }, (_, i) => block * BLOCK_PAGES + i);
  }

  isRaw(block: number): boolean {
    return block === 0 || this.#pagesOf(block).some((page) => this.raw.has(page));
  }

  /** Reserved pages that nobody uses, lowest first; of one block or of all. */
  spare(block?: number): number[] {
    const pages = block === undefined ? [...this.#isReserved.keys()] : this.#pagesOf(block);
    return pages.filter(
      (page) =>
        page > 0 &&
        this.#isReserved[page] &&
        !this.raw.has(page) &&
        !this.pool.has(Math.floor(page / BLOCK_PAGES)),
    );
  }

  #first(condition: (block: number) => boolean): number {
    for (let block = 0; block < this.#blocks; block++) if (condition(block)) return block;
    return -1;
  }

  /** A free block: one with spare pages if there is any. */
  #firstFree(): number {
    const isFree = (block: number) => !this.isRaw(block) && !this.pool.has(block);
    const kept = this.#first((block) => isFree(block) && this.spare(block).length > 0);
    return kept >= 0 ? kept : this.#first(isFree);
  }

  #reserve(block: number): void {
    for (const page of this.#pagesOf(block)) this.#isReserved[page] = true;
  }

  /** The raw page that an allocation takes, or 0. */
  allocatePage(limit: number): number {
    if (this.used >= limit) return 0;
    let block = this.#first((b) => this.isRaw(b) && this.spare(b).length > 0);
    if (block < 0) {
      const hasUnused = (b: number) =>
        this.#pagesOf(b).some((page) => page > 0 && !this.raw.has(page));
      block = this.#first((b) => this.isRaw(b) && hasUnused(b));
      if (block < 0) block = this.#firstFree();
      if (block < 0) return 0;
      this.#reserve(block);
    }
    const page = this.spare(block)[0]!;
    this.raw.add(page);
    this.#low = Math.min(this.#low, this.spare().length);
    return page;
  }

  allocateBlock(owner: number, limit: number): number {
    if (this.used + BLOCK_PAGES > limit) return 0;
    const block = this.#firstFree();
    if (block < 0) return 0;
    this.#reserve(block);
    this.pool.set(block, owner);
    this.#low = Math.min(this.#low, this.spare().length);
    return block;
  }

  freePage(page: number): void {
    this.raw.delete(page);
    if (this.spare().length > SPARE_PAGES_MAX) this.#giveBack();
  }

  freeBlock(block: number): void {
    this.pool.delete(block);
    if (this.spare().length > SPARE_PAGES_MAX) this.#giveBack();
  }

  /** The spare pages of the highest block that has any; how many. */
  #giveBack(): number {
    const pages = this.spare(Math.floor(this.spare().at(-1)! / BLOCK_PAGES));
    for (const page of pages) this.#isReserved[page] = false;
    return pages.length;
  }

  /** One step of giving back; whether more is due. */
  trim(): boolean {
    if (this.#low === 0) return false;
    this.#low = Math.max(0, this.#low - this.#giveBack());
    return this.#low > 0;
  }

  markTrimInterval(): void {
    this.#low = this.spare().length;
  }
}
