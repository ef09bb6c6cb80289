/**
 * vhost-user for Node: the protocol's messages, framing with file descriptors, and sessions
 * of both ends. Stands alone: it knows no ring, no device type, no guest memory.
 */

export { createEventFd, drainEventFd, signalEventFd } from '../native/eventfd.ts';
export { createMemfd } from '../native/fd.ts';
export { connectUnix, waitReadable } from '../native/socket.ts';
export {
  type BackendHandler,
  BackendSession,
  PROTOCOL_FEATURES,
  type SessionState,
} from './backend.ts';
export { Connection, type ConnectionState } from './connection.ts';
export { ProtocolError, RequestError } from './errors.ts';
export { Frontend, type FrontendOptions, type VringSetup } from './frontend.ts';
export * from './messages.ts';
export * from './protocol.ts';
