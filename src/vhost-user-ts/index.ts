/**
 * vhost-user for Node: the protocol's messages, framing with file descriptors, and the back end's
 * session. Stands alone: it knows no ring, no device type, no guest memory.
 */

export { type BackendHandler, BackendSession, PROTOCOL_FEATURES } from './backend.ts';
export { Connection } from './connection.ts';
export { ProtocolError, RequestError } from './errors.ts';
export * from './messages.ts';
export * from './protocol.ts';
