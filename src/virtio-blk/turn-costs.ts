/**
 * What the work of a queue costs in a turn, whose budget counts pages: each compressed or
 * decompressed, some 3 µs. Whatever a guest may have done for more than that is charged as more, or
 * one that asks for nothing else makes all others of its thread wait.
 */

/** A request that moves no page costs about as much as one page. */
export const REQUEST_PAGES = 1;

/** So do so many segments of its chain, looked at and checked: an indirect table may have 1024. */
const SEGMENTS_PER_PAGE = 64;

/** Freeing a page costs a fraction of compressing one, unless memory goes back to the system. */
export const FREES_PER_PAGE = 16;

/** In frees: a page that is zeroed in part is fetched and stored. */
export const PART_FREES = 2 * FREES_PER_PAGE;

/** HOT PATH: no allocation. A request popped, by the segments of its chain. */
export function requestPages(segments: number): number {
  return REQUEST_PAGES + ((segments / SEGMENTS_PER_PAGE) | 0);
}
