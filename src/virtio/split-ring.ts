/**
 * Layout of the split virtqueue, VIRTIO 1.2 §2.7. All fields little-endian. Sizes and offsets only;
 * virtqueue.ts reads and writes them.
 */

/** struct virtq_desc, §2.7.5: 16 bytes. */
export const VIRTQ_DESC = { addr: 0, len: 8, flags: 12, next: 14, SIZE: 16 } as const;
export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;

/** struct virtq_avail, §2.7.6: u16 flags, u16 idx, u16 ring[size], u16 used_event. */
export const VIRTQ_AVAIL = { flags: 0, idx: 2, ring: 4 } as const;
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;

/** struct virtq_used, §2.7.8: u16 flags, u16 idx, {u32 id, u32 len} ring[size], u16 avail_event. */
export const VIRTQ_USED = { flags: 0, idx: 2, ring: 4, ELEMENT: 8 } as const;
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** §2.7: alignment of each part, and the largest ring. */
export const VIRTQ_ALIGN = { desc: 16, avail: 2, used: 4 } as const;
export const VIRTQ_SIZE_MAX = 32768;

export function descTableBytes(size: number): number {
  return VIRTQ_DESC.SIZE * size;
}

/** With `used_event`, which is there whether or not EVENT_IDX was negotiated. */
export function availRingBytes(size: number): number {
  return VIRTQ_AVAIL.ring + 2 * size + 2;
}

/** With `avail_event`. */
export function usedRingBytes(size: number): number {
  return VIRTQ_USED.ring + VIRTQ_USED.ELEMENT * size + 2;
}
