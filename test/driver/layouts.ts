/**
 * How a request's bytes are cut into descriptors and where these lie. A layout gives the lengths of
 * the device-readable segments (header, then data out) and the device-writable ones (data in, then
 * the status byte); a driver may cut anywhere (VIRTIO 1.2 §2.7.4.1), and drivers do.
 */

import type { Random } from './random.ts';

export interface Segment {
  readonly bytes: number;
  /** The address is `skew` modulo `align`; any address by default. */
  readonly align?: number;
  readonly skew?: number;
}

export interface Layout {
  readonly readable: readonly Segment[];
  readonly writable: readonly Segment[];
  /**
   * Segments from this one on lie in an indirect table: 0 is the whole chain, more is an indirect
   * descriptor after direct ones. Undefined: none.
   */
  readonly indirectFrom?: number;
  /** Where the table's address lies modulo 4096; any (odd ones included). */
  readonly tableSkew?: number;
}

/** Bytes of a request by direction, header and status included. */
export interface Sizes {
  readonly readable: number;
  readonly writable: number;
}

const HEADER_BYTES = 16;
const PAGE: Segment = { bytes: 4096, align: 4096 };

function pages(bytes: number): Segment[] {
  const segments: Segment[] = new Array(Math.floor(bytes / 4096)).fill(PAGE);
  if (bytes % 4096 !== 0) segments.push({ bytes: bytes % 4096, align: 512 });
  return segments;
}

/** What Linux makes: header, each page and status in descriptors of their own. */
export function separate(sizes: Sizes): Layout {
  return {
    readable: [{ bytes: HEADER_BYTES, align: 16 }, ...pages(sizes.readable - HEADER_BYTES)],
    writable: [...pages(sizes.writable - 1), { bytes: 1 }],
  };
}

/** One descriptor a direction: the header with its data, the data with its status. */
export function joined(sizes: Sizes): Layout {
  return { readable: [{ bytes: sizes.readable }], writable: [{ bytes: sizes.writable }] };
}

/** Each direction cut into segments of `step` bytes, at odd addresses. */
export function stepped(sizes: Sizes, readStep: number, writeStep: number): Layout {
  const cut = (bytes: number, step: number) =>
    Array.from({ length: Math.ceil(bytes / step) }, (_, i) => ({
      bytes: Math.min(step, bytes - i * step),
      align: 2,
      skew: 1,
    }));
  return { readable: cut(sizes.readable, readStep), writable: cut(sizes.writable, writeStep) };
}

/** The header over `count` descriptors (some of no bytes at all beyond 16), data in pages. */
export function splitHeader(sizes: Sizes, count: number): Layout {
  const header: Segment[] = Array.from({ length: count }, (_, i) => ({
    bytes: Math.floor(((i + 1) * HEADER_BYTES) / count) - Math.floor((i * HEADER_BYTES) / count),
    align: 2,
    skew: i & 1,
  }));
  const rest = separate(sizes);
  return { readable: [...header, ...rest.readable.slice(1)], writable: rest.writable };
}

/** The same segments in an indirect table, at an odd address if `tableSkew` is. */
export function indirect(layout: Layout, tableSkew = 0, indirectFrom = 0): Layout {
  return { ...layout, indirectFrom, tableSkew };
}

export function segmentCount(layout: Layout): number {
  return layout.readable.length + layout.writable.length;
}

/** Any layout with at most `segmentsMax` segments, indirect where that is allowed. */
export function randomLayout(
  random: Random,
  sizes: Sizes,
  segmentsMax: number,
  mayBeIndirect: boolean,
): Layout {
  const layout = randomCut(random, sizes, segmentsMax);
  if (!mayBeIndirect || random.oneIn(2)) return layout;
  const indirectFrom = random.oneIn(2) ? 0 : random.below(segmentCount(layout));
  return indirect(layout, random.below(4096), indirectFrom);
}

function randomCut(random: Random, sizes: Sizes, segmentsMax: number): Layout {
  const plain = separate(sizes);
  const fits = segmentCount(plain) <= segmentsMax;
  switch (random.below(5)) {
    case 0:
      return joined(sizes);
    case 1:
      if (fits) return plain;
      break;
    case 2: {
      const split = splitHeader(sizes, random.between(2, 17));
      if (segmentCount(split) <= segmentsMax) return split;
      break;
    }
    default:
      break;
  }
  const readMax = Math.max(1, Math.floor(segmentsMax / 2));
  return {
    readable: randomSegments(random, sizes.readable, random.between(1, Math.min(readMax, 24))),
    writable: randomSegments(
      random,
      sizes.writable,
      random.between(1, Math.min(Math.max(1, segmentsMax - readMax), 24)),
    ),
  };
}

function randomSegments(random: Random, bytes: number, count: number): Segment[] {
  const cuts = Array.from({ length: count - 1 }, () => random.between(0, bytes));
  cuts.sort((a, b) => a - b);
  cuts.push(bytes);
  let from = 0;
  return cuts.map((cut) => {
    const segment = {
      bytes: cut - from,
      align: random.pick([1, 2, 4, 8, 16, 512, 4096]),
      skew: random.oneIn(2) ? 0 : random.below(4096),
    };
    from = cut;
    return { ...segment, skew: segment.skew % segment.align };
  });
}
