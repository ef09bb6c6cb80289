/** What can be wrong with a vhost-user peer. */

/**
 * The stream is not vhost-user any more: bad framing, version, size, or a descriptor that should
 * not be there. Policy: the connection is dropped; the reason goes to the log.
 */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/**
 * A well-formed message that cannot be carried out. Policy: with NEED_REPLY the sender is told
 * (non-zero) and may go on; without, it would go on in the belief that it worked, so the connection
 * is dropped.
 */
export class RequestError extends Error {
  override readonly name = 'RequestError';
}
