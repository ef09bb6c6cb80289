/** A socket of any kind, bound to nothing. For tests: src/native makes those that it needs. */

import koffi from 'koffi';

const FAMILIES = { unix: 1, internet: 2 } as const;
const TYPES = { stream: 1, datagram: 2 } as const;
const SOCK_CLOEXEC = 0o2000000;

const socket = koffi.load('libc.so.6').func('int socket(int domain, int type, int protocol)');

export function bareSocket(family: keyof typeof FAMILIES, type: keyof typeof TYPES): number {
  return socket(FAMILIES[family], TYPES[type] | SOCK_CLOEXEC, 0);
}
