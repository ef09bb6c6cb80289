/**
 * Numbers of the vhost-user protocol, names as in QEMU's docs/interop/vhost-user.rst. All fields
 * are in the machine's byte order, which is little-endian wherever this runs.
 */

/** Front-end requests that a block back end can meet, by id. */
export const VHOST_USER = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
} as const;

const REQUEST_NAMES = new Map<number, string>(
  Object.entries(VHOST_USER).map(([name, id]) => [id, name]),
);

/** A request's name for messages: `SET_VRING_NUM`, or `request 77`. */
export function requestName(id: number): string {
  return REQUEST_NAMES.get(id) ?? `request ${id}`;
}

/** Back-end requests, sent on the back-end channel. */
export const VHOST_USER_BACKEND = { CONFIG_CHANGE_MSG: 2 } as const;

export const VHOST_USER_F_PROTOCOL_FEATURES = 1n << 30n;

/** A vhost feature, no device's: the front end switches the dirty log on and off with it. */
export const VHOST_F_LOG_ALL = 1n << 26n;
/** Bit of the flags of SET_VRING_ADDR: writes to the used ring are logged too. */
export const VHOST_VRING_F_LOG = 1;

export const VHOST_USER_PROTOCOL_F = {
  MQ: 1n << 0n,
  LOG_SHMFD: 1n << 1n,
  REPLY_ACK: 1n << 3n,
  BACKEND_REQ: 1n << 5n,
  CONFIG: 1n << 9n,
  INFLIGHT_SHMFD: 1n << 12n,
  RESET_DEVICE: 1n << 13n,
  CONFIGURE_MEM_SLOTS: 1n << 15n,
} as const;

/** Message header: u32 request, u32 flags, u32 payload size. */
export const HEADER = { request: 0, flags: 4, size: 8, BYTES: 12 } as const;
export const FLAG_VERSION_MASK = 0x3;
export const FLAG_VERSION = 0x1;
export const FLAG_REPLY = 0x4;
export const FLAG_NEED_REPLY = 0x8;

/** Bits of the u64 of SET_VRING_KICK, CALL and ERR. */
export const VRING_INDEX_MASK = 0xffn;
export const VRING_NOFD_MASK = 0x100n;

/** The largest payload: a configuration space message (offset, size, flags, 4096 bytes at most). */
export const PAYLOAD_BYTES_MAX = 4096 + 12;

/** Regions in one SET_MEM_TABLE. */
export const MEM_TABLE_REGIONS_MAX = 8;
