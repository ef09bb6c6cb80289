/** Feature bits that are not a device type's own (VIRTIO 1.2 §6, §2.7), as masks. */

export const VIRTIO_RING_F_INDIRECT_DESC = 1n << 28n;
export const VIRTIO_RING_F_EVENT_IDX = 1n << 29n;
export const VIRTIO_F_VERSION_1 = 1n << 32n;
