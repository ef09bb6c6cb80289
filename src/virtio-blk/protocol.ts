/** Numbers of the virtio block device, VIRTIO 1.2 §5.2. */

export const VIRTIO_BLK_F_SIZE_MAX = 1n << 1n;
export const VIRTIO_BLK_F_SEG_MAX = 1n << 2n;
export const VIRTIO_BLK_F_BLK_SIZE = 1n << 6n;
export const VIRTIO_BLK_F_FLUSH = 1n << 9n;
export const VIRTIO_BLK_F_TOPOLOGY = 1n << 10n;
export const VIRTIO_BLK_F_CONFIG_WCE = 1n << 11n;
export const VIRTIO_BLK_F_MQ = 1n << 12n;
export const VIRTIO_BLK_F_DISCARD = 1n << 13n;
export const VIRTIO_BLK_F_WRITE_ZEROES = 1n << 14n;

/** §5.2.6: struct virtio_blk_req without data and status. */
export const VIRTIO_BLK_REQ = { type: 0, reserved: 4, sector: 8, HEADER_BYTES: 16 } as const;

export const VIRTIO_BLK_T_IN = 0;
export const VIRTIO_BLK_T_OUT = 1;
export const VIRTIO_BLK_T_FLUSH = 4;
export const VIRTIO_BLK_T_GET_ID = 8;
export const VIRTIO_BLK_T_DISCARD = 11;
export const VIRTIO_BLK_T_WRITE_ZEROES = 13;

export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
export const VIRTIO_BLK_S_UNSUPP = 2;

/** §5.2.6: "a NUL-padded ASCII string up to 20 bytes long". */
export const VIRTIO_BLK_ID_BYTES = 20;

/** §5.2.6: struct virtio_blk_discard_write_zeroes. */
export const DISCARD_SEGMENT = { sector: 0, num_sectors: 8, flags: 12, SIZE: 16 } as const;
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1;
