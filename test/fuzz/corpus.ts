/**
 * Seeds that are worth keeping, by target: they found something, or come to what others seldom do.
 * Replayed by every test run. A seed means what its generator makes of it: whoever changes one may
 * look for new seeds here, and what was found stays as a test of its own (`regression:`).
 */

export const CORPUS: Readonly<Record<string, readonly number[]>> = {
  rings: [20090918, 20091031, 20100101],
  'vhost-user': [1114921873, 869605035, 393180097],
  // The first three found: a socket given as its own call descriptor, what was sent last by one that
  // had left, half a message with its sender's socket.
  sessions: [1114921873, 1614876866, 869605035, 104, 109, 113],
};
